"""What planning estimated for every trial, read back and compared with what the trial took."""

from typing import TYPE_CHECKING, Any

from vqscale import storage

if TYPE_CHECKING:
    import pandas as pd

PLAN_FILE = "plan.json"
COMPARED = {"seconds": "seconds_training", "memory_bytes": "peak_memory_bytes"}
"""Estimated quantities, and the columns of the results table that measure them."""


def read_estimates(folder: str) -> dict[str, dict[str, Any]]:
    """The estimates kept in a study's folder, by trial id; none before `run` has planned anything."""
    uri = storage.join(folder, PLAN_FILE)
    if not storage.exists(uri):
        return {}
    kept: dict[str, dict[str, Any]] = storage.read_json(uri)["trials"]
    return kept


def estimate_errors(folder: str, table: "pd.DataFrame") -> "pd.DataFrame":
    """Estimates in a study's folder against the rows of its table: a row for every finished trial that has both.

    Columns: trial_id, name, arch, speed_source, and for `seconds` (of the training steps) and `memory_bytes` (peak of a
    worker; the estimate leaves out the framework's own 0.3 to 1 GB) `_estimated`, `_measured` and `_ratio` = measured /
    estimated; a quantity that was not estimated or not measured is NaN. Empty where nothing was planned by `run`.
    """
    import pandas as pd

    known = read_estimates(folder)
    columns = ["trial_id", "name", "arch", "speed_source"]
    columns += [f"{name}_{kind}" for name in COMPARED for kind in ("estimated", "measured", "ratio")]
    if "trial_id" not in table:
        return pd.DataFrame(columns=columns)
    rows = table[(table["status"] == "finished") & table["trial_id"].isin(list(known))]
    return pd.DataFrame([_errors(row, known[row["trial_id"]]) for row in rows.to_dict("records")], columns=columns)


def _errors(row: dict[Any, Any], estimate: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd

    found: dict[str, Any] = {key: row[key] for key in ("trial_id", "name", "arch")}
    found["speed_source"] = estimate["speed_source"]
    for name, column in COMPARED.items():
        expected, measured = estimate[name], row[column]
        known = expected is not None and not pd.isna(measured)
        found[f"{name}_estimated"], found[f"{name}_measured"] = expected, measured
        found[f"{name}_ratio"] = measured / expected if known else None
    return found
