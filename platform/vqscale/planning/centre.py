"""Where the compute-optimal size of a budget is expected: from a first guess, or from smaller budgets already trained.

Reads and writes nothing. N is without embeddings, C exact training FLOPs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

USUAL_EXPONENT = 0.5
"""Exponent of N*(C) where the data do not determine it (Hoffmann et al. 2022, approaches 1 and 2: 0.50, 0.49)."""
PLAUSIBLE_EXPONENT = (0.2, 0.8)
"""Outside this range, a line through few noisy budgets is not extrapolated with its own slope."""
MINIMUM_RUNGS = 3
"""Finished sizes that a budget needs before its best size is used."""


@dataclass(frozen=True, kw_only=True)
class Centre:
    """The expected optimum of one budget."""

    parameters: float
    source: str
    """What it was derived from, as text."""


def guessed(budget: float, rungs: Sequence[tuple[float, float]], tokens_per_parameter: float) -> Centre:
    """The size that has `tokens_per_parameter` tokens per parameter at `budget`.

    `rungs`: (N, exact FLOPs per token) of the sizes. FLOPs are interpolated between them in the logarithms; beyond the
    smallest and the largest, N grows with the square root of the compute.
    """
    rungs = sorted(rungs)
    log_n = np.log([n for n, _ in rungs])
    log_c = np.log([tokens_per_parameter * n * flops for n, flops in rungs])
    target = math.log(budget)
    inside = float(np.interp(target, log_c, log_n))
    beyond = min(target - log_c[0], 0.0) + max(target - log_c[-1], 0.0)
    source = f"{tokens_per_parameter:g} tokens per parameter"
    return Centre(parameters=math.exp(inside + USUAL_EXPONENT * beyond), source=source)


def best_size(losses: Mapping[float, float]) -> float:
    """N of lowest loss: the vertex of the parabola through the best size and its neighbours in log N.

    `losses`: loss by N. Where the best size is the smallest or largest, that size itself.
    """
    sizes = sorted(losses)
    best = min(range(len(sizes)), key=lambda index: losses[sizes[index]])
    if best in (0, len(sizes) - 1):
        return sizes[best]
    near = sizes[best - 1 : best + 2]
    # Centred on the best size, so that log N near 0 keeps the fit well conditioned.
    curvature, slope, _ = np.polyfit(np.log(near) - math.log(sizes[best]), [losses[n] for n in near], 2)
    return sizes[best] * math.exp(-slope / (2 * curvature)) if curvature > 0 else sizes[best]


def best_sizes(trained: Mapping[float, Mapping[float, float]]) -> dict[float, float]:
    """The best size of every budget in `trained` (budget -> N -> loss) with enough sizes, by budget, ascending."""
    return {c: best_size(losses) for c, losses in sorted(trained.items()) if len(losses) >= MINIMUM_RUNGS}


def extrapolated(budget: float, best_by_budget: Mapping[float, float]) -> Centre | None:
    """The optimum of `budget` from the `best_sizes` of smaller budgets; None where there is none.

    A line through their best sizes in log N and log C; through the largest budget's, with exponent 0.5, where there is
    only one or the line's exponent is outside 0.2 to 0.8.
    """
    best = {c: n for c, n in best_by_budget.items() if c < budget}
    if not best:
        return None
    last = max(best)
    if len(best) > 1:
        slope, level = np.polyfit(np.log(list(best)), np.log(list(best.values())), 1)
        if PLAUSIBLE_EXPONENT[0] <= slope <= PLAUSIBLE_EXPONENT[1]:
            n = math.exp(level + slope * math.log(budget))
            return Centre(parameters=n, source=f"line through {len(best)} trained budgets, N ~ C^{slope:.2f}")
    n = best[last] * (budget / last) ** USUAL_EXPONENT
    return Centre(parameters=n, source=f"best size at {exact(last)} FLOPs, N ~ C^{USUAL_EXPONENT:g}")


def exact(number: float) -> str:
    """A budget with all its digits: 1.5e18 and 2.4e18 never look alike."""
    mantissa, exponent = f"{number:.15e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
