"""Every claim of the summary with what it rests on, and what would weaken it."""

from vqscale.reporting.charts.style import plural
from vqscale.reporting.claims.claim import Claim
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, EvidenceBlock, EvidenceItem, Prose, Section
from vqscale.reporting.summary.summary import numbered, summarise

_TEXT = (
    "The summary's sentences one by one: the numbers of each, the runs, seeds and texts behind them, the baselines, and"
    " what would weaken it. evidence.json beside this page holds the same for programs."
)
NAMED_RUNS = 12
"""Runs of a claim that are named on the page; the file names all."""


def section(data: ReportData) -> Section | None:
    items = [_item(place, part, claim) for place, part, claim in numbered(summarise(data))]
    if not items:
        return None
    blocks: list[Block] = [Prose(text=_TEXT), EvidenceBlock(items=items)]
    return Section(id="evidence", title="Evidence", nav="Evidence", blocks=blocks)


def _item(place: int, part: str, claim: Claim) -> EvidenceItem:
    entries = [
        ("Numbers", [f"{one.text}: {one.quantity}" for one in claim.figures]),
        ("Runs", _runs(claim)),
        ("Seeds", [str(claim.basis.seeds)] if claim.basis.seeds else []),
        ("Training tokens", [text] if (text := claim.basis.tokens_text) else []),
        ("Held-out text", _held_out(claim)),
        ("Baselines", list(claim.basis.baselines) or ["none"]),
        ("Weakened by", list(claim.basis.weakened_by) or ["nothing that the records show"]),
    ]
    return EvidenceItem(number=place, part=part, text=claim.text, entries=[pair for pair in entries if pair[1]])


def _runs(claim: Claim) -> list[str]:
    runs = list(claim.basis.runs)
    listed = (
        [f"{len(runs):,}: {', '.join(runs[:NAMED_RUNS])}{', ...' if len(runs) > NAMED_RUNS else ''}"] if runs else []
    )
    return [*([claim.basis.measured] if claim.basis.measured else []), *listed]


def _held_out(claim: Claim) -> list[str]:
    basis = claim.basis
    if not basis.held_out:
        return []
    tokens = [f"{basis.held_out_tokens:,} tokens"] if basis.held_out_tokens is not None else []
    documents = f"number of {basis.unit}s unknown" if basis.documents is None else plural(basis.documents, basis.unit)
    return ["; ".join([basis.held_out, *tokens, documents])]
