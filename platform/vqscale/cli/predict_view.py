"""Predictions for people in a terminal."""

from collections.abc import Callable, Sequence

import pandas as pd
from rich.console import Console
from rich.text import Text

from vqscale.cli.console import styled
from vqscale.cli.fit_view import plain_table, short, with_interval
from vqscale.cli.parabolas_view import beside_the_law
from vqscale.formatting import duration, percent
from vqscale.laws.decisions.predictions import Prediction, PredictionScore
from vqscale.laws.decisions.query import LossResult, OptimumResult
from vqscale.laws.fitting.run_filter import rows_of


def print_answers(answers: Sequence[OptimumResult], table: pd.DataFrame, console: Console) -> None:
    """A column per architecture, a row per quantity, the 90 % interval below the value."""
    intervals = "; 90 % intervals below the values" if any(one.optimum.loss.interval for one in answers) else ""
    shown = plain_table(f"The best configuration{intervals}")
    shown.add_column("")
    for one in answers:
        shown.add_column(one.label, justify="right")
    rows: dict[str, Callable[[OptimumResult], str | Text]] = {
        "C (FLOPs)": lambda one: with_interval(one.flops, lambda value: f"{value:.4g}"),
        "N*": lambda one: with_interval(one.optimum.parameters, short),
        "N* by parabolas": lambda one: beside_the_law(one.parabolas),
        "D*": lambda one: with_interval(one.optimum.tokens, short),
        "D* / N*": lambda one: with_interval(one.optimum.tokens_per_parameter, short),
        "L*": lambda one: with_interval(one.optimum.loss, lambda value: f"{value:.4f}"),
        "in": lambda one: one.unit,
        "N within 1 % of L*": lambda one: f"{short(one.optimum.parameters_low)}-{short(one.optimum.parameters_high)}",
        "updates": lambda one: _updates(one, table),
        "training time": lambda one: "not measured" if one.seconds is None else duration(one.seconds),
        "cost": lambda one: "no price" if one.money is None else f"{one.money:.3g} {one.currency}",
        "extrapolated": lambda one: _extrapolated(one.optimum.extrapolation),
        "fit": lambda one: f"{one.law} {one.fit}",
    }
    for name, show in rows.items():
        shown.add_row(name, *(show(one) for one in answers))
    console.print(shown)
    for words in dict.fromkeys(one.cost for one in answers):
        console.print(f"FLOPs: {words}", style="dim", markup=False)
    _print_marks(answers, console)


def print_losses(losses: Sequence[LossResult], console: Console) -> None:
    """The loss of one run, a row per architecture."""
    if not losses:
        return
    intervals = "; 90 % intervals, with the scatter of single runs" if any(one.loss.interval for one in losses) else ""
    shown = plain_table(f"The loss of one run{intervals}")
    for column in ("runs of", "at", "loss", "in", "extrapolated", "fit"):
        shown.add_column(column)
    for one in losses:
        place = ", ".join(f"{letter} {short(value)}" for letter, value in one.x.items())
        loss = with_interval(one.loss, lambda value: f"{value:.4f}")
        shown.add_row(one.label, place, loss, one.unit, _extrapolated(one.extrapolation), f"{one.law} {one.fit}")
    console.print(shown)
    _print_marks(losses, console)


def _print_marks(results: Sequence[OptimumResult | LossResult], console: Console) -> None:
    """Why not to decide by the fits that answered."""
    for one in results:
        for mark in one.marks:
            console.print(styled("[yellow]marked[/yellow] {}", f"{one.law}, {one.label}: {mark}"))
        for warning in one.warnings:
            console.print(styled("[yellow]note[/yellow] {}", f"{one.law}, {one.label}: {warning}"))


def print_scores(scores: Sequence[PredictionScore], open_ones: Sequence[Prediction], console: Console) -> None:
    """What was predicted before its run, beside what the run gave."""
    if scores:
        shown = plain_table("Registered predictions, and what their runs gave")
        left = ("run", "by fit", "registered")
        for column in (*left, "predicted", "measured", "error", "inside 90 %"):
            shown.add_column(column, justify="left" if column in left else "right")
        for one in scores:
            said = one.prediction
            loss = with_interval(said.predicted, lambda value: f"{value:.4f}")
            inside = "" if one.inside_90 is None else "yes" if one.inside_90 else "no"
            fit = f"{said.law} {said.fit}" + (", marked" if said.marks else "")
            error = percent(one.relative_error, 2)
            shown.add_row(one.run, fit, when(one), loss, f"{one.measured:.4f}", error, inside)
        console.print(shown)
        mean = sum(abs(one.relative_error) for one in scores) / len(scores)
        runs = len({one.run for one in scores})
        console.print(f"{len(scores)} predictions of {runs} runs, mean error {percent(mean, 2)}.", highlight=False)
    if open_ones:
        console.print(f"{len(open_ones)} registered predictions are open: their runs have not finished.", style="dim")


def when(one: PredictionScore) -> str:
    """A prediction made while its run already trained is worth less: its training loss may have been seen."""
    return "" if one.before_start is None else "before its start" if one.before_start else "while it trained"


def _extrapolated(sentences: Sequence[str]) -> str | Text:
    return styled("[yellow]{}[/yellow]", "\n".join(sentences)) if sentences else "no: within the runs"


def _updates(one: OptimumResult, table: pd.DataFrame) -> str:
    """Updates at the batch of the fit's runs, where the table says it and all have one."""
    runs = rows_of(table, one.where)
    batches = list(runs["batch_tokens"].unique()) if "batch_tokens" in runs else []
    if len(batches) != 1:
        return "no single batch"
    return f"{short(one.optimum.tokens.value / float(batches[0]))} of {short(float(batches[0]))} tokens"
