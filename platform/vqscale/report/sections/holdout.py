"""Fitted on the small, asked for the large: how far off the laws were, beside two baselines."""

from collections.abc import Iterator, Sequence

from vqscale.laws import Fit
from vqscale.laws.io.export import provenance
from vqscale.laws.io.schema import Selection
from vqscale.report.charts.panel import Axis, Layer, Line, Panel, Points
from vqscale.report.charts.style import GREY, flops_axis, number, percent, power
from vqscale.report.report_data import Material
from vqscale.report.section import Block, Charts, Heading, Notes, Prose, Section, Shown
from vqscale.report.sections.registered import registered
from vqscale.report.tables import Table, TableCell

_TEXT = (
    'The laws were fitted to the smaller runs only and asked for the largest. "Last value" expects what the nearest'
    ' smaller run reached, "power law" a straight line in log loss over log C. A law that does not beat both has'
    " predicted nothing."
)
_REGISTERED = (
    "Predictions that were written down before their runs had ended; a run that has not finished is still open."
)
_DASHES = {"last value": "dotted", "power law": "dashed"}
_NEAR = 0.01


def section(material: Material) -> Section | None:
    fits = material.fits.fits
    if not fits and not material.predictions:
        return None
    panels = [panel for panel in (_predicted(material), _windows(material)) if panel]
    blocks: list[Block] = [Prose(text=_TEXT)] if fits else []
    blocks += [Charts(panels=panels)] if panels else []
    blocks += [Shown(table=_hold_outs(material, fits))] if fits else []
    if windows := _window_table(material, fits):
        blocks.append(Shown(table=windows, fold=f"Expanding window: {len(windows.rows)} fits to the smaller budgets"))
    if material.predictions:
        blocks += [Heading(text="Registered predictions"), Prose(text=_REGISTERED), Shown(table=registered(material))]
    for selection in material.fits.selections:
        blocks += [Heading(text=f"Forms compared: {selection.label}"), *_selection(selection)]
    return Section(id="holdout", title="Tested on held-out runs", nav="Hold-out", blocks=blocks)


def _predicted(material: Material) -> Panel | None:
    """Predicted over measured, with the diagonal and one per cent on either side of it."""
    fits = [fit for fit in material.leading if fit.holdout.points]
    if not fits:
        return None
    measured = [point.measured for fit in fits for point in fit.holdout.points]
    ends = (0.99 * min(measured), 1.01 * max(measured))
    layers: list[Layer] = [
        Line(label="exact", group="exact", shade=GREY, x=ends, y=ends, width=1.2),
        *(
            Line(group="exact", shade=GREY, x=ends, y=[(1 + off) * end for end in ends], dash="dotted", width=1)
            for off in (-_NEAR, _NEAR)
        ),
    ]
    layers += [_points(material, fit) for fit in fits]
    return Panel(
        name="holdout",
        title="Held-out runs: predicted over measured loss (dotted: one per cent off)",
        tab="predictions",
        x=Axis(name=f"measured ({material.unit})"),
        y=Axis(name=f"predicted ({material.unit})"),
        layers=layers,
        rests_on="; ".join(provenance(fit) for fit in fits),
    )


def _points(material: Material, fit: Fit) -> Points:
    name = material.name(fit.where, fit.label)
    points = fit.holdout.points
    return Points(
        label=name,
        shade=material.scheme.colour(fit.where.get("arch")),
        symbol=material.scheme.symbol(fit.where.get("arch")),
        x=[point.measured for point in points],
        y=[point.predicted for point in points],
        texts=[
            f"{p.name}<br>measured {number(p.measured)}, predicted {number(p.predicted)}"
            f" ({100 * (p.predicted / p.measured - 1):+.2f} %)"
            for p in points
        ],
    )


def _windows(material: Material) -> Panel | None:
    """Error on the next budgets over the largest budget that was fitted."""
    fits = [fit for fit in material.leading if any(one.mean_relative_error is not None for one in fit.holdout.windows)]
    if not fits:
        return None
    return Panel(
        name="expanding_window",
        title="Mean error on larger budgets over the largest one that was fitted",
        tab="expanding window",
        x=flops_axis("fitted up to (training FLOPs C)"),
        y=Axis(name="mean error (%)"),
        layers=[layer for fit in fits for layer in _window_lines(material, fit)],
        rests_on="; ".join(provenance(fit) for fit in fits),
    )


def _window_lines(material: Material, fit: Fit) -> Iterator[Layer]:
    name = material.name(fit.where, fit.label)
    tint, symbol = (of(fit.where.get("arch")) for of in (material.scheme.colour, material.scheme.symbol))
    own = [(one.fitted_to, one.mean_relative_error, one) for one in fit.holdout.windows]
    known = [(budget, 100 * error, one) for budget, error, one in own if error is not None]
    yield Points(
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
            yield Line(label=label, shade=tint, x=x, y=y, dash=dash, width=1.3)  # type: ignore[arg-type]


def _hold_outs(material: Material, fits: Sequence[Fit]) -> Table:
    baselines = list(dict.fromkeys(name for fit in fits for name in fit.holdout.baselines))
    rows: list[list[TableCell]] = []
    for fit in fits:
        held = fit.holdout
        cells: list[TableCell] = [(fit.law, fit.law), (material.name(fit.where, fit.label), fit.label)]
        cells.append(_percent(held.mean_relative_error))
        cells += [_percent(held.baselines.get(name)) for name in baselines]
        cells += [(number(held.r2, 3), held.r2 if held.r2 is not None else ""), (held.description, held.description)]
        rows.append(cells)
    return Table(headers=["law", "runs of", "mean error", *baselines, "R²", "what was held out"], rows=rows)


def _percent(share: float | None) -> TableCell:
    return (percent(share, 2), share) if share is not None else ("", "")


def _window_table(material: Material, fits: Sequence[Fit]) -> Table | None:
    baselines = list(dict.fromkeys(name for fit in fits for one in fit.holdout.windows for name in one.baselines))
    exponents = list(dict.fromkeys(name for fit in fits for one in fit.holdout.windows for name in one.exponents))
    rows: list[list[TableCell]] = []
    for fit in fits:
        name = material.name(fit.where, fit.label)
        for one in fit.holdout.windows:
            cells: list[TableCell] = [(fit.law, fit.law), (name, name), (power(one.fitted_to), one.fitted_to)]
            cells += [(str(runs), runs) for runs in (one.fitted_runs, one.predicted_runs)]
            cells += [_percent(error) for error in (one.mean_relative_error, *map(one.baselines.get, baselines))]
            cells += [(number(one.exponents.get(key), 3), one.exponents.get(key, "")) for key in exponents]
            rows.append([*cells, (one.reason or "", one.reason or "")])
    headers = ["law", "runs of", "fitted up to", "runs", "predicted", "mean error", *baselines, *exponents, "refused"]
    return Table(headers=headers, rows=rows) if rows else None


def _selection(selection: Selection) -> Iterator[Block]:
    rows: list[list[TableCell]] = [
        [
            (one.law + (" (chosen)" if one.law == selection.chosen else ""), one.law),
            (one.form, one.form),
            _percent(one.held_out_error),
            (str(one.n_runs), one.n_runs),
            (one.limits, one.limits),
            (one.reason or "", one.reason or ""),
        ]
        for one in selection.candidates
    ]
    headers = ["law", "form", "held-out error", "runs", "S and T to infinity", "refused"]
    yield Notes(lines=[selection.words])
    yield Shown(table=Table(headers=headers, rows=rows))
