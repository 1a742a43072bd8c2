"""What one training token costs as a function of N: FLOPs by exact count or as 6N, measured seconds, or money.

A budget of anything that is proportional to tokens is divided in the same way, so that FLOPs, time and money share
one frontier search. Letters of the arrays: R runs.
"""

from dataclasses import dataclass, replace

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.fitting.points import level_values
from vqscale.laws.forms.catalogue import Array

MINIMUM_COST_SIZES = 3
LARGEST_DEVIATION = 0.25
"""Sizes further from the curve than this share have a cost that N alone does not determine. The platform's own models,
whose depth and width grow in steps, stay within 5 % with VQ attention and 21 % with quadratic attention at T up to
65,536 (4 and 12 % at T up to 4,096)."""
_POWERS = np.arange(0.0, 0.96, 0.05)
"""Powers tried for the rest: below 1, so that `linear` * N leads for large N. For each the fit is linear."""


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Cost of a token: linear * N + rest * N^power, and below the smallest run the tangent of that in logarithms.

    The growth beyond the largest run does not follow from that run: a token costs ever more nearly `linear` * N, as it
    must, because attention, head and overheads grow with the width or not at all, and products with the weights with N.
    A curve through every run (linear or spline in logarithms) would pass each size exactly, but its slope would jump
    from size to size with their depth and width, and N*(C) with it.
    """

    linear: float
    rest: float
    power: float
    smallest: float
    """N below which the tangent holds."""
    largest: float
    deviation: float
    """Largest relative distance of a run's cost from the curve."""
    description: str

    def log_per_token(self, log_n: Array) -> Array:
        """log of the cost of a token; no number where a refit has no best N, which is infinite then."""
        # Below the smallest run the tangent: a negative rest would otherwise make small models cost less than nothing.
        inside = np.maximum(log_n, np.log(self.smallest))
        per_n = self.linear + self.rest * np.exp((self.power - 1) * inside)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.log(per_n) + inside + self.slope(log_n) * (log_n - inside), dtype=np.float64)

    def slope(self, log_n: Array) -> Array:
        """d log(cost of a token) / d log N."""
        rest_per_n = self.rest * np.exp((self.power - 1) * np.maximum(log_n, np.log(self.smallest)))
        return np.asarray((self.linear + self.power * rest_per_n) / (self.linear + rest_per_n), dtype=np.float64)

    def per_token(self, n: float) -> float:
        return float(np.exp(self.log_per_token(np.log(np.array([n])))[0]))

    def times(self, factor: float, description: str) -> "TokenCost":
        """The same cost in another unit."""
        return replace(self, linear=self.linear * factor, rest=self.rest * factor, description=description)


def six_n(n_R: Array) -> TokenCost:
    """6N FLOPs per token (Kaplan et al. 2020, arXiv 2001.08361): attention, head and quantiser count nothing."""
    return TokenCost(
        linear=6.0,
        rest=0.0,
        power=0.0,
        smallest=float(n_R.min()),
        largest=float(n_R.max()),
        deviation=0.0,
        description="6ND: six FLOPs per parameter and token",
    )


def fit_token_cost(
    n_R: Array, per_token_R: Array, what: str, largest_deviation: float = LARGEST_DEVIATION
) -> TokenCost:
    """The curve through the median cost of every size, by least squares of relative errors.

    `what` names the cost, `largest_deviation` is the relative distance from the curve that a size may have. Raises
    FitError where fewer than three sizes have a cost, where it does not grow with N, or where it is no function of N.
    """
    size_R = level_values(n_R)
    sizes = np.unique(size_R)
    if len(sizes) < MINIMUM_COST_SIZES:
        raise FitError(f"{what}: known for {len(sizes)} sizes; a curve over N needs at least {MINIMUM_COST_SIZES}")
    median = np.array([np.median(per_token_R[size_R == size]) for size in sizes])
    candidates = [_least_squares(sizes, median, power) for power in _POWERS]
    usable = [candidate for candidate in candidates if _grows(*candidate[1:], float(sizes[0]))]
    if not usable:
        raise FitError(f"{what}: does not grow with N over the {len(sizes)} sizes")
    _, linear, rest, power = min(usable)  # of the least squared error, the first entry
    cost = TokenCost(
        linear=linear,
        rest=rest,
        power=power,
        smallest=float(sizes[0]),
        largest=float(sizes[-1]),
        deviation=0.0,
        description=what,
    )
    deviation = float(np.max(np.abs(np.exp(cost.log_per_token(np.log(sizes))) / median - 1)))
    if deviation > largest_deviation:
        raise FitError(f"{what}: is no smooth function of N (a size is {100 * deviation:.0f} % off the curve)")
    text = f"{what} through {len(sizes)} sizes, at most {100 * deviation:.2g} % off; beyond them towards growth as N"
    return replace(cost, deviation=deviation, description=text)


def _least_squares(n_R: Array, cost_R: Array, power: float) -> tuple[float, float, float, float]:
    """Squared relative error, linear, rest, power."""
    # Divided by the cost, the errors are relative; scaled, columns that differ by orders of magnitude are conditioned.
    columns = np.stack([n_R / cost_R, n_R**power / cost_R], axis=1)
    scale = np.linalg.norm(columns, axis=0)
    solution = np.linalg.lstsq(columns / scale, np.ones(len(n_R)), rcond=None)[0]
    error = float(np.sum((columns / scale @ solution - 1) ** 2))
    linear, rest = (solution / scale).tolist()
    return error, linear, rest, float(power)


def _grows(linear: float, rest: float, power: float, smallest: float) -> bool:
    """Positive and rising from the smallest size on; where it is so there, it is so everywhere above.

    `rest` may be negative: embeddings are parameters, but are looked up and not multiplied.
    """
    rest_per_n = rest * smallest ** (power - 1)
    return linear > 0 and linear + rest_per_n > 0 and linear + power * rest_per_n > 0
