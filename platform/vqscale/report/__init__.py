"""Figures and the HTML report, from tables and fits only."""

from vqscale.report.figures import write_figures, write_law_figures
from vqscale.report.html import write_report, write_throughput_report
from vqscale.report.throughput_plots import write_throughput_figures

__all__ = ["write_figures", "write_law_figures", "write_report", "write_throughput_figures", "write_throughput_report"]
