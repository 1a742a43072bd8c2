"""Findings: the best run, architectures at equal budgets, the best size, the effect of codebook and context, speed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.formatting import percent, short_count
from vqscale.laws import Fit
from vqscale.laws.io.schema import BudgetKind, ComparedPoint, Comparison, Estimate, Interval, Optimum
from vqscale.reporting.charts.style import architecture, listed, number, plural, power, present, whole
from vqscale.reporting.claims.basis import TWO_THINGS, basis_of, rows_of_fits, seed_remark, seeds_of, two_things
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.claims.pairs import text_error
from vqscale.reporting.compare import mean_text_error
from vqscale.reporting.equal import EqualGroup, equal_groups, seed_noise
from vqscale.reporting.references import after, fair, found_for, text_of
from vqscale.reporting.report_data import ReportData, largest_fits, shown_frontier
from vqscale.reporting.sections.architectures import BUDGET_LABELS, budget_of
from vqscale.reporting.trust import laws_behind, trust
from vqscale.results.references import References

_SAME_BUDGET = 0.95
"""Ratio of two budgets from which they count as one: the largest that two laws share depends on the pair."""
VARIED = {"codebook_size": ("S", "codebook size"), "context": ("T", "context length")}


def finding_claims(data: ReportData) -> Iterator[Claim]:
    yield from best_run(data)
    yield from _winners(data)
    yield from _multipliers(data)
    yield from best_sizes(data)
    for column in VARIED:
        yield from best_values(data, column)


def best_run(data: ReportData) -> Iterator[Claim]:
    """The lowest loss beside the compressors; a table whose columns were named for its fit alone has none here."""
    runs = data.runs
    if runs.empty:
        if not data.fits.fits:
            text = "No run has finished with a held-out loss, so nothing can be concluded yet."
            if data.metric not in data.table and "trial_id" not in data.table:
                text = (
                    f"No column of the table is known as a loss ({named(data.metric)} is looked for): name it with"
                    " `vqscale fit TABLE --metric COLUMN`, and report again."
                )
            yield Claim.of(text, Basis(measured="the table of runs"))
        return
    if data.classifies:
        return
    best = runs.sort_values(data.metric).iloc[0]
    name = str(best["name"]) if "name" in runs else f"row {best.name}"
    count = fig(len(runs), str(len(runs)), "finished runs with a held-out loss")
    loss = fig(best[data.metric], number(best[data.metric]), f"held-out loss of {name}, {data.unit}")
    which = "The only finished run" if len(runs) == 1 else f"The best of {count} finished runs"
    text = f"{which}, {named(name)}{_size_of(best)}, reaches {loss} {named(data.unit)}"
    known = found_for(data.references, best.to_dict()) if data.metric == "bpb" else None
    parts = [f"{text} on held-out text" if data.metric == "bpb" else text]
    parts += _beside(float(best[data.metric]), known)
    chosen = [f"the lowest of {plural(len(runs), 'run')}: a choice that flatters it"] if len(runs) > 1 else []
    basis = basis_of(data, runs.loc[[best.name]], baselines=_compressors(known), weakened=chosen)
    yield Claim.of("; ".join(parts) + ".", basis)


def _size_of(row: "pd.Series[Any]") -> str:
    """N and D of a run of a table from elsewhere, whose name does not say them."""
    if present(row.get("trial_id")):
        return ""
    columns = (("parameters_non_embedding", "parameters"), ("parameters", "parameters"), ("tokens", "training tokens"))
    known = {what: float(row[name]) for name, what in reversed(columns) if present(row.get(name))}
    shown = [f"{fig(value, short_count(value), f'{what} of that run')} {what}" for what, value in known.items()]
    return f" ({', '.join(reversed(shown))})" if shown else ""


def _compressors(found: References | None) -> list[str]:
    return [f"{level.name} {after(level)}, on {text_of(found, level)}" for level in fair(found)] if found else []


def _beside(bpb: float, found: References | None) -> Iterator[str]:
    """Against the compressors that have read the training text, too."""
    for level in fair(found):
        change = bpb / level.bpb - 1
        side = "below" if change < 0 else "above"
        apart = fig(change, percent(abs(change)), f"best run {side} {level.name}, relative")
        shown = fig(level.bpb, number(level.bpb), f"bits per byte of {level.name}")
        yield f"{apart} {side} {named(f'{level.name} {after(level)}')} ({shown})"


def main_comparisons(data: ReportData) -> list[Comparison]:
    """Those between leading laws; without any, all."""
    leading = [fit.where for fit in data.leading]
    found = [one for one in data.fits.comparisons if one.where in leading and one.base in leading]
    return found or data.fits.comparisons


def measured(one: Comparison, kind: BudgetKind) -> ComparedPoint | None:
    """The comparison at the largest budget that both were measured at."""
    inside = [point for point in one.points if point.kind == kind and point.beyond <= 1]
    return max(inside, key=lambda point: point.budget, default=None)


def _compared_basis(data: ReportData, comparisons: Sequence[Comparison]) -> Basis:
    laws = laws_behind(data.fits, *(where for one in comparisons for where in (one.where, one.base)))
    names = [data.name(one.base, one.base_label) for one in comparisons]
    pairs = [(one.where.get("arch"), one.base.get("arch")) for one in comparisons]
    notes = [TWO_THINGS] if any(two_things(*pair) for pair in pairs) else []
    return basis_of(data, rows_of_fits(data, laws), baselines=list(dict.fromkeys(names)), laws=laws, weakened=notes)


def _marked(data: ReportData, comparisons: Sequence[Comparison]) -> str:
    """Which of the laws that sentences rest on are marked; the reasons are in the part on confidence."""
    laws = laws_behind(data.fits, *(where for one in comparisons for where in (one.where, one.base)))
    names = [data.name(fit.where, fit.label) for fit in laws if not trust(fit).usable]
    if not names:
        return ""
    return f" (marked: {'the law' if len(names) == 1 else 'the laws'} of {named(listed(names))}, see Confidence)"


def _winners(data: ReportData) -> Iterator[Claim]:
    for kind in ("compute", "time", "money"):
        yield from _winner(data, kind)


def _winner(data: ReportData, kind: BudgetKind) -> Iterator[Claim]:
    """The architecture of the lowest loss at the largest measured budget, and which differences may be chance."""
    pairs = [(one, point) for one in main_comparisons(data) if (point := measured(one, kind)) is not None]
    largest = max((point.budget for _, point in pairs), default=0.0)
    pairs = [(one, point) for one, point in pairs if point.budget >= _SAME_BUDGET * largest]
    if not pairs:
        return
    losses: dict[str, float] = {}
    for one, point in pairs:
        losses[data.name(one.where, one.label)] = point.loss.value
        losses[data.name(one.base, one.base_label)] = point.base_loss.value
    best = min(losses, key=lambda name: losses[name])
    close = [other for other in losses if other != best and not _apart(data, pairs, best, other)]
    caveat = f", though the difference to {named(listed(close))} may be chance" if close else ""
    others = [
        f"{named(name)} ({fig(loss, number(loss), f'loss by the law of {name}, {data.unit}')})"
        for name, loss in losses.items()
        if name != best
    ]
    own = fig(losses[best], number(losses[best]), f"loss by the law of {best}, {data.unit}")
    budget = fig(pairs[0][1].budget, budget_of(pairs[0][1]), f"budget, {BUDGET_LABELS[kind]}")
    used = [one for one, _ in pairs]
    yield Claim.of(
        f"At {BUDGET_LABELS[kind]} ({budget}), {named(best)} has a lower loss ({own}) than {listed(others)}"
        f"{caveat}{_marked(data, used)}.",
        _compared_basis(data, used),
    )


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


def _multipliers(data: ReportData) -> Iterator[Claim]:
    """One sentence for each architecture that was compared with others: its factors in compute and in time."""
    found = main_comparisons(data)
    for name in dict.fromkeys(data.name(one.where, one.label) for one in found):
        mine = [one for one in found if data.name(one.where, one.label) == name]
        parts = [factors for kind in ("compute", "time") if (factors := _factors(data, mine, kind))]
        if parts:
            text = f"For the same loss, {named(name)} needs {'; and '.join(parts)}{_marked(data, mine)}."
            yield Claim.of(text, _compared_basis(data, mine))
        for one in mine:
            for kind in ("compute", "time"):
                if (point := measured(one, kind)) and point.multiplier is None:
                    yield _without_factor(data, one, kind, point)


def _factors(data: ReportData, mine: Sequence[Comparison], kind: BudgetKind) -> str:
    points = [(one, point) for one in mine if (point := measured(one, kind)) and point.multiplier]
    if not points:
        return ""
    parts = []
    for one, point in points:
        assert point.multiplier is not None
        base = data.name(one.base, one.base_label)
        factor = estimate(point.multiplier, f"times the {kind} of {base} for the same loss", times)
        parts.append(f"{factor} that of {named(base)}{_verdict(point.multiplier)}")
    budget = fig(points[0][1].budget, budget_of(points[0][1]), f"budget, {BUDGET_LABELS[kind]}")
    return f"in {kind}, at {budget}, {listed(parts)}"


def times(value: float) -> str:
    return f"{number(value, 3)} times"


def _verdict(factor: Estimate) -> str:
    return "" if factor.interval is None or _side(factor.interval, 1.0) else ", which may be equal"


def estimate(found: Estimate, quantity: str, show: Callable[[float], str] = number) -> str:
    """A value and the ends of its 90 % interval, as figures."""
    value = fig(found.value, show(found.value), quantity)
    if found.interval is None:
        return value
    ends = (found.interval.low90, found.interval.high90)
    bare = (show(end).removesuffix(" times") for end in ends)
    low, high = (
        fig(end, text, f"{quantity}: {side} end of the 90 % interval")
        for end, text, side in zip(ends, bare, ("lower", "upper"), strict=True)
    )
    return f"{value} ({low} to {high})"


def _without_factor(data: ReportData, one: Comparison, kind: BudgetKind, point: ComparedPoint) -> Claim:
    change = point.difference.value / point.base_loss.value
    side = "above" if change > 0 else "below"
    name, base = data.name(one.where, one.label), data.name(one.base, one.base_label)
    budget = fig(point.budget, budget_of(point), f"budget, {BUDGET_LABELS[kind]}")
    apart = fig(change, percent(abs(change), 2), f"loss of {name} {side} that of {base}, by their laws")
    return Claim.of(
        f"At {BUDGET_LABELS[kind]} ({budget}), the loss of {named(name)} is {apart} {side} that of {named(base)}; no"
        f" factor is given: {named(point.reason)}{_marked(data, [one])}.",
        _compared_basis(data, [one]),
    )


def largest_optimum(fit: Fit) -> Optimum | None:
    """At the largest fitted budget whose optimum lies within the sizes tried."""
    found = shown_frontier(fit)
    inside = [one for one in found.optima if one.beyond <= 1 and one.outside <= 1] if found else []
    return max(inside, key=lambda one: one.flops, default=None)


def best_sizes(data: ReportData) -> Iterator[Claim]:
    """The best size for the largest budget; without a frontier the exponents, without a law in N and D one in N."""
    optima = [(fit, one) for fit in data.leading if (one := largest_optimum(fit)) is not None]
    if optima:
        for fit, one in optima:
            yield _size(data, fit, one)
    elif data.leading:
        yield from (_allocation(data, fit) for fit in data.leading)
    else:
        yield from (_doubling(data, fit) for fit in largest_fits(one for one in data.fits.fits if one.law == "power_n"))


def _size(data: ReportData, fit: Fit, one: Optimum) -> Claim:
    name = data.name(fit.where, fit.label)
    budget = fig(one.flops, power(one.flops), "budget, training FLOPs")
    size = estimate(one.parameters, f"best size of {name}, parameters", short_count)
    tokens = fig(one.tokens.value, short_count(one.tokens.value), f"training tokens of the best size of {name}")
    ends = [
        fig(end, short_count(end), f"{side} size of {name} within one per cent of the least loss")
        for end, side in ((one.parameters_low, "smallest"), (one.parameters_high, "largest"))
    ]
    interval = f" ({named('90 %')} interval)" if one.parameters.interval else ", without an interval"
    whose = f"Best size of {named(name)}" if fit.where else "Best size"
    return Claim.of(
        f"{whose} for {budget} FLOPs: {size} parameters{interval} on {tokens} tokens; any size from {ends[0]} to"
        f" {ends[1]} is within {named('1 %')} of the least loss{_caveat(fit)}.",
        _law_basis(data, fit, one.beyond),
    )


def _caveat(fit: Fit) -> str:
    marks = trust(fit).marks
    return f" (its law is marked: {named('; '.join(marks))})" if marks else ""


def _law_basis(data: ReportData, fit: Fit, beyond: float = 1.0) -> Basis:
    return basis_of(data, rows_of_fits(data, [fit]), laws=[fit], beyond=beyond, baselines=list(fit.holdout.baselines))


def _allocation(data: ReportData, fit: Fit) -> Claim:
    found = Estimate(value=fit.derived["a"], interval=fit.intervals.get("a"))
    size = estimate(found, "exponent a of the best size over compute", lambda value: number(value, 3))
    text = fig(fit.derived["b"], number(fit.derived["b"], 3), "exponent b of the training tokens over compute")
    name = data.name(fit.where, fit.label)
    return Claim.of(
        f"{named(name)}: with compute C, the best size grows as C to the power {size}, the training tokens as C to the"
        f" power {text}; no budget's optimum lies within the sizes tried{_caveat(fit)}.",
        _law_basis(data, fit),
    )


def _doubling(data: ReportData, fit: Fit) -> Claim:
    largest = max(fit.points, key=lambda point: point.x[0])
    exponent = fit.parameters["alpha"]
    # (L - E) is A N^-alpha, of which doubling N leaves 2^-alpha.
    gain = (largest.predicted - fit.parameters["E"]) * (1 - 2**-exponent) / largest.predicted
    size = fig(largest.x[0], short_count(largest.x[0]), "parameters of the largest model")
    lower = fig(gain, percent(gain), "loss lowered by doubling the largest model, by the law")
    found = Estimate(value=exponent, interval=fit.intervals.get("alpha"))
    power_n = estimate(found, "exponent alpha of the loss over size", lambda value: number(value, 3))
    return Claim.of(
        f"{named(data.name(fit.where, fit.label))}: doubling the largest model ({size} parameters) would lower the loss"
        f" by {lower}, if the law L = E + A N^-alpha holds; alpha is {power_n}{_caveat(fit)}.",
        _law_basis(data, fit, beyond=2.0),
    )


def best_values(data: ReportData, column: str) -> Iterator[Claim]:
    """Which value of a varied column is best, by architecture, on average over the groups that have all values."""
    for equal in ("compute", "tokens"):
        by_arch: dict[str, list[EqualGroup]] = {}
        for one in equal_groups(data.runs, column, data.metric, equal):
            by_arch.setdefault(one.arch, []).append(one)
        ordered = sorted(by_arch.items(), key=lambda pair: data.scheme.place(pair[0]))
        if found := [_Best.of(data, column, arch, members) for arch, members in ordered]:
            yield _best_claim(data, column, equal, found)


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The value of lowest mean loss of one architecture, over the groups with most values."""

    groups: list[EqualGroup]
    text: str
    error: float | None
    """Over held-out text, of the difference to the next, relative."""

    @classmethod
    def of(cls, data: ReportData, column: str, arch: str, members: list[EqualGroup]) -> "_Best":
        letter = VARIED[column][0]
        most = max(len(one.values) for one in members)
        values = next(one.values for one in members if len(one.values) == most)
        groups = [one for one in members if one.values == values]
        means = [sum(one.relative[place] for one in groups) / len(groups) for place in range(len(values))]
        best = min(range(len(values)), key=lambda place: means[place])
        above = {place: means[place] - means[best] for place in range(len(values)) if place != best}
        names = [f"{architecture(arch)} {letter} = {whole(value)}" for value in values]
        others = [
            f"{named(whole(values[place]))}: "
            + fig(apart, f"+{percent(apart, 2)}", f"mean loss of {names[place]} above {names[best]}")
            for place, apart in above.items()
        ]
        unclear = ", though not clearly" if _near(data, groups, min(above.values())) else ""
        next_best = min(above, key=lambda place: above[place])
        pairs = [(one.runs[next_best].iloc[0].to_dict(), one.runs[best].iloc[0].to_dict()) for one in groups]
        error = mean_text_error(pairs, data.metric)
        loss = sum(one.losses[best] for one in groups) / len(groups)
        text = f"{named(architecture(arch))} {letter} = {named(whole(values[best]))}{unclear} ({', '.join(others)})"
        return cls(groups=groups, text=text, error=None if error is None else error / loss)


def _near(data: ReportData, groups: list[EqualGroup], lead: float) -> bool:
    """Whether two means over groups may differ so by chance between seeds, as far as that is known."""
    noise = seed_noise(data.runs, data.metric)
    runs = len(groups) * min(len(rows) for one in groups for rows in one.runs)
    return noise is not None and lead < 2 * noise.relative * (2 / runs) ** 0.5


def _best_claim(data: ReportData, column: str, equal: str, found: list[_Best]) -> Claim:
    rows = pd.concat([rows for best in found for one in best.groups for rows in one.runs])
    counts = sorted({len(best.groups) for best in found})
    shown = [fig(count, str(count), "groups of equal size and budget that a mean is over") for count in counts]
    over = (
        f"means over {' to '.join(shown[:1] + shown[1:][-1:])} sizes and budgets"
        if counts != [1]
        else "at one size and budget"
    )
    errors = [best.error for best in found]
    worst = None if None in errors else max(error for error in errors if error is not None)
    remarks = [over, *_chance(data, rows), text_error(worst, 1.0)]
    what = f"{VARIED[column][1]} at equal {equal}{', by loss' if data.classifies else ''}"
    text = f"Best {what}: {'; '.join([*(best.text for best in found), *remarks])}."
    values = sorted({value for best in found for one in best.groups for value in one.values})
    baselines = [f"{VARIED[column][0]} = {whole(value)}" for value in values]
    return Claim.of(text, basis_of(data, rows, baselines=baselines))


def _chance(data: ReportData, rows: pd.DataFrame) -> Iterator[str]:
    """The spread between seeds that a difference is to be read against: never left out."""
    noise, seeds = seed_noise(data.runs, data.metric), seeds_of(rows)
    if not seeds.points:
        yield "seeds not in the table: chance unknown"
    elif not seeds.repeated:
        yield _as_figures(seed_remark(data), noise.relative if noise else None)
    elif noise is not None:
        spread = fig(noise.relative, percent(noise.relative, 2), "spread between seeds, standard deviation")
        yield f"seeds differ by {spread}"


def _as_figures(remark: str, noise: float | None) -> str:
    """The remark on one seed, with its spread as a figure and its counts as part of its origin."""
    if noise is None:
        return remark
    shown = percent(noise, 2)
    before, _, after = remark.partition(shown)
    return (
        f"{before}{fig(noise, shown, 'spread between seeds elsewhere in the study, standard deviation')}{named(after)}"
    )
