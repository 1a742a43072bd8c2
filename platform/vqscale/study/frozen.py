"""The base of every configuration value: typed, frozen, strict about what it knows."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A complete, immutable value. Unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    ADDED: ClassVar[frozenset[str]] = frozenset()
    """Fields added after fingerprints were first stored: at their default they do not enter the fingerprint, so that
    fingerprints of earlier versions stay valid."""
    BEFORE: ClassVar[Mapping[str, Any]] = {}
    """The same for fields whose default is not what was done before they were added: what was done, by name of the
    field, does not enter the fingerprint. A new default does: it makes another trial."""

    def identity(self) -> dict[str, Any]:
        """The values that enter the fingerprint."""
        unsaid = {name: type(self).model_fields[name].default for name in self.ADDED} | dict(self.BEFORE)
        return self.model_dump(exclude={name for name, value in unsaid.items() if getattr(self, name) == value})
