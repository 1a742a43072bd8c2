"""Findings: the best run, the best architecture, the best size, the effect of codebook and context, speed."""

from collections.abc import Callable, Iterator, Sequence

from vqscale.formatting import percent, short_count
from vqscale.laws import Fit
from vqscale.laws.io.schema import BudgetKind, ComparedPoint, Comparison, Estimate, Interval, Optimum
from vqscale.reporting.charts.style import architecture, listed, number, plural, power, whole
from vqscale.reporting.equal import EqualGroup, equal_groups, seed_noise
from vqscale.reporting.references import levels
from vqscale.reporting.report_data import ReportData, largest_fits, shown_frontier
from vqscale.reporting.sections.architectures import BUDGET_LABELS, budget_of, equal_sizes
from vqscale.reporting.sections.classes import best_run, classified, guess, over_seeds
from vqscale.reporting.throughput.speed_comparison import speed_comparisons

_SAME_BUDGET = 0.95
"""Ratio of two budgets from which they count as one: the largest that two laws share depends on the pair."""
_VARIED = {"codebook_size": ("S", "codebook size"), "context": ("T", "context length")}


def finding_sentences(data: ReportData) -> Iterator[str]:
    yield from _best_run(data)
    winners = [sentence for kind in ("compute", "time", "money") if (sentence := _winner(data, kind))]
    if winners:
        yield " ".join(winners)
    yield from _multipliers(data) if data.fits.comparisons else equal_sizes(data)
    yield from _sizes(data)
    for column in _VARIED:
        yield from _advice(data, column)
    if data.throughput is not None:
        yield from (sentence for one in speed_comparisons(data.throughput) for sentence in one.at(one.longest))


def _best_run(data: ReportData) -> Iterator[str]:
    """The lowest loss beside the compressors; a table whose columns were named for its fit alone has none here."""
    runs = data.runs
    if runs.empty:
        if not data.fits.fits:
            yield "No run has finished with a held-out loss, so nothing can be concluded yet."
        return
    if data.classifies and runs["accuracy"].notna().any():
        yield _most_accurate(data)
        return
    best = runs.sort_values(data.metric).iloc[0]
    name = str(best["name"]) if "name" in runs else f"row {best.name}"
    text = f"The best of {len(runs)} finished runs, {name}, reaches {number(best[data.metric])} {data.unit}"
    if data.metric != "bpb":
        yield f"{text}."
        return
    known = levels(data.references, best.get("corpus_fingerprint"))
    yield "; ".join([f"{text} on held-out text", *_beside(float(best["bpb"]), known)]) + "."


def _most_accurate(data: ReportData) -> str:
    """The best group of runs that differ in their seed alone, beside a constant prediction."""
    best = over_seeds(classified(data))[0]
    level, name = guess(best_run(best.rows))
    seeds = f", mean of {len(best.rows)} seeds," if len(best.rows) > 1 else ""
    return (
        f"The most accurate of {plural(len(data.runs), 'finished run')}, {best.label}{seeds} predicts"
        f" {percent(best.mean('accuracy'))} of the held-out labels correctly; {name} reaches {percent(level)}."
    )


def _beside(bpb: float, known: dict[str, float]) -> Iterator[str]:
    for name, level in known.items():
        change = bpb / level - 1
        yield f"{percent(abs(change))} {'below' if change < 0 else 'above'} {name} ({number(level)})"


def main_comparisons(data: ReportData) -> list[Comparison]:
    """Those between leading laws; without any, all."""
    leading = [fit.where for fit in data.leading]
    found = [one for one in data.fits.comparisons if one.where in leading and one.base in leading]
    return found or data.fits.comparisons


def measured(one: Comparison, kind: BudgetKind) -> ComparedPoint | None:
    """The comparison at the largest budget that both were measured at."""
    inside = [point for point in one.points if point.kind == kind and point.beyond <= 1]
    return max(inside, key=lambda point: point.budget, default=None)


def _winner(data: ReportData, kind: BudgetKind) -> str:
    """The architecture of the lowest loss at the largest measured budget, and which differences may be chance."""
    pairs = [(one, point) for one in main_comparisons(data) if (point := measured(one, kind)) is not None]
    largest = max((point.budget for _, point in pairs), default=0.0)
    pairs = [(one, point) for one, point in pairs if point.budget >= _SAME_BUDGET * largest]
    if not pairs:
        return ""
    losses: dict[str, float] = {}
    for one, point in pairs:
        losses[data.name(one.where, one.label)] = point.loss.value
        losses[data.name(one.base, one.base_label)] = point.base_loss.value
    best = min(losses, key=lambda name: losses[name])
    close = [other for other in losses if other != best and not _apart(data, pairs, best, other)]
    caveat = f", though the difference to {listed(close)} may be chance" if close else ""
    others = listed([name for name in losses if name != best])
    return f"At {BUDGET_LABELS[kind]} ({budget_of(pairs[0][1])}), {best} has a lower loss than {others}{caveat}."


def _apart(data: ReportData, pairs: Sequence[tuple[Comparison, ComparedPoint]], best: str, other: str) -> bool:
    """Whether the interval of the difference of the two leaves out zero; True where they were not compared at all."""
    for one, point in pairs:
        if {data.name(one.where, one.label), data.name(one.base, one.base_label)} == {best, other}:
            return _side(point.difference.interval, 0.0) != 0
    return True


def _side(interval: Interval | None, level: float) -> int:
    """-1 or 1 where all of the 90 % interval lies below or above a level, else 0."""
    if interval is None:
        return 0
    return int(interval.low90 > level) - int(interval.high90 < level)


def _multipliers(data: ReportData) -> Iterator[str]:
    """One sentence for each architecture that was compared with others: its factors in compute and in time."""
    found = main_comparisons(data)
    for name in dict.fromkeys(data.name(one.where, one.label) for one in found):
        mine = [one for one in found if data.name(one.where, one.label) == name]
        parts = [factors for kind in ("compute", "time") if (factors := _factors(data, mine, kind))]
        if parts:
            yield f"For the same loss, {name} needs {'; and '.join(parts)}."
        yield from (_without_factor(data, one, kind) for one in mine for kind in ("compute", "time")
                    if (point := measured(one, kind)) and point.multiplier is None)  # fmt: skip


def _factors(data: ReportData, mine: Sequence[Comparison], kind: BudgetKind) -> str:
    points = [(one, point) for one in mine if (point := measured(one, kind)) and point.multiplier]
    if not points:
        return ""
    parts = [
        f"{number(point.multiplier.value, 3)} times{_ends(point.multiplier)} that of"
        f" {data.name(one.base, one.base_label)}{_verdict(point.multiplier)}"
        for one, point in points
        if point.multiplier
    ]
    return f"in {kind}, at {budget_of(points[0][1])}, {listed(parts)}"


def _verdict(factor: Estimate) -> str:
    return "" if factor.interval is None or _side(factor.interval, 1.0) else ", which may be equal"


def _ends(estimate: Estimate, show: Callable[[float], str] = "{:.3g}".format) -> str:
    return f" ({show(estimate.interval.low90)} to {show(estimate.interval.high90)})" if estimate.interval else ""


def _without_factor(data: ReportData, one: Comparison, kind: BudgetKind) -> str:
    point = measured(one, kind)
    assert point is not None
    change = point.difference.value / point.base_loss.value
    side = "above" if change > 0 else "below"
    return (
        f"At {BUDGET_LABELS[kind]} ({budget_of(point)}), the loss of {data.name(one.where, one.label)} is"
        f" {percent(abs(change), 2)} {side} that of {data.name(one.base, one.base_label)}; no factor is given:"
        f" {point.reason}."
    )


def largest_optimum(fit: Fit) -> Optimum | None:
    """At the largest fitted budget whose optimum lies within the sizes tried."""
    found = shown_frontier(fit)
    inside = [one for one in found.optima if one.beyond <= 1 and one.outside <= 1] if found else []
    return max(inside, key=lambda one: one.flops, default=None)


def _sizes(data: ReportData) -> Iterator[str]:
    """The best size for the largest budget; without a frontier the exponents, without a law in N and D one in N."""
    optima = [(fit, one) for fit in data.leading if (one := largest_optimum(fit)) is not None]
    if optima:
        parts = [
            f"{data.name(fit.where, fit.label)} {short_count(one.parameters.value)} parameters"
            f"{_ends(one.parameters, short_count)} on {short_count(one.tokens.value)} tokens, within 1 % from"
            f" {short_count(one.parameters_low)} to {short_count(one.parameters_high)}"
            for fit, one in optima
        ]
        yield f"Best size for {power(optima[0][1].flops)} FLOPs, with 90 % intervals: {'; '.join(parts)}."
    elif data.leading:
        yield from (_allocation(data, fit) for fit in data.leading)
    else:
        yield from (_doubling(data, fit) for fit in largest_fits(one for one in data.fits.fits if one.law == "power_n"))


def _allocation(data: ReportData, fit: Fit) -> str:
    interval = fit.intervals.get("a")
    size = f"C^{number(fit.derived['a'], 3)}{_ends(Estimate(value=fit.derived['a'], interval=interval))}"
    text = f"C^{number(fit.derived['b'], 3)}"
    name = data.name(fit.where, fit.label)
    return f"{name}: with compute C, the best size grows as {size}, the training text as {text}."


def _doubling(data: ReportData, fit: Fit) -> str:
    largest = max(fit.points, key=lambda point: point.x[0])
    exponent = fit.parameters["alpha"]
    # (L - E) is A N^-alpha, of which doubling N leaves 2^-alpha.
    gain = (largest.predicted - fit.parameters["E"]) * (1 - 2**-exponent) / largest.predicted
    return (
        f"{data.name(fit.where, fit.label)}: doubling the largest model ({short_count(largest.x[0])} parameters) would"
        f" lower the loss by {percent(gain)}, if the law L = E + A N^-{number(exponent, 3)} holds"
        f"{_ends(Estimate(value=exponent, interval=fit.intervals.get('alpha')))}."
    )


def _advice(data: ReportData, column: str) -> Iterator[str]:
    """Which value of a varied column is best, by architecture, on average over the groups that have all values."""
    letter, noun = _VARIED[column]
    noise = seed_noise(data.runs, data.metric)
    for equal in ("compute", "tokens"):
        parts = []
        by_arch: dict[str, list[EqualGroup]] = {}
        for one in equal_groups(data.runs, column, data.metric, equal):
            by_arch.setdefault(one.arch, []).append(one)
        for arch, members in sorted(by_arch.items(), key=lambda pair: data.scheme.place(pair[0])):
            parts.append(f"{architecture(arch)} {_best_value(members, letter, noise.relative if noise else None)}")
        if parts:
            yield f"Best {noun} at equal {equal}: {'; '.join(parts)}."


def _best_value(members: list[EqualGroup], letter: str, noise: float | None) -> str:
    """The value with the lowest mean loss, and how far the others lie above it, over the groups with most values."""
    most = max(len(one.values) for one in members)
    whole_ones = [one for one in members if one.values == next(g.values for g in members if len(g.values) == most)]
    values = whole_ones[0].values
    means = [sum(one.relative[place] for one in whole_ones) / len(whole_ones) for place in range(len(values))]
    best = min(range(len(values)), key=lambda place: means[place])
    above = [means[place] - means[best] for place in range(len(values))]
    others = [f"{whole(value)}: +{percent(above[place], 2)}" for place, value in enumerate(values) if place != best]
    # The means are over several groups: their noise is that of one run over the root of their number.
    close = noise is not None and min(above[:best] + above[best + 1 :]) < 2 * noise / len(whole_ones) ** 0.5
    caveat = ", though not clearly" if close else ""
    return f"{letter} = {whole(values[best])}{caveat} ({', '.join(others)})"
