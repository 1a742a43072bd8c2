"""Training speed of whole models with the step of the platform, where the platform is installed beside the kernels.

The kernels know nothing of the platform: it is looked up by name, and where it or what it needs is missing, the
page says so instead.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from vqkernels.gpu_check.timing import Timing, reason, release, time_alternately

Row = dict[str, Any]
_VOCABULARY = 256


@dataclass(frozen=True)
class Models:
    """Which models are trained on how many tokens a step."""

    preset: str
    architectures: tuple[str, ...]
    tokens: int
    lengths: tuple[int, ...]
    precision: str
    seconds_a_call: float
    rounds: int
    activation_checkpointing: bool  # of all alike


FULL = Models(
    preset="190m",
    architectures=("transformer_vq", "transformer_full", "transformer"),
    tokens=131072,
    lengths=(2048, 4096, 8192, 16384, 32768, 65536, 131072),
    precision="bf16",
    seconds_a_call=15.0,
    rounds=3,
    activation_checkpointing=True,  # without it, 131,072 tokens a step need more than a GPU of 141 GB has
)
SMOKE = Models(
    preset="pico",
    architectures=("transformer_vq", "transformer"),
    tokens=64,
    lengths=(64,),
    precision="fp32",
    seconds_a_call=120.0,
    rounds=1,
    activation_checkpointing=True,
)


def missing() -> str | None:
    """The module that keeps the platform's training step from being imported, if any."""
    try:
        import_module("vqscale.bench.cell")
    except ImportError as error:
        return error.name or str(error)
    return None


def measure_models(models: Models, device: torch.device, told: Callable[[str], None]) -> Iterator[Row]:
    """One row an architecture and T: tokens a second of the training step, optimiser included.

    An architecture is not tried at longer T once a step there, were it to take twice as long with every doubling,
    would exceed the limit, or once it was out of memory twice: tokens a step, and so most memory, are constant.
    """
    cells = import_module("vqscale.bench.cell")
    given_up: dict[str, str] = {}
    without_memory: set[str] = set()
    for place, length in enumerate(models.lengths):
        works: dict[str, Callable[[], object]] = {}
        found: dict[str, Timing | str] = dict(given_up)
        for architecture in models.architectures:
            if architecture in given_up:
                continue
            try:
                works[architecture], seconds = _step(cells, models, architecture, length, device)
            except Exception as error:  # a model that does not run here is a finding, not a failure of ours
                found[architecture] = reason(error)
            else:
                if place + 1 < len(models.lengths):
                    seconds *= models.lengths[place + 1] / length
                if seconds > models.seconds_a_call:
                    given_up[architecture] = f"not tried: about {seconds:.0f} s a step, more than the limit"
            release(device)
        found |= time_alternately(works, device, models.seconds_a_call, models.rounds)
        works.clear()
        release(device)
        for name in models.architectures:
            timing = found[name]
            if timing == "out of memory":
                if name in without_memory:
                    given_up[name] = f"not tried: out of memory at T = {length} and before"
                without_memory.add(name)
            yield _row(models, name, length, timing)
        told(f"{models.preset} models: T = {length} measured")


def _row(models: Models, architecture: str, length: int, timing: Timing | str) -> Row:
    label = f"{architecture} (eager, chunked)" if architecture == "transformer_full" else architecture
    row: Row = {"architecture": label, "preset": models.preset, "T": length, "tokens_a_step": models.tokens}
    row["activation_checkpointing"] = models.activation_checkpointing
    if isinstance(timing, str):
        return row | {"status": timing}
    speed = models.tokens / timing.median * 1e3
    return row | {"status": "ok", "ms": timing.median, "tokens_per_second": speed, "peak_bytes": timing.peak_bytes}


def _step(
    cells: Any, models: Models, architecture: str, length: int, device: torch.device
) -> tuple[Callable[[], object], float]:
    """A function that makes one update, and how many seconds the second one took."""
    plan, presets = import_module("vqscale.bench.plan"), import_module("vqscale.models.presets")
    cell = plan.Cell(
        model=presets.resolve(architecture, models.preset, _VOCABULARY, {}),
        preset=models.preset,
        context=length,
        batch=models.tokens // length,
        batching="tokens",
        precision=models.precision,
        device=device.type,
        backend="triton" if architecture == "transformer_vq" else None,
    )
    model = cells.TrainingCell(cell, activation_checkpointing=models.activation_checkpointing)
    model.warm_up()
    began = time.perf_counter()
    model.run(1)
    return lambda: model.run(1), time.perf_counter() - began
