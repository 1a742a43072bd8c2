"""The page's panels as figures for files, MLflow and exports: one path from the records to both."""

from collections.abc import Sequence

import pandas as pd

from vqscale.report.charts.static import Drawn, figure, save
from vqscale.report.page import make_sections
from vqscale.report.report_data import Material
from vqscale.report.throughput.panels import panels as speed_panels


def figures(material: Material) -> list[Drawn]:
    """Every chart of the page as a matplotlib figure with the name of its file, in the page's order."""
    return [figure(panel) for section in make_sections(material) for panel in section.panels]


def write_figures(material: Material, folder: str, formats: Sequence[str] = ("png",)) -> list[str]:
    """Every chart of the page under `folder`/figures; returns their URIs."""
    return save(figures(material), folder, formats)


def write_throughput_figures(table: pd.DataFrame, folder: str) -> list[str]:
    """All pictures that a throughput table supports, each as PNG and SVG under `folder`/figures; returns their URIs."""
    return save([figure(panel) for panel in speed_panels(table)], folder, ("png", "svg"))
