"""From a throughput study to its cells: resolved, in rounds that are timed together, or refused with a reason."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from vqkernels import BackendUnavailableError
from vqscale.costing.presets import resolve, size_of
from vqscale.data.tokenize import BYTE_VOCAB
from vqscale.errors import StudyError
from vqscale.models.transformer_vq import attention_backend
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen
from vqscale.study.model import HEADED, ModelConfig
from vqscale.study.throughput_study import CellSettings, Device, ThroughputStudy
from vqscale.study.trial import Precision
from vqscale.train.device import device_name


class Cell(Frozen):
    """One model at one context length, with every dimension set."""

    model: ModelConfig
    preset: str
    context: int
    batch: int
    """Sequences of one update."""
    batching: str
    precision: Precision
    device: Device
    backend: str | None
    """Implementation of VQ attention; None for an architecture without it."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def identity(self) -> dict[str, Any]:
        """With the text of `batching` that earlier versions wrote, and without a model's bias where it is what theirs
        was, so that their measurements stay valid."""
        values = super().identity()
        model = {key: value for key, value in values["model"].items() if key != "bias" or value == "window"}
        return values | {"model": model, "batching": self.batching.replace("tokens per step", "tokens a step")}

    @property
    def round_key(self) -> tuple[Any, ...]:
        """What cells that are timed in one round share."""
        return self.device, self.precision, self.preset, self.batching, self.context, self.model.vocab_size

    @property
    def curve(self) -> "Cell":
        """The cell without its length: equal for the cells of one curve over T."""
        return self.model_copy(update={"context": 0, "batch": 0})

    @property
    def name(self) -> str:
        model = self.model
        parts = [model.arch, model.head, self.preset, f"S{model.codebook_size}" if model.codebook_size else None]
        return "-".join(part for part in [*parts, self.precision, self.device, f"T{self.context}"] if part)


@dataclass(frozen=True, kw_only=True)
class Round:
    """Cells that are timed in alternation, so that a ratio of two of them is taken within one round."""

    cells: tuple[Cell, ...]
    study: ThroughputStudy

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """How and on what it is measured. Unlike a trial's identity it includes the device, which decides the speed."""
        study, first = self.study, self.cells[0]
        # One process is what earlier versions measured in: their measurements stay valid there.
        several = [study.process_count] if study.process_count > 1 else []
        return {
            "settings": [study.repeats, study.seconds_per_repeat, study.seconds_per_cell, *several],
            "device": device_name(first.torch_device),
            "threads": threads(study),
            "cells": sorted(fingerprint(cell) for cell in self.cells),
        }

    def id(self, cell: Cell) -> str:
        """Name and fingerprint of one cell; the fingerprint depends on the cells that it is timed with."""
        return f"{cell.name}-{fingerprint({'cell': cell, 'round': self._identity})[:12]}"


@dataclass(frozen=True, kw_only=True)
class Refused:
    settings: CellSettings
    reason: str


@dataclass(frozen=True, kw_only=True)
class ThroughputPlan:
    study: ThroughputStudy
    rounds: list[Round]
    """In the order of measurement: the lengths of one comparison from short to long."""
    refused: list[Refused]

    @property
    def cells(self) -> list[tuple[Round, Cell]]:
        return [(one, cell) for one in self.rounds for cell in one.cells]


def plan_throughput(study: ThroughputStudy, *, source: str = "study") -> ThroughputPlan:
    """Resolve the cells of a study. Nothing is measured.

    Raises StudyError for a preset that does not exist, more threads than cores, and a study without a cell that can
    be measured.
    """
    _check_threads(study, source)
    found: dict[Cell, None] = {}
    refused = []
    for settings in study.cells(source=source):
        _check_preset(settings.preset, source)
        try:
            found.setdefault(_resolve(settings, study.vocab_size or BYTE_VOCAB))
        except StudyError as error:
            refused.append(Refused(settings=settings, reason=str(error)))
    if not found:
        raise StudyError(f"{source}: no cell can be measured here. The first: {refused[0].reason}")
    return ThroughputPlan(study=study, rounds=_rounds(found, study), refused=refused)


def _check_preset(preset: str, source: str) -> None:
    try:
        size_of(preset)
    except StudyError as error:
        raise StudyError(f"{source}: {error}") from error


def threads(study: ThroughputStudy) -> int:
    """CPU threads that the study is measured with."""
    return study.threads or torch.get_num_threads()


def _check_threads(study: ThroughputStudy, source: str) -> None:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if study.threads and study.threads > usable:
        raise StudyError(
            f"{source}: threads: {study.threads} are more than the {usable} cores usable here: threads that wait for"
            f" each other would be timed. Use {usable} at most."
        )


def _rounds(cells: Iterable[Cell], study: ThroughputStudy) -> list[Round]:
    together: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        together.setdefault(cell.round_key, []).append(cell)
    return [Round(cells=tuple(together[key]), study=study) for key in sorted(together)]


def _resolve(settings: CellSettings, vocab_size: int) -> Cell:
    """The cell of settings that fit together. Raises StudyError with the reason where they do not."""
    device = _device(settings)
    overrides: dict[str, Any] = {"head": settings.head} if settings.arch in HEADED else {}
    stated = {"codebook_size": settings.codebook_size, "block_length": settings.block_length}
    overrides |= {key: value for key, value in stated.items() if value is not None}
    model = resolve(settings.arch, settings.preset, vocab_size, overrides)
    cell = Cell(
        model=model,
        preset=settings.preset,
        context=settings.context,
        batch=settings.sequences,
        batching=settings.batching,
        precision=settings.precision,
        device=device,
        backend=_backend(model, settings.backend, device),
    )
    _check(cell)
    return cell


def _device(settings: CellSettings) -> Device:
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StudyError("device: cuda: PyTorch sees no GPU here. Use device cpu, or auto.")
    return settings.device


def _backend(model: ModelConfig, name: str, device: Device) -> str | None:
    try:
        return attention_backend(model, name, device)
    except BackendUnavailableError as error:
        raise StudyError(str(error)) from error


def _check(cell: Cell) -> None:
    """Refuses what training would refuse as well (`vqscale.planning.check.check_trial`)."""
    block, size = cell.model.block_length, cell.model.codebook_size
    if block and cell.context % block:
        raise StudyError(
            f"context: {cell.context} is no multiple of block_length {block}: VQ attention trains in whole blocks."
        )
    if size and size > cell.tokens_per_step:
        raise StudyError(
            f"codebook_size: {size} codes are more than the {cell.tokens_per_step} tokens of a step: most would never"
            " be used. Use fewer codes or a larger step."
        )
