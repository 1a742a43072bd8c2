"""Time to fit a law: the search, its cross-check and a bootstrap. `python -m benchmarks.laws --help`.

The runs are synthetic, 240 of them around Chinchilla's law with heavy-tailed noise as in Epoch's extraction of it; a
table of real runs is timed as well with `--table`. One thread: arrays this small gain nothing from more. `--baseline`
times the influence of every run of 5,000 in another checkout and in this one, in processes that alternate.
"""

import argparse
import functools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.document import facts, publish
from vqscale.laws.fitting.bootstrap import bootstrap
from vqscale.laws.fitting.crosscheck import cross_check
from vqscale.laws.fitting.fit import solve
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.forms.catalogue import LAWS, Array, evaluate_law
from vqscale.laws.validation.influence import influences
from vqscale.results import read_table
from vqscale.throughput.alternate import alternate

LAW = LAWS["chinchilla"]
TRUTH = (1.82, 482.0, 0.348, 2085.0, 0.366)
RUNS = 240
REFITS = 1000
REPEATS = 5
DELTAS = (1e-3, 1e-6)


INFLUENCE_RUNS = 5000
ROOT = Path(__file__).resolve().parents[2]


def synthetic_runs(seed: int = 0, runs: int = RUNS) -> tuple[Array, Array]:
    """N and D [R, 2], and losses [R]: sizes and tokens-per-parameter log-uniform, Student-t noise of half a percent."""
    rng = np.random.default_rng(seed)
    n_R = np.exp(rng.uniform(np.log(6e7), np.log(1.5e10), runs))
    x_RA = np.stack([n_R, n_R * np.exp(rng.uniform(np.log(1), np.log(200), runs))], axis=1)
    return x_RA, evaluate_law(LAW, TRUTH, x_RA) * np.exp(0.005 * rng.standard_t(3, runs))


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


def influence_seconds(runs: int) -> float:
    """CPU seconds for the influence of every run, in this process of one thread: other load would stretch any other."""
    x_RA, loss_R = synthetic_runs(runs=runs)
    with threadpool_limits(limits=1, user_api="blas"):
        minimum = solve(make_problem(LAW, x_RA, loss_R), check=False)
        start = time.process_time()
        influences(LAW, minimum, x_RA, [f"run {row}" for row in range(runs)], None)
        return time.process_time() - start


def measure_influence(baseline: str, runs: int, repeats: int) -> pd.DataFrame:
    """One row per checkout; the two take turns, each time in a process of its own, on the same runs."""
    seconds: dict[str, list[float]] = {"baseline": [], "this": []}
    for _ in range(repeats):
        for name, checkout in (("baseline", Path(baseline)), ("this", ROOT)):
            seconds[name].append(_influence_in(checkout, runs))
    return pd.DataFrame(
        [
            {
                "checkout": name,
                "n_runs": runs,
                "repeats": repeats,
                "seconds": float(np.median(taken)),
                "seconds_low": min(taken),
                "seconds_high": max(taken),
                "times_as_fast": float(np.median(np.array(seconds["baseline"]) / np.array(taken))),
            }
            for name, taken in seconds.items()
        ]
    )


def _influence_in(checkout: Path, runs: int) -> float:
    paths = [checkout / "platform", checkout / "kernels", ROOT / "experiments"]
    done = subprocess.run(
        [sys.executable, "-c", f"from benchmarks.laws import influence_seconds; print(influence_seconds({runs}))"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def influence_as_markdown(table: pd.DataFrame, baseline: str) -> str:
    """The comparison of two checkouts as Markdown."""
    lines = [
        "",
        "## Influence of every run",
        "",
        f"The law refitted without each of {table['n_runs'][0]:,} synthetic runs in turn. Both checkouts take turns,",
        "each time in a process of its own on the same runs; CPU seconds, the ratio is the median of the pairs. Refits",
        "of this version end at the minimum to nine digits of an exponent (`tests/unit/laws/test_influence.py`); those",
        "of the baseline ended where a step gains less than 1e-9 of the objective, 1e-5 of an exponent away at 1,000",
        "runs.",
        "",
        f"- baseline: {baseline}",
        "",
        "| version | repeats | CPU seconds | times as fast |",
        "|:--|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        taken = f"{row['seconds']:.2f} [{row['seconds_low']:.2f}, {row['seconds_high']:.2f}]"
        lines.append(f"| {row['checkout']} | {row['repeats']} | {taken} | {row['times_as_fast']:.1f} |")
    return "\n".join(lines) + "\n"


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
    tables = {"": table}
    if options.baseline:
        runs = 200 if options.smoke else INFLUENCE_RUNS
        tables["_influence"] = measure_influence(options.baseline, runs, 2 if options.smoke else options.repeats)
        text += influence_as_markdown(tables["_influence"], options.baseline_name or options.baseline)
    publish(options.out, "laws_smoke" if options.smoke else "laws", tables, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.laws", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument(
        "--table", help="also time a .csv or .parquet table with parameters_non_embedding, tokens, loss"
    )
    parser.add_argument("--baseline", help="other checkout, whose influence of every run is timed beside this one's")
    parser.add_argument("--baseline-name", help="what the page calls it, such as its commit; default: its folder")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--smoke", action="store_true", help="few refits: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
