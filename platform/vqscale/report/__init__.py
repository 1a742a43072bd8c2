"""Figures and the HTML report, from tables, fits and what lies beside them in a study's folder."""

from vqscale.report.figures import figures, write_figures, write_throughput_figures
from vqscale.report.html import write_throughput_report
from vqscale.report.page import write_report
from vqscale.report.report_data import Material, gather

__all__ = [
    "Material",
    "figures",
    "gather",
    "write_figures",
    "write_report",
    "write_throughput_figures",
    "write_throughput_report",
]
