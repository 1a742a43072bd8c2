"""Training speed of whole models with the step of the platform, where the platform is installed beside the kernels.

The kernels know nothing of the platform: it is looked up by name, and where it or what it needs is missing, the
page says so instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from vqkernels.gpu_check.timing import Timing, time_alternately

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


FULL = Models(
    preset="190m",
    architectures=("transformer_vq", "transformer_full", "transformer"),
    tokens=131072,
    lengths=(2048, 4096, 8192, 16384, 32768, 65536, 131072),
    precision="bf16",
    seconds_a_call=15.0,
    rounds=3,
)
SMOKE = Models(
    preset="pico",
    architectures=("transformer_vq", "transformer"),
    tokens=64,
    lengths=(64,),
    precision="fp32",
    seconds_a_call=120.0,
    rounds=1,
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

    An architecture that was too slow or too large at one length is not tried at longer ones.
    """
    cells = import_module("vqscale.bench.cell")
    given_up: dict[str, str] = {}
    for length in models.lengths:
        works: dict[str, Callable[[], object]] = {}
        for architecture in models.architectures:
            if architecture in given_up:
                continue
            try:
                works[architecture] = _step(cells, models, architecture, length, device)
            except torch.OutOfMemoryError:
                given_up[architecture] = f"out of memory at T = {length}"
            torch.cuda.empty_cache()
        timings: dict[str, Timing | str] = dict(given_up)
        timings |= time_alternately(works, device, models.seconds_a_call, models.rounds)
        for name in models.architectures:
            timing = timings[name]
            row: Row = {"architecture": name, "preset": models.preset, "T": length, "tokens_a_step": models.tokens}
            if isinstance(timing, str):
                given_up[name] = timing
                yield row | {"status": timing}
                continue
            speed = models.tokens / timing.median * 1e3
            yield row | {
                "status": "ok",
                "ms": timing.median,
                "tokens_per_second": speed,
                "peak_bytes": timing.peak_bytes,
            }
        told(f"{models.preset} models: T = {length} measured")


def _step(cells: Any, models: Models, architecture: str, length: int, device: torch.device) -> Callable[[], object]:
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
    model = cells.TrainingCell(cell)
    model.warm_up()
    return lambda: model.run(1)
