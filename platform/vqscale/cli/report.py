"""`vqscale report`: one HTML page from a study's table and fits."""

import json
from typing import Annotated

import typer

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.throughput import make_page, throughput_place
from vqscale.laws import StudyFits, read_fits
from vqscale.report import Material, gather, write_figures, write_report
from vqscale.results import Target, locate, read_table
from vqscale.throughput.table import stored_throughput_table
from vqscale.workflow.artifacts import mirror


def report(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    out: Annotated[str | None, typer.Option(help="Folder or URI with the fits; figures and report go there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write figures and one self-contained HTML page; `vqscale fit` first adds the laws.

    Example: vqscale report runs/quickstart
    """
    speed = throughput_place(target)
    if speed:
        written = make_page(*speed, out or speed[1])
    else:
        place = locate(target, out)
        written = make_report(place)
        mirror(place, written, fits_of(place), make_console(stderr=as_json))
    if as_json:
        typer.echo(json.dumps(written, indent=2))
        return
    for uri in written:
        make_console().print(f"wrote {uri}", soft_wrap=True, markup=False)


def make_report(place: Target) -> list[str]:
    """Figures and page of one study from what lies in its folder; returns the URIs written, the page last."""
    material = make_material(place, fits_of(place))
    return [*write_figures(material, place.folder), write_report(material, place.folder)]


def fits_of(place: Target) -> StudyFits:
    """What was fitted; nothing, where nothing was yet."""
    return read_fits(place.folder) if storage.exists(storage.join(place.folder, "fits.json")) else StudyFits()


def make_material(place: Target, fits: StudyFits) -> Material:
    """What figures and page are made from, read from what lies in the study's folder."""
    return gather(
        study=place.study.model_dump(mode="json") if place.study else {"study": place.name, "question": ""},
        table=read_table(place.table),
        fits=fits,
        references=_optional_json(place, "references.json"),
        throughput=stored_throughput_table(place.folder),
        home=place.home,
    )


def _optional_json(place: Target, name: str) -> dict[str, dict[str, float]] | None:
    uri = storage.join(place.folder, name)
    found: dict[str, dict[str, float]] | None = storage.read_json(uri) if storage.exists(uri) else None
    return found
