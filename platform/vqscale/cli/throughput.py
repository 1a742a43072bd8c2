"""`vqscale throughput`: training speed and memory of VQ against both quadratic baselines, over the context length."""

import json
from typing import Annotated, Any

import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vqscale import storage
from vqscale.bench.request import Request, make_request, request_of
from vqscale.bench.table import CSV, PARQUET, ratios, stored
from vqscale.bench.throughput import load_or_measure
from vqscale.errors import StudyError, TrackingError
from vqscale.report.figures import write_figures
from vqscale.study.spec import Study, load_study
from vqscale.study.trial import count
from vqscale.sweep.run import open_tracker
from vqscale.track.tracker import Tracker

DEFAULT_CONTEXTS = (256, 1024, 4096)
DEFAULT_PRESET = "micro"
DEFAULT_FOLDER = "runs/throughput"
FIGURE = "figures/throughput.png"


def throughput(
    study: Annotated[
        str | None, typer.Argument(help="Study file; its `throughput` section says what to measure.")
    ] = None,
    contexts: Annotated[
        str | None, typer.Option(help=f"Context lengths, with commas. Default: {DEFAULT_CONTEXTS}.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"Size of all models. Default: the study's, else {DEFAULT_PRESET}.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed repeats. Default: 3.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of one update, at every T. Default: 4096.")] = None,
    head: Annotated[str | None, typer.Option(help="shga, mqa or mha. Default: the study's, else shga.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16. Default: the study's, else fp32.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU. Default: all.")] = None,
    seconds_per_cell: Annotated[float, typer.Option(help="Fewer repeats where they take longer than this.")] = 60.0,
    out: Annotated[str | None, typer.Option(help="Folder or URI of the results. Default: the study's folder.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store. Default: the study's, else none.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew even if nothing has changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure training tokens/s and peak memory of VQ and of both quadratic baselines at equal parameters.

    Example: vqscale throughput experiments/quickstart/study.yaml

    Example: vqscale throughput --preset micro --contexts 256,1024,4096 --repeats 5 --out runs/speed
    """
    known = load_study(study) if study else None
    spec = {"contexts": _numbers(contexts), "preset": preset, "repeats": repeats, "tokens": tokens}
    settings = {"head": head, "precision": precision, "device": device, "threads": threads}
    request = _request(known, _given(spec), _given({**settings, "seconds_per_cell": seconds_per_cell}))
    folder = storage.absolute(out) if out else known.folder if known else storage.absolute(DEFAULT_FOLDER)
    storage.require_writable(folder)
    tracker = _tracker(known, tracking, folder)
    table, fresh = measure(request, folder, tracker, again=again)
    if as_json:
        typer.echo(json.dumps(as_values(table, folder, fresh), indent=2))
    else:
        show(table, folder, fresh, Console())


def measure(
    request: Request, folder: str, tracker: Tracker | None, *, again: bool = False
) -> tuple[pd.DataFrame, bool]:
    """The table of a request, and whether it was measured now; then it is drawn and logged as well."""
    fresh = again or stored(folder, request.fingerprint) is None
    table = _measured(request, folder, again=again)
    if fresh:
        write_figures(pd.DataFrame(), [], table, folder)
        if tracker:
            try:
                track_throughput(tracker, request, table, folder)
            except TrackingError as error:  # the measurement is done and kept
                Console(stderr=True).print(f"MLflow lacks this measurement: {error}", style="yellow", markup=False)
    return table, fresh


def track_throughput(tracker: Tracker, request: Request, table: pd.DataFrame, folder: str) -> None:
    """A child run of its own in MLflow: every metric over T, the table and the figure as artifacts."""
    parent = tracker.study_run()
    own = {"vqscale.kind": "throughput", "vqscale.fingerprint": request.fingerprint}
    parameters = {**request.model_dump(exclude={"spec"}), **request.spec.model_dump()}
    run = tracker.trial_run(parent, f"throughput-{request.fingerprint[:12]}", parameters, own)
    for row in table[table["status"] == "ok"].to_dict("records"):
        names = ("tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "peak_memory_bytes")
        tracker.log_final(run, {f"{row['arch']}/{name}": row[name] for name in names}, tokens=row["context"])
    for row in ratios(table).to_dict("records"):
        values = {f"{name}/{row['baseline']}": row[name] for name in ("speed_ratio", "memory_ratio")}
        tracker.log_final(run, values, tokens=row["context"])
    tracker.log_folder(run, folder, [CSV, PARQUET, FIGURE])
    tracker.end(run, "FINISHED")


def as_values(table: pd.DataFrame, folder: str, fresh: bool) -> dict[str, Any]:
    """The measurement as plain JSON values; what was not measured is null."""
    return {
        "folder": folder,
        "measured_now": fresh,
        "rows": json.loads(table.to_json(orient="records")),
        "ratios": json.loads(ratios(table).to_json(orient="records")),
    }


def show(table: pd.DataFrame, folder: str, fresh: bool, console: Console) -> None:
    """Speed, memory and ratios by T, for a person."""
    console.print(_speeds(table))
    first = table.iloc[0]
    console.print(
        "Training speed is the median of the repeats; memory is the peak of an update. Last column: how many times"
        f" faster VQ trained in this run. Preset {first['preset']}, {first['precision']}, {first['device']},"
        f" {first['threads']} thread(s).",
        style="dim",
        highlight=False,
    )
    if not fresh:
        console.print("Nothing has changed since this was measured; --again measures anew.")
    for name in (CSV, PARQUET, FIGURE):
        console.print(f"see {storage.join(folder, name)}", soft_wrap=True, highlight=False, markup=False)


def _speeds(table: pd.DataFrame) -> Table:
    shown = Table(title="Training speed over the context length", title_justify="left", box=box.SIMPLE_HEAD)
    for title in ("T", "model", "tokens/s", "range", "repeats", "memory", "VQ"):
        shown.add_column(title, justify="left" if title == "model" else "right", no_wrap=True)
    ratio = {(row["context"], row["baseline"]): row["speed_ratio"] for row in ratios(table).to_dict("records")}
    for context, rows in table.groupby("context"):
        shown.add_section()
        for row in rows.to_dict("records"):
            shown.add_row(str(context), row["arch"], *_measures(row), _times(ratio.get((context, row["arch"]))))
    return shown


def _measures(row: dict[Any, Any]) -> tuple[str, ...]:
    if row["status"] != "ok":
        return str(row["status"]), "", str(row["repeats"]), ""
    low, high = count(row["tokens_per_second_low"]), count(row["tokens_per_second_high"])
    memory = f"{row['peak_memory_bytes'] / 2**20:,.1f} MiB"
    return count(row["tokens_per_second"]), f"{low}-{high}", str(row["repeats"]), memory


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _measured(request: Request, folder: str, *, again: bool = False) -> pd.DataFrame:
    """The table of a request, measured behind a progress bar where it is not stored yet."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("throughput", total=None)

        def told(context: int, done: int, total: int) -> None:
            progress.update(task, description=f"throughput at T = {context}", completed=done, total=total)

        return load_or_measure(request, folder, again=again, told=told)


def _request(study: Study | None, spec: dict[str, Any], settings: dict[str, Any]) -> Request:
    base: dict[str, Any] = {"contexts": list(DEFAULT_CONTEXTS), "preset": DEFAULT_PRESET}
    if study is None:
        return make_request(spec=base | spec, **settings)
    if study.throughput:
        base = study.throughput.model_dump()
    elif "preset" in study.model:
        base["preset"] = study.model["preset"]
    return request_of(study, base | spec, **settings)


def _tracker(study: Study | None, tracking: str | None, folder: str) -> Tracker | None:
    if tracking is None:
        return open_tracker(study) if study else None
    artifacts = storage.join(folder, "artifacts")
    return Tracker(tracking, study.study if study else "throughput", artifacts=artifacts)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise StudyError(f"--contexts {text!r}: is no list of whole numbers. Write 256,1024,4096.") from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
