"""Figures and the HTML report, from tables, fits and what lies beside them in a study's folder."""

from vqscale.report.figures import figures, write_figures, write_throughput_figures
from vqscale.report.html import write_throughput_report
from vqscale.report.material import Material, gather
from vqscale.report.page import write_report

__all__ = [
    "Material",
    "figures",
    "gather",
    "write_figures",
    "write_report",
    "write_throughput_figures",
    "write_throughput_report",
]
