"""Queries of a fit: the best run for a budget, a size, tokens, a loss or money, or the loss of one run.

Every result names the fit and the data that it rests on, what the run costs, and how far beyond the data it lies.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.decisions.compare import Price, side_of
from vqscale.laws.decisions.extrapolation import describe_extrapolation, require_reach, times_beyond
from vqscale.laws.decisions.frontier import cost_of
from vqscale.laws.decisions.optimum import Quantity, find_optimum
from vqscale.laws.decisions.predictions import predicted_loss
from vqscale.laws.decisions.surface import surface_of
from vqscale.laws.decisions.token_cost import TokenCost
from vqscale.laws.io.schema import Estimate, Fit, Optimum, Term, Where
from vqscale.study.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = {"N": "--params", "D": "--tokens", "S": "--codebook", "T": "--context", "C": "--compute"}
"""Letter -> the option of `vqscale predict` with its value."""


class _FitOrigin(Frozen):
    """The fit and the data that a result rests on."""

    fit: str
    law: str
    label: str
    where: Where
    metric: str
    unit: str
    data_hash: str
    versions: dict[str, str]
    marks: list[str]
    """Reasons not to decide by the fit."""
    warnings: list[str]


class OptimumResult(_FitOrigin):
    """The best configuration by one fit."""

    asked: Quantity
    amount: float
    cost: str
    """How FLOPs are counted."""
    flops: Estimate
    """Training FLOPs; with an interval where they follow from the law."""
    optimum: Optimum
    """At that budget; its loss is the law's, about which single runs scatter."""
    parabolas: Estimate | None = None
    """N* at that budget by the line through the vertices of isoFLOP parabolas; None where there is none."""
    seconds: float | None
    """Of training, by the measured speed of the fit's runs; None where none was measured."""
    money: float | None
    """In `currency`; None without a speed or a price."""
    currency: str | None


class LossResult(_FitOrigin):
    """The loss of one run of a given configuration."""

    x: dict[str, float]
    """Letter -> value."""
    loss: Estimate
    """With the scatter of single runs about the law."""
    beyond: dict[str, float]
    """Letter -> how many times above or below the fitted runs it lies, 1 within them; of laws in N and D also C."""
    extrapolation: list[str]
    """What of it lies outside the runs, a sentence each."""


def query_optimum(
    fit: Fit, asked: Quantity, amount: float, table: "pd.DataFrame", price: Price | None, *, beyond: bool = False
) -> OptimumResult:
    """The compute-optimal configuration for `amount` of what is `asked`, of a law in N and D.

    `table`: where the speed of the fit's runs is looked up; money is divided by what a token of every size costs there.
    `beyond`: also more than a hundred times outside the runs. Raises FitError where the runs do not determine it.
    """
    side, flops = side_of(fit, table, price), cost_by(fit)
    if asked == "money" and "money" in side.missing:
        raise FitError(side.missing["money"])
    if asked == "money":
        best = find_optimum(side.law, side.costs["money"], compute=amount, beyond=beyond).optimum
        spent = Estimate(value=flops.per_token(best.parameters.value) * best.tokens.value)
    else:
        question: dict[str, Any] = {asked: amount}
        run = find_optimum(side.law, flops, beyond=beyond, **question)
        best, spent = run.optimum, run.compute
    prices = {kind: cost.per_token(best.parameters.value) * best.tokens.value for kind, cost in side.costs.items()}
    return OptimumResult(
        **_origin(fit),
        asked=asked,
        amount=amount,
        cost=flops.description,
        flops=spent,
        optimum=best,
        seconds=prices.get("time"),
        money=prices.get("money"),
        currency=side.currency or None,
    )


def _origin(fit: Fit) -> dict[str, Any]:
    """The fields of `_FitOrigin`."""
    return {
        "fit": fit.id,
        "law": fit.law,
        "label": fit.label,
        "where": fit.where,
        "metric": fit.metric,
        "unit": fit.unit,
        "data_hash": fit.data_hash,
        "versions": fit.versions,
        "marks": fit.marks,
        "warnings": fit.warnings,
    }


def cost_by(fit: Fit) -> TokenCost:
    """FLOPs of a token by exact count where one follows from the fit's runs, else as 6N; its description says which."""
    if not any(point.flops is not None for point in fit.points):
        return cost_of(fit, "6nd")
    try:
        return cost_of(fit, "exact")
    except FitError as error:
        counted = cost_of(fit, "6nd")
        return replace(counted, description=f"{counted.description} ({error})")


def query_loss(fit: Fit, x: Mapping[str, float], *, beyond: bool = False) -> LossResult:
    """The loss of a run at `x`, a value for every letter of the law.

    Raises FitError where a letter has none, and for what lies more than a hundred times outside the fitted runs, unless
    `beyond`.
    """
    if missing := [letter for letter in fit.letters if letter not in x]:
        raise FitError(f"{fit.form} needs a value of {missing[0]}: {OPTIONS[missing[0]]}")
    own = {letter: float(x[letter]) for letter in fit.letters}
    tried = dict(zip(fit.letters, np.array([point.x for point in fit.points]).T, strict=True))
    values = dict(own)
    if fit.letters == ["N", "D"]:
        cost = cost_by(fit)
        values["C"], tried["C"] = cost.per_token(own["N"]) * own["D"], surface_of(fit).spent(cost)
    if not beyond:
        require_reach(values, tried)
    return LossResult(
        **_origin(fit),
        x=own,
        loss=predicted_loss(fit, own),
        beyond={letter: times_beyond(value, tried[letter]) for letter, value in values.items()},
        extrapolation=describe_extrapolation(values, tried),
    )


def at_fixed_axes(fit: Fit, fixed: Mapping[str, float]) -> Fit:
    """A joint law at one codebook size S and context T, as the law in N and D that it is there, on the runs there.

    Raises FitError where an axis of the law has no value, or no run was fitted at it: its FLOPs are not known there.
    """
    others = [letter for letter in fit.letters if letter not in ("N", "D")]
    if not others:
        return fit
    if missing := [letter for letter in others if letter not in fixed]:
        raise FitError(f"{fit.form} needs a value of {missing[0]}: {OPTIONS[missing[0]]}")
    places = {letter: fit.letters.index(letter) for letter in fit.letters}
    points = [point for point in fit.points if all(point.x[places[letter]] == fixed[letter] for letter in others)]
    if not points:
        known = ", ".join(f"{letter} {fixed[letter]:g}" for letter in others)
        raise FitError(f"no fitted run has {known}: the FLOPs of such a model are not in the table")
    names = list(fit.parameters)
    rows_BP = np.array([list(fit.parameters.values()), *fit.draws])
    for term in fit.terms:
        for letter in set(term.powers) & set(others):
            # c x^-p with x fixed is a coefficient: c' = c x^-p, refit by refit.
            power_B = rows_BP[:, names.index(term.powers[letter])]
            rows_BP[:, names.index(term.coefficient)] *= fixed[letter] ** -power_B
    left = [{letter: power for letter, power in term.powers.items() if letter in "ND"} for term in fit.terms]
    terms = [Term(coefficient=term.coefficient, powers=own) for term, own in zip(fit.terms, left, strict=True)]
    kept = [places["N"], places["D"]]
    return fit.model_copy(
        update={
            "label": f"{fit.label}, {', '.join(f'{letter} {fixed[letter]:g}' for letter in others)}",
            "letters": ["N", "D"],
            "axes": [fit.axes[place] for place in kept],
            "terms": terms,
            "parameters": dict(zip(names, rows_BP[0].tolist(), strict=True)),
            "draws": rows_BP[1:].tolist(),
            "points": [point.model_copy(update={"x": [point.x[place] for place in kept]}) for point in points],
        }
    )
