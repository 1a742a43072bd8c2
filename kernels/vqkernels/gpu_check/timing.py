"""Times of several contenders on a device, measured in alternation, and their peak memory."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_SECONDS_PER_MEASUREMENT = 0.02  # calls of one measurement are repeated until they take about this long
_SLOW = 0.3  # seconds of a call beyond which fewer rounds do


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over the rounds, and bytes allocated at the peak of a call beyond what was before."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]
    peak_bytes: int | None


class OutOfTime(Exception):  # noqa: N818 - not an error
    """A contender's first call took longer than it may."""


def time_alternately(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, longest: float, n_round: int
) -> dict[str, Timing | str]:
    """Timings by name; where a contender could not be timed, why. `longest`: seconds a single call may take."""
    found: dict[str, Timing | str] = {}
    calls: dict[str, int] = {}
    peaks: dict[str, int | None] = {}
    once = 0.0
    for name, contender in contenders.items():
        try:
            seconds, peaks[name] = _prepare(contender, device, longest)
        except Exception as error:  # a contender that does not run here is a finding, not a failure of ours
            found[name] = reason(error)
        if name in found:
            release(device)  # only now: the error kept the memory of the frames that it came through
            continue
        once = max(once, seconds)
        calls[name] = max(1, round(_SECONDS_PER_MEASUREMENT / max(seconds, 1e-6)))
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(n_round, 2) if once > _SLOW else n_round):
        for name in [one for one in calls if one not in found]:
            try:
                rounds[name].append(milliseconds(contenders[name], device, calls[name]))
            except Exception as error:  # as above: the peaks of two contenders may not fit in turn
                found[name] = reason(error)
            if name in found:
                release(device)
    for name, taken in rounds.items():
        if name in found:
            continue
        found[name] = Timing(statistics.median(taken), min(taken), max(taken), tuple(taken), peaks[name])
    return {name: found[name] for name in contenders}


def reason(error: Exception) -> str:
    """Why something could not be measured, in a line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, OutOfTime):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


def release(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def milliseconds(work: Callable[[], object], device: torch.device, calls: int) -> float:
    """Mean milliseconds of a call over so many in a row, by the device's own events where it has them."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return 1e3 * (time.perf_counter() - start) / calls
    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / calls


def _prepare(contender: Callable[[], object], device: torch.device, longest: float) -> tuple[float, int | None]:
    """Compile and warm up; returns seconds per call and the peak memory of one, in bytes."""
    contender()
    peak = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    once = milliseconds(contender, device, 1) / 1e3
    if device.type == "cuda":
        peak = int(torch.cuda.max_memory_allocated(device) - before)
    if once > longest:
        raise OutOfTime(f"one call took {once:.1f} s, more than {longest:g} s")
    return once, peak
