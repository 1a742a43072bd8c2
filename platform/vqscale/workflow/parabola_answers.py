"""The best division of a budget by isoFLOP parabolas, of the subsets whose law in N and D is refused."""

from collections.abc import Callable, Sequence
from typing import Any

from vqscale.errors import FitError
from vqscale.laws.decisions.extrapolation import LARGEST_EXTRAPOLATION
from vqscale.laws.decisions.parabolas import ParabolaResult, optimum_by_line, query_parabolas
from vqscale.laws.decisions.query import OptimumResult
from vqscale.laws.io.schema import Estimate, Fit, IsoflopParabolas, StudyFits, Where

ANY_DISTANCE = 1e300
"""Reach of a question that asks for any extrapolation."""


def answering_parabolas(
    stored: StudyFits, agrees: Callable[[Where], bool], split: Callable[[Where], Any]
) -> list[IsoflopParabolas]:
    """Of every group of subsets (`split` gives its key) the one with most runs among those that agree."""
    found: dict[Any, IsoflopParabolas] = {}
    fitted = {split(fit.where) for fit in stored.fits if fit.letters == ["N", "D"]}
    for one in stored.isoflops:
        key = split(one.where)
        if one.in_place_of is None or one.line is None or key in fitted or not agrees(one.where):
            continue
        if key not in found or _runs(one) > _runs(found[key]):
            found[key] = one
    return list(found.values())


def _runs(found: IsoflopParabolas) -> int:
    return sum(len(row.points) for row in found.rows)


def ask_parabolas(
    found: Sequence[IsoflopParabolas], flops: float, *, beyond: bool = False
) -> tuple[list[ParabolaResult], list[str]]:
    """What each answers, and why others do not. `beyond`: also more than a hundred times outside the budgets."""
    answers, reasons = [], []
    for one in found:
        try:
            answers.append(query_parabolas(one, flops, reach=ANY_DISTANCE if beyond else LARGEST_EXTRAPOLATION))
        except FitError as error:
            reasons.append(f"{one.label} (isoFLOP parabolas): {error}")
    return answers, reasons


def beside_parabolas(result: OptimumResult, fit: Fit, stored: StudyFits) -> OptimumResult:
    """The law's answer with N* by the parabolas of the same runs, where they reach the budget and have an interval."""
    own = next((one for one in stored.isoflops if one.where == fit.where and one.line is not None), None)
    if own is None or own.line is None or not own.line.freedom or fit.letters != ["N", "D"]:
        return result
    try:
        n: Estimate = optimum_by_line(own.line, result.optimum.flops).parameters
    except FitError:
        return result
    return result.model_copy(update={"parabolas": n})
