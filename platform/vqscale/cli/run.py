"""`vqscale run`: a study from its file to its report."""

import time
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vqscale import storage
from vqscale.bench.throughput import load_or_measure, ratios
from vqscale.cli.fit import print_fits
from vqscale.data.corpus import open_corpus
from vqscale.data.references import text_references
from vqscale.errors import WorkFailedError
from vqscale.laws import StudyFits, fit_study, write_fits
from vqscale.report import write_law_figures, write_report
from vqscale.results import read_table
from vqscale.results.record import Result
from vqscale.study.spec import Study, load_study
from vqscale.study.trial import count
from vqscale.sweep.progress import duration, last_line
from vqscale.sweep.run import StudyResults, open_tracker
from vqscale.sweep.run import run as run_study

ARTIFACTS = (
    "results.parquet",
    "results.csv",
    "fits.json",
    "fits.csv",
    "references.json",
    "throughput.csv",
    "report.html",
)


def run(
    study: Annotated[str, typer.Argument(help="Study file.")],
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, such as auto; default: one on this machine.")
    ] = None,
    allow_changed: Annotated[
        bool, typer.Option(help="Go on although the study's folder holds trials that the file no longer describes.")
    ] = False,
) -> None:
    """Train what is not trained yet, then fit, measure and report. Run it again at any time: nothing is done twice.

    Example: vqscale run experiments/quickstart/study.yaml
    """
    started = time.monotonic()
    console = Console()
    spec = load_study(study)
    outcome = run_study(spec, source=study, address=address, console=console, allow_changed=allow_changed)
    print_trials(outcome, console)
    fits, throughput, written = analyse(spec, outcome.results, console)
    print_fits(fits, console, [])
    if throughput is not None:
        print_ratios(throughput, console)
    _record(spec, outcome, written)
    print_places(spec, console)
    print_time(outcome, time.monotonic() - started, console)
    if outcome.failed:
        names = "; ".join(f"{result.name}: {last_line(result.error or '')}" for result in outcome.failed)
        raise WorkFailedError(f"{len(outcome.failed)} of {len(outcome.results)} trials failed: {names}")


def analyse(study: Study, results: list[Result], console: Console) -> tuple[StudyFits, pd.DataFrame | None, list[str]]:
    """Fits, references, throughput, figures and the report, from the study's table; returns what was written."""
    folder = study.folder
    table = read_table(storage.join(folder, "results.parquet"))
    fits = fit_study(table, study.fit.laws, bootstrap=study.fit.bootstrap)
    written = [*write_fits(fits, folder), *write_law_figures(fits.fits, folder)]
    references = study_references(study, results)
    throughput = None
    if study.throughput is not None:
        console.print("Training throughput against the quadratic baselines ...", style="dim")
        throughput = load_or_measure(study.throughput, folder)
    written.append(
        write_report(folder, study=study, table=table, fits=fits, references=references, throughput=throughput)
    )
    return fits, throughput, written


def study_references(study: Study, results: list[Result]) -> dict[str, dict[str, float]]:
    """Unigram entropy and compressors on the evaluated text, by corpus; kept in `references.json`."""
    uri = storage.join(study.folder, "references.json")
    known: dict[str, dict[str, float]] = storage.read_json(uri) if storage.exists(uri) else {}
    tokens = int(study.train.get("evaluation_tokens", 65536))
    wanted = {f"{result.corpus_fingerprint[:12]}/{tokens}": result.corpus for result in results}
    if set(known) != set(wanted):
        known = {key: text_references(open_corpus(c).split("validation"), tokens) for key, c in wanted.items()}
        storage.write_json(uri, known)
    return known


def print_trials(outcome: StudyResults, console: Console) -> None:
    table = Table(title=f"{outcome.study.study}: {len(outcome.results)} trials", title_justify="left")
    titles = ("trial", "state", "N", "tokens", "FLOPs", "bpb", "tokens/s", "codes in use", "training", "other time")
    for title in titles:
        table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
    for r in sorted(outcome.results, key=lambda r: (r.arch, r.parameters_non_embedding, r.name)):
        other = (r.seconds_overhead or 0.0) + (r.seconds_evaluation or 0.0)
        table.add_row(
            r.name,
            r.status,
            count(r.parameters_non_embedding),
            count(r.tokens),
            f"{r.flops:.1e}",
            "-" if r.bpb is None else f"{r.bpb:.3f}",
            "-" if r.tokens_per_second is None else count(r.tokens_per_second),
            "-" if r.code_perplexity is None else f"{r.code_perplexity:.0f} of {r.codebook_size}",
            "-" if r.seconds_training is None else f"{r.seconds_training:.1f} s",
            "-" if r.seconds_overhead is None else f"{other:.1f} s",
        )
    console.print(table)


def print_ratios(throughput: pd.DataFrame, console: Console) -> None:
    console.print("Training throughput of the VQ model over each baseline, at equal parameters (ratio of medians):")
    table = ratios(throughput)
    shown = Table()
    for column in table.columns:
        shown.add_column(str(column), justify="right")
    for values in table.itertuples(index=False):
        shown.add_row(*(f"{value:.2f}x" if isinstance(value, float) else str(value) for value in values))
    console.print(shown)


def _record(study: Study, outcome: StudyResults, written: list[str]) -> None:
    """The study's files as artifacts of its MLflow parent run, when anything is new."""
    tracker = open_tracker(study)
    parent = tracker.study_run({"question": study.question})
    prefix = study.folder.rstrip("/") + "/"
    figures = [uri.removeprefix(prefix) for uri in written if "/figures/" in uri]
    tracker.log_folder(parent, study.folder, [*ARTIFACTS, *figures])
    tracker.end(parent, "FAILED" if outcome.failed else "FINISHED")


def print_places(study: Study, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for what, where in (
        ("report", storage.join(study.folder, "report.html")),
        ("plots", storage.join(study.folder, "figures")),
        ("table", storage.join(study.folder, "results.csv")),
        ("MLflow", study.tracking.uri),
    ):
        table.add_row(what, escape(where))
    console.print(table)


def print_time(outcome: StudyResults, seconds: float, console: Console) -> None:
    if not outcome.trained_now:
        console.print(f"Nothing was left to train; {duration(seconds)} in all.", highlight=False)
        return
    console.print(f"{outcome.trained_now} trials trained now; {duration(seconds)} in all.", highlight=False)
