"""The base of every configuration value: typed, frozen, strict about what it knows."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A complete, immutable value. Unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    ADDED: ClassVar[frozenset[str]] = frozenset()
    """Fields added after fingerprints were first stored: at their default they do not enter the fingerprint, so that
    fingerprints of earlier versions stay valid."""

    def identity(self) -> dict[str, Any]:
        """The values that enter the fingerprint."""
        default = {name: type(self).model_fields[name].default for name in self.ADDED}
        return self.model_dump(exclude={name for name in self.ADDED if getattr(self, name) == default[name]})
