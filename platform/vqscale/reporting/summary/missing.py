"""What a reader might expect on the page and the study does not hold: named, instead of left out."""

from collections.abc import Iterator
from typing import Any

from vqscale.reporting.charts.style import listed, present, whole
from vqscale.reporting.claims.basis import seeds_of
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.compare import finished, sides
from vqscale.reporting.references import fair, found_for
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.summary.speed import study_contexts
from vqscale.results.loss_difference import FEW
from vqscale.study.model import QUANTISED, WINDOW_BIAS

_RECORDS = Basis(measured="the absence of it in the study's records")


def missing_claims(data: ReportData) -> Iterator[Claim]:
    if data.runs.empty and not data.fits.fits:
        return
    for text in (*_seeds(data), *_baselines(data), *_text(data), *_price(data), *_speed(data), *_law(data)):
        yield Claim.of(text, _RECORDS)


def _seeds(data: ReportData) -> Iterator[str]:
    seeds = seeds_of(data.runs)
    if not seeds.points:
        yield "Seeds are not in the table: how much of a difference is chance is unknown."
    elif not seeds.repeated:
        yield "No point was trained with two seeds: how much of a difference is chance is unknown."
    elif seeds.repeated < seeds.points:
        few = fig(seeds.repeated, str(seeds.repeated), "points with several seeds")
        every = fig(seeds.points, str(seeds.points), "points")
        yield f"Several seeds at {few} of {every} points only: the others rest on one."


def _baselines(data: ReportData) -> Iterator[str]:
    archs = {str(arch) for arch in data.runs["arch"] if present(arch)} if "arch" in data.runs else set()
    if not archs:
        yield "The architecture is not in the table, and no baseline: nothing here compares architectures."
        return
    if len(archs) == 1:
        yield "No baseline: one architecture was trained, and nothing says what another would reach on the same text."
    elif archs & set(QUANTISED) and not archs - set(QUANTISED):
        yield "No baseline without a codebook was trained."
    if "transformer_vq" in archs and "transformer_full" in archs and not _window_bias(data):
        yield (
            "What quantisation alone costs: exact keys with the same position bias (`transformer_full` with `bias:"
            " window`) were not trained, so that two things differ from the full-attention baseline."
        )
    elif "transformer_vq" in archs and "transformer_full" not in archs:
        yield "What quantisation costs: no model with exact keys (`transformer_full`) was trained."


def _window_bias(data: ReportData) -> bool:
    return f"transformer_full+{WINDOW_BIAS}" in sides(data.runs)


def _text(data: ReportData) -> Iterator[str]:
    noun, column = ("example", "examples") if data.classifies else ("document", "evaluation_documents")
    known: list[int] = data.runs[column].dropna().tolist() if column in data.runs else []
    if not known:
        yield f"How many held-out {noun}s a loss is the mean of is not in the table: its error is unknown."
    elif (least := int(min(known))) == 1:
        yield f"One held-out {noun}: what another one would change is unknown."
    elif least < FEW:
        yield f"Only {fig(least, str(least), f'held-out {noun}s')} held-out {noun}s: standard errors are rough."
    if data.metric == "bpb" and not any(fair(found_for(data.references, run)) for run in _texts(data)):
        yield "No compressor that has read the training text was run on the text that the runs were evaluated on."


def _texts(data: ReportData) -> list[dict[Any, Any]]:
    """A run of every held-out text."""
    columns = [name for name in ("corpus_fingerprint", "evaluation_text") if name in data.runs]
    return data.runs[columns].drop_duplicates().to_dict("records") if columns else []


def _price(data: ReportData) -> Iterator[str]:
    resources = data.study.get("resources") or {}
    timed = data.throughput is not None and "price_per_device_hour" in data.throughput
    priced = timed and bool(data.throughput["price_per_device_hour"].notna().any())  # type: ignore[index]
    if not resources.get("price_per_device_hour") and not priced:
        yield "No price is given (`resources: price_per_device_hour`): costs are in FLOPs and hours at most."
    if not {"seconds_training", "flops"} & set(finished(data.table).columns):
        yield "Neither time nor FLOPs of training are in the table: C, where it is used, is six times N times D."


def _speed(data: ReportData) -> Iterator[str]:
    if data.classifies:
        return
    if data.throughput is None:
        if "arch" in data.runs:
            yield "Speed was not timed in alternation against baselines (`vqscale throughput`): no break-even length."
    else:
        timed = {int(context) for context in data.throughput["context"]}
        left = [context for context in study_contexts(data) if context not in timed]
        if left:
            names = listed([f"T = {named(whole(context))}" for context in left])
            yield f"Speed was not timed at {names}, at which the study trained."
    if "state_bytes" not in data.runs and "arch" in data.runs:
        yield "The cost of decoding is not in the table."


def _law(data: ReportData) -> Iterator[str]:
    if not data.fits.fits:
        refused = len(data.fits.refusals)
        yield f"No law was fitted: {'all were refused, with reasons below' if refused else '`vqscale fit` fits them'}."
