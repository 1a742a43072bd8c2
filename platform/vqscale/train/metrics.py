"""Measurements of a running trial: means over a window of updates, memory, codebook health, system load."""

import functools
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from vqscale.train.step import Update


class MetricsWindow:
    """Sums over the updates since the last row of metrics, kept on the device until they are read.

    Skipped updates count as updates and are in no mean: their losses may be NaN.
    """

    def __init__(self, device: torch.device, group: ProcessGroup | None) -> None:
        self._group = group
        self._sums = torch.zeros(4, device=device)
        self._classifies = False
        self._norm = 0.0
        self._updates = 0

    def add(self, update: Update) -> None:
        self._updates += 1
        if update.skipped:
            return
        one = torch.ones((), device=self._sums.device)
        self._classifies = update.accuracy is not None
        right = torch.zeros_like(one) if update.accuracy is None else update.accuracy.to(one.dtype)
        self._sums += torch.stack([update.nats, update.commit.to(one.dtype), right, one])
        self._norm = update.norm

    @property
    def updates(self) -> int:
        return self._updates

    def read(self) -> dict[str, float]:
        """Means over updates and workers, of the norm the last value; then the window is empty again.

        Empty where every update was skipped.
        """
        sums = self._sums.clone()
        if world_size(self._group) > 1:
            dist.all_reduce(sums, group=self._group)
        nats, commit, right, updates = sums.tolist()
        self._sums.zero_()
        self._updates = 0
        if not updates:
            return {}
        values = {"loss": nats / updates, "commit": commit / updates, "gradient_norm": self._norm}
        return values | ({"accuracy": right / updates} if self._classifies else {})

    def state(self) -> dict[str, Any] | None:
        """What this worker has summed since the last row, for a checkpoint between two rows; None: nothing."""
        if not self._updates:
            return None
        return {"sums": self._sums.cpu(), "norm": self._norm, "updates": self._updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the window that `state` was taken of."""
        self._sums.copy_(state["sums"])
        self._norm = state["norm"]
        self._updates = state["updates"]


def world_size(group: ProcessGroup | None = None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def agree(votes: list[float], device: torch.device, group: ProcessGroup | None) -> list[float]:
    """The largest vote of any worker, one by one: workers that disagree would wait in different collectives."""
    if world_size(group) == 1:
        return votes
    together = torch.tensor(votes, device=device)
    dist.all_reduce(together, op=dist.ReduceOp.MAX, group=group)
    return together.tolist()


def codebook_telemetry(codebooks: list[Any]) -> dict[str, float]:
    """Means over the layers of perplexity, dead share, quantisation error and revival threshold; codes revived in all.

    Empty for a model without codebooks.
    """
    if not codebooks:
        return {}
    layers = [codebook.telemetry() for codebook in codebooks]
    mean = {
        key: torch.stack([_scalar(layer[key]) for layer in layers]).mean()
        for key in ("perplexity", "dead_share", "quantisation_error", "threshold")
    }
    values = {f"codebook/{key}": float(value) for key, value in mean.items()}
    return {**values, "codebook/revived": revived_codes(codebooks)}


def revived_codes(codebooks: list[Any]) -> float:
    """Codes revived in all layers since the model was built; 0 for a model without codebooks."""
    return float(sum(_scalar(codebook.telemetry()["revived"]) for codebook in codebooks))


def _scalar(value: Tensor) -> Tensor:
    return value.float().mean()


def system_metrics(device: torch.device) -> dict[str, float]:
    """CPU and memory of this process, and the GPU's where there is one (names as MLflow groups them)."""
    process = _process()
    values = {
        "system/cpu_percent": process.cpu_percent(),
        "system/memory_megabytes": process.memory_info().rss / 1e6,
    }
    if device.type == "cuda":
        values["system/gpu_memory_megabytes"] = torch.cuda.memory_allocated(device) / 1e6
    return values


@functools.cache
def _process() -> psutil.Process:
    return psutil.Process()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the allocator since `reset_memory` (CUDA), or the process's resident memory now (CPU)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(_process().memory_info().rss)


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
