"""The cost of a study's bookkeeping: planned, collected into its table and reported, by the number of its records.

`python -m benchmarks.bookkeeping --help`. Every step is a fresh process, and the two checkouts take turns within a
round, so that ratios are taken under like conditions. CPU seconds are user and system time, as the kernel counts them:
other work on the machine changes them little, and wall time a lot. Nothing is trained: the records hold the losses of a
known law.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from benchmarks.document import facts, publish
from vqscale.costing.facts import failed_result
from vqscale.planning.plan import PlannedTrial, plan
from vqscale.results.records import RESULT
from vqscale.results.result import PositionLoss, Result
from vqscale.study.spec import load_study
from vqscale.workflow.training import write_study

FILE = "bookkeeping"
SOURCE_ROOTS = ("platform", "kernels")
COUNTS = (100, 400, 800, 1600, 10_000)
BASELINE_COUNTS = (100, 400, 800, 1600)
REPEATS = 3
TARGET_SECONDS, TARGET_MIB = 20.0, 1024.0
"""Of all steps together at the largest count."""
SIZES = ("d8x2", "d12x2", "d16x2", "d20x2", "d24x2", "d28x2", "d32x2", "d40x2", "d48x2", "d56x2")
BUDGETS = 10
"""Token budgets of every size; seeds make up the rest of the count."""
SPEED = 1e9

COLLECT = """
import importlib, sys
def attribute(*places):
    for place in places:
        try:
            module, name = place.split(":")
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            pass
    raise SystemExit(f"none of {places} in this checkout")
plan = attribute("vqscale.planning.plan:plan", "vqscale.plan.plan:plan")
load_study = attribute("vqscale.study.spec:load_study")
write_table = attribute("vqscale.results.table:write_table")
planned = plan(load_study(sys.argv[1]))
assert not planned.pending, "every trial has a record"
for name in ("results.parquet", "results.csv"):
    write_table(planned.results, f"{planned.study.folder}/{name}")
"""
"""What `vqscale run` does of a study with nothing left to train, without the fits."""
FIELDS = """
import json
try:
    from vqscale.results.result import Result
except ModuleNotFoundError:
    from vqscale.results.record import Result
print(json.dumps(sorted(Result.model_fields)))
"""
LAUNCHER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
if done.returncode:
    sys.exit(done.stderr.decode())
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""Starts the command from a small process: a child's peak memory counts that of its parent before the exec, too."""


class Cost(NamedTuple):
    cpu_seconds: float
    peak_mib: float


def steps(study: str) -> dict[str, tuple[str, ...]]:
    """The words after the interpreter, by what they do."""
    cli = ("-m", "vqscale")
    return {
        "plan": (*cli, "plan", study, "--json"),
        "collect": ("-c", COLLECT, study),
        "report": (*cli, "report", study),
    }


def make_study(root: Path, corpus: str, count: int, fields: Iterable[str] | None) -> str:
    """A study of `count` trials in `root`, each with its record; returns its file.

    `fields`: those that a record of the checkout has; None: all.
    """
    root.mkdir(parents=True)
    values = {
        "study": "many",
        "data": {"corpus": corpus},
        "model": {"arch": "transformer_vq", "codebook_size": 16, "block_length": 16},
        "train": {
            "context": 64,
            "batch_tokens": 512,
            "lr": 0.01,
            "evaluation_tokens": 2048,
            "seeds": list(range(count // (len(SIZES) * BUDGETS))),
        },
        "sweep": [{"model.preset": list(SIZES), "train.tokens": [8192 * (1 + place) for place in range(BUDGETS)]}],
        "storage": str(root),
        "tracking": {"uri": f"sqlite:///{root}/mlflow.db"},
    }
    file = root / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(str(file))
    planned, noise = plan(study, source=str(file)), np.random.default_rng(0)
    for one in planned.trials:
        result = finished(study.study, one, float(np.exp(noise.normal(0, 0.003))))
        kept = result.model_dump(mode="json", include=None if fields is None else set(fields))
        folder = Path(planned.folder(one.trial))
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps(kept, indent=2) + "\n")
    write_study(study)
    return str(file)


def finished(study: str, one: PlannedTrial, noise: float) -> Result:
    """The record of a trial as if it had been trained, its loss from a known law."""
    n, tokens = one.cost.parameters_non_embedding, one.cost.tokens
    bpb = (0.8 + 30 * n**-0.4 + 90 * tokens**-0.4) * noise
    blank = failed_result(study, one.trial, error="-", attempts=1, workers=1, started_at="2026-01-01T00:00:00+00:00")
    nats = bpb * math.log(2)
    measured = {
        "status": "finished",
        "error": None,
        "bpb": bpb,
        "loss": nats,
        "loss_by_position": [PositionLoss(start=start, end=start + 32, nats=nats) for start in (0, 32)],
        "flops_per_second": SPEED,
        "tokens_per_second": SPEED * tokens / one.cost.flops,
        "seconds_training": one.cost.flops / SPEED,
        "peak_memory_bytes": 2**28,
    }
    return blank.model_copy(update=measured)


def run(checkout: Path, *words: str) -> str:
    """What a process with the packages of `checkout` prints. Raises CalledProcessError where it fails."""
    roots = os.pathsep.join(str(checkout / root) for root in SOURCE_ROOTS)
    environment = os.environ | {"PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def measure(checkout: Path, words: Sequence[str]) -> Cost:
    return Cost(*json.loads(run(checkout, "-S", "-c", LAUNCHER, sys.executable, *words)))


def measure_all(
    checkouts: Mapping[str, Path], counts: Mapping[str, Sequence[int]], repeats: int, work: Path
) -> pd.DataFrame:
    """A row per count, checkout and step, and one for all steps: median and range over the repeats."""
    (work / "text").mkdir()
    text = "the cache holds one mean a code and every query reads it once\n" * 40
    for place in range(100):
        (work / "text" / f"{place:03d}.txt").write_text(f"{place}\n{text}")
    corpus = str(work / "corpus")
    first = next(iter(checkouts.values()))  # the older one, whose corpora both can read
    run(first, "-m", "vqscale", "data", "prepare", str(work / "text"), "--out", corpus)
    rows: list[dict[str, Any]] = []
    for count in sorted({one for of_checkout in counts.values() for one in of_checkout}):
        files: dict[str, str] = {}
        for name in (name for name in checkouts if count in counts[name]):
            fields = json.loads(run(checkouts[name], "-c", FIELDS))
            files[name] = make_study(work / f"{name}-{count}", corpus, count, fields)
        measured: dict[tuple[str, str], list[Cost]] = {}
        for _ in range(repeats):
            for step in steps(""):
                for name, file in files.items():
                    measured.setdefault((name, step), []).append(measure(checkouts[name], steps(file)[step]))
        for name in files:
            own = [measured[name, step] for step in steps("")]
            whole = [Cost(sum(c.cpu_seconds for c in turn), max(c.peak_mib for c in turn)) for turn in zip(*own)]  # noqa: B905
            rows += [
                _row(count, name, step, costs) for step, costs in zip([*steps(""), "all"], [*own, whole], strict=True)
            ]
            print(f"{count} {name}: {rows[-1]['cpu_seconds']:.1f} s", file=sys.stderr)  # noqa: T201
    return pd.DataFrame(rows)


def _row(count: int, name: str, step: str, costs: Sequence[Cost]) -> dict[str, Any]:
    seconds = [cost.cpu_seconds for cost in costs]
    return {
        "records": count,
        "checkout": name,
        "step": step,
        "cpu_seconds": statistics.median(seconds),
        "cpu_seconds_low": min(seconds),
        "cpu_seconds_high": max(seconds),
        "peak_mib": statistics.median(cost.peak_mib for cost in costs),
    }


def as_markdown(table: pd.DataFrame, repeats: int, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Bookkeeping",
        "",
        "A study whose trials all have records is planned (`vqscale plan --json`), collected (its records read, its",
        "two tables written, as `vqscale run` does) and reported (`vqscale report`, without fits), each in a fresh",
        "process; `all` is their sum, and the largest of their peaks. CPU seconds (user and system), median of",
        f"{repeats} repeats, their range in brackets; the checkouts take turns within a repeat. CPU time and not wall",
        "time, because the machine may do other work. The ratio is that of the medians.",
        "",
        *facts(command),
        "",
        "| records | step | checkout | CPU seconds | peak memory | times as fast |",
        "|--:|---|---|--:|--:|--:|",
    ]
    for (count, step), rows in table.groupby(["records", "step"], sort=False):
        for _, row in rows.iterrows():
            ratio = f"{rows.iloc[0]['cpu_seconds'] / row['cpu_seconds']:.1f}" if len(rows) > 1 else ""
            lines.append(
                f"| {count:,} | {step} | {row['checkout']} | {row['cpu_seconds']:.2f} [{row['cpu_seconds_low']:.2f},"
                f" {row['cpu_seconds_high']:.2f}] | {row['peak_mib']:.0f} MiB | {ratio} |"
            )
    return "\n".join([*lines, "", *_conclusions(table)]) + "\n"


def _conclusions(table: pd.DataFrame) -> list[str]:
    """How the steps grow, and whether the target is met; what the baseline would take is marked as extrapolated."""
    whole = table[table["step"] == "all"]
    last = whole[whole["checkout"] == "this"].iloc[-1]
    met = last["cpu_seconds"] <= TARGET_SECONDS and last["peak_mib"] <= TARGET_MIB
    said = [
        f"Target: {TARGET_SECONDS:g} CPU seconds and {TARGET_MIB / 1024:g} GiB at {last['records']:,} records:"
        f" {'met' if met else 'missed'}, {last['cpu_seconds']:.1f} s and {last['peak_mib']:.0f} MiB."
    ]
    for name, rows in whole.groupby("checkout", sort=False):
        if len(rows) < 3:
            continue
        start, a, b = rows.iloc[0], rows.iloc[-2], rows.iloc[-1]
        # Above the smallest count, which is mostly start-up: otherwise that would hide how the rest grows.
        above = [one["cpu_seconds"] - start["cpu_seconds"] for one in (a, b)]
        power = math.log(above[1] / above[0]) / math.log(b["records"] / a["records"])
        said.append(
            f"From {a['records']:,} to {b['records']:,} records the time of {name} above that of {start['records']:,}"
            f" records grows with power {power:.2f}."
        )
        if b["records"] < last["records"]:
            far = start["cpu_seconds"] + above[1] * (last["records"] / b["records"]) ** power
            said.append(
                f"Extrapolated with that power, not measured: {far / 3600:.1f} CPU hours of {name} at"
                f" {last['records']:,} records, {far / last['cpu_seconds']:,.0f} times as long."
            )
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the bookkeeping of this checkout, beside another one, and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    checkouts = {"baseline": Path(options.baseline).resolve()} if options.baseline else {}
    checkouts["this"] = Path.cwd()
    counts = {"baseline": options.baseline_counts, "this": options.counts}
    with tempfile.TemporaryDirectory(prefix="vqscale-bookkeeping-") as work:
        table = measure_all(checkouts, counts, options.repeats, Path(work))
    text = as_markdown(table, options.repeats, shlex.join(["python", "-m", "benchmarks.bookkeeping", *given]))
    publish(options.out, FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bookkeeping", description=main.__doc__)
    parser.add_argument("--baseline", help="another checkout, measured in alternation with the working folder")
    parser.add_argument("--counts", type=_counts, default=COUNTS, help="records, multiples of 100, with commas")
    parser.add_argument("--baseline-counts", type=_counts, default=BASELINE_COUNTS, help="those the other one can do")
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    return parser


def _counts(text: str) -> tuple[int, ...]:
    found = tuple(int(part) for part in text.split(","))
    if not all(count >= 100 and count % 100 == 0 for count in found):
        raise argparse.ArgumentTypeError(f"{text}: write multiples of 100")
    return found


if __name__ == "__main__":
    main()
