"""What a page is made of: sections of prose, charts and tables, each made from the records or not there at all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vqscale.report.charts.panel import Panel
from vqscale.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Prose:
    kind: ClassVar[str] = "prose"
    text: str
    soft: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Panels that take turns in one place; a reader chooses by their tabs."""

    kind: ClassVar[str] = "charts"
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A table; with `fold` it is closed until a reader opens it by those words."""

    kind: ClassVar[str] = "table"
    table: Table
    fold: str = ""


@dataclass(frozen=True, kw_only=True)
class Notes:
    kind: ClassVar[str] = "notes"
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What the template of the speed section shows."""

    kind: ClassVar[str] = "speed"
    values: dict[str, Any]
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """Questions and answers by group."""

    kind: ClassVar[str] = "checklist"
    groups: Mapping[str, Sequence[tuple[str, str]]]


Block = Checklist | Prose | Heading | Charts | Shown | Notes | Speed


@dataclass(frozen=True, kw_only=True)
class Section:
    id: str
    title: str
    nav: str
    """Its title where there is little room."""
    blocks: Sequence[Block]

    @property
    def panels(self) -> Iterator[Panel]:
        for block in self.blocks:
            if isinstance(block, Charts | Speed):
                yield from block.panels
