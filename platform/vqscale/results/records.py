"""The record of a trial: one JSON file in the trial's folder, written when it ended."""

import math
from typing import Any

from vqscale import storage
from vqscale.results.result import Result

RESULT = "result.json"


def write_result(result: Result, folder: str) -> None:
    storage.write_text(storage.join(folder, RESULT), result.model_dump_json(indent=2) + "\n")


def read_result(folder: str) -> Result | None:
    """The record in a trial's folder; None before the trial ended."""
    uri = storage.join(folder, RESULT)
    return Result.model_validate_json(storage.read_text(uri)) if storage.exists(uri) else None


def finite(value: Any) -> Any:
    """`value`, or None for NaN and infinities: a trial that diverged has no measurement."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
