"""Which column is N, D, C or the loss, by the names that people, MLflow, Weights & Biases and papers give them.

A name is compared in lower case, with one `_` for everything that is neither letter nor digit, and without what MLflow
and Weights & Biases put before it (`params.`, `metrics.`, `config/`, `summary.`). Of several columns of one kind the
one with most certainty is taken: N without embeddings before N; a held-out loss before one that does not say on which
data it is, and that before a training loss. Two of equal certainty with different values are refused.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from vqscale.errors import FitError
from vqscale.results.foreign.cells import PETAFLOP_DAY, PREFIXES, UNITS, Array
from vqscale.results.result import Result

N, D, C = "parameters_non_embedding", "tokens", "flops"
LETTERS = {
    "N": N,
    "D": D,
    "C": C,
    "L": "loss",
    "S": "codebook_size",
    "T": "context",
}
"""What a law calls its axes, and the column of the platform's tables that holds them."""
_NON_EMBEDDING = r"non_?emb|excl\w*_emb|without_emb|wo_emb|w_o_emb|no_emb"
_TRACKER = re.compile(
    r"(?:params?|metrics?|tags(?:\.mlflow)?|config|summary|summary_?metrics|attributes|h(?:yper)?params|"
    r"hyperparameters|user_attrs|args|cfg)[./:]",
    re.IGNORECASE,
)
"""What trackers put before a name."""
_SECTION = re.compile(r"(?:model|data|train|training|trainer|optim|optimizer|run|final|throughput)[./:]", re.IGNORECASE)
"""Part of a configuration, which says nothing of a count; of a loss it would say on which data it is."""
_UNIT_ENDING = r"(.{2,}?)[_ ./-](?:in_)?(m|mm|b|bn|k|t|millions?|billions?|trillions?|thousands?)"
"""Behind a name of more than one letter: d_k is the width of a head."""
_MERE_UNIT = r"|column_\d+|nats.*|flops?|tokens?|params?|parameters?|number|count|6_?nd|approx\w*|estimated"
"""In brackets behind a name, what changes nothing."""
_COUNT_OF = "(?:n|nb|no|no_of|num|num_of|number|number_of|count|total|total_number_of|all|model)_"
_COUNTED = "(?:_(?:count|number|total|all|n|seen))"
_PARAMETERS = "(?:params?|parameters?|weights)"
_TRAINED = "(?:train|training|trained|pretrain|pretraining|pre_training)"
_HELD = "(?:val|valid|validation|eval|evaluation|dev|held_?out|hold_?out)"
_NLL = (
    "(?:loss|nll|cross_?entropy|ce|xent|xentropy|ce_loss|lm_loss|nll_loss|cross_entropy_loss|nats)"
    "(?:_nats)?(?:_(?:per_)?token)?"
)
_LAST = "(?:final|last|end|epoch|mean|avg|average)"
_BEST = "(?:best|min|lowest)"
TRAINING = 5
"""Certainty of a training loss."""
KINDS: dict[str, tuple[tuple[int, str], ...]] = {
    "parameters_non_embedding": (
        (0, rf"(?:{_COUNT_OF})?(?:{_PARAMETERS}|model_size|size|n)_(?:{_NON_EMBEDDING})\w*"),
        (0, rf"(?:{_COUNT_OF})?(?:{_NON_EMBEDDING})\w*?_(?:{_PARAMETERS}|size|n|count)"),
        (1, rf"N|(?:{_COUNT_OF}|size_)*{_PARAMETERS}{_COUNTED}*|(?:n|num|nb){_PARAMETERS}"),
        (1, rf"model_size(?:_{_PARAMETERS})?|{_PARAMETERS}_(?:with|incl\w*)_emb\w*"),
        (2, rf"(?:{_COUNT_OF})*(?:trainable|active|activated)_{_PARAMETERS}|{_PARAMETERS}_(?:trainable|active)"),
        (3, "n|size"),
    ),
    "parameters": (
        (0, rf"(?:{_COUNT_OF})*(?:total|all)_{_PARAMETERS}|(?:{_COUNT_OF})*{_PARAMETERS}_(?:total|all)"),
        (0, rf"(?:{_COUNT_OF})*{_PARAMETERS}_(?:with|incl\w*)_emb\w*"),
    ),
    "tokens": (
        (0, rf"(?:{_COUNT_OF})*{_TRAINED}_tokens{_COUNTED}*|(?:{_COUNT_OF})*tokens_{_TRAINED}(?:_on)?"),
        (
            0,
            rf"(?:{_COUNT_OF}|input_)*tokens_(?:seen|consumed|processed)|(?:consumed|seen|processed)_(?:train_)?tokens",
        ),
        (1, rf"D|(?:{_COUNT_OF}|d_|data_|dataset_|dataset_size_)*tokens?{_COUNTED}*|(?:n|num)tokens"),
        (1, rf"tokens?_budget|{_TRAINED}_(?:data|dataset)(?:_size)?_(?:tokens|datapoints)"),
        (3, "d"),
    ),
    "flops": (
        (0, rf"(?:{_COUNT_OF})*{_TRAINED}_(?:compute_)?flops?{_COUNTED}*|(?:{_TRAINED}_)?compute_flops?"),
        (0, rf"flops?_{_TRAINED}"),
        (1, rf"C|(?:{_COUNT_OF}|c_)*flops?{_COUNTED}*|(?:{_COUNT_OF})*(?:{_TRAINED}_)?compute(?:_budget)?(?:_flops?)?"),
        (1, "total_flos|(?:iso)?flops?_budget|budget_flops?"),
        (3, "c"),
    ),
    "loss": (
        (0, rf"(?:{_LAST}_)*(?:{_HELD}_)+(?:{_LAST}_)?{_NLL}(?:_{_LAST})?|{_NLL}_{_HELD}(?:_{_LAST})?"),
        (1, rf"{_BEST}_{_HELD}_{_NLL}|{_HELD}_{_NLL}_{_BEST}|{_HELD}_{_BEST}_{_NLL}"),
        (2, rf"(?:{_LAST}_)*test_(?:{_LAST}_)?{_NLL}(?:_{_LAST})?|{_NLL}_test"),
        (3, rf"(?:{_LAST}_)+{_NLL}|{_NLL}_{_LAST}"),
        (4, rf"L|{_NLL}"),
        (TRAINING, rf"(?:{_LAST}_)*{_TRAINED}_(?:{_LAST}_)?{_NLL}(?:_{_LAST})?|{_NLL}_{_TRAINED}"),
    ),
    "bpb": (
        (0, rf"(?:{_LAST}_)*{_HELD}_(?:bpb|bits_per_byte)|(?:bpb|bits_per_byte)_{_HELD}"),
        (3, "bpb|bits_per_byte"),
    ),
}
"""What is measured, as (certainty, pattern): 0 is surest. Single letters count in upper case, or last of all."""
OTHERS: dict[str, tuple[str, ...]] = {
    "status": ("status", "state", "run_status", "run_state"),
    "name": ("name", "run_name", "runname", "mlflow_runname", "mlflow_run_name", "display_name"),
    "trial_id": ("trial_id", "run_id", "id", "run_uuid"),
    "evaluation_set": (
        *("evaluation_set", "eval_set", "validation_set", "val_set", "test_set", "eval_dataset", "evaluation_dataset"),
        *("validation_dataset", "val_dataset", "eval_data", "eval_corpus"),
    ),
    "dataset": ("dataset", "dataset_name"),
    "corpus": ("corpus", "train_dataset", "training_dataset", "train_set", "training_set", "train_data"),
    "arch": ("arch", "architecture", "model_type", "model_arch", "model_architecture"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "peak_learning_rate", "max_learning_rate"),
    "batch_tokens": (
        *("batch_tokens", "tokens_per_batch", "tokens_per_step", "tokens_per_update", "batch_size_tokens"),
        *("global_batch_tokens", "batch_size_in_tokens", "global_batch_size_tokens"),
    ),
    "context": (
        *("context", "context_length", "ctx_len", "n_ctx", "seq_len", "seq_length", "sequence_length", "block_size"),
        *("max_seq_len", "context_size", "max_position_embeddings"),
    ),
    "unique_tokens": (
        *("unique_tokens", "unique_training_tokens", "num_unique_tokens", "n_unique_tokens", "tokens_unique"),
        *("unique_token_count", "unique_data_tokens"),
    ),
    "epochs": ("epochs", "num_epochs", "n_epochs", "num_train_epochs", "training_epochs"),
    "codebook_size": ("codebook_size", "n_codes", "num_codes", "codebook"),
    "seed": ("seed", "random_seed"),
    "schedule": ("schedule", "lr_schedule", "lr_scheduler", "lr_scheduler_type"),
    "d_model": ("d_model", "hidden_size", "n_embd", "width"),
    "n_layer": ("n_layer", "n_layers", "num_layers", "num_hidden_layers", "depth"),
    "preset": ("preset", "model_name", "size_name"),
    "precision": ("precision",),
}
"""Other columns of the platform's tables, and the names that they have elsewhere, the surest first."""
COUNTED = ("parameters_non_embedding", "parameters", "tokens", "flops")
TEXTS = ("status", "name", "trial_id", "evaluation_set", "dataset", "corpus", "arch", "schedule", "preset", "precision")
LOOK_ALIKES = {
    "parameters_non_embedding": "param|weights|size|model|scale",
    "tokens": "tok|data|sample|example|words",
    "flops": "flop|compute|budget|flos|pf_?day",
    "loss": "^l$|loss|nll|entropy|perplexity|ppl|bpb|bits|bpc|xent|_ce|ce_",
}
_NOT_ALIKE = re.compile(
    r"per_|_per|_id$|name|path|rate|time|runtime|version|upper|lower|std|err|second|batch|vocab|mfu|hfu|^[kmgtpezy]flops?$"
)
_MEASURES = {"parameters_non_embedding": "N", "parameters": "N", "tokens": "D", "flops": "C"}
STATUS = {
    **dict.fromkeys(("finished", "success", "successful", "succeeded", "completed", "complete", "done"), "finished"),
    **dict.fromkeys(("running", "pending", "queued", "scheduled", "starting", "preempted", "preempting"), None),
    **dict.fromkeys(("failed", "failure", "crashed", "killed", "error", "cancelled", "canceled", "aborted"), None),
    **dict.fromkeys(("diverged", "stopped", "nan", "timeout", "timed_out", "out_of_memory", "unfinished"), None),
}  # fmt: skip
"""What other programs call the state of a run, in lower case; None: as it is."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A column that stands for one of the platform's. `factor`: of a unit that its name states, as `params (M)`."""

    column: str
    factor: float = 1.0
    note: str | None = None


Values = Callable[[str, bool], Array | None]
"""The numbers of a column, which is one of counts or not; None where it holds none."""


def candidates(columns: Iterable[str], roles: Iterable[str] = tuple(KINDS)) -> list[str]:
    """Columns whose names may be those of N, D, C or the loss, or of some of them."""
    return [name for name in columns if any(_level(role, name) is not None for role in roles)]


def match_columns(columns: Mapping[str, Sequence[Any]], values: Values, *, skip: Iterable[str]) -> dict[str, Match]:
    """The columns that are recognised, by the platform's name for them, without those in `skip`.

    Raises FitError where two columns may equally be the loss or an axis.
    """
    skip = set(skip)
    known = {role: match for role, match in _own_export(columns).items() if role not in skip}
    skip |= set(known)
    for role in KINDS:
        if role not in skip and (found := _measure(role, columns, values)):
            known[role] = found
    if "bpb" in known and "loss" in known and _level("loss", known["loss"].column) == (TRAINING, 1.0):
        del known["loss"]  # the bits per byte are held-out
    if "parameters" in known:  # said once, of N
        known["parameters"] = replace(known["parameters"], note=None)
    taken = {match.column for match in known.values()}
    for role, names in OTHERS.items():
        if role not in skip and (column := _named(role, names, columns, taken)):
            known[role] = Match(column=column)
            taken.add(column)
    return known


def _own_export(columns: Iterable[str]) -> dict[str, Match]:
    """The columns of what MLflow exports of the platform's own runs; none for any other table."""
    if not {"params.parameters_non_embedding", "params.train.tokens", "metrics.final/loss"} <= set(columns):
        return {}
    found: dict[str, Match] = {}
    for prefix in ("tags.", "metrics.final/", "params.model.", "params.train.", "params."):  # the surest last
        own = {name.removeprefix(prefix): name for name in columns if name.startswith(prefix)}
        found |= {name: Match(column=column) for name, column in own.items() if name in Result.model_fields}
    return found


def stated_match(role: str, column: str) -> Match:
    """The column that the user names for a role, in the unit of its header."""
    return Match(column=column, factor=_unit_of(column)[1] if role in COUNTED else 1.0)


def look_alikes(role: str, columns: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Columns whose name reminds of a measure that was not recognised."""
    used = set(taken)
    return [
        name
        for name in columns
        if name not in used and re.search(LOOK_ALIKES[role], normal(name)) and not _NOT_ALIKE.search(normal(name))
    ]


def normal(name: str) -> str:
    """A name in lower case with `_` between its words: `valLoss`, `Val / loss` and `val-loss` are `val_loss`."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("#", " number "))
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


@lru_cache(maxsize=8192)
def _forms(name: str, sections: bool) -> tuple[str, ...]:
    """The name without what trackers put before it, and without `sections`; single letters keep their case."""
    found = re.fullmatch(r"(.+?)\s*[\(\[]([^()\[\]]*)[\)\]]", name.strip())
    text = found[1] if found and re.fullmatch(_MERE_UNIT, normal(found[2])) else name.strip()
    forms = []
    for prefixes in (_TRACKER, _SECTION) if sections else (_TRACKER,):
        while prefix := prefixes.match(text):
            text = text[prefix.end() :]
        forms.append(re.sub(r"[./]value$", "", text))  # the API of Weights & Biases: {"n_params": {"value": 3}}
    return tuple(form if len(form) == 1 else normal(form) for form in dict.fromkeys(forms) if form)


def _unit_of(name: str) -> tuple[str, float]:
    """The name without the unit that it states, and that unit: `params (M)`, `tokens_B`, `compute [PF-days]`."""
    if found := re.fullmatch(r"(.+?)\s*[\(\[]\s*(?:in\s+)?([^()\[\]]+?)\s*[\)\]]", name.strip()):
        parts = found[2].split(",")
        for part in parts:
            if factor := _unit_factor(normal(part)):
                rest = ", ".join(one.strip() for one in parts if one != part)
                return f"{found[1]} ({rest})" if rest else found[1], factor
    if ending := re.fullmatch(_UNIT_ENDING, name.strip(), re.IGNORECASE):
        return ending[1], UNITS[ending[2].lower().removesuffix("s")]
    if days := re.fullmatch(r"(.*?)[_ ./-]*(?:pf|petaflops?(?:_s)?|pflops?(?:_s)?)_?days?", normal(name)):
        return days[1] or "compute", PETAFLOP_DAY
    if flops := re.fullmatch(r"((?:total|train|training)_)([kmgtpezy])flops?", normal(name)):
        return f"{flops[1]}flops", PREFIXES[flops[2]]
    return name, 1.0


def _unit_factor(words: str) -> float | None:
    plain = re.sub(r"_?(?:of_)?(?:params?|parameters?|tokens?)$", "", words)
    if plain in UNITS:
        return UNITS[plain]
    if re.fullmatch(r"(?:pf|petaflops?(?:_s)?|pflops?(?:_s)?)_?days?", words):
        return PETAFLOP_DAY
    if flops := re.fullmatch(r"([kmgtpezy]?)flops?", words):
        return PREFIXES[flops[1]]
    power = re.fullmatch(r"(?:x_)?(?:1e|10_?)(\d+)(?:_(?:flops?|tokens?|params?|parameters?))?", words)
    return 10.0 ** int(power[1]) if power else None


@lru_cache(maxsize=4096)
def _level(role: str, name: str) -> tuple[int, float] | None:
    """How certainly a column is what the role says, 0 the most, and the factor of its unit; None: not at all."""
    plain, factor = _unit_of(name) if role in COUNTED else (name, 1.0)
    forms = _forms(plain, sections=role in COUNTED)
    found = [level for level, pattern in KINDS[role] if any(re.fullmatch(pattern, form) for form in forms)]
    return (min(found), factor) if found else None


def _measure(role: str, columns: Iterable[str], values: Values) -> Match | None:
    """The column of a measure. Raises FitError where several of equal certainty differ."""
    found: dict[int, list[tuple[Match, Array]]] = {}
    for name in columns:
        level = _level(role, name)
        numbers = None if level is None else values(name, role in COUNTED)
        if level is not None and numbers is not None:
            found.setdefault(level[0], []).append((Match(column=name, factor=level[1]), numbers * level[1]))
    if not found:
        return None
    (first, numbers), *others = found[min(found)]
    if differing := [one.column for one, other in others if not _equal(numbers, other)]:
        raise FitError(_ambiguous(role, [first.column, *differing]))
    passed_over = [one.column for level in sorted(found) for one, _ in found[level] if one is not first]
    note = f"{_MEASURES.get(role, role)} is {first.column}, not {', '.join(passed_over)}" if passed_over else None
    if min(found) == TRAINING:
        note = f"loss is {first.column}, a training loss: the table has no other"
    return replace(first, note=note)


def _equal(a: Array, b: Array) -> bool:
    """Whether two columns hold the same numbers, within a thousandth, wherever both hold one."""
    both = np.isfinite(a) & np.isfinite(b)
    return bool(both.any() and np.allclose(a[both], b[both], rtol=1e-3, atol=0))


def _ambiguous(role: str, names: Sequence[str]) -> str:
    letter = _MEASURES.get(role, role)
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    example = shlex.quote(f"{letter}={names[0]}")
    return f"{letter}: {len(names)} columns may be it and differ: {shown}. Name one: --column {example}"


def _named(role: str, names: Sequence[str], columns: Mapping[str, Sequence[Any]], taken: set[str]) -> str | None:
    for wanted in names:
        for column in columns:
            if column not in taken and wanted in _forms(column, sections=True) and _holds(role, columns[column]):
                return column
    return None


def _holds(role: str, cells: Sequence[Any]) -> bool:
    """Whether the cells may be what the name says: states for a status, numbers for a count, text for a name."""
    given = [cell for cell in cells if cell is not None and str(cell).strip()]
    if not given:
        return False
    if role == "status":
        return sum(state_of(cell) is not None for cell in given) > len(given) / 2
    if role in TEXTS:
        return all(isinstance(cell, str | int) for cell in given)
    return all(_is_number(cell) for cell in given)


def state_of(cell: Any) -> str | None:
    """A state in lower case, `finished` under any of its names; None for what is no state."""
    text = re.sub(r"[^a-z]+", "_", str(cell).rsplit(".", 1)[-1].lower()).strip("_")
    return (STATUS[text] or text) if text in STATUS else None


def _is_number(cell: Any) -> bool:
    if isinstance(cell, bool | dict | list):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
