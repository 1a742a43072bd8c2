"""Choose among forms by what they predict, never by how well they fit: more parameters always fit better.

All forms see the same runs and are asked for the same left-out ones. Where codebooks S or contexts T vary, each of
their values is left out in turn with all its runs, since that is what a form in S or T is for; otherwise the largest
budgets are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Candidate, Selection, Where
from vqscale.laws.validation.holdout import SHARE, Refit
from vqscale.laws.validation.isoflop import budgets_of

LEFT_OUT = {"S": "codebook size", "T": "context length"}
"""Letters whose values are left out in turn."""
MINIMUM_VALUES = 4
"""Of a letter, so that three remain when one is left out: with two, no curvature is determined."""
NOISE = 2.0
"""Standard errors of the paired difference below which two forms are not told apart."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A form, how it is fitted, and `x` [R, A]: its axes at the runs that all contenders share."""

    law: str
    form: str
    limits: str
    parameters: int
    x: Array
    refit: Refit


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The runs that forms are judged on: `loss` [R], `order` [R] (large is late), and `values` [R] of S and T."""

    loss: Array
    order: Array
    values: dict[str, Array]
    held: NDArray[np.bool_] | None = None
    """[R]: which runs the study's own design holds out; None where it says nothing."""


def choose(where: Where, label: str, contenders: Sequence[Contender], runs: Judged) -> Selection:
    """The form with the least held-out error; a simpler one where the difference is within noise."""
    splits, how = _splits(runs)
    errors = [_errors(contender, runs, splits) for contender in contenders]
    candidates = [
        Candidate(
            law=contender.law,
            form=contender.form,
            limits=contender.limits,
            n_runs=len(runs.loss),
            held_out_error=None if isinstance(error, str) else float(error.mean()),
            reason=error if isinstance(error, str) else None,
        )
        for contender, error in zip(contenders, errors, strict=True)
    ]
    judged = [(c, e) for c, e in zip(contenders, errors, strict=True) if not isinstance(e, str)]
    if not splits or not judged:
        words = "no form is chosen: " + ("none of them could predict what was left out" if splits else how)
        return Selection(where=where, label=label, candidates=candidates, chosen=None, words=words)
    chosen, verdict = _verdict(judged)
    return Selection(where=where, label=label, candidates=candidates, chosen=chosen.law, words=f"{how}; {verdict}")


def _splits(runs: Judged) -> tuple[list[NDArray[np.bool_]], str]:
    """Rows to leave out, one split after the other, and in words how they were chosen."""
    splits, asked = [], []
    for letter, values_R in runs.values.items():
        distinct = np.unique(values_R)
        if len(distinct) >= MINIMUM_VALUES:
            splits += [values_R == value for value in distinct]
            asked.append(f"every {LEFT_OUT[letter]} {letter} left out in turn ({len(distinct)} of them)")
    if splits:
        return splits, "judged by " + ", then ".join(asked)
    if runs.held is not None and runs.held.any() and not runs.held.all():
        return [runs.held], f"judged by the {int(runs.held.sum())} runs that the study's design holds out"
    budgets, held = budgets_of(runs.order), 0
    for count in range(1, len(budgets)):
        held = sum(len(group) for group in budgets[-count:])
        if held >= SHARE * len(runs.loss):
            large_R = np.zeros(len(runs.loss), dtype=bool)
            large_R[np.concatenate(budgets[-count:])] = True
            return [large_R], f"judged by the {held} largest of {len(runs.loss)} runs, predicted from the others"
    return [], f"{len(budgets)} budgets: none can be left out"


def _errors(contender: Contender, runs: Judged, splits: Sequence[NDArray[np.bool_]]) -> Array | str:
    """|relative error| of every left-out run, split after split; the reason where a split cannot be fitted."""
    found = []
    for left_out_R in splits:
        law = contender.refit(~left_out_R)
        if isinstance(law, str):
            return f"refused where {int(left_out_R.sum())} runs are left out: {law}"
        measured = runs.loss[left_out_R]
        found.append(np.abs(law.predict(contender.x[left_out_R]) - measured) / measured)
    return np.concatenate(found) if found else "nothing could be left out"


def _verdict(judged: Sequence[tuple[Contender, Array]]) -> tuple[Contender, str]:
    """The choice, and how sure it is."""
    ranked = sorted(judged, key=lambda pair: float(pair[1].mean()))
    best, best_errors = ranked[0]
    close = [contender for contender, errors in ranked[1:] if _within_noise(errors - best_errors)]
    simplest = min([best, *close], key=lambda contender: contender.parameters)
    error = f"{100 * float(best_errors.mean()):.2g} %"
    if not close:
        others = (
            f"; the next has {100 * float(ranked[1][1].mean()):.2g} %" if len(ranked) > 1 else ", the only one judged"
        )
        return best, f"{best.law} predicts best, {error} off{others}"
    names = ", ".join(contender.law for contender in close)
    text = f"{best.law} predicts best, {error} off, but {names} cannot be told apart from it (difference within noise)"
    if simplest is best:
        return best, text
    return simplest, f"{text}; {simplest.law} is taken, with fewer parameters"


def _within_noise(difference_R: Array) -> bool:
    """Whether a paired difference of errors is less than two of its standard errors."""
    if len(difference_R) < 2:
        return True
    error = float(difference_R.std(ddof=1) / np.sqrt(len(difference_R)))
    return bool(difference_R.mean() <= NOISE * error)
