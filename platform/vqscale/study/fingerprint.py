"""Identity: the sha256 of a value's canonical JSON. A value without a canonical form is an error, never its `str`."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vqscale.study.frozen import Frozen


def canonical(value: Any) -> Any:
    """`value` reduced to JSON types; an integral float equals the integer (a study may say 1e6 or 1000000).

    Raises TypeError for a type and ValueError for a number that has no canonical form.
    """
    if isinstance(value, Frozen):
        return canonical(value.identity())
    if isinstance(value, BaseModel):
        return canonical(value.model_dump())
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"only string keys have a canonical form: {list(value)!r}")
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def fingerprint(value: Any) -> str:
    """Hexadecimal sha256 of the canonical JSON of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
