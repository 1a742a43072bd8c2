"""What planning expected of every trial, kept beside its study and compared with what the trial took."""

from typing import Any

import pandas as pd

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.plan.plan import Plan

PLAN_FILE = "plan.json"
COMPARED = {"seconds": "seconds_training", "memory_bytes": "peak_memory_bytes"}
"""Estimates, and the columns of the table that they are of."""


def write_estimates(plan: Plan) -> None:
    """Keep the estimates of all pending trials in the study's folder; what was estimated of a done trial stays."""
    uri = storage.join(plan.study.folder, PLAN_FILE)
    known = _read(uri)
    now = utc_now()
    for planned in plan.pending:
        known[planned.trial.id] = {
            "seconds": planned.cost.seconds,
            "memory_bytes": planned.cost.memory_bytes,
            "flops": planned.cost.flops,
            "speed_source": plan.speed_source,
            "written_at": now,
        }
    storage.write_json(uri, {"version": 1, "trials": known})


def estimate_errors(folder: str, table: pd.DataFrame) -> pd.DataFrame:
    """Estimates of a study's folder against the rows of its table, a row for every finished trial that has both.

    Columns: trial_id, name, arch, speed_source, and for `seconds` (of the training steps) and `memory_bytes` (peak of a
    worker; the estimate leaves out the framework's own 0.3 to 1 GB) `_estimated`, `_measured` and `_ratio` = measured /
    estimated; a quantity that was not estimated or not measured is NaN. Empty where nothing was planned by `run`.
    """
    known = _read(storage.join(folder, PLAN_FILE))
    columns = ["trial_id", "name", "arch", "speed_source"]
    columns += [f"{name}_{kind}" for name in COMPARED for kind in ("estimated", "measured", "ratio")]
    if "trial_id" not in table:
        return pd.DataFrame(columns=columns)
    rows = table[(table["status"] == "finished") & table["trial_id"].isin(list(known))]
    return pd.DataFrame([_errors(row, known[row["trial_id"]]) for _, row in rows.iterrows()], columns=columns)


def _errors(row: "pd.Series[Any]", estimate: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {key: row[key] for key in ("trial_id", "name", "arch")}
    found["speed_source"] = estimate["speed_source"]
    for name, column in COMPARED.items():
        expected, measured = estimate[name], row[column]
        known = expected is not None and not pd.isna(measured)
        found[f"{name}_estimated"], found[f"{name}_measured"] = expected, measured
        found[f"{name}_ratio"] = measured / expected if known else None
    return found


def _read(uri: str) -> dict[str, dict[str, Any]]:
    if not storage.exists(uri):
        return {}
    kept: dict[str, dict[str, Any]] = storage.read_json(uri)["trials"]
    return kept
