"""The protocol of sources of labelled examples."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from vqscale.data.labelled.format import Example, Layout
from vqscale.data.shards import SplitName


class Labelled(NamedTuple):
    """An example and its split. `read`: bytes of the source read so far; for a generator, examples drawn."""

    split: SplitName
    example: Example
    read: int = 0


class Unreadable(NamedTuple):
    """An example that cannot be read, with the reason. `read` as for others."""

    place: str
    reason: str
    read: int = 0


class LabelledSource(Protocol):
    """Labelled examples in a fixed order: every walk gives the same."""

    def describe(self) -> str:
        """A description in one line."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that the examples depend on, as JSON: another identity means another corpus."""
        ...

    def layout(self) -> Layout: ...

    def extent(self) -> tuple[int, int | None]:
        """Number of files that are read, and the last value of `read` in a walk where it is known."""
        ...

    def walk(self) -> Iterator[Labelled | Unreadable]:
        """All examples. Those that cannot be read are left out of the corpus, named and counted."""
        ...
