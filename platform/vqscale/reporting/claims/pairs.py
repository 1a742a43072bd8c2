"""Two architectures over runs that agree in everything else: how far their losses are apart, and what may be chance."""

from collections.abc import Iterator

import pandas as pd

from vqscale.formatting import percent
from vqscale.reporting.charts.style import architecture, number
from vqscale.reporting.claims.basis import TWO_THINGS, basis_of, seed_remark, two_things
from vqscale.reporting.claims.claim import Claim, fig, named
from vqscale.reporting.compare import Pairs
from vqscale.reporting.equal import seed_noise
from vqscale.reporting.report_data import ReportData

_EQUAL = {
    "tokens": "preset, context, tokens and seed",
    "compute": "compute, context and seed, each at the best size tried",
}


def pair_claim(data: ReportData, pairs: Pairs) -> Claim:
    first, second = architecture(pairs.first), architecture(pairs.second)
    side = "higher" if pairs.mean > 0 else "lower"
    versus = f"loss of {first} {side} than that of {second}"
    apart = fig(pairs.absolute, number(abs(pairs.absolute), 3), f"{versus}, mean over pairs, {data.unit}")
    share = fig(pairs.mean, percent(abs(pairs.mean)), f"{versus}, mean over pairs, relative")
    changed = two_things(pairs.first, pairs.second)
    weakened = [TWO_THINGS] if changed else []
    weakened += ["the sizes tried at a budget differ between the two"] if pairs.equal == "compute" else []
    remarks = [_count(pairs, versus), *_chance(data, pairs), *([TWO_THINGS] if changed else [])]
    return Claim.of(
        f"{named(first)} has {apart} {named(data.unit)} {side} loss ({share}) than {named(second)} at equal"
        f" {_EQUAL[pairs.equal]} ({'; '.join(remarks)}).",
        basis_of(data, _rows(data, pairs), baselines=[second], weakened=weakened),
    )


def text_error(error: float | None, loss: float) -> str:
    """Standard error over held-out text of a difference of two losses, relative to the loss."""
    if error is None:
        return "error over held-out text unknown"
    quantity = "standard error of the difference over held-out text, relative, at most"
    return f"standard error over held-out text {fig(error / loss, percent(error / loss, 2), quantity)}"


def _count(pairs: Pairs, versus: str) -> str:
    count = len(pairs.pairs)
    if count == 1:
        return "one pair"
    ends = [
        fig(end, f"{100 * end:+.1f} %", f"{versus}: {name} of the pairs")
        for end, name in ((min(pairs.differences), "lowest"), (max(pairs.differences), "highest"))
    ]
    return f"{fig(count, str(count), 'pairs of runs')} pairs, {' to '.join(ends)}"


def _chance(data: ReportData, pairs: Pairs) -> Iterator[str]:
    """Whether seeds or the held-out text may account for the difference."""
    noise = seed_noise(data.runs, data.metric)
    if noise is None:
        yield seed_remark(data)
    else:
        spread = fig(noise.relative, percent(noise.relative, 2), "spread between seeds, standard deviation of a run")
        # A difference of two runs has twice the variance of one; a mean over pairs its share.
        limit = 2 * noise.relative * (2 / len(pairs.pairs)) ** 0.5
        near = abs(pairs.mean) < limit
        yield f"{'may be chance: seeds differ by' if near else 'beyond the spread between seeds,'} {spread}"
    loss = sum(float(other[data.metric]) for _, other in pairs.pairs) / len(pairs.pairs)
    yield text_error(pairs.error, loss)


def _rows(data: ReportData, pairs: Pairs) -> pd.DataFrame:
    """The rows of the table behind pairs."""
    key = next((name for name in ("trial_id", "name") if name in data.table), None)
    used = {one[key] for pair in pairs.pairs for one in pair} if key else set()
    return data.table[data.table[key].isin(used)] if key else data.runs
