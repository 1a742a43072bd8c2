"""The codebook size for a corpus: short trials over S, then the smallest S within a tolerance of the best held out."""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vqscale.errors import StudyError, WorkFailedError
from vqscale.results.loss_difference import Difference, loss_difference
from vqscale.results.result import Result
from vqscale.study.model import QUANTISED
from vqscale.study.spec import Study
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import EarlyStopping
from vqscale.workflow.training import train_study

MARGIN = 3.0
"""A trial is stopped early only when it trails by this many tolerances: training loss only hints at held-out loss."""
RUNGS = (0.25, 0.5, 0.75)
"""Shares of the training tokens at which trials are compared."""


@dataclass(frozen=True, kw_only=True)
class CodebookChoice:
    """The chosen size and the trials it was chosen from, smallest codebook first."""

    codebook_size: int
    best_size: int
    best_bpb: float
    tolerance: float
    corpus_fingerprint: str
    trials: list[Result]
    above_best: dict[int, Difference]
    """By codebook size, how far its bits per byte are above those of the best size."""
    warnings: list[str]
    """Which trials were stopped early, or reached no held-out loss, and which sizes the held-out text does not tell
    from the tolerance, one sentence each."""

    @property
    def chance(self) -> str:
        """What the seeds say about the choice: their spread, or that there is none to know."""
        by_size: dict[int | None, list[float]] = {}
        for result in self.trials:
            if result.bpb is not None:
                by_size.setdefault(result.codebook_size, []).append(result.bpb)
        repeated = [values for values in by_size.values() if len(values) > 1]
        if not repeated:
            return "one seed: chance unknown"
        squares = sum(statistics.variance(values) * (len(values) - 1) for values in repeated)
        spread = math.sqrt(squares / sum(len(values) - 1 for values in repeated))
        few = "" if len(repeated) == len(by_size) else f" ({len(repeated)} of {len(by_size)} sizes have several)"
        return f"seeds of one size differ by {spread:.4f} bpb{few}"

    def table(self) -> list[dict[str, Any]]:
        """One row per trial; `pareto`: no other is at least as good in bpb, speed and decode memory."""
        return [
            {
                "codebook_size": result.codebook_size,
                "status": result.status,
                "bpb": result.bpb,
                "bpb_error": result.bpb_error,
                "above_best": found.value if (found := self.above_best.get(result.codebook_size or 0)) else None,
                "above_best_error": found.error if found else None,
                "tokens_per_second": result.tokens_per_second,
                "decode_state_bytes": result.state_bytes,
                "code_perplexity": result.code_perplexity,
                "pareto": _on_front(result, self.trials),
                "chosen": result.codebook_size == self.codebook_size,
            }
            for result in self.trials
        ]


def tuning_study(study: Study) -> Study:
    """The study of the tuning trials: the given study's model and recipe, swept over the codebook sizes alone.

    Raises StudyError without an `autotune` section, for classifiers and for a model that has no codebook.
    """
    if study.autotune is None:
        raise StudyError(
            f"study {study.study!r} has no `autotune` section; write for example"
            " `autotune: {codebook_sizes: [32, 64, 128, 256], tolerance: 0.01}`."
        )
    if study.task == "classification":
        raise StudyError(
            "task: classification has no bits per byte, by which autotune chooses. Compare codebook sizes by a sweep"
            " over model.codebook_size, or by a design of type codebook."
        )
    if study.model.get("arch") not in QUANTISED:
        raise StudyError(
            f"model.arch: {study.model.get('arch')!r} has no codebook to tune; use {' or '.join(QUANTISED)}."
        )
    train = dict(study.train) | ({"tokens": study.autotune.tokens} if study.autotune.tokens else {})
    return study.model_copy(
        update={
            "study": f"{study.study}-autotune",
            "question": f"Which codebook size does {study.data.corpus} need?",
            "train": train,
            "design": [],
            "sweep": [{"model.codebook_size": sorted(study.autotune.codebook_sizes)}],
        }
    )


def tune_codebook(study: Study, *, source: str, address: str | None = None, events: StudyEvents) -> CodebookChoice:
    """Train the tuning trials (those that exist are not trained again) and choose.

    Raises WorkFailedError when no trial reached a held-out loss.
    """
    tuning = tuning_study(study)
    assert study.autotune is not None
    tokens = int(tuning.train["tokens"])
    stopping = EarlyStopping(
        rungs=tuple(int(share * tokens) for share in RUNGS), margin=MARGIN * study.autotune.tolerance
    )
    outcome = train_study(tuning, source=source, address=address, events=events, allow_changed=True, stopping=stopping)
    return choose_codebook(outcome.results, study.autotune.tolerance)


def choose_codebook(results: list[Result], tolerance: float) -> CodebookChoice:
    """The smallest codebook whose held-out bits per byte are within `tolerance` of the best.

    A trial that was stopped early counts by the loss it had reached, which more training usually lowers. With several
    seeds a size counts by its worst; a size of which a seed diverged is never chosen.
    """
    sizes: dict[int, Result] = {}
    """By size, its worst trial."""
    for result in results:
        if result.bpb is not None and result.codebook_size is not None:
            worst = sizes.setdefault(result.codebook_size, result)
            sizes[result.codebook_size] = max(worst, result, key=_bpb)
    for result in results:
        if result.status == "diverged":
            sizes.pop(result.codebook_size or 0, None)
    if not sizes:
        raise WorkFailedError("no trial of the codebook sweep reached a held-out loss; there is no best size")
    best_size = min(sizes, key=lambda size: (_bpb(sizes[size]), size))
    best = sizes[best_size]
    chosen = min(size for size, result in sizes.items() if _bpb(result) <= _bpb(best) + tolerance)
    compared = {size: loss_difference(result, best, "bpb") for size, result in sizes.items() if size != best_size}
    above = {size: found for size, found in compared.items() if found is not None}
    trials = sorted(results, key=lambda result: (result.codebook_size or 0, result.seed))
    return CodebookChoice(
        codebook_size=chosen,
        best_size=best_size,
        best_bpb=_bpb(best),
        tolerance=tolerance,
        corpus_fingerprint=results[0].corpus_fingerprint,
        trials=trials,
        above_best=above,
        warnings=[
            *(sentence for result in trials if (sentence := _warning(result)) is not None),
            *_near_tolerance(above, chosen, tolerance),
        ],
    )


def _bpb(result: Result) -> float:
    assert result.bpb is not None
    return result.bpb


def _near_tolerance(above: Mapping[int, Difference], chosen: int, tolerance: float) -> Iterator[str]:
    """Sizes that another held-out text may put on the other side of the tolerance, as far as they bear on the choice:
    the chosen one, and smaller ones."""
    for size, found in sorted(above.items()):
        if size > chosen:
            continue
        head = f"S = {size}: {found.text()} bpb above the best"
        if found.error is None and size == chosen:
            yield f"{head}; whether it is within {tolerance:g} on other text is not known."
        elif found.may_be_chance(tolerance):
            side = "beyond" if size == chosen else "within"
            yield f"{head}: on other text it may be {side} the tolerance of {tolerance:g}."


def _warning(result: Result) -> str | None:
    """What the choice does not know of a trial; None for a finished one."""
    head = f"S = {result.codebook_size}, seed {result.seed}"
    if result.status == "stopped" and result.bpb is not None:
        return (
            f"{head}: was stopped early, because its training loss trailed; it counts with the {result.bpb:.4f} bpb"
            " held out that it had reached, and all its training tokens might have given less."
        )
    if result.status == "diverged":
        return f"{head}: diverged, so this size is not chosen."
    if result.bpb is None:
        return f"{head}: has no held-out loss ({result.status}); the size counts by its other seeds, if it has any."
    return None


def _on_front(result: Result, others: list[Result]) -> bool:
    """Whether no other trial is at least as good in every measure and better in one; not where one is missing."""
    own = _measures(result)
    rivals = [measures for other in others if (measures := _measures(other)) is not None]
    return own is not None and not any(
        all(r <= o for r, o in zip(rival, own, strict=True)) and rival != own for rival in rivals
    )


def _measures(result: Result) -> tuple[float, float, float] | None:
    """Bits per byte, seconds per token, decode memory: less is better in each. None where one was not measured."""
    if result.bpb is None or result.state_bytes is None or not result.tokens_per_second:
        return None
    return result.bpb, 1 / result.tokens_per_second, float(result.state_bytes)
