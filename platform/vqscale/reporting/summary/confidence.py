"""Confidence: predictions of held-out runs beside the baselines, seed noise, refusals and warnings."""

from collections.abc import Iterator

from vqscale.formatting import percent
from vqscale.laws import Fit
from vqscale.reporting.charts.style import listed, plural
from vqscale.reporting.equal import seed_noise
from vqscale.reporting.report_data import ReportData, largest_fits

NAMED_REFUSALS = 4
"""Refusals that are named one by one; the others are counted."""


def confidence_sentences(data: ReportData) -> Iterator[str]:
    yield from _held_out(data)
    noise = seed_noise(data.runs, data.metric)
    if noise is not None:
        yield (
            f"Runs that differ in nothing but the seed differ by {percent(noise.relative, 2)}; smaller differences may"
            " be chance."
        )
    yield from _rough(data)
    against = [one for one in data.fits.refusals if one.kind == "not supported"]
    if against:
        named = [f"{one.law} of {data.name(one.where, one.label)}" for one in against[:NAMED_REFUSALS]]
        more = [f"{len(against) - NAMED_REFUSALS} more"] if len(against) > NAMED_REFUSALS else []
        yield f"No law is given where the runs do not follow the form: {listed([*named, *more])}."
    yield from _lost(data)


def _held_out(data: ReportData) -> Iterator[str]:
    """One sentence for the leading laws, and which of them did not beat a baseline."""
    fits = data.leading or largest_fits(data.fits.fits)
    tested = [fit for fit in fits if fit.holdout.mean_relative_error is not None]
    if tested:
        runs = sum(len(fit.holdout.points) for fit in tested)
        errors = ", ".join(f"{_error(fit.holdout.mean_relative_error)} ({_name(data, fit)})" for fit in tested)
        text = f"Fitted to the smaller runs only, the law was off by {errors} on {plural(runs, 'held-out larger run')}"
        yield "; ".join([text, *_baselines(tested)]) + "."
    beaten = [_name(data, fit) for fit in tested if _beaten(fit)]
    if beaten:
        yield f"For {listed(beaten)} a baseline predicted at least as well: do not extrapolate by that law."
    untested = [_name(data, fit) for fit in fits if fit.holdout.mean_relative_error is None]
    if untested:
        yield f"The law of {listed(untested)} was not tested on held-out runs."


def _name(data: ReportData, fit: Fit) -> str:
    return data.name(fit.where, fit.label)


def _error(share: float | None) -> str:
    return percent(share, 2)


def _baselines(tested: list[Fit]) -> Iterator[str]:
    for name in dict.fromkeys(name for fit in tested for name in fit.holdout.baselines):
        errors = [fit.holdout.baselines.get(name) for fit in tested]
        if all(error is not None for error in errors):
            yield f'the baseline "{name}" was off by {", ".join(_error(error) for error in errors)}'


def _beaten(fit: Fit) -> bool:
    own = fit.holdout.mean_relative_error
    others = [error for error in fit.holdout.baselines.values() if error is not None]
    return own is not None and bool(others) and min(others) <= own


def _rough(data: ReportData) -> Iterator[str]:
    rough = [fit for fit in data.fits.fits if fit.warnings]
    if rough:
        yield (
            f"{len(rough)} of {len(data.fits.fits)} fits rest on few runs or uncertain refits: read their intervals"
            " as rough."
        )


def _lost(data: ReportData) -> Iterator[str]:
    """Rows of isoFLOP curves whose optimum could not be placed."""
    rows = [row for one in data.fits.isoflops for row in one.rows]
    lost = [row for row in rows if row.reason is not None]
    if lost:
        yield f"At {len(lost)} of {len(rows)} budgets the sizes trained do not enclose a parabola's optimum."
