"""What gives labelled examples: a walk over them in a fixed order."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from vqscale.data.labelled.format import Example, Layout
from vqscale.data.shards import SplitName


class Labelled(NamedTuple):
    """An example and its split. `read`: bytes of the source read so far; of a generator, examples made."""

    split: SplitName
    example: Example
    read: int = 0


class LabelledSource(Protocol):
    """Labelled examples in a fixed order: two walks give the same."""

    def describe(self) -> str:
        """One line for people."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the examples, as JSON: another identity, another corpus."""
        ...

    def layout(self) -> Layout: ...

    def extent(self) -> tuple[int, int | None]:
        """Files that are read, and the last `read` of a walk where it is known."""
        ...

    def walk(self) -> Iterator[Labelled]: ...
