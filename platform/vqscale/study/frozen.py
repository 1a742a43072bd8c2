"""The base of every configuration value: typed, frozen, strict about what it knows."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A complete, immutable value. Unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
