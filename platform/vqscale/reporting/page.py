"""The report's page: what it is made of, in which order."""

import json
from collections.abc import Sequence

from vqscale import storage
from vqscale.reporting.html import write_page
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Section
from vqscale.reporting.sections import (
    architectures,
    classes,
    codebook,
    compute,
    context,
    cost,
    diagnostics,
    evidence,
    holdout,
    isoflop,
    laws,
    method,
    runs,
    sizes,
    speed,
    training,
)
from vqscale.reporting.summary.summary import SummaryPart, numbered, summarise

EVIDENCE = "evidence.json"

SECTIONS = (
    classes.section,
    compute.section,
    isoflop.section,
    sizes.section,
    architectures.section,
    holdout.section,
    diagnostics.section,
    codebook.section,
    context.section,
    laws.section,
    training.section,
    speed.section,
    cost.section,
    runs.section,
    runs.failure_section,
    evidence.section,
    method.section,
)


def write_report(data: ReportData, folder: str) -> str:
    """Write `folder`/report.html and, beside it, evidence.json; return the page's URI."""
    parts = summarise(data)
    write_evidence(parts, data, folder)
    values = {
        "study": data.study,
        "summary": _numbered_parts(parts),
        "counts": _counts(data),
        "sections": make_sections(data),
    }
    return write_page(folder, "report.html.j2", values)


def write_evidence(parts: Sequence[SummaryPart], data: ReportData, folder: str) -> str:
    """Write `folder`/evidence.json, every claim of the summary with what it rests on; return its URI."""
    claims = [{"number": place, "part": part, **claim.values()} for place, part, claim in numbered(parts)]
    uri = storage.join(folder, EVIDENCE)
    values = {"study": data.study.get("study"), "question": data.study.get("question") or None, "claims": claims}
    storage.write_text(uri, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return uri


def _numbered_parts(parts: Sequence[SummaryPart]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Titles with their sentences and the numbers of these in the section on evidence."""
    found: dict[str, list[tuple[int, str]]] = {}
    for place, part, claim in numbered(parts):
        found.setdefault(part, []).append((place, claim.text))
    return list(found.items())


def make_sections(data: ReportData) -> Sequence[Section]:
    """The sections that there is something to show in."""
    made = (section(data) for section in SECTIONS)
    return [one for one in made if one is not None]


def _counts(data: ReportData) -> str:
    table = data.table
    if "status" not in table:
        return f"{len(table)} runs"
    counts = table["status"].value_counts()
    return ", ".join(f"{number} {status}" for status, number in counts.items()) or "no runs"
