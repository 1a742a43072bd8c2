"""The record of a trial: one JSON file in the trial's folder, written when it ended."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from vqscale import storage
from vqscale.errors import MissingFileError
from vqscale.results.own_files import DamagedFileError, first_fault, read_content, replace_text
from vqscale.results.result import Result, Status

RESULT = "result.json"
WORTH: dict[Status, int] = {"failed": 0, "stopped": 1, "diverged": 1, "finished": 2}
"""A record never takes the place of one that is worth more."""


def write_result(result: Result, folder: str) -> Result:
    """Write the record of a trial, unless one of the same trial that is worth more is there; returns the one that is
    there now.

    Two attempts at a trial may end at once, such as that of a driver that was believed dead: a finished record stays.
    """
    kept = intact_result(folder)
    if kept is not None and kept.trial_id == result.trial_id and WORTH[kept.status] > WORTH[result.status]:
        return kept
    replace_text(storage.join(folder, RESULT), result.model_dump_json(indent=2) + "\n")
    return result


def read_result(folder: str) -> Result | None:
    """The record in a trial's folder; None before the trial ended.

    Raises DamagedFileError for a file that holds no record, StorageError where the store does not give it.
    """
    found = _read(storage.join(folder, RESULT))
    return found[0] if found else None


def intact_result(folder: str) -> Result | None:
    """As `read_result`, for those who ask after planning has named the damaged records: these count as absent."""
    try:
        return read_result(folder)
    except DamagedFileError:
        return None


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of a study's trials."""

    results: dict[str, Result | None] = field(default_factory=dict)
    """By the name of the trial's folder, which is its id; None: no record, or a damaged one."""
    damaged: dict[str, str] = field(default_factory=dict)
    """By the same, what is wrong with a record: it counts as absent."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """By the same, fields that a newer version wrote; the rest of the record counts."""


def read_results(folder: str) -> Records:
    """The records of all trials in `folder`, a study's `trials`. Raises StorageError where the store does not give one.

    A record of another trial than its folder's (copied there by mistake) is damaged.
    """
    records, names = Records(), storage.listdir(folder)
    for name, found in zip(names, storage.for_each(folder, names, lambda name: _of_trial(folder, name)), strict=True):
        if isinstance(found, DamagedFileError):
            records.damaged[name] = str(found)
            found = None
        records.results[name] = found[0] if found else None
        if found and found[1]:
            records.unknown[name] = found[1]
    return records


def _of_trial(folder: str, name: str) -> tuple[Result, list[str]] | DamagedFileError | None:
    """As `_read`, of the trial of that name; what is wrong with a damaged record is returned, not raised."""
    uri = storage.join(folder, name, RESULT)
    try:
        found = _read(uri)
        if found and found[0].trial_id != name:
            raise DamagedFileError(uri, f"the record of another trial, {found[0].trial_id}")
    except DamagedFileError as error:
        return error
    return found


def _read(uri: str) -> tuple[Result, list[str]] | None:
    """A record, and the names of the fields in it that this version does not know; None where there is none."""
    try:
        content = read_content(uri)
    except MissingFileError:
        return None
    try:
        return Result.model_validate_json(content), []
    except ValidationError as error:
        unknown = [issue["loc"] for issue in error.errors() if issue["type"] == "extra_forbidden"]
        if len(unknown) < error.error_count():
            raise DamagedFileError(uri, first_fault(error)) from error
    return Result.model_validate_json(_without(content, unknown)), [".".join(map(str, loc)) for loc in unknown]


def _without(content: bytes, places: list[tuple[int | str, ...]]) -> str:
    """A text of JSON without the values at `places`."""
    value = json.loads(content)
    for *path, name in places:
        holder = value
        for step in path:
            holder = holder[step]
        del holder[name]
    return json.dumps(value)


def finite(value: Any) -> Any:
    """`value`, or None for NaN and infinities: a trial that diverged has no measurement."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
