"""What is needed to repeat the study, from its records."""

from vqscale.reporting.checklist import checklist
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import ChecklistBlock, Section


def section(data: ReportData) -> Section:
    groups = checklist(data.table, data.fits, data.study)
    return Section(id="method", title="Method, from the records", nav="Method", blocks=[ChecklistBlock(groups=groups)])
