"""`vqscale export`: fits and runs of a study as files for other programs and for a paper."""

import json
from typing import Annotated

import typer

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.report import make_material
from vqscale.errors import FitError
from vqscale.laws import StudyFits, read_fits
from vqscale.laws.io.export import to_csv, to_json, to_parquet
from vqscale.laws.io.latex import to_latex
from vqscale.report import write_figures
from vqscale.results import Target, convert_table, locate

FIGURES = ("png", "svg")
FORMATS = ("json", "csv", "parquet", "latex", *FIGURES)


def export(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help=f"Repeatable: {', '.join(FORMATS)}. Default: all.")
    ] = None,
    fits: Annotated[str | None, typer.Option(help="Folder or URI with fits.json. Default: the target's.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI. Default: export/ in the folder of the fits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the fits of `vqscale fit` and the runs as JSON, CSV, Parquet, LaTeX, PNG and SVG.

    Every constant carries the id of its fit, the hash of its table and the versions, in every format.

    Example: vqscale export runs/quickstart

    Example: vqscale export runs/quickstart --format latex --format svg --out paper/
    """
    chosen = list(dict.fromkeys(formats or FORMATS))
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise FitError(f"--format {unknown[0]}: is unknown. Choose from {', '.join(FORMATS)}.")
    place = locate(target, fits)
    written = export_files(place, read_fits(place.folder), out or storage.join(place.folder, "export"), chosen)
    if as_json:
        typer.echo(json.dumps(written, indent=2))
        return
    for uri in written:
        make_console().print(f"wrote {uri}", soft_wrap=True, markup=False)


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
            convert_table(place.table, written[-1])
    figures = [name for name in formats if name in FIGURES]
    return written + (write_figures(make_material(place, fits), folder, figures) if figures else [])
