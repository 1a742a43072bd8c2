"""Errors of the fitted Chinchilla form on the public isoFLOP sets of vpnls. `python -m benchmarks.isoflop_sets --help`.

vpnls (Open-Athena) publishes for five sets the mean Huber loss, delta 1e-3 on raw residuals, that it and Apple's
ml-scalefit reach; a minimiser of the same objective must not end higher. The sets state no licence and are not copied
here: a folder is named that holds `isoflops.csv` of github.com/Open-Athena/scaling-law-analysis.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.document import facts, publish
from vqscale.errors import FitError
from vqscale.laws.fitting.fit import solve
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.forms.catalogue import LAWS, Array, evaluate_law

LAW = LAWS["chinchilla"]
DELTA = 1e-3
SETS_FILE = "isoflops.csv"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Mean Huber loss x 1e6 of one set, as the README of vpnls gives it (read December 2026)."""

    name: str
    experiment: str
    """Its name in the file of the sets."""
    runs: int
    vpnls: float
    scalefit: float


PUBLISHED = (
    Published(
        name="chinchilla", experiment="ml_scalefit__massivetext__chinchilla", runs=124, vpnls=13.1, scalefit=13.4
    ),
    Published(name="llama3", experiment="llama_3__raw_loss", runs=133, vpnls=2.3, scalefit=2.4),
    Published(name="comma", experiment="marin_202603__comma__llama_2", runs=85, vpnls=22.9, scalefit=23.5),
    Published(name="dclm", experiment="marin_202603__dclm__llama_2", runs=85, vpnls=22.9, scalefit=23.4),
    Published(name="nemotron", experiment="marin_202603__nemotron__llama_2", runs=88, vpnls=22.6, scalefit=24.2),
)


def mean_huber(n_R: Array, d_R: Array, loss_R: Array) -> tuple[float, int, int]:
    """Mean Huber loss x 1e6 at the minimum, and how many of how many starts reached it.

    Raises FitError where the fit is refused.
    """
    x_RA = np.stack([n_R, d_R], axis=1)
    minimum = solve(make_problem(LAW, x_RA, loss_R, Objective(delta=DELTA, residual="raw")))
    if minimum.reason:
        raise FitError(f"{LAW.name}: {minimum.status}: {minimum.reason}")
    residual_R = np.abs(evaluate_law(LAW, minimum.parameters, x_RA) - loss_R)
    huber_R = np.where(residual_R < DELTA, 0.5 * residual_R**2, DELTA * (residual_R - 0.5 * DELTA))
    return 1e6 * float(huber_R.mean()), minimum.method.starts_agreeing, minimum.method.starts


def measure_sets(folder: str) -> pd.DataFrame:
    """One row per set. Raises FitError where the file or a set is missing, or has another number of runs."""
    path = Path(folder) / SETS_FILE
    if not path.exists():
        raise FitError(
            f"--sets {folder}: no {SETS_FILE} there. It is data/isoflops/transform/{SETS_FILE} of"
            " github.com/Open-Athena/scaling-law-analysis."
        )
    table = pd.read_csv(path)
    rows = []
    for one in PUBLISHED:
        own = table[table["experiment"] == one.experiment]
        if len(own) != one.runs:
            raise FitError(f"{path}: {len(own)} runs of {one.experiment}; published for {one.runs}")
        n, d, loss = (own[column].to_numpy(dtype=np.float64) for column in ("params", "tokens", "loss"))
        error, agreeing, starts = mean_huber(n, d, loss)
        rows.append(
            {
                "set": one.name,
                "runs": one.runs,
                "vqscale": error,
                "vpnls": one.vpnls,
                "scalefit": one.scalefit,
                "starts_agreeing": agreeing,
                "starts": starts,
            }
        )
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Errors on five public isoFLOP sets",
        "",
        f"`{LAW.form}` fitted to the sets on which",
        "[vpnls](https://github.com/Open-Athena/vpnls) publishes its errors and those of Apple's ml-scalefit: mean",
        "Huber loss x 1e6, delta 1e-3 on raw residuals, at the minimum that each finds. Lower is better; figures of",
        "the others as published, in one digit. `starts`: starts of the search that reached the minimum, of all.",
        "",
        *facts(command),
        "",
        "| set | runs | vqscale | vpnls | ml-scalefit | starts |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        own = f"{row['vqscale']:.3f} | {row['vpnls']:.1f} | {row['scalefit']:.1f}"
        lines.append(f"| {row['set']} | {row['runs']} | {own} | {row['starts_agreeing']} of {row['starts']} |")
    lines += [
        "",
        "The sets are `data/isoflops/transform/isoflops.csv` of",
        "[Open-Athena/scaling-law-analysis](https://github.com/Open-Athena/scaling-law-analysis)",
        "(commit 3e0656e, March 2026): clone it and name the folder with `--sets`. They state no licence and are",
        "not part of this repository.",
        "From the command line: `vqscale fit one_set.csv --law chinchilla --residual raw --delta 0.001`.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the five sets and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        table = measure_sets(options.sets)
    except FitError as error:
        sys.exit(f"error: {error}")
    command = shlex.join(["python", "-m", "benchmarks.isoflop_sets", "--sets", "FOLDER"])
    publish(options.out, "isoflop_sets", {"": table}, as_markdown(table, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isoflop_sets", description=main.__doc__)
    parser.add_argument("--sets", required=True, help=f"folder with {SETS_FILE}")
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    return parser


if __name__ == "__main__":
    main()
