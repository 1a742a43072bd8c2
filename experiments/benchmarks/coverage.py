"""Coverage of the intervals that vqscale prints. `python -m benchmarks.coverage --help`.

Studies are simulated from known laws, fitted and bootstrapped as `vqscale fit` does it, and each interval either
contains the true value or not. FLOPs are exact, with a part that does not grow as N. Two architectures are simulated
at a time, so that the multiplier between them has a true value too.

Letters: R runs.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.document import facts, publish
from vqscale.errors import FitError
from vqscale.laws.decisions.compare import multiplier_of
from vqscale.laws.decisions.frontier import make_frontier
from vqscale.laws.decisions.surface import Surface, surface
from vqscale.laws.decisions.token_cost import TokenCost, fit_token_cost
from vqscale.laws.fitting.bootstrap import bootstrap
from vqscale.laws.fitting.fit import FitStatus, solve
from vqscale.laws.fitting.problem import make_problem
from vqscale.laws.forms.catalogue import LAWS, Array, evaluate_law
from vqscale.laws.io.schema import Estimate
from vqscale.laws.validation.isoflop import IsoflopRuns, isoflop_parabolas
from vqscale.results.loss_difference import loss_difference
from vqscale.throughput.crossover import Crossover, RatioPoint, crossover
from vqscale.throughput.spread import spread_of

LAW = LAWS["chinchilla"]
TRUTH = np.array([1.82, 482.0, 0.348, 2085.0, 0.366])
"""E, A, alpha, B, beta, near Epoch's fit of Chinchilla (arXiv 2404.10102)."""
BASE_TRUTH = np.array([1.80, 560.0, 0.350, 1950.0, 0.360])
"""Of the architecture that the first is compared with."""
NOISE = 0.003
"""Standard deviation of log loss."""
WIDTH_FLOPS = 4e4
"""FLOPs per token are 6 N + this times sqrt(N): the second term is two fifths of all at the best size of the smallest
budget, a fifth at that of the largest."""
STUDIES = 1000
REFITS = 200
FILE = "interval_coverage"
NOMINAL = 0.9
ALLOWED = 0.04
"""Furthest from the nominal level at which an interval is said to hold it."""
DOCUMENTS = (40, 10)
"""Held-out documents of two trials whose losses are compared."""
DOCUMENT_DIFFERENCE = 0.01
"""Their true difference, nats per token."""
PROCESSES = (3, 5)
"""That measure a throughput study one after another, three repeats each."""
PROCESS_NOISE, REPEAT_NOISE = 0.08, 0.02
"""Standard deviations of a log ratio of speeds between processes, and within one."""
DISTURBED = 0.1
"""Share of the processes in which something else ran: their noise is three times as large."""
SPEED_CONTEXTS = (512, 1024, 2048, 4096, 8192)
TRUE_BREAK_EVEN = 2000.0
"""Where the ratio of speeds, (T / this)^0.6, is 1."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`budgets` with `sizes` each, and `seeds` runs of each size at the smallest budget."""

    name: str
    description: str
    budgets: Sequence[float]
    sizes: int = 5
    spread: float = 4.0
    """Largest over middle size of a budget."""
    seeds: int = 1
    drift: float = 1.0
    """Middle size over the best one at the largest budget; its inverse at the smallest, even between in logarithms."""
    untuned: float = 0.0
    """Excess of the loss at the largest and smallest size of every budget, as a share, falling as the square of the
    distance in log N to the middle one: sizes trained with the middle one's learning rate."""
    multiples: Sequence[float] = ()
    """Tokens per parameter of a ladder, in place of budgets: every size of the smallest and largest budgets' range."""


_FIVE, _FOUR = (np.geomspace(1e18, 1e20, count).tolist() for count in (5, 4))
PLANS = (
    Plan(
        name="centred",
        description="5 budgets x 5 sizes, 4x to either side of a guess that is up to 1.5x off; three seeds at the"
        " smallest budget",
        budgets=_FIVE,
        seeds=3,
    ),
    Plan(name="wide", description="the same with sizes 8x to either side", budgets=_FIVE, spread=8.0, seeds=3),
    Plan(name="few", description="4 budgets x 5 sizes, 4x to either side, one seed: 20 runs", budgets=_FOUR),
    Plan(
        name="drifted",
        description="5 budgets x 5 sizes, 4x to either side of middles that drift from a third of the best size at the"
        " smallest budget to 3x at the largest",
        budgets=_FIVE,
        seeds=3,
        drift=3.0,
    ),
    Plan(
        name="untuned wings",
        description="as centred, but the outermost sizes of every budget lose 1 % for a learning rate that is the"
        " middle one's",
        budgets=_FIVE,
        seeds=3,
        untuned=0.01,
    ),
    Plan(
        name="ladder",
        description="6 sizes, 1.2e8 to 1.7e9 parameters, at 5, 10, 20, 40 and 80 tokens per parameter: no budgets",
        budgets=(3e18, 3e20),
        sizes=6,
        multiples=(5, 10, 20, 40, 80),
    ),
)
FURTHER = 10.0
"""The second budget whose optimum is estimated, in units of the largest trained one."""
Quantity = tuple[str, float | None]
"""Name and budget in FLOPs; None where it belongs to no budget."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The runs of one architecture: N and D [R, 2], noisy losses [R], FLOPs per token through the sizes."""

    truth: Array
    x: Array
    loss: Array
    cost: TokenCost

    @property
    def true_law(self) -> Surface:
        no_draws = np.empty((0, len(self.truth)))
        return surface(LAW.terms, LAW.parameters, self.truth, no_draws, LAW.letters, self.x, self.loss)


def measure_coverage(plans: Sequence[Plan] = PLANS, studies: int = STUDIES, refits: int = REFITS) -> pd.DataFrame:
    """One row per plan, quantity and budget: the share of studies whose 90 and 95 % intervals contain the truth.

    A study whose fit or optimum is refused gives no interval; `refused` counts those.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        rows = [row for plan in plans for row in _rows(plan, studies, refits)]
    return pd.DataFrame([*rows, *_document_rows(studies), *_break_even_rows(studies)])


def _rows(plan: Plan, studies: int, refits: int) -> Iterator[dict[str, object]]:
    found: dict[Quantity, list[tuple[Estimate | None, float]]] = {}
    for seed in range(studies):
        for key, pair in _study(plan, seed, refits).items():
            found.setdefault(key, []).append(pair)
    for (quantity, budget), pairs in found.items():
        known = [(one, truth) for one, truth in pairs if one is not None and one.interval is not None]
        yield {
            "plan": plan.name,
            "runs": _size(plan),
            "quantity": quantity,
            "budget": budget,
            "studies": studies,
            "refused": studies - len(known),
            "inside_90": _share(known, "90"),
            "inside_95": _share(known, "95"),
            "median_width_90": float(np.median([_width(one) for one, _ in known])) if known else np.nan,
            "bias": float(np.mean([one.value / truth - 1 for one, truth in known])) if known else np.nan,
        }


def _size(plan: Plan) -> int:
    """Runs of one architecture."""
    return plan.sizes * (len(plan.multiples) or len(plan.budgets) - 1 + plan.seeds)


def _study(plan: Plan, seed: int, refits: int) -> dict[Quantity, tuple[Estimate | None, float]]:
    """Every quantity of one simulated study and its true value; None where it is refused."""
    first, base = _simulated(plan, seed, TRUTH), _simulated(plan, seed + 500_000, BASE_TRUTH)
    largest = max(plan.budgets)
    asked = [largest, FURTHER * largest]
    law, base_law = (_fitted(runs, refits, seed + place) for place, runs in enumerate((first, base)))
    found = _of_the_law(law, first, asked)
    found |= _of_the_multiplier(law, base_law, first, base, [np.sqrt(min(plan.budgets) * largest), largest])
    return found if plan.multiples else found | _of_the_parabolas(first, plan, refits, seed)


def _fitted(runs: Simulated, refits: int, seed: int) -> Surface | None:
    """The law with its refits, as `vqscale fit` makes it; None where it is refused."""
    minimum = solve(make_problem(LAW, runs.x, runs.loss), check=False)
    if minimum.status is not FitStatus.CONVERGED:
        return None
    draws = bootstrap(minimum, runs.x, refits, seed).parameters
    return surface(LAW.terms, LAW.parameters, minimum.parameters, draws, LAW.letters, runs.x, runs.loss)


def _of_the_law(
    law: Surface | None, runs: Simulated, asked: Sequence[float]
) -> dict[Quantity, tuple[Estimate | None, float]]:
    """a, N*, D*, L*."""
    true = dict(_quantities(runs.true_law, runs.cost, asked))
    found = {} if law is None else dict(_quantities(law, runs.cost, asked))
    return {quantity: (found.get(quantity), value.value) for quantity, value in true.items()}


def _quantities(law: Surface, cost: TokenCost, asked: Sequence[float]) -> Iterator[tuple[Quantity, Estimate]]:
    try:
        found = make_frontier(law, cost, "exact", asked)
    except FitError:
        return
    yield ("a of the law", None), found.a
    for one in found.optima:
        yield ("N* of the law", one.flops), one.parameters
        yield ("D* of the law", one.flops), one.tokens
        yield ("L* of the law", one.flops), one.loss


def _of_the_multiplier(
    law: Surface | None, base_law: Surface | None, first: Simulated, base: Simulated, asked: Sequence[float]
) -> dict[Quantity, tuple[Estimate | None, float]]:
    """Times the budget that the first architecture needs for the loss of the other."""
    found: dict[Quantity, tuple[Estimate | None, float]] = {}
    for budget in asked:
        true = _multiplier(first.true_law, base.true_law, first, base, budget)
        assert true is not None
        one = None if law is None or base_law is None else _multiplier(law, base_law, first, base, budget)
        found["multiplier", budget] = one, true.value
    return found


def _multiplier(law: Surface, base_law: Surface, first: Simulated, base: Simulated, budget: float) -> Estimate | None:
    base_B = base_law.best(base.cost, [budget])[1][:, 0]
    rows = min(len(base_B), len(law.floor))
    return multiplier_of(law, "first", first.cost, budget, base_B[:rows], law.least_losses(first.cost))[0]


def _of_the_parabolas(
    runs: Simulated, plan: Plan, refits: int, seed: int
) -> dict[Quantity, tuple[Estimate | None, float]]:
    """The vertex at every budget and the slope through them, beside the true optimum."""
    flops_R = runs.x[:, 1] * _flops_per_token(runs.x[:, 0])
    names = [f"run {row}" for row in range(len(runs.loss))]
    own = IsoflopRuns(names=names, n=runs.x[:, 0], d=runs.x[:, 1], c=flops_R, loss=runs.loss)
    parabolas = isoflop_parabolas({}, "", own)
    assert parabolas is not None
    assert len(parabolas.rows) == len(plan.budgets)
    true = make_frontier(runs.true_law, runs.cost, "exact", plan.budgets)
    found: dict[Quantity, tuple[Estimate | None, float]] = {("a of the parabolas", None): (parabolas.a, true.a.value)}
    for row, one in zip(parabolas.rows, true.optima, strict=True):
        found["vertex of a parabola", one.flops] = row.vertex, one.parameters.value
    return found


def _simulated(plan: Plan, seed: int, truth: Array) -> Simulated:
    rng = np.random.default_rng(seed)
    x_RA, excess_R = _ladder(plan) if plan.multiples else _isoflop(plan, truth, rng)
    loss_R = evaluate_law(LAW, truth, x_RA) * np.exp(excess_R + rng.normal(0, NOISE, len(x_RA)))
    cost = fit_token_cost(x_RA[:, 0], _flops_per_token(x_RA[:, 0]), "exact FLOPs per token")
    return Simulated(truth=truth, x=x_RA, loss=loss_R, cost=cost)


def _isoflop(plan: Plan, truth: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """N and D [R, 2], and the log excess of the loss [R]."""
    centres = _best_sizes(truth.tobytes(), tuple(plan.budgets)) * np.geomspace(
        1 / plan.drift, plan.drift, len(plan.budgets)
    )
    place_U = np.linspace(-1, 1, plan.sizes)
    rows: list[tuple[float, float]] = []
    excess: list[float] = []
    for index, (budget, centre) in enumerate(zip(plan.budgets, centres.tolist(), strict=True)):
        guess = centre * np.exp(rng.uniform(-np.log(1.5), np.log(1.5)))
        for place in np.repeat(place_U, plan.seeds if index == 0 else 1).tolist():
            size = guess * plan.spread**place
            rows.append((size, budget / float(_flops_per_token(np.array([size]))[0])))
            excess.append(plan.untuned * place**2)
    return np.array(rows), np.array(excess)


@cache
def _best_sizes(truth: bytes, budgets: tuple[float, ...]) -> Array:
    rough = np.geomspace(1e7, 1e11, 50)
    cost = fit_token_cost(rough, _flops_per_token(rough), "exact FLOPs per token")
    x_RA = np.stack([rough, 20 * rough], axis=1)
    runs = Simulated(truth=np.frombuffer(truth), x=x_RA, loss=np.ones(len(rough)), cost=cost)
    return np.asarray(np.exp(runs.true_law.best(cost, budgets)[0][0]), dtype=np.float64)


def _ladder(plan: Plan) -> tuple[Array, Array]:
    sizes = np.geomspace(1.2e8, 1.7e9, plan.sizes)
    x_RA = np.array([(size, multiple * size) for size in sizes.tolist() for multiple in plan.multiples])
    return x_RA, np.zeros(len(x_RA))


def _flops_per_token(n: Array) -> Array:
    return np.asarray(6 * n + WIDTH_FLOPS * np.sqrt(n), dtype=np.float64)


def _share(known: Sequence[tuple[Estimate, float]], level: str) -> float:
    """The share of intervals that contain the truth."""
    limits = [(one.interval, truth) for one, truth in known]
    inside = [getattr(one, f"low{level}") <= truth <= getattr(one, f"high{level}") for one, truth in limits]
    return float(np.mean(inside)) if inside else np.nan


def _width(one: Estimate) -> float:
    """Width of the 90 % interval, relative to the value."""
    assert one.interval is not None
    return (one.interval.high90 - one.interval.low90) / one.value


def _document_rows(studies: int) -> Iterator[dict[str, object]]:
    """The paired difference of two held-out losses, with its standard error over documents."""
    for documents in DOCUMENTS:
        inside90, inside95, widths, biases = [], [], [], []
        for seed in range(studies):
            found = loss_difference(*_two_trials(documents, seed))
            assert found is not None
            assert found.error is not None
            off = abs(found.value - DOCUMENT_DIFFERENCE) / found.error
            inside90.append(off <= found.quantile(0.90))
            inside95.append(off <= found.quantile(0.95))
            widths.append(2 * found.quantile(0.90) * found.error / DOCUMENT_DIFFERENCE)
            biases.append(found.value / DOCUMENT_DIFFERENCE - 1)
        yield {
            "plan": f"{documents} held-out documents",
            "runs": 2,
            "quantity": "difference of two held-out losses",
            "budget": None,
            "studies": studies,
            "refused": 0,
            "inside_90": float(np.mean(inside90)),
            "inside_95": float(np.mean(inside95)),
            "median_width_90": float(np.median(widths)),
            "bias": float(np.mean(biases)),
        }


def _two_trials(documents: int, seed: int) -> tuple[dict[str, object], dict[str, object]]:
    """Rows of two trials on the same documents, whose lengths differ by an order of magnitude and whose losses agree
    in what makes a document hard."""
    rng = np.random.default_rng(seed)
    tokens_U = np.ceil(np.exp(rng.normal(np.log(2000), 0.8, documents)))
    hard_U = rng.normal(1.5, 0.3, documents)
    # The difference varies from document to document, and within one from token to token.
    apart_U = rng.normal(DOCUMENT_DIFFERENCE, 0.01, documents) + rng.normal(0, 0.5, documents) / np.sqrt(tokens_U)
    return _trial(tokens_U, hard_U + apart_U), _trial(tokens_U, hard_U)


def _trial(tokens_U: Array, loss_U: Array) -> dict[str, object]:
    parts = {
        "units": [1] * len(tokens_U),
        "nats": (loss_U * tokens_U).tolist(),
        "tokens": tokens_U.astype(int).tolist(),
        "bytes": tokens_U.astype(int).tolist(),
    }
    return {
        "corpus_fingerprint": "simulated",
        "evaluation_text": "simulated",
        "task": "language",
        "loss": float(loss_U @ tokens_U / tokens_U.sum()),
        "loss_by_document": parts,
        "evaluation_documents": len(tokens_U),
    }


def _break_even_rows(studies: int) -> Iterator[dict[str, object]]:
    """Break-even lengths: the interval is meant to hold what a second measurement finds, not the truth alone."""
    for processes in PROCESSES:
        pairs = [(_break_even(processes, seed), _break_even(processes, seed + 500_000)) for seed in range(studies)]
        known = [(one, second.at) for one, second in pairs if not isinstance(one.at, str)]
        yield {
            "plan": f"{processes} processes of 3 repeats",
            "runs": 2,
            "quantity": "break-even of a second measurement",
            "budget": None,
            "studies": studies,
            "refused": studies - len(known),
            "inside_90": float(np.mean([_between(one, second) for one, second in known])),
            "inside_95": np.nan,
            "median_width_90": float(np.median([(_end(one.high) - _end(one.low)) / float(one.at) for one, _ in known])),
            "bias": float(np.mean([float(one.at) / TRUE_BREAK_EVEN - 1 for one, _ in known])),
        }


def _break_even(processes: int, seed: int) -> Crossover:
    rng = np.random.default_rng(seed)
    points = []
    for context in SPEED_CONTEXTS:
        scale_P = PROCESS_NOISE * np.where(rng.uniform(size=processes) < DISTURBED, 3, 1)
        middle_P = 0.6 * np.log(context / TRUE_BREAK_EVEN) + rng.normal(0, scale_P)
        ratio_PR = np.exp(middle_P[:, None] + rng.normal(0, REPEAT_NOISE, (processes, 3)))
        found = spread_of(ratio_PR.tolist())
        points.append(RatioPoint(context, found.value, found.low, found.high))
    even = crossover(points)
    assert even is not None
    return even


def _end(at: float | str) -> float:
    """Of an interval, in tokens of context; infinite or 0 outside the measured lengths."""
    return {"below": 0.0, "beyond": np.inf}[at] if isinstance(at, str) else at


def _between(one: Crossover, second: float | str) -> bool:
    return _end(one.low) <= _end(second) <= _end(one.high)


def verdict(share: float) -> str:
    """Whether intervals with this share within 90 % hold what they say: 86 to 94 %."""
    if np.isnan(share):
        return "none given"
    if round(abs(share - NOMINAL), 4) <= ALLOWED:
        return "yes"
    return "too wide" if share > NOMINAL else "no"


def as_markdown(table: pd.DataFrame, plans: Sequence[Plan], command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    studies = table["studies"].max()
    lines = [
        "# Coverage of intervals",
        "",
        f"{studies} studies per plan, simulated from {LAW.form} with E, A, alpha, B, beta =",
        f"{', '.join(f'{value:g}' for value in TRUTH)} (the baseline of the multiplier:",
        f"{', '.join(f'{value:g}' for value in BASE_TRUTH)}) and {100 * NOISE:g} % noise of the loss; FLOPs are",
        f"counted exactly. Each study is fitted, and its runs are resampled and refitted {REFITS} times, as",
        "`vqscale fit` does it. A share is that of the studies whose interval holds the true value; 90 % measured on",
        f"{studies} studies has a standard error of {100 * np.sqrt(0.09 / studies):.1f} %. *Refused* counts studies",
        "that give no interval. *Holds*:",
        f"{100 * (NOMINAL - ALLOWED):.0f} to {100 * (NOMINAL + ALLOWED):.0f} % within 90 %.",
        "",
        *(f"- {plan.name}: {plan.description}" for plan in plans),
        "",
        *facts(command),
        "",
        "| plan | runs | quantity | budget | refused | within 90 % | within 95 % | width of 90 % | bias | holds |",
        "|:--|--:|:--|--:|--:|--:|--:|--:|--:|:--|",
        *(_line(row) for row in table.to_dict("records")),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[Any, Any]) -> str:
    budget = "" if pd.isna(row["budget"]) else f"{row['budget']:.3g}"
    shares = f"{100 * row['inside_90']:.1f} % | {_percent(row['inside_95'])}"
    sizes = f"{100 * row['median_width_90']:.2g} % | {100 * row['bias']:+.1g} %"
    cells = f"{row['plan']} | {row['runs']} | {row['quantity']} | {budget} | {row['refused']}"
    return f"| {cells} | {shares} | {sizes} | {verdict(row['inside_90'])} |"


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    studies, refits = (2, 20) if options.smoke else (options.studies, REFITS)
    table = measure_coverage(PLANS, studies, refits)
    text = as_markdown(table, PLANS, shlex.join(["python", "-m", "benchmarks.coverage", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--studies", type=int, default=STUDIES, help="simulated studies of each plan")
    parser.add_argument("--smoke", action="store_true", help="two studies: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
