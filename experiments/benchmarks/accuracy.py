"""Results of a classification study as a page of Markdown: accuracy over seeds, by length, by distance.

python -m benchmarks.accuracy experiments/listops/results.csv --out docs/benchmarks/listops.md
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from vqscale import storage
from vqscale.errors import StudyError
from vqscale.formatting import percent, short_count
from vqscale.reporting.charts.style import number
from vqscale.reporting.compare import finished
from vqscale.reporting.sections.classes import SeedGroup, best_run, corpus_name, guess, over_seeds, pooled
from vqscale.results.table import read_table

LEVEL = 0.9
"""Confidence level of the intervals of differences."""
_BY = {"accuracy_by_length": "Tokens of the example", "accuracy_by_distance": "Tokens back to the answer"}


def page(table: pd.DataFrame, title: str, command: str, against: str | None = None) -> str:
    """The page of a study's table. `against`: label of the model that the others are compared with; by default the
    first LongVQ of the usual form, else the most accurate model. Raises StudyError where no run has an accuracy.
    """
    runs = finished(table)
    runs = runs[runs["accuracy"].notna()] if "accuracy" in runs else runs.iloc[:0]
    if runs.empty:
        raise StudyError("the table has no finished run with an accuracy: name the table of a classification study.")
    parts = [members for _, members in runs.groupby("corpus_fingerprint", sort=False)]
    lines = [f"# {title}", "", *_facts(runs, parts, command)]
    for members in parts:
        lines += _of_corpus(members, against, corpus_name(members) if len(parts) > 1 else "")
    return "\n".join(lines) + "\n"


def _of_corpus(runs: pd.DataFrame, against: str | None, name: str) -> list[str]:
    """The tables of runs on one corpus, with its name as a heading if there are several."""
    groups = over_seeds(runs)
    lines = [*(["", f"## {name}"] if name else []), "", *_accuracies(groups, _base(groups, against))]
    for column, axis in _BY.items():
        lines += _buckets(groups, column, f"### {axis}" if name else f"## {axis}")
    return lines


def _base(groups: Sequence[SeedGroup], against: str | None) -> SeedGroup:
    named = [one for one in groups if one.label == against]
    if against is not None and not named:
        known = "; ".join(one.label for one in groups)
        raise StudyError(f"against: {against!r} is no model of this table. It has {known}.")
    usual = [one for one in groups if one["arch"] == "longvq" and pd.isna(one.rows["variant"]).all()]
    return (named or usual or list(groups))[0]


def _facts(runs: pd.DataFrame, parts: Sequence[pd.DataFrame], command: str) -> list[str]:
    """Everything needed to repeat the measurement, from the runs' own records; `parts`: the runs of each corpus."""
    naive = "; ".join(_naive(members) + (f" on {corpus_name(members)}" if len(parts) > 1 else "") for members in parts)
    versions = runs["versions"].iloc[0]
    started = sorted(str(value)[:10] for value in runs["started_at"])
    found = {
        "runs": f"{len(runs)} of study {runs['study'].iloc[0]}, {short_count(float(runs['flops'].sum()))}FLOPs in all",
        "training": f"context {_values(runs, 'context')}, {_values(runs, 'tokens')} tokens, updates of"
        f" {_values(runs, 'batch_tokens')} tokens (padding up to the context counted), learning rate {_rates(runs)}",
        "held out": f"validation split, {_values(runs, 'examples')} examples; {naive}",
        "device": ", ".join(sorted(set(map(str, runs["device"])))),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "date": started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}",
        "commit": ", ".join(sorted({str(value) for value in runs["git"].dropna()})) or "unknown (no checkout)",
        "command": f"`{command}`",
    }
    return [f"- {name}: {value}" for name, value in found.items()]


def _naive(runs: pd.DataFrame) -> str:
    """The accuracy that needs no model: chance, or always predicting the most frequent class."""
    level, words = guess(best_run(runs))
    return f"chance is {percent(level)}" if words == "chance" else f"always naming {words} gives {percent(level)}"


def _values(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{int(value):,}" for value in sorted(set(runs[column].dropna())))


def _rates(runs: pd.DataFrame) -> str:
    by_rate = {float(rate): sorted(set(runs["arch"][runs["lr"] == rate])) for rate in sorted(set(runs["lr"]))}
    if len(by_rate) == 1:
        return number(next(iter(by_rate)), 2)
    return "; ".join(f"{number(rate, 2)} for {', '.join(archs)}" for rate, archs in by_rate.items())


def _accuracies(groups: Sequence[SeedGroup], base: SeedGroup) -> list[str]:
    heads = ["model", "N", "seeds", "accuracy", "lowest to highest", f"minus {base.label}", "test", "nats per label"]
    heads += ["FLOPs per run", "tokens/s"]
    lines = [
        "Mean over seeds with the standard deviation. The difference is that of the means of equal seeds to"
        f" {base.label}, in percentage points, with its {LEVEL:.0%} interval (Student's t over seeds). FLOPs are of"
        " training, for sequences of full length; tokens per second include the machine's other load.",
        "",
        f"| {' | '.join(heads)} |",
        f"|:--|{'--:|' * (len(heads) - 1)}",
    ]
    for one in groups:
        accuracy = one.rows["accuracy"]
        spread = f" ± {100 * float(accuracy.std()):.1f}" if len(accuracy) > 1 else ""
        cells = [
            one.label,
            short_count(float(one["parameters_non_embedding"])),
            str(len(accuracy)),
            f"{percent(one.mean('accuracy'))}{spread}",
            f"{percent(accuracy.min())} to {percent(accuracy.max())}" if len(accuracy) > 1 else "",
            "" if one is base else _difference(one, base),
            percent(one.mean("test_accuracy")) if one.rows["test_accuracy"].notna().all() else "",
            number(one.mean("loss")),
            f"{float(one['flops']):.3g}",
            f"{float(one.rows['tokens_per_second'].median()):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference(one: SeedGroup, base: SeedGroup) -> str:
    """Mean difference over the seeds that both have, in percentage points, with its interval."""
    pairs = one.rows.set_index("seed")["accuracy"].sub(base.rows.set_index("seed")["accuracy"]).dropna()
    if pairs.empty:
        return ""
    mean = 100 * float(pairs.mean())
    if len(pairs) < 2:
        return f"{mean:+.1f}"
    half = 100 * float(pairs.std() / np.sqrt(len(pairs)) * stats.t.ppf(0.5 + LEVEL / 2, len(pairs) - 1))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def _buckets(groups: Sequence[SeedGroup], column: str, heading: str) -> list[str]:
    """Accuracy by bucket, with the labels of all seeds together; empty where there is only one bucket."""
    by_group = {one.label: pooled(one.rows[column]) for one in groups if column in one.rows}
    buckets = sorted({bucket for found in by_group.values() for bucket in found})
    if len(buckets) < 2:
        return []
    heads = [f"{start:,}-{end - 1:,}" for start, end in buckets]
    lines = ["", heading, "", f"| model | {' | '.join(heads)} |", f"|:--|{'--:|' * len(heads)}"]
    for label, found in by_group.items():
        shares = [percent(found[one][1] / found[one][0]) if one in found else "" for one in buckets]
        lines.append(f"| {label} | {' | '.join(shares)} |")
    most = next(iter(by_group.values()))
    labels = [short_count(most[one][0]) if one in most else "" for one in buckets]
    return [*lines, f"| labels of {next(iter(by_group))} | {' | '.join(labels)} |"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a study's table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=main.__doc__)
    parser.add_argument("table", help="results of a study, .csv or .parquet")
    parser.add_argument("--out", required=True, help="the Markdown file or URI")
    parser.add_argument("--title", default="Accuracy")
    parser.add_argument("--against", help="label of the model that the others are compared with")
    options = parser.parse_args(given)
    command = shlex.join(["python", "-m", "benchmarks.accuracy", *given])
    storage.write_text(options.out, page(read_table(options.table), options.title, command, options.against))


if __name__ == "__main__":
    main()
