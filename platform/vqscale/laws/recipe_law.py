"""From the table of a learning-rate sweep to a recipe: the best rate of every size, and a law through them.

At every size and token budget the best rate is the vertex of the parabola in log rate through the best tried one and
its neighbours. A point whose best rate lies on the edge of its sweep shows only in which direction the optimum lies: it
is refused, and so is one whose losses have no minimum inside the sweep. The law is least squares in log rate and log N,
log D or log C, every point alike: lr ~ N^a D^b as the step law of Li et al. 2025 (arXiv 2503.04715) where sizes were
tuned at several token budgets, lr ~ N^a where each was tuned at one, lr ~ C^a as DeepSeek's (arXiv 2401.02954) where it
is asked for.

Letters of the arrays: P points, L letters of the law.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

import numpy as np
from pydantic import ValidationError

from vqscale.errors import FitError
from vqscale.laws.fitting.identifiability import INDEPENDENT_SHARE
from vqscale.laws.fitting.points import level_values, levels
from vqscale.laws.fitting.rows import runs_of_table
from vqscale.laws.fitting.run_filter import data_hash, named_column, split_table, usual_form
from vqscale.laws.forms.catalogue import N_COLUMN, Array
from vqscale.laws.io.schema import Where
from vqscale.laws.study_fits import default_metric, require_columns
from vqscale.study.recipe import (
    Recipe,
    RecipeLaw,
    RecipeLetter,
    RecipePower,
    RecipeReference,
    RecipeRule,
)

if TYPE_CHECKING:
    import pandas as pd

MINIMUM_RATES = 3
"""Of a parabola."""
WIDEST_INTERVAL = 3.0
"""Width of an exponent's 90 % interval beyond which the law says nothing: a factor of ten in N would move the rate by
anything within a factor of a thousand."""
SPANS_ANYTHING = (-1.0, 1.0)
"""An interval that holds both does not say whether the value rises or falls, nor how fast."""
NEEDED = (N_COLUMN, "lr")
APART = 0.05
"""1 - correlation of log N and log D from which on they vary separately: sizes at equal budgets, not on a ladder."""
RULE_COLUMNS = ("arch", "head")
"""Columns that split a sweep into rules."""
HELD_EQUAL = (
    "context", "segment", "codebook_size", "block_length", "precision", "d_model", "n_layer", "preset", "schedule",
    "decay", "variant", "evaluation_text",
)  # fmt: skip
"""Columns in which runs that are compared by their rate may not differ."""
COLUMN_OF: dict[RecipeLetter, str] = {"N": N_COLUMN, "D": "tokens", "C": "flops"}
Letters = Sequence[RecipeLetter]


def fit_recipe(
    table: "pd.DataFrame",
    *,
    study: str,
    metric: str | None = None,
    group: Mapping[str, str] | None = None,
    letters: Letters | None = None,
    batch_letters: Letters | None = None,
) -> Recipe:
    """The recipe of a sweep over `lr` (and, where it varies, `batch_tokens`) at several sizes.

    `study` names the sweep; `metric`: column to minimise, by default `bpb` where complete, else `loss`. `group`: column
    -> value of the rows to take. `letters`: of what the rate is a power, `batch_letters` of what the batch is; by
    default N and D where sizes were tuned at several token budgets, else N. Finished and diverged runs count. An
    architecture without a law gets its reason in place of one. Raises FitError for a table that is no such sweep.
    """
    metric = metric or default_metric(table)
    group = {named_column(table, column): value for column, value in (group or {}).items()}
    asked = dict.fromkeys((*(letters or ()), *(batch_letters or ())))
    needed = (*NEEDED, *(COLUMN_OF[letter] for letter in asked if letter != "N"), metric, *group)
    require_columns(table, needed)
    runs = _rows_of_group(table, group)
    runs = _one_condition(runs, metric)
    runs = runs[runs["status"].isin(["finished", "diverged"])] if "status" in runs else runs
    runs = usual_form(runs) if "arch" in runs else runs  # ablations take the rate of the architecture they vary
    if runs.empty:
        raise FitError("the table has no finished run: train the sweep first.")
    counted = [column for column in (*NEEDED, "tokens", "batch_tokens", "flops") if column in runs]
    for column in counted:
        wrong = runs[~(runs[column] > 0)]
        if len(wrong) and not (column == "flops" and "C" not in asked):
            raise FitError(f"column {column!r}: {len(wrong)} of {len(runs)} runs have no positive number in it.")
    fingerprints = _fingerprints(runs)
    try:
        rules = [_rule(where, own, metric, letters, batch_letters) for where, own in split_table(runs, RULE_COLUMNS)]
    except ValidationError as error:
        first = error.errors()[0]
        raise FitError(f"{'.'.join(map(str, first['loc']))}: {first['input']!r}: {first['msg']}") from error
    kept = ["trial_id", "status", "seed", *RULE_COLUMNS, *NEEDED, "tokens", "batch_tokens", *HELD_EQUAL, metric]
    return Recipe(
        study=study,
        corpus_fingerprint=fingerprints[0] if fingerprints else None,
        metric=metric,
        table=data_hash(table, kept),
        versions={name: version(name) for name in ("vqscale", "numpy")},
        rules=rules,
    )


def _rows_of_group(table: "pd.DataFrame", group: Mapping[str, str]) -> "pd.DataFrame":
    """The rows of the named subset. Raises FitError where there are none."""
    for column, value in group.items():
        kept = table[[_is_called(cell, value) for cell in table[column]]]
        if kept.empty:
            values = ", ".join(sorted({str(cell) for cell in table[column].dropna()})[:10])
            raise FitError(f"--group {column}={value}: no row of the table is so; {column} has {values}.")
        table = kept
    return table


def _is_called(cell: object, value: str) -> bool:
    try:
        return float(value) == float(str(cell))
    except ValueError:
        return str(cell) == value


def _one_condition(table: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """The rows that are runs, all of one kind. Raises FitError where they are of several."""
    point = [column for column in COLUMN_OF.values() if column in table]
    found = runs_of_table(table, metric, point, (*RULE_COLUMNS, *HELD_EQUAL, "corpus_fingerprint"))
    for column in found.conditions.columns:
        values = sorted({str(value) for value in found.table[column].dropna()})
        raise FitError(
            f"the runs are of {len(values)} {column} ({', '.join(values[:4])}), and a recipe is tuned on one:"
            f" name it with --group {column}={values[0]}."
        )
    return found.table


def _fingerprints(runs: "pd.DataFrame") -> list[str]:
    """Of the runs' corpus, if the table names it. Raises FitError for several."""
    column = "corpus_fingerprint"
    found = sorted({str(value) for value in runs[column].dropna()}) if column in runs else []
    if len(found) > 1:
        raise FitError(
            f"the runs are of {len(found)} corpora; a recipe is tuned on one. Name it with --group {column}={found[0]}."
        )
    return found


@dataclass(frozen=True, kw_only=True)
class TunedPoint:
    """A size at a token budget, with the best rate, and the best batch where it was tuned."""

    n: float
    d: float | None
    c: float | None
    lr: float
    batch: float | None

    def value(self, letter: RecipeLetter) -> float:
        found = {"N": self.n, "D": self.d, "C": self.c}[letter]
        if found is None:
            raise FitError(f"a law in {letter} needs {letter} of every run: name its column {COLUMN_OF[letter]}.")
        return found


def fit_power_law(x: Mapping[RecipeLetter, Sequence[float]], values: Sequence[float]) -> RecipeLaw:
    """Least squares in the logarithms, with the intervals of the exponents where a degree of freedom is left.

    Raises FitError where the points do not determine the exponents: fewer than there are constants, letters that move
    together, or an interval that spans anything.
    """
    log_PL = np.log(np.array([list(own) for own in x.values()], dtype=np.float64)).T
    log_value = np.log(np.asarray(values, dtype=np.float64))
    centre_L, level = log_PL.mean(axis=0), float(log_value.mean())
    away_PL = log_PL - centre_L
    _require_determined(list(x), away_PL)
    exponents = np.linalg.lstsq(away_PL, log_value - level, rcond=None)[0]
    free = len(log_value) - 1 - len(exponents)  # degrees of freedom that level and exponents leave
    residual = half_L = None
    if free > 0:
        from scipy.stats import t as student

        left = log_value - level - away_PL @ exponents
        residual = float(np.sqrt(left @ left / free))
        # Student's t times the standard error of a slope; for one letter residual / sqrt(sum x^2).
        errors = residual * np.sqrt(np.diag(np.linalg.inv(away_PL.T @ away_PL)))
        half_L = float(student.ppf(0.95, free)) * errors
    powers = {
        letter: RecipePower(
            exponent=float(exponents[place]),
            low90=None if half_L is None else float(exponents[place] - half_L[place]),
            high90=None if half_L is None else float(exponents[place] + half_L[place]),
            reference=float(np.exp(centre_L[place])),
            smallest=float(min(own)),
            largest=float(max(own)),
        )
        for place, (letter, own) in enumerate(x.items())
    }
    _require_bounded(powers)
    sizes = len(np.unique(levels(np.asarray(x.get("N", next(iter(x.values()))), dtype=np.float64))))
    return RecipeLaw(
        reference=float(np.exp(level)), powers=powers, residual=residual, sizes=sizes, points=len(log_value)
    )


def _require_determined(letters: Letters, away_PL: Array) -> None:
    """Raises FitError unless every letter takes two values, and two letters do not move together."""
    for letter, own_P in zip(letters, away_PL.T, strict=True):
        if int(levels(np.exp(own_P)).max()) < 1:
            raise FitError(f"all points have one {letter}; an exponent of {letter} needs at least 2 values of it.")
    if len(letters) < 2:
        return
    if len(away_PL) <= len(letters) + 1:
        raise FitError(f"{len(away_PL)} points; a law in {' and '.join(letters)} needs at least {len(letters) + 2}.")
    share = float(np.linalg.eigvalsh(np.corrcoef(away_PL, rowvar=False))[0])
    if share < INDEPENDENT_SHARE:
        raise FitError(
            f"{' and '.join(letters)} rise and fall together in all points: their exponents cannot be distinguished."
            " Tune some sizes at several token budgets."
        )


def _require_bounded(powers: Mapping[RecipeLetter, RecipePower]) -> None:
    """Raises FitError where an exponent may be anything."""
    for letter, power in powers.items():
        if power.low90 is None or power.high90 is None:
            continue
        low, high = power.low90, power.high90
        if (low <= SPANS_ANYTHING[0] and high >= SPANS_ANYTHING[1]) or high - low > WIDEST_INTERVAL:
            raise FitError(
                f"the exponent of {letter}, {power.exponent:.2f}, may be anything from {low:.2f} to {high:.2f} (90 %):"
                f" the sweep does not determine it. Tune more values of {letter}, further apart, or more seeds."
            )


def _rule(
    where: Where, runs: "pd.DataFrame", metric: str, letters: Letters | None, batch_letters: Letters | None
) -> RecipeRule:
    """The laws of one architecture and head."""
    references: list[RecipeReference] = []
    best: list[TunedPoint] = []
    points = list(split_table(runs, (N_COLUMN, "tokens")))
    tunes_batch = any(len(list(split_table(own, ("batch_tokens",)))) > 1 for _, own in points)
    for _, own in sorted(points, key=lambda pair: (pair[1][N_COLUMN].median(), _median(pair[1], "tokens") or 0.0)):
        tried = [_reference(part, metric) for _, part in split_table(own, ("batch_tokens",))]
        found: tuple[float, float | None] | None = None
        if tunes_batch:
            tried, found = _with_batch(tried)
        elif tried[0].best is not None:
            found = tried[0].best, None
        references += sorted(tried, key=lambda one: one.batch_tokens or 0)
        if found is not None:
            n, d, c = (_median(own, COLUMN_OF[letter]) for letter in get_args(RecipeLetter))
            best.append(TunedPoint(n=n or np.nan, d=d, c=c, lr=found[0], batch=found[1]))
    lr, refused = _law(best, [one.lr for one in best], len(points), letters)
    batches = [one.batch for one in best if one.batch is not None]
    batch, batch_refused = (None, None)
    if tunes_batch and lr is not None:
        batch, batch_refused = _law(best, batches, len(points), batch_letters or letters)
    return RecipeRule.model_validate(
        {
            "arch": where.get("arch"),
            "head": where.get("head"),
            "lr": lr,
            "batch_tokens": batch,
            "batch_refused": batch_refused,
            "refused": refused,
            "references": references,
        }
    )


def _law(
    points: Sequence[TunedPoint], values: Sequence[float], tuned: int, letters: Letters | None
) -> tuple[RecipeLaw | None, str | None]:
    """The law of the values over the points, or why there is none. `tuned`: points of the sweep, refused ones too."""
    if len(points) < 2:
        return None, (
            f"{len(points)} of {tuned} sizes have a best rate inside their sweep; an exponent needs at least 2. Tune"
            " more sizes, or widen the sweeps of the refused ones."
        )
    refused = ""
    for used in [letters] if letters else _usual_letters(points):
        try:
            return fit_power_law({letter: [one.value(letter) for one in points] for letter in used}, values), None
        except FitError as error:
            refused = refused or str(error)
    return None, refused


def _usual_letters(points: Sequence[TunedPoint]) -> list[Letters]:
    """N and D where a size was tuned at several token budgets; where D differs otherwise, N and D or else N."""
    n_P = np.array([one.n for one in points])
    d_P = np.array([np.nan if one.d is None else one.d for one in points])
    if len(np.unique(levels(n_P))) < len(points):
        return [("N", "D")]
    known = bool(np.isfinite(d_P).all()) and len(np.unique(levels(d_P))) > 1
    apart = known and 1 - abs(np.corrcoef(np.log(n_P), np.log(d_P))[0, 1]) >= APART
    return [("N", "D"), ("N",)] if apart else [("N",)]


def _median(runs: "pd.DataFrame", column: str) -> float | None:
    if column not in runs or runs[column].isna().all():
        return None
    return float(runs[column].median())


def _reference(runs: "pd.DataFrame", metric: str) -> RecipeReference:
    """The runs of one size, token budget and batch, with the best rate or the reason why there is none."""
    import pandas as pd

    first = runs.iloc[0]
    n, tokens, batch = (_median(runs, column) for column in (N_COLUMN, "tokens", "batch_tokens"))
    assert n is not None
    runs = runs.assign(lr=level_values(runs["lr"].to_numpy(dtype=np.float64)))
    rates, losses = _losses(runs, metric)
    reason = _mixed(runs) or _no_minimum("rate", rates, losses)
    best, best_loss = (None, None) if reason else _vertex(rates, losses)
    preset, context = (
        first[name] if name in runs and pd.notna(first[name]) else None for name in ("preset", "context")
    )
    return RecipeReference(
        parameters=round(n),
        preset=None if preset is None else str(preset),
        tokens=None if tokens is None else round(tokens),
        tokens_per_parameter=None if tokens is None else tokens / n,
        flops=_median(runs, "flops"),
        batch_tokens=None if batch is None else round(batch),
        context=None if context is None else int(context),
        rates=rates,
        losses=losses,
        runs=len(runs),
        trial_ids=[str(name) for name in runs["trial_id"]] if "trial_id" in runs else [],
        best=best,
        best_loss=best_loss,
        refused=reason,
    )


def _losses(runs: "pd.DataFrame", metric: str) -> tuple[list[float], list[float | None]]:
    """Rates in ascending order and the mean loss of each, over the seeds that all rates have; None: one diverged."""
    if "seed" in runs:
        common = set.intersection(*(set(group["seed"]) for _, group in runs.groupby("lr")))
        runs = runs[runs["seed"].isin(common)] if common else runs
    rates = sorted(float(rate) for rate in runs["lr"].unique())
    losses: list[float | None] = []
    for rate in rates:
        group = runs[runs["lr"] == rate]
        # A rate at which any seed diverged has no mean: it would be that of the seeds which did not.
        measured = group[metric].notna() & np.isfinite(group[metric].astype(float))
        ended = measured.all() and ("status" not in group or (group["status"] == "finished").all())
        losses.append(float(group[metric].mean()) if ended else None)
    return rates, losses


def _mixed(runs: "pd.DataFrame") -> str | None:
    """Why the runs of one size cannot be compared by their rate alone; None where they can."""
    for column in HELD_EQUAL:
        if column in runs and runs[column].nunique(dropna=False) > 1:
            values = ", ".join(map(str, sorted(set(runs[column]), key=str)))
            return f"its runs differ in {column} ({values}) beside the rate: name a table of the sweep alone."
    if "seed" in runs and not set.intersection(*(set(group["seed"]) for _, group in runs.groupby("lr"))):
        return "no seed was run at every rate: run all rates with the same seeds."
    return None


def _no_minimum(what: str, tried: list[float], losses: list[float | None]) -> str | None:
    """Why the losses over what was tried place no optimum; None where they do. `what`: `rate` or `batch`."""
    known = [(loss, index) for index, loss in enumerate(losses) if loss is not None]
    if len(tried) < MINIMUM_RATES:
        shown = ", ".join(f"{value:g}" for value in tried)
        return f"{len(tried)} value(s) of the {what} were tried ({shown}); a parabola needs {MINIMUM_RATES}."
    if not known:
        return f"every {what} diverged: try smaller rates."
    _, best = min(known)
    if best in (0, len(tried) - 1):
        end, way = ("smallest", "below") if best == 0 else ("largest", "above")
        return (
            f"the best {what} {tried[best]:g} is the {end} of those tried ({tried[0]:g} to {tried[-1]:g}): the optimum"
            f" may lie outside. Widen the sweep {way} {tried[best]:g}."
        )
    for near in (best - 1, best + 1):
        if losses[near] is None:
            return f"next to the best {what} {tried[best]:g}, {tried[near]:g} diverged: try one between them."
    x = np.log([tried[index] for _, index in known])
    if np.polyfit(x - x.mean(), [loss for loss, _ in known], 2)[0] <= 0:
        return (
            f"the losses over the {what} have no minimum (their parabola is concave): train longer or use more seeds."
        )
    return None


def _local(tried: list[float], losses: list[float | None]) -> tuple[float, float, float]:
    """Curvature, slope and level, at the best value, of the parabola through it and its neighbours in log value."""
    _, best = min((loss, index) for index, loss in enumerate(losses) if loss is not None)
    x = np.log(tried[best - 1 : best + 2]) - np.log(tried[best])
    curvature, slope, level = np.polyfit(x, [float(loss or np.nan) for loss in losses[best - 1 : best + 2]], 2)
    return float(curvature), float(slope), float(level)


def _vertex(tried: list[float], losses: list[float | None]) -> tuple[float, float]:
    """The optimum and its loss. The best value must have finished neighbours."""
    curvature, slope, level = _local(tried, losses)
    _, best = min((loss, index) for index, loss in enumerate(losses) if loss is not None)
    return float(tried[best] * np.exp(-slope / (2 * curvature))), float(level - slope**2 / (4 * curvature))


def _with_batch(tried: list[RecipeReference]) -> tuple[list[RecipeReference], tuple[float, float | None] | None]:
    """The best rate and batch of one size whose batch varies, or its references refused.

    The batch is the vertex over the losses that the best rate of every batch reaches; the rate at it is interpolated
    in the logarithms between the best rates of the batches next to it.
    """
    tried = sorted(tried, key=lambda one: one.batch_tokens or 0)
    good = [one for one in tried if one.best is not None and one.best_loss is not None]
    batches, losses = [float(one.batch_tokens or np.nan) for one in good], [one.best_loss for one in good]
    reason = _no_minimum("batch", batches, losses)
    if reason:
        return [one if one.refused else one.model_copy(update={"refused": reason, "best": None}) for one in tried], None
    batch, _ = _vertex(batches, losses)
    rate = np.exp(np.interp(np.log(batch), np.log(batches), np.log([one.best or np.nan for one in good])))
    return tried, (float(rate), batch)
