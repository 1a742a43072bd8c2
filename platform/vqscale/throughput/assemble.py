"""From a plan and its measurements to the table: speeds, ratios within a repeat, cost and energy."""

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from vqscale.costing.counts import flops_per_token, parameters, parameters_non_embedding
from vqscale.study.model import HEADED
from vqscale.study.throughput_study import ThroughputStudy
from vqscale.throughput.measurement import OK, Measurement
from vqscale.throughput.plan import Cell, Refused, ThroughputPlan
from vqscale.throughput.spread import split, spread_of
from vqscale.throughput.table import BASELINES, ROUND_COLUMNS, ThroughputRow, throughput_frame

JOULES_PER_KWH = 3.6e6


def make_table(plan: ThroughputPlan, measured: dict[str, Measurement]) -> pd.DataFrame:
    """One row per cell: what was measured and what follows from it, then the cells that planning refused."""
    rows = [_row(plan.study, cell, one.id(cell), measured[one.id(cell)]) for one in plan.rounds for cell in one.cells]
    rows += [_refused_row(plan.study, refused) for refused in plan.refused]
    return throughput_frame(_with_ratios(rows))


def cost_per_billion(seconds_per_token: float, price_per_hour: float) -> float:
    """Price of a billion tokens on one device, from seconds per token and the price of a device-hour."""
    return seconds_per_token * 1e9 / 3600 * price_per_hour


def kwh_per_billion(joules_per_token: float) -> float:
    return joules_per_token * 1e9 / JOULES_PER_KWH


def _row(study: ThroughputStudy, cell: Cell, cell_id: str, measured: Measurement) -> ThroughputRow:
    model = cell.model
    flops = sum(flops_per_token(model, cell.context, sequences=cell.batch).values())
    return ThroughputRow(
        study=study.study,
        cell_id=cell_id,
        arch=model.arch,
        head=model.head,
        preset=cell.preset,
        codebook_size=model.codebook_size,
        block_length=model.block_length,
        backend=cell.backend,
        parameters=parameters(model),
        parameters_non_embedding=parameters_non_embedding(model),
        context=cell.context,
        batch=cell.batch,
        batching=cell.batching,
        tokens_per_step=cell.tokens_per_step,
        precision=cell.precision,
        device_kind=cell.device,
        device=measured.device,
        threads=measured.threads,
        status=measured.status,
        repeats=len(measured.step_seconds),
        processes=max(len(measured.process_repeats), 1) if measured.step_seconds else None,
        process_repeats=measured.process_repeats,
        updates_per_repeat=measured.updates_per_repeat,
        flops_per_token=flops,
        peak_flops=measured.peak_flops,
        peak_memory_bytes=measured.peak_memory_bytes,
        step_seconds=measured.step_seconds,
        machine=measured.machine,
        versions=measured.versions,
        git=measured.git,
        measured_at=measured.measured_at,
        **_speed(cell, measured, flops),
        **_expense(study, cell, measured),
    )


def _speed(cell: Cell, measured: Measurement, flops_per_token: float) -> dict[str, Any]:
    """Columns that follow from the seconds of an update; none where there are no seconds."""
    if not measured.step_seconds:
        return {}
    tokens, seconds = cell.tokens_per_step, statistics.median(measured.step_seconds)
    # A slow quartile of seconds is a low quartile of speed: the two swap.
    quartiles = pd.Series(measured.step_seconds).quantile([0.25, 0.75]).tolist()
    speeds = {
        "": tokens / seconds,
        "_low": tokens / max(measured.step_seconds),
        "_q1": tokens / quartiles[1],
        "_q3": tokens / quartiles[0],
        "_high": tokens / min(measured.step_seconds),
    }
    values = {f"tokens_per_second{end}": speed for end, speed in speeds.items()}
    values |= {"ms_per_step": 1e3 * seconds, "seconds_per_token": seconds / tokens}
    values |= {"flops_per_second": flops_per_token * tokens / seconds}
    if measured.peak_flops:
        values["mfu"] = values["flops_per_second"] / measured.peak_flops
    return values


def _expense(study: ThroughputStudy, cell: Cell, measured: Measurement) -> dict[str, Any]:
    """Cost where the study gives a price; energy where a counter measured it or the study states a power."""
    if not measured.step_seconds:
        return {}
    seconds = statistics.median(measured.step_seconds) / cell.tokens_per_step
    values: dict[str, Any] = {}
    if study.price_per_device_hour is not None:
        values = {
            "price_per_device_hour": study.price_per_device_hour,
            "currency": study.currency,
            "cost_per_billion_tokens": cost_per_billion(seconds, study.price_per_device_hour),
        }
    joules, source = measured.joules_per_token, measured.energy_source
    if joules is None and study.watts is not None:
        joules, source = study.watts * seconds, f"stated: {study.watts:g} W, not measured"
    if joules is not None:
        values |= {"energy_kwh_per_billion_tokens": kwh_per_billion(joules), "energy_source": source}
    return values


def _refused_row(study: ThroughputStudy, refused: Refused) -> ThroughputRow:
    settings = refused.settings
    return ThroughputRow(
        study=study.study,
        cell_id=None,
        **settings.model_dump(include={"arch", "preset", "codebook_size", "block_length", "context", "precision"}),
        head=settings.head if settings.arch in HEADED else None,
        backend=None,
        parameters=None,
        parameters_non_embedding=None,
        batch=settings.sequences,
        batching=settings.batching,
        tokens_per_step=settings.sequences * settings.context,
        device_kind=settings.device,
        device=None,
        threads=None,
        status=f"refused: {refused.reason}",
        repeats=0,
        updates_per_repeat=None,
        flops_per_token=None,
        peak_flops=None,
        peak_memory_bytes=None,
        step_seconds=[],
        machine=None,
        versions={},
        git=None,
        measured_at=None,
    )


def _with_ratios(rows: Sequence[ThroughputRow]) -> list[ThroughputRow]:
    ran = [row for row in rows if row.status == OK]
    return [row.model_copy(update=_ratios(row, ran)) if row.status == OK else row for row in rows]


def _ratios(row: ThroughputRow, ran: Sequence[ThroughputRow]) -> dict[str, float]:
    values: dict[str, float] = {}
    for baseline in BASELINES:
        other = _baseline(row, baseline, ran)
        if other is None or row.arch == baseline:
            continue
        found = spread_of(_ratios_by_process(row, other))
        name = f"ratio_to_{baseline}"
        values |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return values


def _ratios_by_process(row: ThroughputRow, other: ThroughputRow) -> list[list[float]]:
    """A cell that was cut short has the first repeats of a process, so that pairs still belong to one repeat."""
    sides = [split(one.step_seconds, one.process_repeats) for one in (row, other)]
    return [
        [theirs / ours for ours, theirs in zip(own, others, strict=False)] for own, others in zip(*sides, strict=False)
    ]


def _baseline(row: ThroughputRow, arch: str, ran: Sequence[ThroughputRow]) -> ThroughputRow | None:
    """The row of a baseline in the same round; where it has several head types, the one with the row's own head."""
    same = [
        one for one in ran if one.arch == arch and all(getattr(one, key) == getattr(row, key) for key in ROUND_COLUMNS)
    ]
    own = [one for one in same if one.head == row.head]
    return next(iter(own or same), None)
