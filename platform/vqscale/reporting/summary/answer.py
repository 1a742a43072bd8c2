"""The answer to the study's question, first on the page: what its models reach against their baselines."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from vqscale.formatting import percent
from vqscale.reporting.charts.style import architecture, bytes_of, number, plural, present, whole
from vqscale.reporting.claims.basis import TWO_THINGS, basis_of, seed_remark
from vqscale.reporting.claims.claim import Claim, fig, named
from vqscale.reporting.compare import Pairs, against_baselines
from vqscale.reporting.equal import seed_noise
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.sections.classes import SeedGroup, best_run, classified, guess, over_seeds
from vqscale.reporting.summary.findings import VARIED, best_sizes, best_values, text_error, two_things
from vqscale.reporting.summary.findings import best_run as lowest_loss
from vqscale.reporting.summary.speed import break_even_text, measured_speed, speed_claims


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
    """One sentence per baseline: the loss in the study's unit, what may be chance, speed and break-even."""
    for pairs in against_baselines(data.table, data.metric):
        yield _pair_claim(data, pairs)


def _pair_claim(data: ReportData, pairs: Pairs) -> Claim:
    first, second = architecture(pairs.first), architecture(pairs.second)
    side = "higher" if pairs.mean > 0 else "lower"
    versus = f"loss of {first} {side} than that of {second}"
    apart = fig(pairs.absolute, number(abs(pairs.absolute), 3), f"{versus}, mean over pairs, {data.unit}")
    share = fig(pairs.mean, percent(abs(pairs.mean)), f"{versus}, mean over pairs, relative")
    count = len(pairs.pairs)
    many = "one pair" if count == 1 else f"{fig(count, str(count), 'pairs of runs')} pairs"
    span = f", {_span(pairs, versus)}" if count > 1 else ""
    rows = _rows(data, pairs)
    changed = f" ({TWO_THINGS})" if two_things(pairs.first, pairs.second) else ""
    context = [int(value) for value in sorted(set(rows["context"]))]
    speed = measured_speed(data, pairs.first, pairs.second, context)
    parts = [
        f"{named(first)} has {apart} {data.unit} {side} loss ({share}) than {named(second)}{changed} at equal preset,"
        f" context, tokens and seed ({many}{span})",
        *_chance(data, pairs),
        *speed,
        break_even_text(data, pairs.first, pairs.second),
    ]
    basis = basis_of(data, rows, baselines=[second], weakened=[TWO_THINGS] if changed else [])
    return Claim.of("; ".join(part for part in parts if part) + ".", basis)


def _span(pairs: Pairs, versus: str) -> str:
    ends = [
        fig(end, f"{100 * end:+.1f} %", f"{versus}: {name} of the pairs")
        for end, name in ((min(pairs.differences), "lowest"), (max(pairs.differences), "highest"))
    ]
    return " to ".join(ends)


def _chance(data: ReportData, pairs: Pairs) -> Iterator[str]:
    """Whether seeds or the held-out text may account for the difference."""
    noise = seed_noise(data.runs, data.metric)
    if noise is None:
        yield seed_remark(data)
    else:
        spread = fig(noise.relative, percent(noise.relative, 2), "spread between seeds, standard deviation of a run")
        # A difference of two runs has twice the variance of one; a mean over pairs its share.
        limit = 2 * noise.relative * (2 / len(pairs.pairs)) ** 0.5
        chance = "which may be chance" if abs(pairs.mean) < limit else "more than chance between seeds"
        yield f"{chance} (seeds differ by {spread})"
    loss = sum(float(other[data.metric]) for _, other in pairs.pairs) / len(pairs.pairs)
    yield text_error(pairs.error, loss)


def _rows(data: ReportData, pairs: Pairs) -> pd.DataFrame:
    """The rows of the table behind pairs."""
    key = next((name for name in ("trial_id", "name") if name in data.table), None)
    used = {one[key] for pair in pairs.pairs for one in pair} if key else set()
    return data.table[data.table[key].isin(used)] if key else data.runs


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
    basis = basis_of(data, pd.concat([best.rows, *(one.rows for one in others)]),
                     baselines=[name, *(one.label for one in others)])  # fmt: skip
    remark = [] if len(best.rows) > 1 else ["one seed: chance unknown"]
    return Claim.of("; ".join([*parts, *remark]) + ".", basis)


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
    return f", mean of {fig(seeds, str(seeds), f'seeds of {one.label}')} seeds," if seeds > 1 else ""


def _accuracy_of(one: SeedGroup) -> str:
    value = one.mean("accuracy")
    shown = fig(value, percent(value), f"held-out accuracy of {one.label}")
    if len(one.rows) == 1:
        return shown
    spread = float(one.rows["accuracy"].std())
    return (
        f"{shown} (± {fig(spread, f'{100 * spread:.1f}', f'standard deviation between seeds of {one.label}, points')})"
    )


def _apart(best: SeedGroup, other: SeedGroup) -> str:
    """Whether the difference may be chance between seeds, where both have several."""
    counts = len(best.rows), len(other.rows)
    if min(counts) < 2:
        return " (chance unknown)"
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
