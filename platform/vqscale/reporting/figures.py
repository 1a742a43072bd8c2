"""The page's panels as figures for files, MLflow and exports: one path from the records to both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from vqscale.reporting.page import make_sections
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.throughput.panels import speed_panels

if TYPE_CHECKING:
    from vqscale.reporting.charts.static import DrawnFigure


def figures(data: ReportData) -> "list[DrawnFigure]":
    """Every chart of the page as a matplotlib figure with the name of its file, in the page's order."""
    from vqscale.reporting.charts.static import draw_figure

    return [draw_figure(panel) for section in make_sections(data) for panel in section.panels]


def write_figures(data: ReportData, folder: str, formats: Sequence[str] = ("png",)) -> list[str]:
    """Every chart of the page under `folder`/figures; returns their URIs."""
    from vqscale.reporting.charts.static import save_figures

    return save_figures(figures(data), folder, formats)


def write_throughput_figures(table: pd.DataFrame, folder: str) -> list[str]:
    """All charts of a throughput table, each as PNG and SVG under `folder`/figures; returns their URIs."""
    from vqscale.reporting.charts.static import draw_figure, save_figures

    return save_figures([draw_figure(panel) for panel in speed_panels(table)], folder, ("png", "svg"))
