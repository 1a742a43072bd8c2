"""What somebody needs to repeat the study, from its records."""

from vqscale.report.checklist import checklist
from vqscale.report.report_data import Material
from vqscale.report.section import Checklist, Section


def section(material: Material) -> Section:
    groups = checklist(material.table, material.fits, material.study)
    return Section(id="method", title="Method, from the records", nav="Method", blocks=[Checklist(groups=groups)])
