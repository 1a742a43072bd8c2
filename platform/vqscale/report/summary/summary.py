"""The parts of the first half page. What was not measured is not mentioned."""

from collections.abc import Sequence
from dataclasses import dataclass

from vqscale.report.report_data import Material
from vqscale.report.summary.confidence import sure
from vqscale.report.summary.findings import found
from vqscale.report.summary.spending import cost


@dataclass(frozen=True, kw_only=True)
class Part:
    title: str
    sentences: Sequence[str]


def summarise(material: Material) -> list[Part]:
    """What was found, how sure it is, what it cost."""
    parts = [
        Part(title="What was found", sentences=list(found(material))),
        Part(title="How sure it is", sentences=list(sure(material))),
        Part(title="What it costs", sentences=list(cost(material))),
    ]
    return [part for part in parts if part.sentences]
