"""Figures and the HTML report, from tables, fits and the other files of a study's folder."""

from vqscale.report.figures import figures, write_figures, write_throughput_figures
from vqscale.report.html import write_throughput_report
from vqscale.report.page import write_report
from vqscale.report.report_data import ReportData, gather

__all__ = [
    "ReportData",
    "figures",
    "gather",
    "write_figures",
    "write_report",
    "write_throughput_figures",
    "write_throughput_report",
]
