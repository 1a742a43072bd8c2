"""What planning estimated for every trial, read back and compared with what the trial took."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vqscale import storage
from vqscale.errors import MissingFileError
from vqscale.results.own_files import DamagedFileError, read_object

if TYPE_CHECKING:
    import pandas as pd

PLAN_FILE = "plan.json"
COMPARED = {"seconds": "seconds_training", "memory_bytes": "peak_memory_bytes"}
"""Estimated quantities, and the columns of the results table that measure them."""


Warn = Callable[[str], None] | None
"""Takes a sentence on what is damaged, and what can be read is used; None: DamagedFileError is raised."""


def read_estimates(folder: str, warn: Warn = None) -> dict[str, dict[str, Any]]:
    """The estimates kept in a study's folder, by trial id; none before `run` has planned anything."""
    uri = storage.join(folder, PLAN_FILE)
    try:
        kept = read_object(uri).get("trials")
        if not isinstance(kept, dict):
            raise DamagedFileError(uri, "trials is no object")
        intact = {name: one for name, one in kept.items() if _is_estimate(one)}
        damaged = DamagedFileError(uri, f"no estimate of {', '.join(sorted(kept.keys() - intact.keys()))}")
    except MissingFileError:
        return {}
    except DamagedFileError as error:
        kept, intact, damaged = None, {}, error
    if kept is None or len(intact) < len(kept):
        if warn is None:
            raise damaged
        warn(f"{damaged} What was expected of trials that are done is lost.")
    return intact


def _is_estimate(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("speed_source"), str):
        return False
    return all(name in one and (one[name] is None or type(one[name]) in (int, float)) for name in COMPARED)


def estimate_errors(folder: str, table: "pd.DataFrame", warn: Warn = None) -> "pd.DataFrame":
    """Estimates in a study's folder against the rows of its table: a row for every finished trial that has both.

    Columns: trial_id, name, arch, speed_source, and for `seconds` (of the training steps) and `memory_bytes` (peak of a
    worker; the estimate leaves out the framework's own 0.3 to 1 GB) `_estimated`, `_measured` and `_ratio` = measured /
    estimated; a quantity that was not estimated or not measured is NaN. Empty where nothing was planned by `run`.
    """
    import pandas as pd

    known = read_estimates(folder, warn)
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
