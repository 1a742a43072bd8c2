"""Confidence: predictions of held-out runs beside the baselines, seed noise, marked laws, refusals and warnings."""

from collections.abc import Iterator

from vqscale.formatting import percent
from vqscale.laws import Fit
from vqscale.reporting.charts.style import listed
from vqscale.reporting.claims.basis import basis_of, rows_of_fits
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.equal import POINT, seed_noise
from vqscale.reporting.report_data import ReportData, largest_fits
from vqscale.reporting.summary.findings import main_comparisons
from vqscale.reporting.trust import laws_behind, trust

NAMED_REFUSALS = 4
"""Refusals that are named one by one; the others are counted."""


def confidence_claims(data: ReportData) -> Iterator[Claim]:
    yield from _seeds(data)
    yield from _held_out(data)
    yield from _marked(data)
    yield from _rough(data)
    yield from _refused(data)
    yield from _lost(data)


def _seeds(data: ReportData) -> Iterator[Claim]:
    noise = seed_noise(data.runs, data.metric)
    if noise is None:
        return
    keys = [name for name in POINT if name in data.runs]
    repeated = data.runs[data.runs.groupby(keys, dropna=False)["seed"].transform("nunique") > 1]
    if data.classifies:
        within = repeated.groupby(keys, dropna=False)["accuracy"].var(ddof=1)
        counts = repeated.groupby(keys, dropna=False)["accuracy"].count() - 1
        points = 100 * float((within * counts).sum() / counts.sum()) ** 0.5
        spread = fig(
            points, f"{points:.1f} points", "standard deviation of the accuracy between seeds, pooled, per cent"
        )
        spread = f"{spread} of accuracy"
    else:
        text = percent(noise.relative, 2)
        spread = fig(noise.relative, text, "standard deviation of the log loss between seeds, pooled")
    runs = fig(noise.runs, str(noise.runs), "runs at points with several seeds")
    places = fig(noise.points, str(noise.points), "points with several seeds")
    yield Claim.of(
        f"Runs that differ in nothing but the seed differ by {spread} ({runs} runs at {places}"
        f" point{'' if noise.points == 1 else 's'}); smaller differences may be chance.",
        basis_of(data, repeated),
    )


def _held_out(data: ReportData) -> Iterator[Claim]:
    """One sentence for the leading laws, and which of them did not beat a baseline."""
    fits = data.leading or largest_fits(data.fits.fits)
    tested = [fit for fit in fits if fit.holdout.mean_relative_error is not None]
    if tested:
        yield _errors(data, tested)
    untested = [fit for fit in fits if fit.holdout.mean_relative_error is None]
    if untested:
        names = listed([_name(data, fit) for fit in untested])
        yield Claim.of(f"The law of {named(names)} was not tested on held-out runs.", _basis(data, untested))


def _errors(data: ReportData, tested: list[Fit]) -> Claim:
    runs = sum(len(fit.holdout.points) for fit in tested)
    errors = ", ".join(
        f"{_error(fit.holdout.mean_relative_error, f'error of the law of {_name(data, fit)} on held-out runs')}"
        f"{f' ({named(_name(data, fit))})' if fit.where else ''}"
        for fit in tested
    )
    counted = (
        "one held-out larger run" if runs == 1 else f"{fig(runs, str(runs), 'held-out runs')} held-out larger runs"
    )
    text = f"Fitted to the smaller runs only, the law was off by {errors} on {counted}"
    return Claim.of("; ".join([text, *_baselines(data, tested)]) + ".", _basis(data, tested))


def _basis(data: ReportData, fits: list[Fit]) -> Basis:
    baselines = list(dict.fromkeys(name for fit in fits for name in fit.holdout.baselines))
    return basis_of(data, rows_of_fits(data, fits), laws=fits, baselines=baselines)


def _name(data: ReportData, fit: Fit) -> str:
    return data.name(fit.where, fit.label)


def _error(share: float | None, quantity: str) -> str:
    return fig(share, percent(share, 2), quantity)


def _baselines(data: ReportData, tested: list[Fit]) -> Iterator[str]:
    for name in dict.fromkeys(name for fit in tested for name in fit.holdout.baselines):
        errors = [fit.holdout.baselines.get(name) for fit in tested]
        if all(error is not None for error in errors):
            shown = [
                _error(error, f'error of the baseline "{name}" of {_name(data, fit)}')
                for fit, error in zip(tested, errors, strict=True)
            ]
            yield f'the baseline "{named(name)}" was off by {", ".join(shown)}'


def _marked(data: ReportData) -> Iterator[Claim]:
    """Laws that this page does not extrapolate, and why: decided by `trust`, as for every figure and sentence."""
    compared = [where for one in main_comparisons(data) for where in (one.where, one.base)]
    named_ones = data.leading or largest_fits(data.fits.fits)
    others = [fit for fit in laws_behind(data.fits, *compared) if fit.id not in {one.id for one in named_ones}]
    for fit in (*named_ones, *others):
        reasons = trust(fit).reasons
        if reasons:
            text = f"Nothing is extrapolated by the law of {named(_name(data, fit))}: {named('; '.join(reasons))}."
            yield Claim.of(text, _basis(data, [fit]))


def _rough(data: ReportData) -> Iterator[Claim]:
    rough = [fit for fit in data.fits.fits if fit.warnings]
    if rough:
        some = fig(len(rough), str(len(rough)), "fits with warnings")
        every = fig(len(data.fits.fits), str(len(data.fits.fits)), "fits")
        yield Claim.of(
            f"{some} of {every} fits rest on few runs or uncertain refits: read their intervals as rough.",
            basis_of(data, rows_of_fits(data, rough), losses=False, measured="warnings of the fits"),
        )


def _refused(data: ReportData) -> Iterator[Claim]:
    against = [one for one in data.fits.refusals if one.kind == "not supported"]
    if not against:
        return
    names = [named(f"{one.law} of {data.name(one.where, one.label)}") for one in against[:NAMED_REFUSALS]]
    more = len(against) - NAMED_REFUSALS
    names += [f"{fig(more, str(more), 'further refused laws')} more"] if more > 0 else []
    yield Claim.of(
        f"No law is given where the runs do not follow the form: {listed(names)}.",
        Basis(measured=f"{len(against)} refused fits, each with its reason in the section on fitted laws"),
    )


def _lost(data: ReportData) -> Iterator[Claim]:
    """Rows of isoFLOP curves whose optimum could not be placed."""
    rows = [row for one in data.fits.isoflops for row in one.rows]
    lost = [row for row in rows if row.reason is not None]
    if lost:
        some, every = (
            fig(len(lost), str(len(lost)), "budgets without a vertex"),
            fig(len(rows), str(len(rows)), "budgets"),
        )
        yield Claim.of(
            f"At {some} of {every} budgets the sizes trained do not enclose a parabola's optimum.",
            Basis(measured="the isoFLOP parabolas of all subsets"),
        )
