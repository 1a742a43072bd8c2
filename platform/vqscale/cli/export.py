"""`vqscale export`: fits and runs of a study as files for other programs and for a paper."""

import json
from typing import Annotated

import typer

from vqscale.cli.console import print_written
from vqscale.errors import FitError


def export(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a table of runs (.csv, .jsonl ...).")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="json, csv, parquet, latex, png, svg; repeatable. Default: all."),
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
    from vqscale import storage
    from vqscale.laws import read_fits
    from vqscale.results import locate
    from vqscale.workflow.exports import FORMATS, export_files

    chosen = list(dict.fromkeys(formats or FORMATS))
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise FitError(f"--format {unknown[0]}: is unknown. Choose from {', '.join(FORMATS)}.")
    place = locate(target, fits)
    written = export_files(
        place, read_fits(place.folder, place.fit_command), out or storage.join(place.folder, "export"), chosen
    )
    if as_json:
        typer.echo(json.dumps(written, indent=2))
    else:
        print_written(written)
