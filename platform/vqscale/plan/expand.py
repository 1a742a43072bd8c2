"""From a study to its trials: every cell of the sweep, resolved, checked, and dropped only with a reason."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import ValidationError

from vqkernels import BackendUnavailableError, resolve_backend
from vqscale import storage
from vqscale.data.corpora import resolve_corpus
from vqscale.data.corpus import Corpus, open_corpus
from vqscale.data.stream import TokenStream
from vqscale.errors import CorpusError, StudyError
from vqscale.models.presets import fields_of, resolve
from vqscale.study.spec import Axes, DataSpec, Study, explain
from vqscale.study.trial import TrainConfig, Trial

Cell = dict[str, dict[str, Any]]
DEEPSPEED_OWNED = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.batch_tokens and train.accumulation",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_clipping": "train.clip",
    "zero_optimization.stage": "train.zero",
    "optimizer": "train.lr, beta1, beta2, adam_eps and weight_decay",
    "scheduler": "train.warmup and train.lr_final",
}
"""DeepSpeed's keys for what the training loop itself decides, and the study's keys that set it."""


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
        name = _corpus_name(cell, axes, source)
        if name not in corpora:
            uri = storage.absolute(resolve_corpus(name))
            corpora[name] = uri, open_corpus(uri)
        uri, corpus = corpora[name]
        for seed in _seeds(cell["train"], source):
            try:
                trial = _trial(cell, axes, seed, uri, corpus)
                check(trial, study)
                check_length(trial.train, corpus)
            except StudyError as error:
                raise StudyError(f"{source}: {error}{_where(cell, axes)}") from error
            except ValidationError as error:
                raise StudyError(explain(error, source, prefix="train") + _where(cell, axes)) from error
            trials.setdefault(trial.fingerprint, trial)
    return list(trials.values())


def _corpus_name(cell: Cell, axes: frozenset[str], source: str) -> str:
    try:
        return DataSpec(**cell["data"]).corpus
    except ValidationError as error:
        raise StudyError(explain(error, source, prefix="data") + _where(cell, axes)) from error


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
    check_backend(trial, study)
    micro = train.batch_size // train.accumulation
    share = workers * train.segment_length * train.accumulation
    if micro % workers:
        raise StudyError(
            f"train.batch_tokens: {micro} sequences of {train.segment_length} tokens a micro-batch cannot be shared by"
            f" {workers} workers. Make train.batch_tokens a multiple of {share}."
        )
    if train.engine == "plain" and (workers > 1 or train.deepspeed):
        raise StudyError("train.engine: plain serves one worker without DeepSpeed settings. Use engine: deepspeed.")
    check_deepspeed(train.deepspeed)


def check_backend(trial: Trial, study: Study) -> None:
    """Whether the named implementation of VQ attention can run in the study's workers. Raises StudyError.

    Workers that are promised GPUs may run Triton, which this machine need not be able to.
    """
    name, gpus = trial.train.backend, study.resources.gpus_per_worker
    if trial.model.arch != "transformer_vq":
        if name == "triton":
            raise StudyError("train.backend: triton belongs to transformer_vq")
        return
    if name == "triton" and gpus not in ("auto", 0):
        return
    try:
        resolve_backend(name, "cuda" if torch.cuda.is_available() and gpus != 0 else "cpu")
    except BackendUnavailableError as error:
        raise StudyError(f"train.{error}; for workers with GPUs set resources.gpus_per_worker") from error


def check_deepspeed(overrides: dict[str, Any]) -> None:
    """Overrides may not move what the training loop counts on. Raises StudyError that names the key to use instead."""
    zero = overrides.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise StudyError(
            f"train.deepspeed: zero_optimization: {zero!r} is no mapping of DeepSpeed's settings."
            " The stage is set by train.zero."
        )
    for key, instead in DEEPSPEED_OWNED.items():
        section, name = (zero, "stage") if key == "zero_optimization.stage" else (overrides, key)
        if name in section:
            raise StudyError(
                f"train.deepspeed: {key}: {section[name]!r} would override what the training loop decides."
                f" Leave it out and set {instead}."
            )


def check_length(train: TrainConfig, corpus: Corpus) -> None:
    """Whether the training split holds a sequence, by the rule of the stream that cuts it. Raises StudyError."""
    try:
        TokenStream(
            corpus.split("train"),
            batch=train.batch_size,
            length=train.segment_length,
            context=train.context,
            seed=train.seed,
        )
    except CorpusError as error:
        raise StudyError(f"train.{error}") from error
