"""The report's page: what it is made of, in which order."""

from collections.abc import Sequence

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
    holdout,
    isoflop,
    laws,
    method,
    runs,
    sizes,
    speed,
    training,
)
from vqscale.reporting.summary.summary import summarise

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
    method.section,
)


def write_report(data: ReportData, folder: str) -> str:
    """Write `folder`/report.html and return its URI."""
    values = {
        "study": data.study,
        "summary": summarise(data),
        "counts": _counts(data),
        "sections": make_sections(data),
    }
    return write_page(folder, "report.html.j2", values)


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
