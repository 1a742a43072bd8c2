"""From a study to its trials: every cell of the sweep, resolved, checked, and dropped only with a reason."""

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vqscale import storage
from vqscale.data.corpora import resolve_corpus
from vqscale.data.corpus import Corpus, open_corpus
from vqscale.errors import StudyError
from vqscale.models.presets import fields_of, resolve
from vqscale.study.spec import Axes, Study, explain
from vqscale.study.trial import TrainConfig, Trial

Cell = dict[str, dict[str, Any]]


def cells(study: Study) -> Iterator[tuple[Cell, frozenset[str]]]:
    """Every cell of the sweep as `model`, `train`, `data` settings, with the axes that were set by the sweep."""
    for axes in study.sweep:
        yield from _grid(study, axes)


def _grid(study: Study, axes: Axes) -> Iterator[tuple[Cell, frozenset[str]]]:
    for values in itertools.product(*axes.values()):
        cell: Cell = {"model": dict(study.model), "train": dict(study.train), "data": study.data.model_dump()}
        for axis, value in zip(axes, values, strict=True):
            section, _, key = axis.partition(".")
            cell[section][key] = value
        yield cell, frozenset(axes)


def expand(study: Study, *, source: str) -> list[Trial]:
    """The trials of a study, each once, in the order of the file.

    Raises StudyError with the file's name, the key, the value and the rule; CorpusError for a corpus that is not there.
    """
    corpora: dict[str, tuple[str, Corpus]] = {}
    trials: dict[str, Trial] = {}
    for cell, axes in cells(study):
        name = cell["data"]["corpus"]
        if name not in corpora:
            uri = storage.absolute(resolve_corpus(name))
            corpora[name] = uri, open_corpus(uri)
        uri, corpus = corpora[name]
        for seed in _seeds(cell["train"], source):
            try:
                trial = _trial(cell, axes, seed, uri, corpus)
                check(trial, study)
            except StudyError as error:
                raise StudyError(f"{source}: {error}{_where(cell, axes)}") from error
            except ValidationError as error:
                raise StudyError(explain(error, source, prefix="train") + _where(cell, axes)) from error
            trials.setdefault(trial.fingerprint, trial)
    return list(trials.values())


def _seeds(train: dict[str, Any], source: str) -> list[int]:
    seeds = train.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise StudyError(f"{source}: train.seeds: {seeds!r} is no list of whole numbers, such as [0, 1, 2]")
    return seeds


def _trial(cell: Cell, axes: frozenset[str], seed: int, uri: str, corpus: Corpus) -> Trial:
    model = dict(cell["model"])
    arch, preset = model.pop("arch", None), model.pop("preset", None)
    for key, value in (("arch", arch), ("preset", preset)):
        if not isinstance(value, str):
            raise StudyError(
                f"model.{key}: is missing or no text; write `model: {{arch: transformer_vq, preset: nano}}`"
            )
    known = _known_fields(str(arch), axes, model)
    train = {key: value for key, value in cell["train"].items() if key != "seeds"}
    return Trial(
        model=resolve(str(arch), str(preset), corpus.vocab_size, known),
        train=TrainConfig(**train, seed=seed),
        preset=str(preset),
        corpus=uri,
        corpus_fingerprint=corpus.fingerprint,
    )


def _known_fields(arch: str, axes: frozenset[str], model: dict[str, Any]) -> dict[str, Any]:
    """Settings of the file's `model` section that mean something to `arch`.

    A study that compares architectures writes the VQ model's codebook once, in the section; a quadratic cell leaves it
    aside. Set by a sweep axis, or unknown to every architecture, it stays and is refused with its reason.
    """
    if arch not in ("transformer_full", "transformer"):
        return model
    elsewhere = fields_of("transformer_vq") - fields_of(arch)  # type: ignore[arg-type]
    return {key: value for key, value in model.items() if key not in elsewhere or f"model.{key}" in axes}


def _where(cell: Cell, axes: frozenset[str]) -> str:
    if not axes:
        return ""
    values = (f"{axis} = {cell[axis.partition('.')[0]][axis.partition('.')[2]]}" for axis in sorted(axes))
    return f" (in the cell {', '.join(values)})"


def check(trial: Trial, study: Study) -> None:
    """What a trial's parts demand of each other. Raises StudyError."""
    model, train, workers = trial.model, trial.train, study.resources.workers
    block, size = model.block_length, model.codebook_size
    if block and train.segment_length % block:
        raise StudyError(
            f"train.context: {train.segment_length} tokens an update are no multiple of model.block_length {block}:"
            f" VQ attention works in whole blocks. Use a multiple of {block}, or a block_length that divides it."
        )
    if size and size > train.batch_tokens:
        raise StudyError(
            f"model.codebook_size: {size} codes are more than the {train.batch_tokens} tokens of a batch"
            " (train.batch_tokens): most would never be used. Use fewer codes or a larger batch."
        )
    if train.backend == "triton" and not model.arch.startswith("transformer_vq"):
        raise StudyError("train.backend: triton belongs to transformer_vq")
    micro = train.batch_size // train.accumulation
    share = workers * train.segment_length * train.accumulation
    if micro % workers:
        raise StudyError(
            f"train.batch_tokens: {micro} sequences of {train.segment_length} tokens a micro-batch cannot be shared by"
            f" {workers} workers. Make train.batch_tokens a multiple of {share}."
        )
    if train.engine == "plain" and (workers > 1 or train.deepspeed):
        raise StudyError("train.engine: plain serves one worker without DeepSpeed settings. Use engine: deepspeed.")
