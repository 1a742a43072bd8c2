"""The answer to the study's question, first on the page: what its models reach against their baselines."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from vqscale.formatting import percent
from vqscale.reporting.charts.style import architecture, bytes_of, plural, present, whole
from vqscale.reporting.claims.basis import TWO_THINGS, basis_of, two_things
from vqscale.reporting.claims.claim import Claim, fig, named
from vqscale.reporting.claims.pairs import pair_claim
from vqscale.reporting.compare import against_baselines
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.sections.classes import SeedGroup, best_run, classified, guess, over_seeds
from vqscale.reporting.summary.findings import VARIED, best_sizes, best_values
from vqscale.reporting.summary.findings import best_run as lowest_loss
from vqscale.reporting.summary.speed import speed_claim, speed_claims


def answer_claims(data: ReportData) -> list[Claim]:
    """By what the study varied: architectures, else codebook or context, else size; without any the best run."""
    found = list(_quality(data))
    if not found and data.throughput is None:
        return list(lowest_loss(data))
    return [*found, *speed_claims(data), *_decoding(data)]


def _quality(data: ReportData) -> Iterator[Claim]:
    if data.classifies:
        yield from _accuracy(data)
        return
    varied = [partial(best_values, column=column) for column in VARIED]
    topics: list[Callable[[ReportData], Iterator[Claim]]] = [_against, *varied, best_sizes]
    yield from next((claims for topic in topics if (claims := list(topic(data)))), [])


def _against(data: ReportData) -> Iterator[Claim]:
    """Two sentences per baseline: the loss in the study's unit and what may be chance; speed and break-even."""
    for pairs in against_baselines(data.table, data.metric):
        yield pair_claim(data, pairs)
        yield from speed_claim(data, pairs.first, pairs.second)


def _accuracy(data: ReportData) -> Iterator[Claim]:
    """Of every task the most accurate group of runs that differ in their seed alone, beside guessing and the others."""
    runs = classified(data)
    for _, members in runs.groupby("corpus_fingerprint", sort=False, dropna=False):
        yield _most_accurate(data, members, alone=runs["corpus_fingerprint"].nunique() <= 1)


def _most_accurate(data: ReportData, members: pd.DataFrame, *, alone: bool) -> Claim:
    groups = over_seeds(members)
    best = groups[0]
    level, name = guess(best_run(best.rows))
    count = fig(len(members), plural(len(members), "finished run"), "finished runs with an accuracy")
    on = "" if alone else f" on {named(_task(members))}"
    parts = [
        f"The most accurate of {count}{on}, {named(best.label)}{_seeds(best)} predicts"
        f" {_accuracy_of(best)} of the held-out labels correctly; {named(name)} reaches"
        f" {fig(level, percent(level), f'accuracy of {name}')}"
    ]
    others = _best_of_others(groups)
    parts += [f"{named(one.label)}{_seeds(one)} {_accuracy_of(one)}{_apart(best, one)}" for one in others]
    archs = [str(one["arch"]) for one in groups]
    changed = [TWO_THINGS] if any(two_things(arch, base) for arch in archs for base in archs) else []
    basis = basis_of(data, pd.concat([best.rows, *(one.rows for one in others)]),
                     baselines=[name, *(one.label for one in others)], weakened=changed)  # fmt: skip
    return Claim.of("; ".join([*parts, _example_error(best)]) + ".", basis)


def _example_error(one: SeedGroup) -> str:
    """Standard error of an accuracy over the held-out examples, the largest of its seeds."""
    known: list[float] = one.rows["accuracy_error"].dropna().tolist() if "accuracy_error" in one.rows else []
    if len(known) < len(one.rows):
        return "error over held-out examples unknown"
    error = float(max(known))
    shown = fig(error, f"{100 * error:.1f}", f"standard error over held-out examples of {one.label}, points")
    return f"standard error over held-out examples {shown} points"


def _task(members: pd.DataFrame) -> str:
    row = members.iloc[0]
    return str(row["corpus"]).rstrip("/").rsplit("/", 1)[-1] if present(row.get("corpus")) else "this task"


def _best_of_others(groups: list[SeedGroup]) -> list[SeedGroup]:
    """Of every other architecture its most accurate group."""
    found: dict[Any, SeedGroup] = {}
    for one in groups:
        found.setdefault(one["arch"], one)
    return [one for arch, one in found.items() if arch != groups[0]["arch"]]


def _seeds(one: SeedGroup) -> str:
    seeds = len(one.rows)
    if seeds == 1:
        return ", one seed,"
    return f", mean of {fig(seeds, str(seeds), f'seeds of {one.label}')} seeds,"


def _accuracy_of(one: SeedGroup) -> str:
    value = one.mean("accuracy")
    shown = fig(value, percent(value), f"held-out accuracy of {one.label}")
    if len(one.rows) == 1:
        return shown
    spread = float(one.rows["accuracy"].std())
    quantity = f"standard deviation between seeds of {one.label}, points"
    return f"{shown} (± {fig(spread, f'{100 * spread:.1f}', quantity)} between seeds)"


def _apart(best: SeedGroup, other: SeedGroup) -> str:
    """Whether the difference may be chance between seeds, where both have several."""
    counts = len(best.rows), len(other.rows)
    if min(counts) < 2:
        return ", chance unknown"
    variance = sum(float(one.rows["accuracy"].var()) / len(one.rows) for one in (best, other))
    near = best.mean("accuracy") - other.mean("accuracy") < 2 * variance**0.5
    return ", which may be equal" if near else ""


def _decoding(data: ReportData) -> Iterator[Claim]:
    """State of decoding at the study's longest context and the largest size that all architectures have, by count."""
    if not {"arch", "state_bytes", "context", "preset", "parameters"} <= set(data.table.columns) or data.classifies:
        return
    rows = data.table[data.table["state_bytes"].notna() & (data.table["state_bytes"] > 0)]
    shared = [
        (float(same["context"].iloc[0]), float(same["parameters"].max()), same)
        for _, same in rows.groupby(["context", "preset"])
        if same["arch"].nunique() == rows["arch"].nunique()
    ]
    if not shared:
        return
    context, _, same = max(shared, key=lambda one: one[:2])
    preset = str(same["preset"].iloc[0])
    parts = []
    for arch, members in sorted(same.groupby("arch"), key=lambda pair: data.scheme.place(pair[0])):
        low, high = (float(end) for end in (members["state_bytes"].min(), members["state_bytes"].max()))
        shown = bytes_of(low) if low == high else f"{bytes_of(low)} to {bytes_of(high)}"
        name = architecture(arch)
        parts.append(f"{named(name)} {fig(low, shown, f'bytes of state of {name} in decoding, counted')}")
    yield Claim.of(
        f"Decoding: after T = {named(whole(context))} tokens at size {named(preset)}, a sequence holds"
        f" {', '.join(parts)} of state (counted, not measured); the time per decoded token was not measured.",
        basis_of(data, same, losses=False, measured="counted from the architectures (costing.counts)"),
    )
