"""`vqscale run`: a study from its file to its report."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.fit_view import print_fits
from vqscale.cli.live_table import QUALITY, duration, last_line, quality
from vqscale.cli.report import make_report
from vqscale.cli.throughput import measure_section, run_throughput
from vqscale.cli.throughput_view import conclusions
from vqscale.data.corpus import open_text
from vqscale.data.references import text_references
from vqscale.errors import TrackingError, WorkFailedError
from vqscale.laws import StudyFits, fit_study, write_fits
from vqscale.results import Result, locate, read_table
from vqscale.study.spec import Study
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.study.trial import short_count
from vqscale.workflow.artifacts import log_files
from vqscale.workflow.fit_options import study_settings
from vqscale.workflow.predictions import before_stage, show_scores
from vqscale.workflow.study import StudyResults
from vqscale.workflow.study import run as run_study


def run(
    study: Annotated[str, typer.Argument(help="Study file.")],
    address: Annotated[str | None, typer.Option(help="Ray cluster, such as auto. Default: one made here.")] = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Leave out finished trials that the file no longer describes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results and fits as JSON, the rest to stderr.")
    ] = False,
) -> None:
    """Train what is not trained yet, then fit, measure and report. Run it again at any time: nothing is done twice.

    A study of kind throughput trains nothing: it is measured here, as by `vqscale throughput`.

    Example: vqscale run experiments/quickstart/study.yaml
    """
    started = time.monotonic()
    console = make_console(stderr=as_json)
    spec = load_any(study)
    if isinstance(spec, ThroughputStudy):
        run_throughput(spec, spec.folder, spec.tracking.uri, source=study, as_json=as_json)
        return
    outcome = run_study(
        spec, source=study, address=address, console=console, allow_changed=allow_changed, before_stage=before_stage
    )
    print_trials(outcome, console)
    fits = analyse(spec, outcome.results)
    print_fits(fits, console, [])
    show_scores(spec.folder, read_table(storage.join(spec.folder, "results.parquet")), console)
    if spec.throughput is not None:
        for sentence in conclusions(measure_section(spec, outcome.tracker)):
            console.print(sentence, markup=False, highlight=False)
    record(outcome, make_report(locate(spec.folder, None)), fits, console)
    print_places(spec, console)
    print_time(outcome, time.monotonic() - started, console)
    if as_json:
        print(json.dumps(as_values(outcome, fits), indent=2))  # noqa: T201
    if outcome.failed:
        names = [f"{result.name}: {last_line(result.error or '')}" for result in outcome.failed]
        raise WorkFailedError(f"{len(names)} of {len(outcome.results)} trials failed:\n" + "\n".join(names))


def as_values(outcome: StudyResults, fits: StudyFits) -> dict[str, Any]:
    """A study's outcome as plain JSON values."""
    return {
        "study": outcome.study.study,
        "folder": outcome.study.folder,
        "trained_now": outcome.trained_now,
        "results": [result.model_dump(mode="json") for result in outcome.results],
        "fits": fits.model_dump(mode="json"),
    }


def analyse(study: Study, results: list[Result]) -> StudyFits:
    """Fit the study's laws and compress its held-out text; both are written to its folder."""
    table = read_table(storage.join(study.folder, "results.parquet"))
    settings = study_settings(study, table)
    fits = fit_study(table, study.fit.laws, bootstrap=study.fit.bootstrap, **settings)
    write_fits(fits, study.folder)
    if study.task == "classification":  # there is no text to compress
        return fits
    uri = storage.join(study.folder, "references.json")
    known: dict[str, dict[str, float]] = storage.read_json(uri) if storage.exists(uri) else {}
    tokens = int(study.train.get("evaluation_tokens", 65536))
    texts = {f"{result.corpus_fingerprint[:12]}/{tokens}": result.corpus for result in results}
    if set(texts) != set(known):
        measured_now = {key: text_references(open_text(c).split("validation"), tokens) for key, c in texts.items()}
        storage.write_json(uri, measured_now)
    return fits


def record(outcome: StudyResults, written: list[str], fits: StudyFits, console: Console) -> None:
    """The study's files as artifacts of its MLflow run. By now the work is done: a silent store is said, not raised."""
    try:
        parent = log_files(outcome.tracker, outcome.study.folder, written, fits)
        outcome.tracker.end(parent, "FAILED" if outcome.failed else "FINISHED")
    except TrackingError as error:
        console.print(f"[yellow]MLflow lacks this study's files: {escape(str(error))}[/yellow]")


def print_trials(outcome: StudyResults, console: Console) -> None:
    table = Table(title=f"{outcome.study.study}: {len(outcome.results)} trials", title_justify="left")
    measure = QUALITY[outcome.study.task]
    titles = ("trial", "state", "N", "tokens", "FLOPs", measure, "tokens/s", "codes in use", "training", "other time")
    for title in titles:
        table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
    for r in sorted(outcome.results, key=lambda r: (r.arch, r.parameters_non_embedding, r.name)):
        other = (r.seconds_overhead or 0.0) + (r.seconds_evaluation or 0.0)
        table.add_row(
            r.name,
            r.status,
            short_count(r.parameters_non_embedding),
            short_count(r.tokens),
            f"{r.flops:.1e}",
            "-" if (known := quality(r)) is None else f"{known:.3f}",
            "-" if r.tokens_per_second is None else short_count(r.tokens_per_second),
            "-" if r.code_perplexity is None else f"{r.code_perplexity:.0f} of {r.codebook_size}",
            "-" if r.seconds_training is None else f"{r.seconds_training:.1f} s",
            "-" if r.seconds_overhead is None else f"{other:.1f} s",
        )
    console.print(table)


def print_places(study: Study, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for what, where in (
        ("report", storage.join(study.folder, "report.html")),
        ("plots", storage.join(study.folder, "figures")),
        ("table", storage.join(study.folder, "results.csv")),
        ("MLflow", f"{study.tracking.uri}  (vqscale ui STUDY opens it)"),
    ):
        table.add_row(what, escape(where))
    console.print(table)


def print_time(outcome: StudyResults, seconds: float, console: Console) -> None:
    if not outcome.trained_now:
        console.print(f"Nothing was left to train; {duration(seconds)} in all.", highlight=False)
        return
    training, lanes = outcome.trained.training_seconds, outcome.trained.lanes
    spent = outcome.seconds * lanes
    each = (spent - training) / outcome.trained_now
    console.print(
        f"{outcome.trained_now} trials in {duration(outcome.seconds)} on {lanes} worker groups, of which"
        f" {training / spent:.0%} was training: {each:.1f} s a trial were not. {duration(seconds)} in all.",
        highlight=False,
    )
