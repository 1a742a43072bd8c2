"""Figures and the HTML report, from tables and fits only."""

from vqscale.report.figures import write_figures, write_law_figures
from vqscale.report.html import write_report

__all__ = ["write_figures", "write_law_figures", "write_report"]
