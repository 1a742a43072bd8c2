"""Fits and runs as files for other programs and for a paper."""

from vqscale import storage
from vqscale.laws import StudyFits
from vqscale.laws.io.export import to_csv, to_json, to_parquet
from vqscale.laws.io.latex import to_latex
from vqscale.reporting import write_figures
from vqscale.results import Target
from vqscale.workflow.report_page import make_report_data
from vqscale.workflow.tables import copy_runs

FIGURES = ("png", "svg")
FORMATS = ("json", "csv", "parquet", "latex", *FIGURES)


def export_files(place: Target, fits: StudyFits, folder: str, formats: list[str]) -> list[str]:
    """Write `fits.*`, `results.*` and figures to `folder`; returns their URIs."""
    written = []
    texts = {"json": ("fits.json", to_json), "csv": ("fits.csv", to_csv), "latex": ("fits.tex", to_latex)}
    for name in formats:
        if name in texts:
            file, make = texts[name]
            written.append(storage.join(folder, file))
            storage.write_text(written[-1], make(fits))
        elif name == "parquet":
            written.append(storage.join(folder, "fits.parquet"))
            storage.write_bytes(written[-1], to_parquet(fits))
        if name in ("csv", "parquet"):
            written.append(storage.join(folder, f"results.{name}"))
            copy_runs(place, written[-1])
    figures = [name for name in formats if name in FIGURES]
    return written + (write_figures(make_report_data(place, fits), folder, figures) if figures else [])
