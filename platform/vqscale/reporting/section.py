"""Parts of a page: sections of prose, charts and tables, each made from the records or left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vqscale.reporting.charts.panel import Panel
from vqscale.reporting.tables import Table


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
    """Panels that share one place on the page; tabs switch between them."""

    kind: ClassVar[str] = "charts"
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """A table; with `fold` it is folded under that heading."""

    kind: ClassVar[str] = "table"
    table: Table
    fold: str = ""


@dataclass(frozen=True, kw_only=True)
class Notes:
    kind: ClassVar[str] = "notes"
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SpeedBlock:
    """Values of the template of the speed section."""

    kind: ClassVar[str] = "speed"
    values: dict[str, Any]
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class ChecklistBlock:
    """Items and entries by group."""

    kind: ClassVar[str] = "checklist"
    groups: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class EvidenceItem:
    """A claim, and what it rests on by kind."""

    number: int
    part: str
    text: str
    entries: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class EvidenceBlock:
    kind: ClassVar[str] = "evidence"
    items: Sequence[EvidenceItem]


Block = ChecklistBlock | EvidenceBlock | Prose | Heading | Charts | TableBlock | Notes | SpeedBlock


@dataclass(frozen=True, kw_only=True)
class Section:
    id: str
    title: str
    nav: str
    """Short title for the navigation."""
    blocks: Sequence[Block]

    @property
    def panels(self) -> Iterator[Panel]:
        for block in self.blocks:
            if isinstance(block, Charts | SpeedBlock):
                yield from block.panels
