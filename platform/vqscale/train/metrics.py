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

    Adding an update makes no host wait; on a GPU the next update can be queued while this one still runs.
    """

    def __init__(self, device: torch.device, group: ProcessGroup | None) -> None:
        self._group = group
        self._sums = torch.zeros(4, device=device)
        self._classifies = False
        self._norm = torch.zeros((), device=device)
        self._updates = 0

    def add(self, update: Update) -> None:
        one = torch.ones((), device=self._sums.device)
        self._classifies = update.accuracy is not None
        right = torch.zeros_like(one) if update.accuracy is None else update.accuracy.to(one.dtype)
        self._sums += torch.stack([update.nats, update.commit.to(one.dtype), right, one])
        self._norm = update.norm
        self._updates += 1

    @property
    def updates(self) -> int:
        return self._updates

    def read(self) -> dict[str, float]:
        """Means over updates and workers, of the norm the last value; then the window is empty again.

        The only time that the host waits for the device.
        """
        sums = self._sums.clone()
        if world_size(self._group) > 1:
            dist.all_reduce(sums, group=self._group)
        nats, commit, right, updates = sums.tolist()
        norm = float(self._norm)
        self._sums.zero_()
        self._updates = 0
        values = {"loss": nats / updates, "commit": commit / updates, "gradient_norm": norm}
        return values | ({"accuracy": right / updates} if self._classifies else {})


def world_size(group: ProcessGroup | None = None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def agree(flag: bool, device: torch.device, group: ProcessGroup | None) -> bool:
    """True on every worker if it is true on any: workers that disagree would wait in different collectives."""
    if world_size(group) == 1:
        return flag
    vote = torch.tensor(float(flag), device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=group)
    return bool(vote.item())


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
    revived = torch.stack([_scalar(layer["revived"]) for layer in layers]).sum()
    return {f"codebook/{key}": float(value) for key, value in {**mean, "revived": revived}.items()}


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
