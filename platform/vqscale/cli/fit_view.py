"""Fits for people in a terminal: exponents, decisions, choices, comparisons, and what was refused or left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vqscale.cli.console import styled
from vqscale.formatting import percent, short_count
from vqscale.laws import Exclusion, Fit, Refusal, StudyFits
from vqscale.laws.decisions.compare import changed
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.forms.catalogue import exponents_of
from vqscale.laws.io.schema import (
    ComparedPoint,
    Comparison,
    Estimate,
    Frontier,
    HoldOut,
    Interval,
    IsoflopParabolas,
    ModelSelection,
    Optimum,
)
from vqscale.laws.validation.marks import freedom_of, points_of

T = TypeVar("T")

MOST_INSIDE = 5
"""Budgets within the data that are printed one by one."""
MOST_NAMED = 3
"""Runs that are left out for one reason and named one by one."""


def print_fits(fits: StudyFits, console: Console, written: Sequence[str]) -> None:
    """Everything that a person decides by; residuals, influence and variants are in `fits.json` and the report."""
    for law in dict.fromkeys(fit.law for fit in fits.fits):
        console.print(_exponents([fit for fit in fits.fits if fit.law == law]))
    leaders = leading_fits(fits.fits)
    in_full = _largest(leaders)
    for fit in leaders:
        shown = fit.frontiers if fit.id in in_full else fit.frontiers[:1]
        for frontier in shown:  # by exact FLOPs first, where they are known
            _print_frontier(fit, frontier, console, in_full=fit.id in in_full and frontier is shown[0])
    for selection in fits.selections:
        console.print(_selection(selection))
        for reason, names in _by_reason((one.reason, one.law) for one in selection.candidates if one.reason):
            console.print(_refused(f"{', '.join(names)}: {reason}"))
        console.print(Text(selection.description))
    for comparison in fits.comparisons:
        _print_comparison(comparison, console)
    for line in _lines(fits):
        console.print(line)
    for uri in written:
        console.print(Text(f"wrote {uri}"), soft_wrap=True)


def _exponents(fits: Sequence[Fit]) -> Table:
    """One law: a row per subset, a column per exponent with its 90 % interval."""
    used = {*exponents_of(fits[0]), "a"}
    names = [name for name in fits[0].parameters | fits[0].derived if name in used]
    names += ["E"] if fits[0].parameters["E"] else []  # a law without a floor has none
    intervals = "; 90 % intervals below the values" if any(fit.intervals for fit in fits) else ""
    table = plain_table(f"{fits[0].law}: {fits[0].form}, in {fits[0].unit}{intervals}")
    table.add_column("runs of")
    for column in (*names, "held-out error"):
        table.add_column(column, justify="right", no_wrap=True)
    for fit in fits:
        values = fit.parameters | fit.derived
        cells = [
            with_interval(Estimate(value=values[name], interval=fit.intervals.get(name)), _three) for name in names
        ]
        subset = styled("{}\n[dim]{} runs, {}[/dim]", fit.label, fit.n_runs, _goodness(fit))
        subset += styled("\n[yellow]marked: see below[/yellow]") if fit.marks else Text()
        table.add_row(subset, *cells, _holdout(fit.holdout))
    return table


def _goodness(fit: Fit) -> str:
    """R², or why it would say nothing."""
    if fit.r2_fit is not None:
        return f"R² {fit.r2_fit:.4f}"
    if points_of(fit) < freedom_of(fit):
        return f"{points_of(fit)} distinct points"
    return f"{freedom_of(fit)} degree{'' if freedom_of(fit) == 1 else 's'} of freedom"


def with_interval(estimate: Estimate, show: Callable[[float], str]) -> Text:
    """A value, and its 90 % interval on the line below."""
    limits = estimate.interval
    value = show(estimate.value)
    return styled("{}\n[dim]{}[/dim]", value, _span(limits, show)) if limits else Text(value)


def _span(interval: Interval, show: Callable[[float], str]) -> str:
    """The 90 % interval, with no two dashes in a row."""
    low, high = show(interval.low90), show(interval.high90)
    return f"{low} to {high}" if low[0] in "+-" else f"{low}-{high}"


def short(value: float) -> str:
    """Three significant digits, whatever the size."""
    return f"{value:.3g}" if value < 1e3 else short_count(value)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _holdout(holdout: HoldOut) -> Text:
    """The error of the law on the runs that it was not fitted to, and those of the baselines on the same runs."""
    if holdout.mean_relative_error is None:
        return Text("none")
    lines = [f"{percent(holdout.mean_relative_error, 2) or 'none'} on {len(holdout.points)} runs"]
    below = [f"\n{name} {percent(error, 2) or 'none'}" for name, error in holdout.baselines.items()]
    return styled("{}[dim]{}[/dim]", *lines, "".join(below))


def _largest(fits: Sequence[Fit]) -> set[str]:
    """Ids of the fits whose optima are printed budget by budget: of every architecture that with most runs."""
    chosen: dict[object, Fit] = {}
    for fit in fits:
        key = (fit.where.get("arch"), fit.where.get("head"))
        if key not in chosen or fit.n_runs > chosen[key].n_runs:
            chosen[key] = fit
    return {fit.id for fit in chosen.values()}


def _print_frontier(fit: Fit, frontier: Frontier, console: Console, *, in_full: bool) -> None:
    """A table of decisions, or the exponents in one line."""
    exponents = f"N* ~ C^{with_exponent(frontier.a)}, D* ~ C^{with_exponent(frontier.b)}"
    count_of_c = "exact C" if frontier.cost == "exact" else "C = 6ND"
    if not in_full:
        console.print(styled("[dim]{}[/dim]", f"{fit.label} ({fit.law}), {count_of_c}: {exponents}"))
        return
    table = plain_table(f"{fit.label} ({fit.law}), {count_of_c}: {exponents}")
    for column in ("C (FLOPs)", "N*", "D*", "D*/N*", "L*", "N within 1 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in _thinned(frontier.optima):
        budget = with_distance(f"{one.flops:.4g}", one.beyond)
        counts = [with_interval(each, short) for each in (one.parameters, one.tokens, one.tokens_per_parameter)]
        span = f"{short(one.parameters_low)}-{short(one.parameters_high)}"
        table.add_row(budget, *counts, with_interval(one.loss, _four), span)
    console.print(table)
    for one in _thinned(frontier.optima):
        if one.extrapolation:
            text = f"C = {one.flops:.4g}: {'; '.join(one.extrapolation)}"
            console.print(styled("[yellow]extrapolated[/yellow] {}", text))
    for reason, budgets in _by_reason((why, float(budget)) for budget, why in frontier.refused.items()):
        text = f"no optimum at C = {', '.join(f'{budget:.4g}' for budget in budgets)}: {reason}"
        console.print(_refused(text))


def beyond_the_data(times: float) -> str | Text:
    """Whether, and how far, something lies beyond the data."""
    return "no: within it" if times <= 1 else styled("[yellow]{} x: extrapolated[/yellow]", f"{times:.3g}")


def with_distance(budget: str, beyond: float) -> Text:
    """A budget, and how far it lies beyond the data."""
    return styled("{}\n[yellow]{} x the data[/yellow]", budget, f"{beyond:.3g}") if beyond > 1 else Text(budget)


def _refused(text: str) -> Text:
    return styled("[yellow]refused[/yellow] {}", text)


def _note(text: str) -> Text:
    return styled("[yellow]note[/yellow] {}", text)


def _thinned(optima: Sequence[Optimum]) -> list[Optimum]:
    """Of many budgets within the data the smallest, the middle and the largest; all beyond."""
    inside = [one for one in optima if one.beyond <= 1]
    kept = inside if len(inside) <= MOST_INSIDE else [inside[0], inside[len(inside) // 2], inside[-1]]
    return [*kept, *(one for one in optima if one.beyond > 1)]


def _ends(points: Sequence[ComparedPoint]) -> list[ComparedPoint]:
    """Of every kind of budget the smallest, the largest within the data, and what lies beyond."""
    kept = []
    for kind in dict.fromkeys(point.kind for point in points):
        own = [point for point in points if point.kind == kind]
        inside = [point for point in own if point.beyond <= 1]
        kept += [*inside[:1], *inside[1:][-1:], *(point for point in own if point.beyond > 1)]
    return kept


def _selection(selection: ModelSelection) -> Table:
    """Forms beside each other by held-out error; the chosen one is marked."""
    table = plain_table(f"Choice among forms by held-out error: {selection.label}")
    for column in ("law", "form"):
        table.add_column(column)
    for column in ("n", "held-out error"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in selection.candidates:
        name = styled("[bold]{} (chosen)[/bold]", one.law) if one.law == selection.chosen else Text(one.law)
        error = "refused" if one.held_out_error is None else percent(one.held_out_error, 2)
        table.add_row(name, Text(one.form), str(one.n_runs), error)
    return table


def _print_comparison(comparison: Comparison, console: Console) -> None:
    """What one architecture costs in units of the other, and their losses at equal budgets."""
    title = (
        f"{comparison.label} against {comparison.base_label}{f' ({known})' if (known := changed(comparison)) else ''}"
    )
    if comparison.reason:
        console.print(_refused(f"{title}: {comparison.reason}"))
        return
    table = plain_table(f"{title}: how many times the budget it needs for the same loss")
    for column in ("at equal", "budget", "loss", "its loss less the other's", "x the budget"):
        table.add_column(column, justify="left" if column == "at equal" else "right", no_wrap=True)
    for point in _ends(comparison.points):
        table.add_row(
            point.kind,
            with_distance(f"{point.budget:.4g} {point.unit}", point.beyond),
            styled("{}\n[dim]{}[/dim]", f"{point.loss.value:.4f}", f"{point.base_loss.value:.4f}"),
            with_interval(point.difference, lambda value: f"{value:+.4f}"),
            _multiplier(point),
        )
    console.print(table)
    for reason, points in _by_reason((point.reason, point) for point in comparison.points if point.reason):
        budgets = ", ".join(f"{point.budget:.4g} {point.unit}" for point in points)
        console.print(_refused(f"{title} at {budgets}: {reason}"))
    for reason, kinds in _by_reason((why, kind) for kind, why in comparison.skipped.items()):
        console.print(_refused(f"{title} at {', '.join(kinds)}: {reason}"))


def _multiplier(point: ComparedPoint) -> Text:
    return Text("refused") if point.multiplier is None else with_interval(point.multiplier, _three)


def _lines(fits: StudyFits) -> Iterable[Text]:
    """Diagnostics, warnings, refusals and exclusions, a line each."""
    for note in fits.notes:
        yield _note(note)
    for text in _isoflops(fits.isoflops):
        yield styled("[dim]parabolas (a diagnostic): {}[/dim]", text)
    for fit in fits.fits:
        for mark in fit.marks:
            yield styled("[yellow]marked[/yellow] {}", f"{fit.law}, {fit.label}: {mark}")
        for warning in fit.warnings:
            yield _note(f"{fit.law}, {fit.label}: {warning}")
        if fit.holdout.mean_relative_error is None:
            yield _note(f"{fit.law}, {fit.label}: {fit.holdout.description}")
    for text in _refusals(fits.refusals):
        yield _refused(text)
    for text in _exclusions(fits.excluded):
        yield styled("[dim]left out[/dim] {}", text)


def _isoflops(found: Sequence[IsoflopParabolas]) -> Iterable[str]:
    """Parabolas, a diagnostic only: a line per subset with a slope, one for all others."""
    for one in found:
        if one.a is not None:
            placed = sum(row.reason is None for row in one.rows)
            yield f"{one.label}: N* ~ C^{with_exponent(one.a)}, optimum inside at {placed} of {len(one.rows)} budgets"
    if without := sum(one.a is None for one in found):
        yield f"{without} subset{'' if without == 1 else 's'} without a slope"


def _refusals(refusals: Sequence[Refusal]) -> list[str]:
    """One line a refusal; subsets with too few runs share one line a law."""
    lines = [f"{one.law}, {one.label}: {one.reason}" for one in refusals if one.kind != "too few runs"]
    for law in dict.fromkeys(one.law for one in refusals):
        few = [one for one in refusals if one.law == law and one.kind == "too few runs"]
        if len(few) == 1:
            lines.append(f"{law}, {few[0].label}: {few[0].reason}")
        elif few:
            most = max(few, key=lambda one: one.n_runs)
            lines.append(f"{law}: {len(few)} subsets with too few runs; the largest is {most.label}: {most.reason}")
    return lines


def _exclusions(excluded: Sequence[Exclusion]) -> Iterable[str]:
    """Runs by the reason why they entered no fit; many runs with one reason share a line."""
    for reason, names in _by_reason((one.reason, one.name) for one in excluded):
        unique = list(dict.fromkeys(names))
        more = f" and {len(unique) - MOST_NAMED} more" if len(unique) > MOST_NAMED else ""
        yield f"{', '.join(unique[:MOST_NAMED])}{more}: {reason}"


def _by_reason(pairs: Iterable[tuple[str, T]]) -> Iterable[tuple[str, list[T]]]:
    """What shares a reason, together, in the order of first sight."""
    groups: dict[str, list[T]] = {}
    for reason, item in pairs:
        groups.setdefault(reason, []).append(item)
    return groups.items()


def with_exponent(estimate: Estimate) -> str:
    limits = estimate.interval
    return _three(estimate.value) + (f" ({_span(limits, _three)})" if limits else "")


def plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
