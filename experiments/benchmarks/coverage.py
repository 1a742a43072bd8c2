"""Coverage of the confidence intervals of an optimum. `python -m benchmarks.coverage --help`.

Studies are simulated from a known law, fitted and bootstrapped as `vqscale fit` does it, and each interval of the
optimum either contains the true optimum or not. Sizes are centred on a guess of the optimum that is off by up to
half in either direction, as a plan's would be; FLOPs are exact, with a part that does not grow as N.

Letters: R runs.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.document import facts, publish
from vqscale.errors import FitError
from vqscale.laws.decisions.frontier import make_frontier
from vqscale.laws.decisions.surface import Surface, surface
from vqscale.laws.decisions.token_cost import TokenCost, fit_token_cost
from vqscale.laws.fitting.bootstrap import bootstrap
from vqscale.laws.fitting.fit import FitStatus, solve
from vqscale.laws.fitting.problem import make_problem
from vqscale.laws.forms.catalogue import LAWS, Array, evaluate_law
from vqscale.laws.io.schema import Estimate, Frontier

LAW = LAWS["chinchilla"]
TRUTH = np.array([1.82, 482.0, 0.348, 2085.0, 0.366])
"""E, A, alpha, B, beta, near Epoch's fit of Chinchilla (arXiv 2404.10102)."""
NOISE = 0.003
"""Standard deviation of log loss."""
WIDTH_FLOPS = 4e4
"""FLOPs per token are 6 N + this times sqrt(N): the second term is two fifths of all at the best size of the smallest
budget, a fifth at that of the largest."""
STUDIES = 1000
REFITS = 200
FILE = "interval_coverage"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An isoFLOP design: `budgets` with `sizes` each, and `seeds` runs of each size at the smallest budget."""

    name: str
    budgets: Sequence[float]
    sizes: int
    spread: float
    """Largest over middle size of a budget."""
    seeds: int


PLANS = (
    Plan(name="5 budgets x 5 sizes, +-4x", budgets=np.geomspace(1e18, 1e20, 5).tolist(), sizes=5, spread=4.0, seeds=3),
    Plan(name="5 budgets x 5 sizes, +-8x", budgets=np.geomspace(1e18, 1e20, 5).tolist(), sizes=5, spread=8.0, seeds=3),
    Plan(name="4 budgets x 5 sizes, +-4x", budgets=np.geomspace(1e18, 1e20, 4).tolist(), sizes=5, spread=4.0, seeds=1),
)
FURTHER = 10.0
"""The second budget whose optimum is estimated, in units of the largest trained one."""


def measure_coverage(plans: Sequence[Plan] = PLANS, studies: int = STUDIES, refits: int = REFITS) -> pd.DataFrame:
    """One row per plan, quantity and budget: the share of studies whose 90 and 95 % intervals contain the truth.

    A study whose fit or optimum is refused gives no interval; `refused` counts those.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        rows = [row for plan in plans for row in _rows(plan, studies, refits)]
    return pd.DataFrame(rows)


def _rows(plan: Plan, studies: int, refits: int) -> Iterator[dict[str, object]]:
    largest = max(plan.budgets)
    asked = [largest, FURTHER * largest]
    found = [_study(plan, seed, refits, asked) for seed in range(studies)]
    true = _truth(plan, asked)
    for (quantity, budget), value in _quantities(true):
        estimates = [dict(_quantities(one))[quantity, budget] for one in found if one is not None]
        truth = value.value
        yield {
            "plan": plan.name,
            "runs": plan.sizes * (len(plan.budgets) - 1 + plan.seeds),
            "quantity": quantity,
            "budget": budget,
            "studies": studies,
            "refused": studies - len(estimates),
            "inside_90": _share(estimates, truth, "90"),
            "inside_95": _share(estimates, truth, "95"),
            "median_width_90": float(np.median([_width(estimate) for estimate in estimates])),
            "bias": float(np.mean([estimate.value / truth - 1 for estimate in estimates])),
        }


def _study(plan: Plan, seed: int, refits: int, asked: Sequence[float]) -> Frontier | None:
    """The frontier of one simulated study; None where its fit or one of the optima is refused."""
    x_RA, loss_R, cost = _runs(plan, seed)
    minimum = solve(make_problem(LAW, x_RA, loss_R), check=False)
    if minimum.status is not FitStatus.CONVERGED:
        return None
    draws = bootstrap(minimum, x_RA, refits, seed)
    law = surface(LAW.terms, LAW.parameters, minimum.parameters, draws.parameters, LAW.letters, x_RA, loss_R)
    try:
        found = make_frontier(law, cost, "exact", asked)
    except FitError:
        return None
    return None if found.refused else found


def _truth(plan: Plan, asked: Sequence[float]) -> Frontier:
    x_RA, loss_R, cost = _runs(plan, 0)
    return make_frontier(_true_law(x_RA, loss_R), cost, "exact", asked)


def _runs(plan: Plan, seed: int) -> tuple[Array, Array, TokenCost]:
    """N and D [R, 2], noisy losses [R], and the FLOPs per token through the sizes."""
    rng = np.random.default_rng(seed)
    rough = np.geomspace(1e7, 1e11, 50)
    law = _true_law(np.stack([rough, 20 * rough], axis=1), np.ones(len(rough)))
    log_best = law.best(fit_token_cost(rough, _flops_per_token(rough), "exact FLOPs per token"), plan.budgets)[0][0]
    rows: list[tuple[float, float]] = []
    for index, (budget, log_n) in enumerate(zip(plan.budgets, log_best.tolist(), strict=True)):
        guess = np.exp(log_n + rng.uniform(-np.log(1.5), np.log(1.5)))
        sizes = guess * np.geomspace(1 / plan.spread, plan.spread, plan.sizes)
        for size in np.repeat(sizes, plan.seeds if index == 0 else 1).tolist():
            rows.append((size, budget / float(_flops_per_token(np.array([size]))[0])))
    x_RA = np.array(rows)
    loss_R = evaluate_law(LAW, TRUTH, x_RA) * np.exp(rng.normal(0, NOISE, len(x_RA)))
    return x_RA, loss_R, fit_token_cost(x_RA[:, 0], _flops_per_token(x_RA[:, 0]), "exact FLOPs per token")


def _flops_per_token(n: Array) -> Array:
    return np.asarray(6 * n + WIDTH_FLOPS * np.sqrt(n), dtype=np.float64)


def _true_law(x_RA: Array, loss_R: Array) -> Surface:
    return surface(LAW.terms, LAW.parameters, TRUTH, np.empty((0, len(TRUTH))), LAW.letters, x_RA, loss_R)


def _quantities(found: Frontier) -> Iterator[tuple[tuple[str, float | None], Estimate]]:
    """(quantity, budget) and its estimate; the exponent belongs to no budget."""
    yield ("a", None), found.a
    for one in found.optima:
        yield ("N*", one.flops), one.parameters
        yield ("D*", one.flops), one.tokens
        yield ("L*", one.flops), one.loss


def _share(estimates: Sequence[Estimate], truth: float, level: str) -> float:
    """The share of intervals that contain the truth."""
    limits = [estimate.interval for estimate in estimates if estimate.interval is not None]
    inside = [getattr(one, f"low{level}") <= truth <= getattr(one, f"high{level}") for one in limits]
    return float(np.mean(inside))


def _width(estimate: Estimate) -> float:
    """Width of the 90 % interval, relative to the value."""
    assert estimate.interval is not None
    return (estimate.interval.high90 - estimate.interval.low90) / estimate.value


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    studies = table["studies"].max()
    lines = [
        "# Coverage of intervals",
        "",
        f"{studies} studies per plan, simulated from {LAW.form} with E, A, alpha, B, beta =",
        f"{', '.join(f'{value:g}' for value in TRUTH)} and {100 * NOISE:g} % noise of the loss. Budgets from 1e18 to",
        "1e20 FLOPs, counted exactly; three seeds at the smallest budget of the first two plans. Each study is fitted,",
        f"and its runs are resampled and refitted {REFITS} times, as `vqscale fit` does it. A share is that of the",
        f"studies whose interval holds the true value; 90 % measured on {studies} studies has a standard error of",
        f"{100 * np.sqrt(0.09 / studies):.1f} %. Refused are studies whose fit or optimum is refused: they give no",
        "interval.",
        "",
        *facts(command),
        "",
        "| plan | runs | quantity | budget | refused | within 90 % | within 95 % | width of 90 % | bias |",
        "|:--|--:|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        budget = "" if pd.isna(row["budget"]) else f"{row['budget']:g}"
        shares = f"{100 * row['inside_90']:.1f} % | {100 * row['inside_95']:.1f} %"
        sizes = f"{100 * row['median_width_90']:.2g} % | {100 * row['bias']:+.1g} %"
        lines.append(
            f"| {row['plan']} | {row['runs']} | {row['quantity']} | {budget} | {row['refused']} | {shares} | {sizes} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    studies, refits = (2, 20) if options.smoke else (options.studies, REFITS)
    table = measure_coverage(PLANS, studies, refits)
    text = as_markdown(table, shlex.join(["python", "-m", "benchmarks.coverage", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--studies", type=int, default=STUDIES, help="simulated studies of each plan")
    parser.add_argument("--smoke", action="store_true", help="two studies: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
