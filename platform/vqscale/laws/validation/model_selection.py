"""Model selection: forms compared by what they predict, never by how well they fit: more parameters always fit better.

All forms see the same runs and predict the same left-out ones. Where codebooks S or contexts T vary, each of their
values is left out in turn with all its runs, since that is what a form in S or T is for; otherwise the largest budgets
are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.points import budgets_of
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Candidate, ModelSelection, Where
from vqscale.laws.validation.holdout import HELD_OUT_SHARE, Refit

LEFT_OUT = {"S": "codebook size", "T": "context length"}
"""Letters whose values are left out in turn."""
MINIMUM_VALUES = 4
"""Of a letter, so that three remain when one is left out: with two, no curvature is determined."""
NOISE_LIMIT = 2.0
"""Standard errors of the paired difference below which two forms are not distinguished: about 95 % confidence."""


@dataclass(frozen=True, kw_only=True)
class CandidateForm:
    """A form, how it is fitted, and `x` [R, A]: its axes at the runs that all candidates share."""

    law: str
    form: str
    limits: str
    parameters: int
    x: Array
    refit: Refit


@dataclass(frozen=True, kw_only=True)
class SelectionRuns:
    """The runs that forms are compared on: `loss` [R], `order` [R] (ranks runs by size), `values` [R] of S and T."""

    loss: Array
    order: Array
    values: dict[str, Array]
    held: NDArray[np.bool_] | None = None
    """[R]: which runs the study's own design holds out; None where it holds out none."""


def select_model(where: Where, label: str, forms: Sequence[CandidateForm], runs: SelectionRuns) -> ModelSelection:
    """The form with the least held-out error; a simpler one where the difference is within noise."""
    splits, how = _splits(runs)
    errors = [_errors(form, runs, splits) for form in forms]
    candidates = [
        Candidate(
            law=form.law,
            form=form.form,
            limits=form.limits,
            n_runs=len(runs.loss),
            held_out_error=None if isinstance(error, str) else float(error.mean()),
            reason=error if isinstance(error, str) else None,
        )
        for form, error in zip(forms, errors, strict=True)
    ]
    judged = [(form, error) for form, error in zip(forms, errors, strict=True) if not isinstance(error, str)]
    if not splits or not judged:
        text = "no form is selected: " + ("none of them could predict what was left out" if splits else how)
        return ModelSelection(where=where, label=label, candidates=candidates, chosen=None, description=text)
    best, verdict = _verdict(judged)
    text = f"{how}; {verdict}"
    return ModelSelection(where=where, label=label, candidates=candidates, chosen=best.law, description=text)


def _splits(runs: SelectionRuns) -> tuple[list[NDArray[np.bool_]], str]:
    """Rows to leave out, one split after the other, and a description of the splits."""
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
        if held >= HELD_OUT_SHARE * len(runs.loss):
            large_R = np.zeros(len(runs.loss), dtype=bool)
            large_R[np.concatenate(budgets[-count:])] = True
            return [large_R], f"judged by the {held} largest of {len(runs.loss)} runs, predicted from the others"
    return [], f"{len(budgets)} budgets: none can be left out"


def _errors(form: CandidateForm, runs: SelectionRuns, splits: Sequence[NDArray[np.bool_]]) -> Array | str:
    """|relative error| of every left-out run, split after split; the reason where a split cannot be fitted."""
    found = []
    for left_out_R in splits:
        law = form.refit(~left_out_R)
        if isinstance(law, str):
            return f"refused where {int(left_out_R.sum())} runs are left out: {law}"
        measured = runs.loss[left_out_R]
        found.append(np.abs(law.predict(form.x[left_out_R]) - measured) / measured)
    return np.concatenate(found) if found else "nothing could be left out"


def _verdict(judged: Sequence[tuple[CandidateForm, Array]]) -> tuple[CandidateForm, str]:
    """The selected form, and by how much it predicts better than the others."""
    ranked = sorted(judged, key=lambda pair: float(pair[1].mean()))
    best, best_errors = ranked[0]
    close = [form for form, errors in ranked[1:] if _within_noise(errors - best_errors)]
    simplest = min([best, *close], key=lambda form: form.parameters)
    error = f"{100 * float(best_errors.mean()):.2g} %"
    if not close:
        others = (
            f"; the next has {100 * float(ranked[1][1].mean()):.2g} %" if len(ranked) > 1 else ", the only one judged"
        )
        return best, f"{best.law} predicts best, {error} off{others}"
    names = ", ".join(form.law for form in close)
    text = (
        f"{best.law} predicts best, {error} off, but {names} cannot be distinguished from it (difference within noise)"
    )
    if simplest is best:
        return best, text
    return simplest, f"{text}; {simplest.law} is taken, with fewer parameters"


def _within_noise(difference_R: Array) -> bool:
    """Whether a paired difference of errors is less than two of its standard errors.

    Paired by run: the difficulty of a run is common to both forms and cancels.
    """
    if len(difference_R) < 2:
        return True
    error = float(difference_R.std(ddof=1) / np.sqrt(len(difference_R)))
    return bool(difference_R.mean() <= NOISE_LIMIT * error)
