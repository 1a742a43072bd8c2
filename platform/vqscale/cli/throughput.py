"""`vqscale throughput`: training speed, memory, cost and break-even against quadratic baselines, over T."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.throughput_view import as_values, show
from vqscale.errors import StudyError, StudyInterruptedError, TrackingError
from vqscale.report import write_throughput_figures, write_throughput_report
from vqscale.study.spec import Study
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.throughput.assemble import make_table
from vqscale.throughput.measure import load_or_measure
from vqscale.throughput.plan import Round, ThroughputPlan, plan_throughput
from vqscale.throughput.request import DEFAULT_CONTEXTS, DEFAULT_PRESET, default_study, study_of_section, with_options
from vqscale.throughput.table import (
    THROUGHPUT_CSV,
    THROUGHPUT_PARQUET,
    read_throughput_table,
    write_throughput_table,
)
from vqscale.track.throughput_runs import track_throughput
from vqscale.track.tracker import Tracker

DEFAULT_FOLDER = "runs/throughput"
STUDY_FILE = "study.yaml"


def throughput(
    study: Annotated[
        str | None,
        typer.Argument(help="Study file: of kind throughput, or one that trains, with its `throughput` section."),
    ] = None,
    contexts: Annotated[
        str | None, typer.Option(help=f"Context lengths, with commas. Default: {DEFAULT_CONTEXTS}.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architectures, with commas. Default: VQ and both baselines.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"Sizes, with commas. Default: {DEFAULT_PRESET}.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of one update at every T. Default: 4096.")] = None,
    batch: Annotated[str | None, typer.Option(help="Sequences of one update at every T, in place of --tokens.")] = None,
    head: Annotated[str | None, typer.Option(help="shga, mqa or mha, with commas. Default: shga.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, with commas. Default: fp32.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, with commas. Default: auto.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed repeats. Default: 5.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU. Default: all.")] = None,
    seconds_per_cell: Annotated[
        float | None,
        typer.Option(help="Fewer repeats where they take longer; one update that does is skipped. Default: 60."),
    ] = None,
    price_per_device_hour: Annotated[float | None, typer.Option(help="For the cost of a billion tokens.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of the price. Default: USD.")] = None,
    watts: Annotated[float | None, typer.Option(help="Power of the device, where it has no energy counter.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI of the results. Default: the study's folder.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store. Default: the study's, else none.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew even if nothing has changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure training speed, memory, cost and break-even of VQ against both quadratic baselines at equal parameters.

    What is measured already is not measured again; a run that was stopped goes on. Options win over the study's file.

    Example: vqscale throughput experiments/throughput/study.yaml

    Example: vqscale throughput --preset micro --contexts 256,1024,4096 --repeats 5 --out runs/speed
    """
    numbers = {"context": contexts, "tokens_per_step": tokens, "batch": batch}
    words = {"arch": arch, "preset": preset, "head": head, "precision": precision, "device": device}
    axes = {key: _numbers(key, text) for key, text in numbers.items() if text is not None}
    axes |= {key: [part.strip() for part in text.split(",")] for key, text in words.items() if text is not None}
    values = {"repeats": repeats, "threads": threads, "seconds_per_cell": seconds_per_cell, "currency": currency}
    values |= {"price_per_device_hour": price_per_device_hour, "watts": watts}
    known, trains = _study(study)
    asked = with_options(known, axes, {key: value for key, value in values.items() if value is not None})
    folder = storage.absolute(out) if out else asked.folder if study else storage.absolute(DEFAULT_FOLDER)
    uri = tracking or (asked.tracking.uri if study else None)
    run_throughput(
        asked, folder, uri, source=study or "options", own_page=bool(out) or not trains, again=again, as_json=as_json
    )


def run_throughput(
    study: ThroughputStudy,
    folder: str,
    tracking: str | None,
    *,
    source: str,
    own_page: bool = True,
    again: bool = False,
    as_json: bool = False,
) -> None:
    """Measure what is not measured yet, write table, figures and (`own_page`) the page, log it, and print it."""
    plan = plan_throughput(study, source=source)
    storage.require_writable(folder)
    tracker = open_tracker(study, tracking, folder)
    table, measured = measure(plan, folder, again=again)
    if own_page:
        values = study.model_dump(mode="json") | {"storage": storage.absolute(study.storage)}
        storage.write_text(storage.join(folder, STUDY_FILE), yaml.safe_dump(values, sort_keys=False))
    figures = write_throughput_figures(table, folder)
    written = [*(storage.join(folder, name) for name in (THROUGHPUT_CSV, THROUGHPUT_PARQUET)), *figures]
    if own_page:
        written.append(write_throughput_report(folder, study=study, table=table))
    track(tracker, study, table, folder, written)
    if as_json:
        typer.echo(json.dumps(as_values(table, folder, measured), indent=2))
    else:
        show(table, written, measured, make_console())


def measure(plan: ThroughputPlan, folder: str, *, again: bool = False) -> tuple[pd.DataFrame, int]:
    """The table of a plan, written to `folder`, and how many of its cells were measured now. Shows a progress bar.

    Raises StudyInterruptedError on Ctrl-C; what was measured by then is kept.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("throughput", total=None)

        def on_round(one: Round, done: int, total: int) -> None:
            first = one.cells[0]
            text = f"{first.preset}, {first.precision}, {first.device}, T = {first.context}"
            progress.update(task, description=text, completed=done, total=total)

        try:
            measured = load_or_measure(plan, folder, again=again, on_round=on_round)
        except KeyboardInterrupt as error:
            raise StudyInterruptedError("Finished context lengths are measured.") from error
    table = make_table(plan, measured.by_cell)
    write_throughput_table(table, folder)
    return table, measured.now


def measure_section(study: Study, tracker: Tracker | None) -> pd.DataFrame:
    """The measurement that the `throughput` section of a study which trains asks for, in the study's folder."""
    plan = plan_throughput(study_of_section(study, study.throughput), source=study.study)
    table, _ = measure(plan, study.folder)
    files = [storage.join(study.folder, THROUGHPUT_CSV), *write_throughput_figures(table, study.folder)]
    track(tracker, plan.study, table, study.folder, files)
    return table


def track(
    tracker: Tracker | None, study: ThroughputStudy, table: pd.DataFrame, folder: str, written: Iterable[str]
) -> None:
    """Log to MLflow. By now the measurement is done and kept: a silent store is said, not raised."""
    if tracker is None:
        return
    try:
        names = [uri.removeprefix(folder + "/") for uri in written]
        track_throughput(tracker, study.study, table, folder, names)
    except TrackingError as error:
        Console(stderr=True).print(f"MLflow lacks this measurement: {error}", style="yellow", markup=False)


def open_tracker(study: ThroughputStudy, uri: str | None, folder: str) -> Tracker | None:
    return Tracker(uri, study.study, artifacts=storage.join(folder, "artifacts")) if uri else None


def make_page(study: ThroughputStudy, folder: str, out: str) -> list[str]:
    """Figures and page of a throughput study under `out`, from the table in its folder; returns their URIs, page last.

    Raises StorageError where nothing was measured yet.
    """
    table = read_throughput_table(storage.join(folder, THROUGHPUT_PARQUET))
    return [*write_throughput_figures(table, out), write_throughput_report(out, study=study, table=table)]


def throughput_place(target: str) -> tuple[ThroughputStudy, str] | None:
    """The throughput study that a study file or a study's folder holds, with its folder; None for anything else."""
    is_file = target.endswith((".yaml", ".yml"))
    path = target if is_file else storage.join(storage.absolute(target), STUDY_FILE)
    if not storage.exists(path):
        return None
    study = load_any(path)
    if not isinstance(study, ThroughputStudy):
        return None
    return study, study.folder if is_file else storage.absolute(target)


def _study(path: str | None) -> tuple[ThroughputStudy, bool]:
    """What a file asks for, and whether it is a study that trains (whose folder holds a page of its own)."""
    if path is None:
        return default_study(), False
    found = load_any(path)
    if isinstance(found, ThroughputStudy):
        return found, False
    return study_of_section(found, found.throughput), True


def _numbers(key: str, text: str) -> list[Any]:
    option = {"context": "--contexts", "tokens_per_step": "--tokens"}.get(key, f"--{key}")
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise StudyError(f"{option} {text!r}: is no list of whole numbers. Write 256,1024,4096.") from error
