"""The parts of the summary. What was not measured is not mentioned."""

from collections.abc import Sequence
from dataclasses import dataclass

from vqscale.reporting.report_data import ReportData
from vqscale.reporting.summary.confidence import confidence_sentences
from vqscale.reporting.summary.findings import finding_sentences
from vqscale.reporting.summary.spending import spending_sentences


@dataclass(frozen=True, kw_only=True)
class SummaryPart:
    title: str
    sentences: Sequence[str]


def summarise(data: ReportData) -> list[SummaryPart]:
    """Findings, confidence, cost."""
    parts = [
        SummaryPart(title="Findings", sentences=list(finding_sentences(data))),
        SummaryPart(title="Confidence", sentences=list(confidence_sentences(data))),
        SummaryPart(title="Cost", sentences=list(spending_sentences(data))),
    ]
    return [part for part in parts if part.sentences]
