"""From the table of a learning-rate sweep to a recipe: the best rate of every size, and a line through them.

At every size the best rate is the vertex of the parabola in log rate through the best tried one and its neighbours. A
size whose best rate lies on the edge of its sweep shows only in which direction the optimum lies: it is refused, and so
is one whose losses have no minimum inside the sweep. The line is least squares in log rate and log N, every size alike:
a power law in N, like the step law of Li et al. 2025 (arXiv 2503.04715) without its factor in D.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from vqscale.errors import FitError
from vqscale.laws.fitting.run_filter import data_hash, split_table, usual_form
from vqscale.laws.forms.catalogue import N_COLUMN
from vqscale.laws.study_fits import default_metric
from vqscale.study.recipe import Recipe, RecipeLaw, RecipeReference, RecipeRule

if TYPE_CHECKING:
    import pandas as pd

MINIMUM_RATES = 3
"""Of a parabola."""
MINIMUM_LINE_SIZES = 2
MINIMUM_INTERVAL_SIZES = 3
"""With two, the line passes through both points and leaves no residual."""
NEEDED = ("arch", N_COLUMN, "lr", "tokens", "batch_tokens")
HELD_EQUAL = (
    "tokens", "context", "segment", "codebook_size", "block_length", "precision", "d_model", "n_layer", "preset",
    "schedule", "decay", "variant",
)  # fmt: skip
"""Columns in which runs that are compared by their rate may not differ."""


def fit_recipe(table: "pd.DataFrame", *, study: str, metric: str | None = None) -> Recipe:
    """The recipe of a sweep over `lr` (and, where it varies, `batch_tokens`) at several sizes.

    `study` names the sweep; `metric`: column to minimise, by default `bpb` where complete, else `loss`. Finished and
    diverged runs count. An architecture without two sizes whose best rate lies inside their sweep gets its reason in
    place of a law. Raises FitError for a table that is no such sweep.
    """
    import pandas as pd

    metric = metric or default_metric(table)
    if missing := [column for column in (*NEEDED, metric) if column not in table]:
        raise FitError(f"column {missing[0]!r} is missing; the table has {', '.join(map(str, table.columns))}.")
    runs = table[table["status"].isin(["finished", "diverged"])] if "status" in table else table
    runs = usual_form(runs)  # ablations take the rate of the architecture they vary
    if runs.empty:
        raise FitError("the table has no finished run: train the sweep first.")
    for column in NEEDED[1:]:
        if not (runs[column] > 0).all():
            raise FitError(f"column {column!r}: not every run has a positive number in it.")
    fingerprints = sorted({str(value) for value in runs.get("corpus_fingerprint", pd.Series(dtype=str)).dropna()})
    if len(fingerprints) > 1:
        raise FitError(f"the runs are of {len(fingerprints)} corpora; a recipe is tuned on one.")
    try:
        rules = [_rule(where, group, metric) for where, group in split_table(runs, ("arch", "head"))]
    except ValidationError as error:
        first = error.errors()[0]
        raise FitError(f"{'.'.join(map(str, first['loc']))}: {first['input']!r}: {first['msg']}") from error
    return Recipe(
        study=study,
        corpus_fingerprint=fingerprints[0] if fingerprints else None,
        metric=metric,
        table=data_hash(table, ["trial_id", "status", "seed", "head", *NEEDED, *HELD_EQUAL, metric]),
        versions={name: version(name) for name in ("vqscale", "numpy")},
        rules=rules,
    )


def fit_line(sizes: Sequence[int], values: Sequence[float]) -> RecipeLaw:
    """Least squares in the logarithms, with the interval of the exponent from three sizes on."""
    log_n, log_value = np.log(sizes), np.log(values)
    x_N, level = log_n - log_n.mean(), log_value.mean()
    exponent = float(x_N @ log_value / (x_N @ x_N))
    free = len(sizes) - MINIMUM_LINE_SIZES  # degrees of freedom that level and exponent leave
    residual = half = None
    if len(sizes) >= MINIMUM_INTERVAL_SIZES:
        from scipy.stats import t as student

        residual = float(np.sqrt(np.sum((log_value - level - exponent * x_N) ** 2) / free))
        # Student's t times the standard error of a slope, residual / sqrt(sum x^2).
        half = float(student.ppf(0.95, free)) * residual / float(np.sqrt(x_N @ x_N))
    return RecipeLaw(
        reference=float(np.exp(level)),
        reference_n=float(np.exp(log_n.mean())),
        exponent=exponent,
        low90=None if half is None else exponent - half,
        high90=None if half is None else exponent + half,
        residual=residual,
        smallest=min(sizes),
        largest=max(sizes),
        sizes=len(sizes),
    )


def _rule(where: dict[str, str | int | float | None], runs: "pd.DataFrame", metric: str) -> RecipeRule:
    """The laws of one architecture and head."""
    references: list[RecipeReference] = []
    best: dict[int, tuple[float, float]] = {}
    sizes = list(split_table(runs, (N_COLUMN,)))
    tunes_batch = any(group["batch_tokens"].nunique() > 1 for _, group in sizes)
    for _, group in sorted(sizes, key=lambda pair: float(pair[1][N_COLUMN].iloc[0])):
        tried = [_reference(part, metric) for _, part in split_table(group, ("batch_tokens",))]
        tried, found = _with_batch(tried) if tunes_batch else (tried, None)
        if not tunes_batch and tried[0].best is not None:
            found = tried[0].best, float(tried[0].batch_tokens)
        references += sorted(tried, key=lambda one: one.batch_tokens)
        best |= {} if found is None else {tried[0].parameters: found}
    enough = len(best) >= MINIMUM_LINE_SIZES
    return RecipeRule.model_validate(
        {
            "arch": where["arch"],
            "head": where.get("head"),
            "lr": fit_line(list(best), [lr for lr, _ in best.values()]) if enough else None,
            "batch_tokens": fit_line(list(best), [batch for _, batch in best.values()])
            if enough and tunes_batch
            else None,
            "refused": None if enough else _too_few(len(best), len(sizes)),
            "references": references,
        }
    )


def _too_few(usable: int, sizes: int) -> str:
    return (
        f"{usable} of {sizes} sizes have a best rate inside their sweep;"
        f" an exponent needs at least {MINIMUM_LINE_SIZES}. Tune more sizes, or widen the sweeps of the refused ones."
    )


def _reference(runs: "pd.DataFrame", metric: str) -> RecipeReference:
    """The runs of one size and batch, with the best rate or the reason why there is none."""
    import pandas as pd

    first = runs.iloc[0]
    n, tokens = int(first[N_COLUMN]), int(first["tokens"])
    rates, losses = _losses(runs, metric)
    reason = _mixed(runs) or _no_minimum("rate", rates, losses)
    best, best_loss = (None, None) if reason else _vertex(rates, losses)
    preset, context = (
        first[name] if name in runs and pd.notna(first[name]) else None for name in ("preset", "context")
    )
    return RecipeReference(
        parameters=n,
        preset=None if preset is None else str(preset),
        tokens=tokens,
        tokens_per_parameter=tokens / n,
        batch_tokens=int(first["batch_tokens"]),
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
        ended = group[metric].notna().all() and ("status" not in group or (group["status"] == "finished").all())
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


def _with_batch(tried: list[RecipeReference]) -> tuple[list[RecipeReference], tuple[float, float] | None]:
    """The best rate and batch of one size whose batch varies, or its references refused.

    The batch is the vertex over the losses that the best rate of every batch reaches; the rate at it is interpolated
    in the logarithms between the best rates of the batches next to it.
    """
    tried = sorted(tried, key=lambda one: one.batch_tokens)
    good = [one for one in tried if one.best is not None and one.best_loss is not None]
    batches, losses = [float(one.batch_tokens) for one in good], [one.best_loss for one in good]
    reason = _no_minimum("batch", batches, losses)
    if reason:
        return [one if one.refused else one.model_copy(update={"refused": reason, "best": None}) for one in tried], None
    batch, _ = _vertex(batches, losses)
    rate = np.exp(np.interp(np.log(batch), np.log(batches), np.log([one.best or np.nan for one in good])))
    return tried, (float(rate), batch)
