"""The parts of the summary, each a list of claims: no sentence without its evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vqscale.reporting.claims.claim import Claim
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.summary.answer import answer_claims
from vqscale.reporting.summary.confidence import confidence_claims
from vqscale.reporting.summary.findings import finding_claims
from vqscale.reporting.summary.missing import missing_claims
from vqscale.reporting.summary.spending import next_claims, spending_claims


@dataclass(frozen=True, kw_only=True)
class SummaryPart:
    title: str
    claims: Sequence[Claim]

    @property
    def sentences(self) -> list[str]:
        return [claim.text for claim in self.claims]


def summarise(data: ReportData) -> list[SummaryPart]:
    """Answer, findings, confidence, cost, what a larger budget would bring, what is missing."""
    answer = answer_claims(data)
    said = {claim.text for claim in answer}
    parts = {
        "Answer": answer,
        "Findings": [claim for claim in finding_claims(data) if claim.text not in said],
        "Confidence": list(confidence_claims(data)),
        "Cost": list(spending_claims(data)),
        "Whether to continue": list(next_claims(data)),
        "What is missing": list(missing_claims(data)),
    }
    return [SummaryPart(title=title, claims=claims) for title, claims in parts.items() if claims]


def numbered(parts: Sequence[SummaryPart]) -> Iterator[tuple[int, str, Claim]]:
    """Every claim with its number on the page and the part it is in."""
    place = 0
    for part in parts:
        for claim in part.claims:
            place += 1
            yield place, part.title, claim
