"""Uncertainty by refitting resampled runs. A run is the unit: rows of one run would not be independent.

All runs of a subset are resampled alike, as many as there are. In 150 simulated studies each (25 runs at five budgets
or 42 at six, noise 0.3 %) the 90 % intervals of a, N* and L* at ten times the largest budget covered the truth in 90 to
95 % (delta 1e-3) and 88 to 91 % (delta 1e-2, 25 runs). Resampling within budgets covered 83 to 94 %; drawing n - P of
n runs, against the degrees of freedom that a fit takes, 92 to 98 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.fit import Minimum, refit
from vqscale.laws.fitting.identifiability import determines
from vqscale.laws.fitting.problem import BOUND_MARGIN, EXPONENT_RANGE, Problem, natural, on_bound
from vqscale.laws.forms.catalogue import Array, Law, derived
from vqscale.laws.io.schema import Interval

RECORDED_REFITS = 200
"""Refits that a fit records: enough for 5 % percentiles, at about 20 kB in the file."""
ATTEMPTS_PER_REFIT = 50
"""Resamples tried for every refit before the bootstrap is given up."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """`parameters` [B, P]: natural parameters of every refit."""

    parameters: Array
    on_bound: int

    def __len__(self) -> int:
        return len(self.parameters)


def bootstrap(minimum: Minimum, x_RA: Array, refits: int, seed: int, groups: Sequence[str] | None = None) -> Draws:
    """Refit `refits` resamples of the runs, each from the optimum of all runs.

    `groups`: which run each row belongs to; rows of one run are drawn together. A resample with fewer than three
    distinct values on an axis determines no law and is drawn again; where hardly any determines it, fewer refits are
    returned.
    """
    problem = minimum.problem
    weight_BR = _weights(problem, x_RA, refits, seed, groups)
    theta_BP = refit(problem, minimum.theta, weight_BR)
    return Draws(parameters=natural(problem, theta_BP), on_bound=int(on_bound(problem, theta_BP).sum()))


def interval(values_B: Array) -> Interval:
    """Percentile intervals of the values: 5 % of them lie below and above the 90 % one, 2.5 % of the 95 % one."""
    low95, low90, high90, high95 = (float(value) for value in np.percentile(values_B, [2.5, 5, 95, 97.5]))
    return Interval(low90=low90, high90=high90, low95=low95, high95=high95)


def parameter_intervals(law: Law, draws_BP: Array) -> dict[str, Interval]:
    """Of every parameter and derived value, without those of an exponent that reach a bound of the search.

    Such an end was put there by the bound and not by the runs; derived values are left out with it. E between zero and
    the smallest loss is no such bound: the form has no other.
    """
    if not len(draws_BP):
        return {}
    found = {name: interval(value_B) for name, value_B in zip(law.parameters, draws_BP.T, strict=True)}
    # Bounds of a general form are of its own coordinates; a fit that ends on one is refused.
    reaching = [name for name in law.exponents if law.general is None and _reaches_bound(found[name])]
    if not reaching:
        return found | {name: interval(value_B) for name, value_B in derived(law, draws_BP).items()}
    return {name: one for name, one in found.items() if name not in reaching}


def _reaches_bound(found: Interval) -> bool:
    low, high = EXPONENT_RANGE
    return found.low90 < low + BOUND_MARGIN or found.high90 > high - BOUND_MARGIN


def run_numbers(rows: int, groups: Sequence[str] | None) -> NDArray[np.intp]:
    """Number of the run that each row belongs to: [R]. Without `groups` each row is a run of its own."""
    return np.arange(rows) if groups is None else np.unique(list(groups), return_inverse=True)[1]


def _weights(problem: Problem, x_RA: Array, refits: int, seed: int, groups: Sequence[str] | None) -> Array:
    """How often each row is drawn in each resample: [B, R]."""
    rng = np.random.default_rng(seed)
    member_R = run_numbers(problem.runs, groups)
    runs = int(member_R.max()) + 1
    kept = [np.empty((0, problem.runs))]
    # Batches of `refits` resamples, those that determine no law dropped, until enough are left.
    for _ in range(ATTEMPTS_PER_REFIT):
        # A resample is a vector of counts: weights of the same problem, so that all refits are one array.
        weight_BR = rng.multinomial(runs, np.full(runs, 1 / runs), refits)[:, member_R].astype(np.float64)
        kept.append(weight_BR[determines(problem.formula, weight_BR, x_RA)])
        if sum(map(len, kept)) >= refits:
            break
    return np.concatenate(kept)[:refits]
