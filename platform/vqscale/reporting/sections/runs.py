"""Every run: a table of all, and the runs that did not finish or were not used."""

from vqscale.reporting import tables
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Prose, Section, TableBlock

LONG = 15
"""Rows beyond which a table is folded."""


def section(data: ReportData) -> Section | None:
    blocks: list[Block] = []
    if len(data.table):
        listed = tables.trial_table(data.table)
        blocks.append(TableBlock(table=listed, fold=f"{len(listed.rows):,} runs" if len(listed.rows) > LONG else ""))
    return Section(id="runs", title="Every run", nav="Runs", blocks=blocks) if blocks else None


def failure_section(data: ReportData) -> Section:
    """Runs that did not finish, and finished ones that were not used."""
    found = tables.failure_table(data.table, data.fits)
    nothing = Prose(text="None: every run finished and every finished run was used.")
    long = found is not None and len(found.rows) > LONG
    blocks: list[Block] = [nothing]
    if found is not None:
        blocks = [TableBlock(table=found, fold=f"{len(found.rows)} failures and exclusions" if long else "")]
    return Section(id="failures", title="Failures and exclusions", nav="Failures", blocks=blocks)
