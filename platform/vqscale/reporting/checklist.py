"""What is needed to reproduce a scaling law, filled in from the records (after Li et al. 2025, arXiv 2502.18969)."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from vqscale.formatting import percent, short_count
from vqscale.laws import LAWS, Fit, StudyFits
from vqscale.laws.fitting.fit import AGREEING_SHARE
from vqscale.laws.io.schema import Method
from vqscale.reporting.charts.style import architecture, in_words, plural, power, present
from vqscale.study.trial import TrainConfig

_UNKNOWN = "not in the table"
LISTED_NUMBERS = 6
"""Numbers of a column that are listed one by one; of more, count and range."""
_RECIPE = (
    *("warmup", "warmup_tokens", "decay", "lr_final", "beta1", "beta2", "adam_eps", "weight_decay", "clip"),
    *("accumulation", "segment", "documents", "evaluation_tokens", "evaluation_context", "evaluation_by"),
)
"""Keys of `train` that are not columns of the table."""


Entry = tuple[str, str]
"""Item and its value; `not in the table` where the records lack it."""


def checklist(table: pd.DataFrame, fits: StudyFits, study: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Four groups: hypothesis, set-up of training, data collection, fitting."""
    return {
        "Hypothesis": _hypothesis(fits),
        "Training": _training(table, study),
        "Runs": _runs(table, fits),
        "Fitting": _fitting(fits),
        "Reproduction": [
            ("Raw points", f"results.parquet and results.csv beside this page; data hash {_hashes(fits)}"),
            ("Versions", _versions(table, fits)),
            ("Commit", _values(table, "git")),
        ],
    }


def _hypothesis(fits: StudyFits) -> list[Entry]:
    names = sorted({fit.law for fit in fits.fits})
    found: list[Entry] = [("Form", _joined({f"{fit.law}: {fit.form}" for fit in fits.fits}) or "no law was fitted")]
    found += [(f"Why {name}", f"{LAWS[name].why} {LAWS[name].limits}") for name in names if name in LAWS]
    selected = (
        _joined({f"{in_words(one.label)}: {one.description}" for one in fits.selections}) or "no forms were compared"
    )
    return [
        *found,
        ("Model selection", selected),
        ("What was fitted", _joined({f"{fit.metric} in {fit.unit}" for fit in fits.fits}) or "nothing"),
        ("N", _joined({f"{fit.convention.parameters} ({_n_column(fit)})" for fit in fits.fits}) or "not used"),
        ("D", "training tokens, each as often as it was read"),
        *(
            [("Columns of the table", "; ".join([fits.reading.describe(), *fits.reading.notes]))]
            if fits.reading
            else []
        ),
        ("C", _foreign_flops(fits) or _joined({_flops(fit) for fit in fits.fits}) or "training FLOPs, counted exactly"),
    ]


def _n_column(fit: Fit) -> str:
    columns = [axis for axis, letter in zip(fit.axes, fit.letters, strict=True) if letter == "N"]
    return columns[0] if columns else "no axis"


def _foreign_flops(fits: StudyFits) -> str:
    """Where C of a table from elsewhere comes from; empty for a study's own."""
    if fits.reading is None:
        return ""
    column = fits.reading.columns.get("flops")
    return f"as the table says in {column}; frontiers by it and by 6ND" if column else "as 6 N D; frontiers by it"


def _flops(fit: Fit) -> str:
    counted = "counted exactly by group, forward and backward" if fit.convention.flops == "exact" else "as 6 N D"
    return f"training FLOPs, {counted}; frontiers by the exact count and by 6ND"


def _training(table: pd.DataFrame, study: Mapping[str, Any]) -> list[Entry]:
    return [
        ("Architectures", _architectures(table)),
        ("Sizes N", _range(table, "parameters_non_embedding")),
        ("Width x depth", _shapes(table)),
        ("Codebooks, contexts", f"S: {_values(table, 'codebook_size')}; T: {_values(table, 'context')}"),
        ("Data", f"{_corpora(table)} (fingerprint {_values(table, 'corpus_fingerprint')})"),
        ("Learning rate, batch", f"lr {_values(table, 'lr')}; batch {_values(table, 'batch_tokens')} tokens"),
        ("Where the rate comes from", _rates(study)),
        ("Schedule", f"{_values(table, 'schedule')}; {_recipe(study)}"),
        (
            "Precision, engine",
            f"{_values(table, 'precision')}; {_values(table, 'engine')}, ZeRO {_values(table, 'zero')}",
        ),
        ("Devices", f"{_values(table, 'device')}; workers {_values(table, 'workers')}"),
    ]


def _runs(table: pd.DataFrame, fits: StudyFits) -> list[Entry]:
    status = table["status"].value_counts() if "status" in table else pd.Series({"in the table": len(table)})
    left_out = len({entry.name for entry in fits.excluded})
    return [
        ("Runs", ", ".join(f"{number} {name}" for name, number in status.items()) or "none"),
        ("Token budgets D", _range(table, "tokens")),
        ("Training FLOPs C", _range(table, "flops", power)),
        ("Seeds", _values(table, "seed")),
        ("Which checkpoints", "the last of every finished run: the learning-rate schedule ends there"),
        *([("Rows of the table", " ".join(fits.notes))] if fits.notes else []),
        ("Left out", f"{plural(left_out, 'run')}, listed above with reasons"),
    ]


def _fitting(fits: StudyFits) -> list[Entry]:
    return [
        ("Objective", _joined({_objective(fit.method) for fit in fits.fits}) or "no law was fitted"),
        ("Optimiser", _optimiser(fits)),
        ("Uncertainty", _uncertainty(fits)),
        *([("Resampled", resampled)] if (resampled := _joined({one.resampled for one in fits.fits} - {""})) else []),
        ("Hold-out", _joined({_held_out(fit) for fit in fits.fits}) or "no law was fitted"),
        ("Sensitivity", _sensitivity(fits)),
        ("Refused", f"{plural(len(fits.refusals), 'subset')}, listed above with reasons"),
    ]


def _held_out(fit: Fit) -> str:
    error = fit.holdout.mean_relative_error
    return f"{fit.law}, {fit.label}: {fit.holdout.description}" + (f" ({percent(error, 2)} off)" if error else "")


def _sensitivity(fits: StudyFits) -> str:
    variants = list(dict.fromkeys(one.description for fit in fits.fits for one in fit.variants))
    runs = " and of every single run" if any(fit.influences for fit in fits.fits) else ""
    return f"influence of {', '.join(variants)}{runs}: tables above" if variants or runs else "not requested"


def _objective(method: Method) -> str:
    return method.objective if method.delta is None else f"{method.objective}, delta {method.delta:g}"


def _optimiser(fits: StudyFits) -> str:
    if not fits.fits:
        return "no law was fitted"
    worst = min((fit.method for fit in fits.fits), key=lambda method: method.starts_agreeing / method.starts)
    return (
        f"{worst.solver}; cross-checked by {worst.cross_check.solver if worst.cross_check else 'nothing'}; "
        "accepted by the decrease of the objective still in reach, not by the optimiser's status. "
        f"At least {worst.starts_agreeing} of {worst.starts} starts agree in every fit ({AGREEING_SHARE:.0%} required)"
    )


def _uncertainty(fits: StudyFits) -> str:
    refits = {fit.bootstrap for fit in fits.fits}
    if not refits - {0}:
        return "no intervals were requested"
    seeds = _joined({str(fit.bootstrap_seed) for fit in fits.fits})
    return f"percentile intervals of {max(refits)} refits of resampled runs (seed {seeds})"


def _rates(study: Mapping[str, Any]) -> str:
    recipe = study.get("recipe")
    if isinstance(recipe, Mapping):
        return f"fitted power laws of study {recipe.get('study')}, table {str(recipe.get('table'))[:12]}"
    return "the study file" if study.get("train") else _UNKNOWN


def _recipe(study: Mapping[str, Any]) -> str:
    """Training settings of the study file, with the defaults of those that it does not set."""
    given = study.get("train")
    if not isinstance(given, Mapping):
        return "the recipe is not in the records"
    fields = {name: TrainConfig.model_fields[name].default for name in _RECIPE} | dict(given)
    return ", ".join(f"{name} {fields[name]}" for name in _RECIPE if fields[name] is not None)


def _shapes(table: pd.DataFrame) -> str:
    if not {"d_model", "n_layer"} <= set(table.columns):
        return _UNKNOWN
    shapes = table[["d_model", "n_layer"]].drop_duplicates().sort_values(["d_model", "n_layer"])
    return ", ".join(f"{width}x{depth}" for width, depth in shapes.itertuples(index=False, name=None)) or "none"


def _architectures(table: pd.DataFrame) -> str:
    if "arch" not in table:
        return _UNKNOWN
    return _joined({architecture(arch) for arch in table["arch"] if present(arch)}) or "none"


def _corpora(table: pd.DataFrame) -> str:
    """Names of corpora; where they lay is no part of what they are."""
    if "corpus" not in table:
        return _UNKNOWN
    return _joined({str(uri).rstrip("/").rsplit("/", 1)[-1] for uri in table["corpus"] if present(uri)}) or "none"


def _versions(table: pd.DataFrame, fits: StudyFits) -> str:
    found: dict[str, set[str]] = {}
    records = list(table["versions"]) if "versions" in table else []
    for record in [*records, *(fit.versions for fit in fits.fits)]:
        for name, value in record.items() if isinstance(record, dict) else ():
            found.setdefault(name, set()).add(value)
    return ", ".join(f"{name} {'/'.join(sorted(values))}" for name, values in sorted(found.items())) or _UNKNOWN


def _hashes(fits: StudyFits) -> str:
    return _joined({fit.data_hash[:12] for fit in fits.fits}) or "none"


def _range(table: pd.DataFrame, column: str, show: Callable[[float], str] = short_count) -> str:
    if column not in table or table[column].isna().all():
        return _UNKNOWN
    values = table[column].dropna()
    return f"{values.nunique()} from {show(float(values.min()))} to {show(float(values.max()))}"


def _values(table: pd.DataFrame, column: str) -> str:
    """All values; of many numbers how many and from where to where."""
    if column not in table:
        return _UNKNOWN
    known = sorted({value for value in table[column] if present(value)})
    if len(known) > LISTED_NUMBERS and all(isinstance(value, int | float) for value in known):
        return f"{len(known)} from {known[0]:g} to {known[-1]:g}"
    return ", ".join(f"{value:g}" if isinstance(value, int | float) else str(value) for value in known) or "none"


def _joined(values: set[str]) -> str:
    return "; ".join(sorted(values))
