"""Figures and the HTML report, from tables, fits and the other files of a study's folder."""

from vqscale.reporting.figures import figures, write_figures, write_throughput_figures
from vqscale.reporting.html import write_throughput_report
from vqscale.reporting.page import write_report
from vqscale.reporting.report_data import ReportData, gather

__all__ = [
    "ReportData",
    "figures",
    "gather",
    "write_figures",
    "write_report",
    "write_throughput_figures",
    "write_throughput_report",
]
