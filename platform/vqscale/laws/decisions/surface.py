"""A law in N and D with its refits as a surface over both: the best N of a budget, and the budget of a loss.

Letters of the arrays: R runs, B draws (refits), K budgets or sizes, J terms, P parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.decisions.token_cost import TokenCost
from vqscale.laws.fitting.bootstrap import interval
from vqscale.laws.forms.catalogue import Array, general_form
from vqscale.laws.forms.general import GeneralForm
from vqscale.laws.io.schema import Estimate, Fit, Term

SEARCH_DECADES = 6
"""How far below the smallest and above the largest run the best N is searched."""
_HALVINGS = 42
"""Of a range of some twenty decades (46 in log N): 46 / 2^42 is log N to 1e-11."""
_EDGE = 1e-6
"""Distance in log N from an end of the range at which there is no optimum inside it."""
_GENERAL_DECADES = 3
"""As `SEARCH_DECADES`, of a general form: three decades of N are six of C."""
_GRID = 241
"""Sizes between which the best one of a general form is looked for first: some thirty to a decade."""
_SECTIONS = 40
"""Of an interval of .2 in log N: to 1e-8, where the rounding of a loss hides more."""
INVERSE_DECADES = 4
"""How far beyond the runs the budget that reaches a given loss is searched."""
_BUDGETS_PER_DECADE = 3


@dataclass(frozen=True, kw_only=True)
class Surface:
    """L(N, D) = E + sum of c_j N^-p_j D^-q_j, once for the fit (row 0) and once for every refit.

    `floor` [1 + B] is E; `scale`, `n_power`, `d_power` [1 + B, J]. `n`, `d`, `loss` [R] are the runs.
    """

    floor: Array
    scale: Array
    n_power: Array
    d_power: Array
    n: Array
    d: Array
    loss: Array

    def losses(self, log_n_BK: Array, log_d_BK: Array) -> Array:
        """L of every row at its own sizes and tokens: [1 + B, K]."""
        return np.asarray(self.floor[:, None] + self._terms(log_n_BK, log_d_BK).sum(axis=2), dtype=np.float64)

    def best(self, cost: TokenCost, budgets: Sequence[float]) -> tuple[Array, Array]:
        """log N and loss [1 + B, K] of the best division of every budget; log N is infinite where no N is best.

        By bisection on the sign of dL/d log N at constant budget. It changes once: every term's pull grows with N
        relative to those that pull the other way, as long as the slope of the cost's logarithm varies slowly.
        """
        log_c_K, reach = np.log(np.asarray(budgets, dtype=np.float64)), SEARCH_DECADES * np.log(10)
        low, high = np.log(self.n.min()) - reach, np.log(self.n.max()) + reach
        shape = (len(self.floor), len(log_c_K))
        low_BK, high_BK = np.full(shape, low), np.full(shape, high)
        for _ in range(_HALVINGS):
            middle_BK = 0.5 * (low_BK + high_BK)
            rising_BK = self._slope(cost, log_c_K, middle_BK) > 0
            high_BK = np.where(rising_BK, middle_BK, high_BK)
            low_BK = np.where(rising_BK, low_BK, middle_BK)
        log_n_BK = 0.5 * (low_BK + high_BK)
        loss_BK = self.losses(log_n_BK, log_c_K - cost.log_per_token(log_n_BK))
        # The slope has one sign everywhere: the loss falls (or rises) with N to the end of the range.
        none_BK = (log_n_BK - low < _EDGE) | (high - log_n_BK < _EDGE)
        return np.where(none_BK, np.inf, log_n_BK), loss_BK

    def only_fit(self) -> "Surface":
        """Without the refits."""
        by_row = {name: getattr(self, name)[:1] for name in ("floor", "scale", "n_power", "d_power")}
        return replace(self, **by_row)

    def _terms(self, log_n_BK: Array, log_d_BK: Array) -> Array:
        """[1 + B, K, J]."""
        decay = self.n_power[:, None, :] * log_n_BK[:, :, None] + self.d_power[:, None, :] * log_d_BK[:, :, None]
        return np.asarray(self.scale[:, None, :] * np.exp(-decay), dtype=np.float64)

    def _slope(self, cost: TokenCost, log_c_K: Array, log_n_BK: Array) -> Array:
        """dL / d log N at constant budget."""
        # At constant C, d log D / d log N = -slope of log(cost per token).
        pull = self.d_power[:, None, :] * cost.slope(log_n_BK)[:, :, None] - self.n_power[:, None, :]
        terms = self._terms(log_n_BK, log_c_K - cost.log_per_token(log_n_BK))
        return np.asarray((terms * pull).sum(axis=2), dtype=np.float64)

    def spent(self, cost: TokenCost) -> Array:
        """Cost of every run, as the curve has it: [R]."""
        return np.asarray(self.d * np.exp(cost.log_per_token(np.log(self.n))), dtype=np.float64)

    def least_losses(self, cost: TokenCost) -> tuple[Array, Array]:
        """Budgets [K] from one decade below the runs to four above, and L* of every row at them [1 + B, K]."""
        spent = self.spent(cost)
        low, high = np.log10(spent.min()) - 1, np.log10(spent.max()) + INVERSE_DECADES
        budgets_K = np.logspace(low, high, int(np.ceil((high - low) * _BUDGETS_PER_DECADE)) + 1)
        return budgets_K, self.best(cost, budgets_K.tolist())[1]

    def budgets_for(self, cost: TokenCost, loss_B: Array, table: tuple[Array, Array] | None = None) -> Array:
        """Budget at which every row's L* is `loss_B` [1 + B or fewer]; NaN where none within reach is.

        `table`: what `least_losses` gave, where it is at hand. log C is interpolated over log(L* - E), in which it is
        very nearly straight.
        """
        budgets_K, least_BK = table or self.least_losses(cost)
        found_B = np.full(len(loss_B), np.nan)
        # np.interp needs ascending abscissae, and L* - E falls with the budget: hence everything reversed.
        for row, (floor, loss) in enumerate(zip(self.floor.tolist(), loss_B.tolist(), strict=False)):
            if least_BK[row, -1] <= loss <= least_BK[row, 0]:
                above = np.log(least_BK[row, ::-1] - floor)
                found_B[row] = np.exp(np.interp(np.log(loss - floor), above, np.log(budgets_K[::-1])))
        return found_B


def surface(
    terms: Sequence[Term],
    names: Sequence[str],
    values_P: Array,
    draws_BP: Array,
    letters: Sequence[str],
    x_RA: Array,
    loss_R: Array,
    fixed: Mapping[str, float] | None = None,
) -> Surface:
    """The law with parameters `names` at the fit's values and at every draw's.

    `fixed`: values of the axes other than N and D. Raises FitError where the law has no N, no D, or an axis that is
    neither and has no value.
    """
    for needed in ("N", "D"):
        if needed not in letters:
            raise FitError(f"law: it has no {needed}; the best division of a budget needs a law in N and D")
    rows_BP = np.concatenate([values_P[None, :], draws_BP.reshape(-1, len(values_P))])
    column = {name: rows_BP[:, index] for index, name in enumerate(names)}
    scale, n_power, d_power = [], [], []
    for term in terms:
        log_scale = np.log(column[term.coefficient])
        for letter in set(term.powers) - {"N", "D"}:
            if letter not in (fixed or {}):
                raise FitError(f"law: {letter} is free; name its value")
            log_scale = log_scale - column[term.powers[letter]] * np.log((fixed or {})[letter])
        scale.append(np.exp(log_scale))
        nothing = np.zeros(len(rows_BP))
        n_power.append(column[term.powers["N"]] if "N" in term.powers else nothing)
        d_power.append(column[term.powers["D"]] if "D" in term.powers else nothing)
    return Surface(
        floor=column["E"],
        scale=np.stack(scale, axis=1),
        n_power=np.stack(n_power, axis=1),
        d_power=np.stack(d_power, axis=1),
        n=x_RA[:, letters.index("N")],
        d=x_RA[:, letters.index("D")],
        loss=loss_R,
    )


@dataclass(frozen=True, kw_only=True)
class GeneralSurface(Surface):
    """A form in N and D that is no sum of terms: `values` [1 + B, P] are its constants; N*(C) is found by searching."""

    form: GeneralForm
    values: Array

    def losses(self, log_n_BK: Array, log_d_BK: Array) -> Array:
        rows = np.broadcast_to(log_n_BK, (len(self.values), log_n_BK.shape[1]))
        log_x_BKA = np.stack([rows, np.broadcast_to(log_d_BK, rows.shape)], axis=-1)
        return np.stack(
            [self.form.losses(row_P, np.exp(log_x_KA)) for row_P, log_x_KA in zip(self.values, log_x_BKA, strict=True)]
        )

    def best(self, cost: TokenCost, budgets: Sequence[float]) -> tuple[Array, Array]:
        """As of a sum of terms: the lowest minimum inside a grid of sizes, then golden sections between its neighbours.

        A form with exponents that move with N may fall again far outside the sizes: its ends are no minima.
        """
        log_c_K, reach = np.log(np.asarray(budgets, dtype=np.float64)), _GENERAL_DECADES * np.log(10)
        grid_G = np.linspace(np.log(self.n.min()) - reach, np.log(self.n.max()) + reach, _GRID)
        width = float(grid_G[1] - grid_G[0])
        shape = (len(self.values), len(log_c_K))
        pairs = [np.repeat(log_c_K, _GRID)[None], np.tile(grid_G, len(log_c_K))[None]]
        loss_BKG = self.losses(pairs[1], pairs[0] - cost.log_per_token(pairs[1])).reshape(*shape, _GRID)
        inner_BKG = loss_BKG[:, :, 1:-1]
        lowest_BKG = (inner_BKG <= loss_BKG[:, :, :-2]) & (inner_BKG < loss_BKG[:, :, 2:])
        place_BK = 1 + np.argmin(np.where(lowest_BKG, inner_BKG, np.inf), axis=2)
        low_BK, high_BK = grid_G[place_BK] - width, grid_G[place_BK] + width
        golden = (np.sqrt(5) - 1) / 2
        for _ in range(_SECTIONS):
            left_BK, right_BK = high_BK - golden * (high_BK - low_BK), low_BK + golden * (high_BK - low_BK)
            lower_BK = self._at(cost, log_c_K, left_BK) < self._at(cost, log_c_K, right_BK)
            low_BK, high_BK = np.where(lower_BK, low_BK, left_BK), np.where(lower_BK, right_BK, high_BK)
        log_n_BK = 0.5 * (low_BK + high_BK)
        loss_BK = self._at(cost, log_c_K, log_n_BK)
        return np.where(lowest_BKG.any(axis=2), log_n_BK, np.inf), loss_BK

    def _at(self, cost: TokenCost, log_c_K: Array, log_n_BK: Array) -> Array:
        return self.losses(log_n_BK, log_c_K - cost.log_per_token(log_n_BK))

    def only_fit(self) -> "GeneralSurface":
        by_row = {name: getattr(self, name)[:1] for name in ("floor", "scale", "n_power", "d_power", "values")}
        return replace(self, **by_row)


def _general_surface(fit: Fit, form: GeneralForm, draws_BP: Array) -> GeneralSurface:
    if fit.letters != ["N", "D"]:
        raise FitError(f"law: {fit.law} divides a budget only at a fixed amount of unique data, which is not offered")
    values = np.concatenate([[list(fit.parameters.values())], draws_BP.reshape(-1, len(fit.parameters))])
    x_RA = np.array([point.x for point in fit.points])
    nothing = np.zeros((len(values), 0))
    losses = np.array([point.measured for point in fit.points])
    # Farseer's first exponential ends at E from below where s is negative: then only zero lies below every loss.
    below = values[:, list(fit.parameters).index("s")] < 0 if "s" in fit.parameters else np.zeros(len(values), bool)
    return GeneralSurface(
        floor=np.where(below, 0.0, values[:, 0]),
        scale=nothing,
        n_power=nothing,
        d_power=nothing,
        n=x_RA[:, 0],
        d=x_RA[:, 1],
        loss=losses,
        form=form,
        values=values,
    )


def surface_of(fit: Fit, draws_BP: Array | None = None, fixed: Mapping[str, float] | None = None) -> Surface:
    """As `surface`, from a record; with the refits that it keeps, unless all of them are at hand."""
    if (form := general_form(fit)) is not None:
        return _general_surface(fit, form, np.array(fit.draws, dtype=np.float64) if draws_BP is None else draws_BP)
    return surface(
        fit.terms,
        list(fit.parameters),
        np.array(list(fit.parameters.values())),
        np.array(fit.draws, dtype=np.float64) if draws_BP is None else draws_BP,
        fit.letters,
        np.array([point.x for point in fit.points]),
        np.array([point.measured for point in fit.points]),
        fixed,
    )


def exact_flops_of(fit: Fit) -> tuple[Array, Array]:
    """N and FLOPs per token of the runs that have FLOPs: [R], [R]."""
    n, d = fit.letters.index("N"), fit.letters.index("D")
    known = [(point.x[n], point.flops / point.x[d]) for point in fit.points if point.flops is not None]
    return np.array([row[0] for row in known]), np.array([row[1] for row in known])


def leading_fits(fits: Sequence[Fit]) -> list[Fit]:
    """The laws in N and D; of several for one subset the first, in the order in which laws were requested."""
    found: dict[str, Fit] = {}
    for fit in fits:
        if fit.letters == ["N", "D"]:
            found.setdefault(repr(fit.where), fit)
    return list(found.values())


def estimate(values_B: Array) -> Estimate:
    """Row 0 is the value, the others the draws. Without draws, or where one of them is no number, no interval."""
    draws = values_B[1:]
    sound = len(draws) > 0 and bool(np.all(np.isfinite(draws)))
    return Estimate(value=float(values_B[0]), interval=interval(draws) if sound else None)
