"""The cost of starting a command: CPU seconds and memory of start-up. `python -m benchmarks.startup --help`.

Every command is a fresh process of this interpreter, and the two checkouts take turns within a round, so that ratios
are taken under like conditions. CPU seconds are user and system time of the process and its children, as the kernel
counts them.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.document import facts, publish

FILE = "startup"
SOURCE_ROOTS = ("platform", "kernels", "experiments")
REPEATS = 7
STUDY = "experiments/quickstart/study.yaml"


class Command(NamedTuple):
    name: str
    words: tuple[str, ...]
    """After the interpreter."""
    target: float
    """CPU seconds that start-up should stay below."""


def commands(folder: str) -> list[Command]:
    """What is measured; `folder`: of a study that was trained and fitted."""
    cli = ("-m", "vqscale")
    return [
        Command("import vqscale", ("-c", "import vqscale"), 0.1),
        Command("vqscale --help", (*cli, "--help"), 0.4),
        Command("vqscale frobnicate (no such command)", (*cli, "frobnicate"), 0.4),
        Command("vqscale plan (quickstart)", (*cli, "plan", STUDY), 1.2),
        Command("vqscale status (quickstart)", (*cli, "status", STUDY), 1.0),
        Command("vqscale predict --compute 1e12", (*cli, "predict", folder, "--compute", "1e12"), 1.0),
    ]


class Cost(NamedTuple):
    cpu_seconds: float
    peak_bytes: int


LAUNCHER = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
"""
"""Starts the command from a small process: a child's peak memory counts that of its parent before the exec, too."""


def measure_once(words: Sequence[str], checkout: Path) -> Cost:
    """Run one command with the packages of `checkout`; its exit code is its own business."""
    roots = os.pathsep.join(str(checkout / root) for root in SOURCE_ROOTS)
    command = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, *words]
    environment = os.environ | {"PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout)
    return Cost(seconds, peak)


def measure_startup(checkouts: dict[str, Path], folder: str, repeats: int) -> pd.DataFrame:
    """A row per command and checkout: median and range over the repeats, after one run that warms the disk cache."""
    rows: list[dict[str, Any]] = []
    for command in commands(folder):
        costs: dict[str, list[Cost]] = {name: [] for name in checkouts}
        for turn in range(repeats + 1):
            for name, checkout in checkouts.items():
                cost = measure_once(command.words, checkout)
                if turn:
                    costs[name].append(cost)
        for name, measured in costs.items():
            seconds = [cost.cpu_seconds for cost in measured]
            rows.append(
                {
                    "command": command.name,
                    "checkout": name,
                    "cpu_seconds": statistics.median(seconds),
                    "cpu_seconds_low": min(seconds),
                    "cpu_seconds_high": max(seconds),
                    "peak_mib": statistics.median(cost.peak_bytes for cost in measured) / 2**20,
                    "target": command.target,
                }
            )
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame, repeats: int, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Start-up",
        "",
        f"CPU seconds (user and system) of a fresh process, median of {repeats} repeats, their range in brackets; the",
        "checkouts take turns within a repeat. Memory is the peak resident size. The ratio is that of the medians.",
        "",
        *facts(command),
        "",
        "| command | checkout | CPU seconds | peak memory | target | times as fast |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, rows in table.groupby("command", sort=False):
        first = rows.iloc[0]["cpu_seconds"]
        for _, row in rows.iterrows():
            ratio = first / row["cpu_seconds"]
            lines.append(
                f"| {name} | {row['checkout']} | {row['cpu_seconds']:.2f}"
                f" [{row['cpu_seconds_low']:.2f}, {row['cpu_seconds_high']:.2f}] | {row['peak_mib']:.0f} MiB"
                f" | {row['target']:g} | {ratio:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure start-up of this checkout, beside another one, and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    checkouts = {"baseline": Path(options.baseline).resolve()} if options.baseline else {}
    checkouts["this"] = Path.cwd()
    table = measure_startup(checkouts, str(Path(options.study_folder).resolve()), options.repeats)
    text = as_markdown(table, options.repeats, shlex.join(["python", "-m", "benchmarks.startup", *given]))
    publish(options.out, FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--baseline", help="another checkout, measured in alternation with the working folder")
    parser.add_argument("--study-folder", default="runs/quickstart", help="of a study that was trained and fitted")
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    return parser


if __name__ == "__main__":
    main()
