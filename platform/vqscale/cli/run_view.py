"""What `vqscale run` prints: progress while it trains, then tables, laws and places."""

import shlex

import pandas as pd
from rich.console import Console
from rich.table import Table

from vqscale import storage
from vqscale.cli.error_view import error_notes, with_error
from vqscale.cli.fit_view import print_fits
from vqscale.cli.live_table import QUALITY, LiveTable, quality, quality_error
from vqscale.cli.predict_view import print_scores
from vqscale.cli.progress import RoundsBar
from vqscale.cli.throughput_view import conclusions
from vqscale.formatting import duration, short_count
from vqscale.laws import StudyFits
from vqscale.study.spec import Study
from vqscale.workflow.predictions import Registry
from vqscale.workflow.training import TrainingRun

SHOWN = 200
"""Rows of the table at the end; nobody reads ten thousand in a terminal."""


class RunView(LiveTable):
    """The live table, then what each later step of a run found."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rounds = RoundsBar()

    def __enter__(self) -> "RunView":
        return self

    def __exit__(self, *_: object) -> None:
        self._rounds.stop()

    def trained(self, training: TrainingRun) -> None:
        print_trials(training, self._console)

    def fitted(self, fits: StudyFits, registry: Registry) -> None:
        print_fits(fits, self._console, [])
        print_scores(registry.scores, registry.pending, self._console)

    def throughput_round(self, text: str, done: int, total: int) -> None:
        self._rounds.update(text, done, total)

    def throughput_measured(self, table: pd.DataFrame) -> None:
        self._rounds.stop()
        for sentence in conclusions(table):
            self._console.print(sentence, markup=False, highlight=False)


def print_trials(outcome: TrainingRun, console: Console) -> None:
    table = Table(title=f"{outcome.study.study}: {len(outcome.results)} trials", title_justify="left")
    measure = QUALITY[outcome.study.task]
    titles = ("trial", "state", "N", "tokens", "FLOPs", measure, "tokens/s", "codes in use", "training", "other time")
    for title in titles:
        table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
    for r in sorted(outcome.results, key=lambda r: (r.arch, r.parameters_non_embedding, r.name))[:SHOWN]:
        other = (r.seconds_overhead or 0.0) + (r.seconds_evaluation or 0.0)
        table.add_row(
            r.name,
            r.status,
            short_count(r.parameters_non_embedding),
            short_count(r.tokens),
            f"{r.flops:.1e}",
            with_error(quality(r), quality_error(r)),
            "-" if r.tokens_per_second is None else short_count(r.tokens_per_second),
            "-" if r.code_perplexity is None else f"{r.code_perplexity:.0f} of {r.codebook_size}",
            "-" if r.seconds_training is None else f"{r.seconds_training:.1f} s",
            "-" if r.seconds_overhead is None else f"{other:.1f} s",
        )
    console.print(table)
    if len(outcome.results) > SHOWN:
        console.print(f"{SHOWN} of {len(outcome.results)} trials: results.csv holds all.")
    for sentence in error_notes(outcome.results):
        console.print(sentence, markup=False, highlight=False)


def print_places(study: Study, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for what, where in (
        ("report", storage.join(study.folder, "report.html")),
        ("plots", storage.join(study.folder, "figures")),
        ("table", storage.join(study.folder, "results.csv")),
        ("MLflow", f"{study.tracking.uri}  (vqscale ui {shlex.quote(study.folder)} opens it)"),
    ):
        table.add_row(what, where)
    console.print(table)


def print_time(outcome: TrainingRun, seconds: float, console: Console) -> None:
    if not outcome.trained_now:
        console.print(f"Nothing was left to train; {duration(seconds)} in all.", highlight=False)
        return
    training, groups = outcome.trained.seconds, outcome.trained.worker_groups
    spent = outcome.seconds * groups
    head = f"{outcome.trained_now} trials in {duration(outcome.seconds)}"
    if spent:
        each = (spent - training) / outcome.trained_now
        head += (
            f" on {groups} worker groups, of which {training / spent:.0%} was training: {each:.1f} s per trial were not"
        )
    console.print(f"{head}. {duration(seconds)} in all.", highlight=False)
