"""A throughput study in MLflow: a child run for each curve, with every metric over the context length as its step.

MLflow draws one metric of several runs in one chart, so that the curves of all architectures can be compared.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import pandas as pd

from vqscale.study.fingerprint import fingerprint
from vqscale.throughput.crossover import Crossover
from vqscale.throughput.measurement import OK
from vqscale.throughput.table import COMPARISON_COLUMNS, CURVE_COLUMNS, crossovers
from vqscale.track.tracker import Tracker

METRICS = (
    *("tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "ms_per_step", "seconds_per_token"),
    *("mfu", "flops_per_token", "flops_per_second", "peak_flops", "peak_memory_bytes"),
    *("ratio_to_transformer_full", "ratio_to_transformer", "cost_per_billion_tokens", "energy_kwh_per_billion_tokens"),
)
TAGS = ("device", "machine", "git", "energy_source")
Known = dict[Hashable, Any]


def track_throughput(tracker: Tracker, study: str, table: pd.DataFrame, folder: str, files: Iterable[str]) -> None:
    """Log the curves that MLflow does not hold yet; `files` of the study's folder become artifacts of the parent run.

    A curve that was measured again, or has a new point, is a new run; the old run is kept.
    Raises TrackingError.
    """
    parent = tracker.study_run()
    curves = table[table["cell_id"].notna()].groupby([*COMPARISON_COLUMNS, *CURVE_COLUMNS], dropna=False, sort=False)
    new = [_track_curve(tracker, parent, rows.sort_values("context")) for _, rows in curves]
    for row in crossovers(table).to_dict("records") if any(new) else ():
        _track_crossover(tracker, parent, row)
    tracker.log_folder(parent, folder, sorted(files))
    tracker.end(parent, "FINISHED")


def _track_curve(tracker: Tracker, parent: str, rows: pd.DataFrame) -> bool:
    """Log a curve; returns whether it was new in the store."""
    first = _known(rows.iloc[0].to_dict())
    shown = [first[name] for name in ("arch", "head", "preset", "precision", "device_kind") if name in first]
    identity = ("cell_id", "measured_at", "cost_per_billion_tokens", "energy_source")
    content = fingerprint([[_known(row).get(name) for name in identity] for row in rows.to_dict("records")])
    names = (*CURVE_COLUMNS, *COMPARISON_COLUMNS, "parameters", "parameters_non_embedding", "threads")
    tags = {"vqscale.kind": "throughput"} | {name: str(first[name]) for name in TAGS if name in first}
    statuses = {f"status.T{row['context']}": str(row["status"]) for row in rows.to_dict("records")}
    run = tracker.curve_run(
        parent,
        f"throughput-{'-'.join(shown)}-{content[:12]}",
        {name: first[name] for name in names if name in first},
        tags | {key: status for key, status in statuses.items() if status != OK},
    )
    if run is None:
        return False
    points = [(int(row["context"]), _metrics(_known(row))) for row in rows.to_dict("records") if row["status"] == OK]
    tracker.log_rows(run, points)
    tracker.end(run, "FINISHED")
    return True


def _track_crossover(tracker: Tracker, parent: str, row: Known) -> None:
    """Log a break-even length as a tag, and also as a metric where it is a number."""
    at: Crossover = row["crossover"]
    known = _known({key: value for key, value in row.items() if key != "crossover"})
    # Everything that distinguishes two curves. A key without an architecture is one of transformer_vq: earlier versions
    # wrote no others.
    names = [
        name for name in (*COMPARISON_COLUMNS, *CURVE_COLUMNS) if name != "arch" or known["arch"] != "transformer_vq"
    ]
    key = f"break_even/{row['baseline']}/{'-'.join(str(known[name]) for name in names if name in known)}"
    tracker.set_tags(parent, {key: str(at)})
    if isinstance(at.at, float):
        tracker.log_final(parent, {key: at.at}, tokens=at.longest)


def _metrics(row: dict[str, Any]) -> dict[str, float | int]:
    return {name: float(row[name]) for name in METRICS if name in row}


def _known(row: Known) -> dict[str, Any]:
    """The columns of a row that have a value; whole numbers as integers."""
    known = {str(name): value for name, value in row.items() if isinstance(value, list | dict) or not pd.isna(value)}
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() and name not in METRICS else value
        for name, value in known.items()
    }
