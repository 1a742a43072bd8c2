"""Laws fitted to the smaller runs and used to predict the larger ones: their errors, beside two baselines."""

from collections.abc import Iterator, Sequence

from vqscale.formatting import percent
from vqscale.laws import Fit
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import ModelSelection
from vqscale.reporting.charts.panel import Axis, ChartLayer, LineLayer, Panel, PointsLayer
from vqscale.reporting.charts.style import GREY, flops_axis, kind_of, number, power
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Notes, Prose, Section, TableBlock
from vqscale.reporting.sections.registered import prediction_table
from vqscale.reporting.tables import Table, TableCell

_TEXT = (
    'The laws were fitted to the smaller runs only and used to predict the largest. The baseline "last value" repeats'
    ' the best loss at the largest budget fitted, "power law" extrapolates a straight line in log loss over log C. A'
    " law that does not beat both adds nothing to them."
)
_REGISTERED = "Predictions that were registered before their runs had ended; a run that has not finished is pending."
_DASHES = {"last value": "dotted", "power law": "dashed"}
_NEAR = 0.01


def section(data: ReportData) -> Section | None:
    fits = data.fits.fits
    if not fits and not data.predictions:
        return None
    panels = [panel for panel in (_predicted(data), _windows(data)) if panel]
    blocks: list[Block] = [Prose(text=_TEXT)] if fits else []
    blocks += [Charts(panels=panels)] if panels else []
    blocks += [TableBlock(table=_hold_outs(data, fits))] if fits else []
    if windows := _window_table(data, fits):
        blocks.append(
            TableBlock(table=windows, fold=f"Expanding window: {len(windows.rows)} fits to the smaller budgets")
        )
    if data.predictions:
        blocks += [
            Heading(text="Pre-registered predictions"),
            Prose(text=_REGISTERED),
            TableBlock(table=prediction_table(data)),
        ]
    for selection in data.fits.selections:
        blocks += [Heading(text=f"Forms compared: {selection.label}"), *_selection(selection)]
    return Section(id="holdout", title="Tested on held-out runs", nav="Hold-out", blocks=blocks)


def _predicted(data: ReportData) -> Panel | None:
    """Predicted over measured, with the diagonal and one per cent on either side of it."""
    fits = [fit for fit in data.leading if fit.holdout.points]
    if not fits:
        return None
    measured = [point.measured for fit in fits for point in fit.holdout.points]
    ends = (0.99 * min(measured), 1.01 * max(measured))
    layers: list[ChartLayer] = [
        LineLayer(label="exact", group="exact", shade=GREY, x=ends, y=ends, width=1.2),
        *(
            LineLayer(group="exact", shade=GREY, x=ends, y=[(1 + off) * end for end in ends], dash="dotted", width=1)
            for off in (-_NEAR, _NEAR)
        ),
    ]
    layers += [_points(data, fit) for fit in fits]
    return Panel(
        name="holdout",
        title="Held-out runs: predicted over measured loss (dotted: one per cent off)",
        tab="predictions",
        x=Axis(name=f"measured ({data.unit})"),
        y=Axis(name=f"predicted ({data.unit})"),
        layers=layers,
        provenance="; ".join(fit_provenance(fit) for fit in fits),
    )


def _points(data: ReportData, fit: Fit) -> PointsLayer:
    name = data.name(fit.where, fit.label)
    points = fit.holdout.points
    return PointsLayer(
        label=name,
        shade=data.scheme.colour(kind_of(fit.where)),
        symbol=data.scheme.symbol(kind_of(fit.where)),
        x=[point.measured for point in points],
        y=[point.predicted for point in points],
        texts=[
            f"{p.name}<br>measured {number(p.measured)}, predicted {number(p.predicted)}"
            f" ({100 * (p.predicted / p.measured - 1):+.2f} %)"
            for p in points
        ],
    )


def _windows(data: ReportData) -> Panel | None:
    """Error on the next budgets over the largest budget that was fitted."""
    fits = [fit for fit in data.leading if any(one.mean_relative_error is not None for one in fit.holdout.windows)]
    if not fits:
        return None
    return Panel(
        name="expanding_window",
        title="Mean error on larger budgets over the largest one that was fitted",
        tab="expanding window",
        x=flops_axis("fitted up to (training FLOPs C)"),
        y=Axis(name="mean error (%)"),
        layers=[layer for fit in fits for layer in _window_lines(data, fit)],
        provenance="; ".join(fit_provenance(fit) for fit in fits),
    )


def _window_lines(data: ReportData, fit: Fit) -> Iterator[ChartLayer]:
    name = data.name(fit.where, fit.label)
    tint, symbol = (of(kind_of(fit.where)) for of in (data.scheme.colour, data.scheme.symbol))
    own = [(one.fitted_to, one.mean_relative_error, one) for one in fit.holdout.windows]
    known = [(budget, 100 * error, one) for budget, error, one in own if error is not None]
    yield PointsLayer(
        label=name,
        shade=tint,
        symbol=symbol,  # type: ignore[arg-type]
        joined=True,
        x=[budget for budget, _, _ in known],
        y=[error for _, error, _ in known],
        texts=[
            f"{name}<br>{one.fitted_runs} runs up to {power(budget)}: {error:.2f} % off on {one.predicted_runs}"
            for budget, error, one in known
        ],
    )
    for baseline, dash in _DASHES.items():
        part = [(one.fitted_to, one.baselines.get(baseline)) for one in fit.holdout.windows]
        shown = [(budget, 100 * error) for budget, error in part if error is not None]
        if shown:
            x, y = zip(*shown, strict=True)
            label = f"{name}: {baseline}"
            yield LineLayer(label=label, shade=tint, x=x, y=y, dash=dash, width=1.3)  # type: ignore[arg-type]


def _hold_outs(data: ReportData, fits: Sequence[Fit]) -> Table:
    baselines = list(dict.fromkeys(name for fit in fits for name in fit.holdout.baselines))
    rows: list[list[TableCell]] = []
    for fit in fits:
        held = fit.holdout
        cells: list[TableCell] = [(fit.law, fit.law), (data.name(fit.where, fit.label), fit.label)]
        cells.append(_percent(held.mean_relative_error))
        cells += [_percent(held.baselines.get(name)) for name in baselines]
        cells += [(number(held.r2, 3), held.r2 if held.r2 is not None else ""), (held.description, held.description)]
        rows.append(cells)
    return Table(headers=["law", "runs of", "mean error", *baselines, "R²", "what was held out"], rows=rows)


def _percent(share: float | None) -> TableCell:
    return (percent(share, 2), share) if share is not None else ("", "")


def _window_table(data: ReportData, fits: Sequence[Fit]) -> Table | None:
    baselines = list(dict.fromkeys(name for fit in fits for one in fit.holdout.windows for name in one.baselines))
    exponents = list(dict.fromkeys(name for fit in fits for one in fit.holdout.windows for name in one.exponents))
    rows: list[list[TableCell]] = []
    for fit in fits:
        name = data.name(fit.where, fit.label)
        for one in fit.holdout.windows:
            cells: list[TableCell] = [(fit.law, fit.law), (name, name), (power(one.fitted_to), one.fitted_to)]
            cells += [(str(runs), runs) for runs in (one.fitted_runs, one.predicted_runs)]
            cells += [_percent(error) for error in (one.mean_relative_error, *map(one.baselines.get, baselines))]
            cells += [(number(one.exponents.get(key), 3), one.exponents.get(key, "")) for key in exponents]
            rows.append([*cells, (one.reason or "", one.reason or "")])
    headers = ["law", "runs of", "fitted up to", "runs", "predicted", "mean error", *baselines, *exponents, "refused"]
    return Table(headers=headers, rows=rows) if rows else None


def _selection(selection: ModelSelection) -> Iterator[Block]:
    rows: list[list[TableCell]] = [
        [
            (one.law + (" (selected)" if one.law == selection.chosen else ""), one.law),
            (one.form, one.form),
            _percent(one.held_out_error),
            (str(one.n_runs), one.n_runs),
            (one.limits, one.limits),
            (one.reason or "", one.reason or ""),
        ]
        for one in selection.candidates
    ]
    headers = ["law", "form", "held-out error", "runs", "S and T to infinity", "refused"]
    yield Notes(lines=[selection.description])
    yield TableBlock(table=Table(headers=headers, rows=rows))
