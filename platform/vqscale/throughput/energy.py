"""Energy of a device from its own counters, where it has any: NVML on a GPU, RAPL on a processor.

Both count the whole device: idle power and the work of other processes are included. Nothing is estimated: without a
counter there is no figure.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

RAPL = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"  # installed by NVIDIA's driver


class Meter(Protocol):
    """A counter of energy; only differences of its readings are meaningful."""

    source: str

    def joules(self) -> float: ...


class NvmlMeter:
    """The energy counter of one GPU (`nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver started)."""

    source = "NVML, the whole GPU"

    def __init__(self, library: Any, uuid: str) -> None:
        """Raises OSError where NVML or this GPU has no such counter."""
        self._library, self._handle = library, ctypes.c_void_p()
        _succeed(library.nvmlInit_v2())
        _succeed(library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle)))
        self.joules()

    def joules(self) -> float:
        value = ctypes.c_ulonglong()
        _succeed(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value)))
        return value.value / 1e3


class RaplMeter:
    """The energy counters of all processor packages (Linux `powercap`, in microjoules; they wrap at a known value)."""

    source = "RAPL, whole processor packages"

    def __init__(self, packages: Sequence[Path]) -> None:
        """Raises OSError where a counter cannot be read: usually only root may read it."""
        self._counters = [package / "energy_uj" for package in packages]
        self._ranges = [int((package / "max_energy_range_uj").read_text()) for package in packages]
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        """Joules so far. Call it more often than a counter wraps (about every 15 minutes under full load)."""
        now = self._read()
        for before, after, size in zip(self._last, now, self._ranges, strict=True):
            self._total += after - before if after >= before else after - before + size
        self._last = now
        return self._total / 1e6

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self._counters]


def open_meter(device: torch.device, *, rapl: Path = RAPL) -> Meter | None:
    """The counter of a device; None where it has none that this process may read."""
    try:
        if device.type == "cuda":
            uuid = torch.cuda.get_device_properties(device).uuid
            return NvmlMeter(ctypes.CDLL(_NVML), f"GPU-{uuid}")
        packages = sorted(path for path in rapl.glob("intel-rapl:*") if path.name.count(":") == 1)
        return RaplMeter(packages) if packages else None
    except (OSError, AttributeError):  # no driver library, no counter, no permission, a PyTorch without UUIDs
        return None


def _succeed(code: int) -> None:
    if code:
        raise OSError(f"NVML returned error {code}")
