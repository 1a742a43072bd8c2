"""Time to fit a law: the search, its cross-check and a bootstrap. `python -m benchmarks.laws --help`.

The runs are synthetic, 240 of them around Chinchilla's law with heavy-tailed noise as in Epoch's extraction of it; a
table of real runs is timed as well with `--table`. One thread: arrays this small gain nothing from more.
"""

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.document import facts, publish
from vqscale.laws.fitting.bootstrap import bootstrap
from vqscale.laws.fitting.crosscheck import cross_check
from vqscale.laws.fitting.fit import solve
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.forms.catalogue import LAWS, Array, evaluate_law
from vqscale.results import read_table
from vqscale.throughput.alternate import alternate

LAW = LAWS["chinchilla"]
TRUTH = (1.82, 482.0, 0.348, 2085.0, 0.366)
RUNS = 240
REFITS = 1000
REPEATS = 5
DELTAS = (1e-3, 1e-6)


def synthetic_runs(seed: int = 0) -> tuple[Array, Array]:
    """N and D [R, 2], and losses [R]: sizes and tokens-per-parameter log-uniform, Student-t noise of half a percent."""
    rng = np.random.default_rng(seed)
    n_R = np.exp(rng.uniform(np.log(6e7), np.log(1.5e10), RUNS))
    x_RA = np.stack([n_R, n_R * np.exp(rng.uniform(np.log(1), np.log(200), RUNS))], axis=1)
    return x_RA, evaluate_law(LAW, TRUTH, x_RA) * np.exp(0.005 * rng.standard_t(3, RUNS))


def measure_laws(
    data: dict[str, tuple[Array, Array]],
    refits: int = REFITS,
    repeats: int = REPEATS,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """One row per data set, delta and step, with the median and range of the seconds over the repeats."""
    steps: dict[tuple[str, int, float, str], Callable[[], None]] = {}
    for name, (x_RA, loss_R) in data.items():
        for delta in DELTAS:
            problem = make_problem(LAW, x_RA, loss_R, Objective(delta=delta))
            minimum = solve(problem, check=False)
            key = name, len(loss_R), delta
            steps[*key, "search"] = functools.partial(_timed, solve, problem, check=False)
            steps[*key, "cross-check"] = functools.partial(_timed, cross_check, problem)
            steps[*key, f"bootstrap of {refits} refits"] = functools.partial(
                _timed, bootstrap, minimum, x_RA, refits, 0
            )
    with threadpool_limits(limits=1, user_api="blas"):
        seconds = alternate(steps, repeats, clock)
    return pd.DataFrame([_row(key, taken) for key, taken in seconds.items()])


def _timed(work: Callable[..., object], *arguments: object, **options: object) -> None:
    work(*arguments, **options)


def _row(key: tuple[str, int, float, str], seconds: Sequence[float]) -> dict[str, object]:
    runs, count, delta, step = key
    return {
        "runs": runs,
        "n_runs": count,
        "delta": delta,
        "step": step,
        "repeats": len(seconds),
        "seconds": float(np.median(seconds)),
        "seconds_low": min(seconds),
        "seconds_high": max(seconds),
    }


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Fitting L(N, D): time",
        "",
        f"`{LAW.form}`, five parameters, one thread. The search is variable projection from 25",
        "starts with Newton steps; the cross-check L-BFGS-B from 24. A refit of the bootstrap starts at the optimum of",
        "all runs. delta 1e-6 is nearly least absolute deviations and is reached through larger deltas. Median of the",
        "repeats, range in brackets.",
        "",
        *facts(command),
        "",
        "| runs | delta | step | repeats | seconds |",
        "|:--|--:|:--|--:|--:|",
    ]
    for row in table.to_dict("records"):
        taken = f"{row['seconds']:.2f} [{row['seconds_low']:.2f}, {row['seconds_high']:.2f}]"
        lines.append(
            f"| {row['n_runs']} {row['runs']} | {row['delta']:g} | {row['step']} | {row['repeats']} | {taken} |"
        )
    return "\n".join(lines) + "\n"


def _runs_of(path: str) -> tuple[Array, Array]:
    table = read_table(path)
    return table[list(LAW.axes)].to_numpy(dtype=np.float64), table["loss"].to_numpy(dtype=np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    data = {"synthetic": synthetic_runs()}
    if options.table:
        data["of the table"] = _runs_of(options.table)
    table = measure_laws(data, 20 if options.smoke else REFITS, 2 if options.smoke else options.repeats)
    text = as_markdown(table, shlex.join(["python", "-m", "benchmarks.laws", *given]))
    publish(options.out, "laws_smoke" if options.smoke else "laws", {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.laws", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument(
        "--table", help="also time a .csv or .parquet table with parameters_non_embedding, tokens, loss"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--smoke", action="store_true", help="few refits: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
