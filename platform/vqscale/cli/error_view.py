"""How far held-out losses are from one another, beside how far another choice of held-out text would move them."""

from collections.abc import Sequence
from typing import Literal

from vqscale.results.loss_difference import FEW, Difference, loss_difference
from vqscale.results.result import Result


def with_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """A measurement and its standard error, where it has one."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def error_notes(results: Sequence[Result]) -> list[str]:
    """What ± means in a table of trials and what it leaves out, and whether the best trial is better than the next."""
    measure: Literal["bpb", "accuracy"] = "accuracy" if results and results[0].task == "classification" else "bpb"
    sign = -1 if measure == "accuracy" else 1
    known = [(sign * value, one) for one in results if (value := getattr(one, measure)) is not None]
    if not known:
        return []
    ranked = [one for _, one in sorted(known, key=lambda pair: pair[0])]
    return [*_legend(ranked, measure), *_best_and_next(ranked, measure)]


def _legend(results: Sequence[Result], measure: str) -> list[str]:
    unit = "example" if measure == "accuracy" else "document"
    known = [(_units(one), getattr(one, f"{measure}_error")) for one in results]
    counts = sorted({units for units, error in known if units is not None and error is not None})
    if not counts:
        alone = any(units == 1 for units, _ in known)
        return [f"One held-out {unit}: how far another one would move a loss is not known."] if alone else []
    over = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    few = f" Fewer than {FEW} {unit}s: the errors are rough themselves." if counts[0] < FEW else ""
    return [f"± is the standard error over {over} held-out {unit}s; what another seed would change is not in it.{few}"]


def _best_and_next(ranked: Sequence[Result], measure: Literal["bpb", "accuracy"]) -> list[str]:
    """Between trials that differ in more than their seed: two seeds of one setup are no two choices."""
    best = ranked[0]
    other = next((one for one in ranked[1:] if one.setup is None or one.setup != best.setup), None)
    found = loss_difference(other, best, measure) if other is not None else None
    if other is None or found is None:
        return []
    digits = 4 if measure == "bpb" else 3
    alone = sum(one.setup == best.setup for one in ranked) == 1 if best.setup is not None else True
    seed = "; one seed: chance unknown" if alone else ""
    return [f"Best: {best.name}; next: {other.name}, {found.text(digits)} {measure}{_verdict(found)}{seed}."]


def _verdict(found: Difference) -> str:
    return ", which may be chance" if found.may_be_chance() else ""


def _units(one: Result) -> int | None:
    return one.examples if one.task == "classification" else one.evaluation_documents
