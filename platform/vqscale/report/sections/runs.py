"""Every run: a table of all, and what did not finish or was not used."""

from vqscale.report import tables
from vqscale.report.report_data import Material
from vqscale.report.section import Block, Prose, Section, Shown

LONG = 15
"""Rows beyond which a table is folded."""


def section(material: Material) -> Section | None:
    blocks: list[Block] = []
    if len(material.table):
        listed = tables.trials(material.table)
        blocks.append(Shown(table=listed, fold=f"All {len(listed.rows)} runs" if len(listed.rows) > LONG else ""))
    return Section(id="runs", title="Every run", nav="Runs", blocks=blocks) if blocks else None


def failures(material: Material) -> Section:
    """What did not finish, and what finished and was not used."""
    found = tables.failures(material.table, material.fits)
    nothing = Prose(text="None: every run finished and every finished run was used.")
    long = found is not None and len(found.rows) > LONG
    blocks: list[Block] = [nothing]
    if found is not None:
        blocks = [Shown(table=found, fold=f"{len(found.rows)} failures and exclusions" if long else "")]
    return Section(id="failures", title="Failures and exclusions", nav="Failures", blocks=blocks)
