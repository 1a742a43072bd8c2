"""Damped Newton steps with the exact Hessian, for many weightings of one problem at once.

One fit, the starts of a search and the refits of a bootstrap are the same work: rows of one array. A row leaves when
nothing is left to gain, so that a thousand refits cost little more than their hardest ones.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.problem import Derivatives, Problem, bounds, derivatives, objective_values
from vqscale.laws.forms.catalogue import Array

ROWS = 128
"""Rows worked on together: their arrays stay in the processor's cache."""
FIRST_DAMPING = 1e-3
"""Levenberg-Marquardt damping, in units of the majorant's diagonal: nearly a full Newton step."""
LARGEST_DAMPING = 1e9
"""Damping from which no step in reach improves a row: it ends there."""
LEAST_CURVATURE = 1e-9
"""Curvatures below this share of the majorant's are taken as this share."""
NEWTON_STEPS = 200

Rows = NDArray[np.intp]
Refine = Callable[[Problem, Array, Array], Array]
Fixed = NDArray[np.bool_]


def descend(
    problem: Problem,
    theta_BP: Array,
    weight_BR: Array,
    *,
    tolerance: float = 1e-13,
    steps: int = NEWTON_STEPS,
    refine: Refine | None = None,
    fixed: Fixed | None = None,
) -> Array:
    """The minimum that each row's start leads to, never worse than the start: [B, P].

    A row ends when a Newton step would gain less than `tolerance` of its objective, or when none gains anything.
    `refine` changes a trial before it is judged: variable projection solves E and the coefficients again there.
    `fixed` [B, P]: parameters that keep their start values.
    """
    parts = [theta_BP[:0]]
    for at in range(0, len(theta_BP), ROWS):
        rows = slice(at, at + ROWS)
        own = None if fixed is None else fixed[rows]
        parts.append(_Descent(problem, theta_BP[rows], weight_BR[rows], tolerance, refine, own).run(steps))
    return np.concatenate(parts)


def descend_through_deltas(
    problem: Problem, theta_BP: Array, weight_BR: Array, *, tolerance: float = 1e-13, fixed: Fixed | None = None
) -> Array:
    """`descend` for any delta: a small one is reached through larger ones, each starting where the last ended.

    A continuation in delta: near delta = 0 the objective is a sum of absolute values, whose kinks stop every method
    that starts far away (Madsen & Nielsen 1993 solve the linear case in this way).
    """
    for delta in delta_path(problem):
        easier = problem.with_objective(replace(problem.objective, delta=delta))
        # loose: only a start for the next delta
        theta_BP = descend(easier, theta_BP, weight_BR, tolerance=1e-6, fixed=fixed)
    return descend(problem, theta_BP, weight_BR, tolerance=tolerance, fixed=fixed)


def delta_path(problem: Problem, *, ratio: float = 5.0) -> list[float]:
    """Thresholds to pass before the problem's own, the largest first: from 1e-3 where the problem's is lower."""
    delta = problem.objective.delta
    largest = 1e-3 * (1.0 if problem.objective.residual == "log" else float(problem.losses.mean()))
    if delta is None or delta >= largest:
        return []
    count = int(np.ceil(np.log(largest / delta) / np.log(ratio)))
    # Without the last one, which is the problem's own.
    return [float(value) for value in np.geomspace(largest, delta, count + 1)[:-1]]


class _Descent:
    """The rows of one chunk while they descend."""

    def __init__(
        self,
        problem: Problem,
        theta_BP: Array,
        weight_BR: Array,
        tolerance: float,
        refine: Refine | None,
        fixed_BP: Fixed | None,
    ) -> None:
        self.fixed = np.zeros(theta_BP.shape, dtype=bool) if fixed_BP is None else fixed_BP
        self.problem, self.tolerance, self.refine = problem, tolerance, refine
        self.low, self.high = bounds(problem)
        self.theta = np.clip(theta_BP, self.low, self.high)
        self.weight = weight_BR
        self.damping = np.full(len(theta_BP), FIRST_DAMPING)
        self.known = derivatives(problem, self.theta, weight_BR)

    def run(self, steps: int) -> Array:
        active = np.arange(len(self.theta))
        for _ in range(steps):
            move, gain = self._steps(active)
            # Noise-free runs have an objective of zero, of which no share can be gained: hence the second summand.
            going = (gain > self.tolerance * (self.known.value[active] + self.problem.negligible * 1e-9)) & (
                self.damping[active] < LARGEST_DAMPING
            )
            active, move = active[going], move[going]
            if not len(active):
                break
            self._try(active, move)
        return self.theta

    def _steps(self, rows: Rows) -> tuple[Array, Array]:
        """Damped Newton step of every row, and what an undamped one would gain."""
        gradient, hessian = self.known.gradient[rows], self.known.hessian[rows]
        # Scaled by the majorant's diagonal, which is positive where that of the Hessian may not be.
        scale = 1 / np.sqrt(np.maximum(np.einsum("bpp->bp", self.known.majorant[rows]), 1e-300))
        theta = self.theta[rows]
        # A parameter on a bound whose gradient points outwards does not move (projected Newton).
        held = ((theta <= self.low) & (gradient > 0)) | ((theta >= self.high) & (gradient < 0)) | self.fixed[rows]
        scale = np.where(held, 0.0, scale)
        scaled = hessian * scale[:, :, None] * scale[:, None, :]
        curvature, direction = np.linalg.eigh(scaled)
        slope = np.einsum("bpq,bp->bq", direction, gradient * scale)
        # |curvature|: a step along a direction of negative curvature must still go downhill.
        curvature = np.maximum(np.abs(curvature), LEAST_CURVATURE)
        step = -np.einsum("bpq,bq->bp", direction, slope / (curvature + self.damping[rows, None]))
        return step * scale, 0.5 * np.sum(slope**2 / curvature, axis=1)

    def _try(self, rows: Rows, move: Array) -> None:
        trial = np.clip(self.theta[rows] + move, self.low, self.high)
        if self.refine is not None:
            trial = np.clip(self.refine(self.problem, trial, self.weight[rows]), self.low, self.high)
        better = objective_values(self.problem, trial, self.weight[rows]) < self.known.value[rows]
        # Ten times less after a success, six times more after a failure, as in Levenberg-Marquardt methods. The lower
        # limit lets a row whose damping has shrunk over many successes recover within a few failures.
        self.damping[rows] = np.where(better, self.damping[rows] * 0.1, np.maximum(self.damping[rows], 1e-6) * 6)
        moved = rows[better]
        if len(moved):
            self.theta[moved] = trial[better]
            self._update(moved)

    def _update(self, rows: Rows) -> None:
        fresh = derivatives(self.problem, self.theta[rows], self.weight[rows])
        for kept, new in zip(self.known, fresh, strict=True):
            kept[rows] = new


def gain_in_reach(found: Derivatives, searched: slice) -> tuple[float, float]:
    """What one reweighted Gauss-Newton step would gain in the first row, and the condition of its matrix.

    Half of g' M^-1 g does not depend on the units of the parameters, which a gradient norm would.
    """
    # lstsq, not solve: a direction that the runs do not determine has no gain and an infinite condition.
    matrix, gradient = found.majorant[0][searched, searched], found.gradient[0][searched]
    scale = 1 / np.sqrt(np.diag(matrix))
    normalised = matrix * np.outer(scale, scale)
    step = np.linalg.lstsq(normalised, gradient * scale, rcond=None)[0]
    return float(0.5 * (gradient * scale) @ step), float(np.linalg.cond(normalised))
