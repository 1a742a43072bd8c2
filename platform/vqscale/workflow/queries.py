"""What the fits of a study predict for a budget, a size, training tokens, a loss or a sum of money."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.errors import FitError
from vqscale.laws import Fit, read_fits
from vqscale.laws.decisions.optimum import Quantity
from vqscale.laws.decisions.query import LossResult, OptimumResult, at_fixed_axes, query_loss, query_optimum
from vqscale.laws.decisions.surface import leading_fits
from vqscale.planning.budget import parse_budget
from vqscale.results import Target, locate
from vqscale.study.spec import Study
from vqscale.workflow.fit_options import price_of
from vqscale.workflow.tables import fitted_table

ASKED: dict[str, Quantity] = {
    "compute": "compute", "params": "parameters", "tokens": "tokens", "loss": "loss", "money": "money"
}  # fmt: skip
"""Options, and what they ask of a law."""
Question = dict[str, float | str]
"""Option and its value."""
Outcome = OptimumResult | LossResult | str
"""A string is the reason of a refusal."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which fits to ask; None leaves it open."""

    law: str | None = None
    arch: str | None = None
    context: int | None = None
    codebook: int | None = None

    @property
    def fixed(self) -> dict[str, float]:
        """Letters of joint laws whose value is given."""
        given = {"S": self.codebook, "T": self.context}
        return {letter: float(value) for letter, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What every architecture's fit predicts, or why it is refused."""

    table: pd.DataFrame
    outcomes: list[tuple[Fit, Outcome]]


def predict_target(
    target: str | Study, question: Question, selection: Selection, *, fits: str | None = None
) -> Predicted:
    """Ask the fits of `target` one question: one of the keys of `ASKED`, or params and tokens together.

    `fits`: the folder with fits.json; default: the target's. Raises FitError for another question, for fits that are
    not there, and where every fit refuses.
    """
    check_question(question)
    place = locate(target, fits)
    table = fitted_table(place)
    outcomes = [
        (fit, _ask(fit, question, selection.fixed, table, place))
        for fit in matching_fits(read_fits(place.folder).fits, selection)
    ]
    if all(isinstance(outcome, str) for _, outcome in outcomes):
        reasons = "; ".join(f"{fit.label}: {why}" for fit, why in outcomes)
        name = target if isinstance(target, str) else target.study
        raise FitError(f"{name}: nothing can be predicted. {reasons}")
    return Predicted(table=table, outcomes=outcomes)


def matching_fits(fits: Sequence[Fit], selection: Selection) -> list[Fit]:
    """Of every architecture the fit with most runs among those that match. Raises FitError where none does."""
    law = selection.law
    pool = [fit for fit in fits if fit.law == law] if law else leading_fits(fits) or list(fits)
    wanted = {"arch": selection.arch, "context": selection.context, "codebook_size": selection.codebook}
    found: dict[Any, Fit] = {}
    for fit in pool:
        agrees = all(value is None or fit.where.get(key, value) in (value, None) for key, value in wanted.items())
        key = (fit.where.get("arch"), fit.where.get("head"))
        if agrees and (key not in found or fit.n_runs > found[key].n_runs):
            found[key] = fit
    if not found:
        known = "; ".join(f"{fit.law} of {fit.label}" for fit in fits) or "none"
        of = f"of law {law} and " if law else ""
        raise FitError(f"no fit is {of}what --arch, --context and --codebook say. There are: {known}.")
    return list(found.values())


def check_question(question: Question) -> None:
    """Raises FitError for anything but one of the keys of `ASKED`, or params and tokens."""
    if len(question) != 1 and set(question) != {"params", "tokens"}:
        named = " ".join(f"--{name}" for name in question) or "nothing"
        raise FitError(f"{named}: name one of --compute, --params, --tokens, --loss and --money, or params and tokens")


def _ask(fit: Fit, question: Question, fixed: dict[str, float], table: pd.DataFrame, place: Target) -> Outcome:
    letters = {"params": "N", "tokens": "D", "compute": "C"}
    try:
        if not {"N", "D"} <= set(fit.letters) or len(question) == 2:
            x = {letters[name]: float(value) for name, value in question.items() if name in letters}
            return query_loss(fit, x | fixed)
        ((name, value),) = question.items()
        amount = _money(str(value), place) if name == "money" else float(value)
        return query_optimum(
            at_fixed_axes(fit, fixed), ASKED[name], amount, table, price_of(place.study) if place.study else None
        )
    except FitError as error:
        return str(error)


def _money(text: str, place: Target) -> float:
    currency = place.study.resources.currency if place.study else "USD"
    limit = parse_budget(text, currency, "--money")
    if limit.unit != "money":
        raise FitError(f"--money {text}: write an amount in the study's currency, such as 50{currency.lower()}")
    return limit.amount
