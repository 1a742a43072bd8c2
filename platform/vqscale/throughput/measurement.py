"""The measurement of one cell, kept in its own file: a stopped study resumes with the cells that are missing."""

import functools
import importlib.metadata
import statistics
from collections.abc import Callable, Mapping, Sequence

from pydantic import Field

from vqscale import provenance, storage
from vqscale.errors import MissingFileError
from vqscale.results.own_files import DamagedFileError, read_model, replace_text
from vqscale.study.frozen import Frozen

OK = "ok"
OUT_OF_MEMORY = "out of memory"
SKIPPED = "skipped: longer than"
MEASUREMENTS_FOLDER = "throughput"
SPEED_PACKAGES = ("torch", "triton", "vqscale")
"""Packages whose version may change a speed."""


class Measurement(Frozen):
    """The measured values of one cell. What was not measured is None, or absent from the list."""

    status: str
    """"ok", "out of memory" (with what else was in memory), or "skipped: longer than ..."."""
    step_seconds: list[float] = Field(default_factory=list)
    """Seconds of one update in every repeat, process after process; the n-th repeats of a process were timed together
    for all cells of a round."""
    process_repeats: list[int] = Field(default_factory=list)
    """How many of them each process made; empty for the one process of earlier versions."""
    updates_per_repeat: int | None = None
    peak_memory_bytes: int | None = None
    """Bytes of tensors alive at the peak of one update, without those of other models."""
    peak_flops: float | None = None
    """Highest FLOP/s of large matrix products in the cell's precision, measured on its device in the same process."""
    joules_per_token: float | None = None
    energy_source: str | None = None
    device: str
    threads: int
    machine: str
    versions: dict[str, str]
    git: str | None
    measured_at: str
    """ISO 8601 with time zone."""


def merge(parts: Sequence[Measurement]) -> Measurement:
    """One measurement of what several processes measured of a cell; the first without a speed is the result."""
    failed = next((one for one in parts if one.status != OK), None)
    if failed is not None:
        return failed
    joules = [one.joules_per_token for one in parts if one.joules_per_token is not None]
    ceilings = [one.peak_flops for one in parts if one.peak_flops is not None]
    sizes = [one.peak_memory_bytes for one in parts if one.peak_memory_bytes is not None]
    return parts[0].model_copy(
        update={
            "step_seconds": [seconds for one in parts for seconds in one.step_seconds],
            "process_repeats": [len(one.step_seconds) for one in parts],
            "updates_per_repeat": max((one.updates_per_repeat or 1) for one in parts),
            "peak_memory_bytes": max(sizes, default=None),
            "peak_flops": max(ceilings, default=None),
            "joules_per_token": statistics.fmean(joules) if len(joules) == len(parts) else None,
            "measured_at": parts[-1].measured_at,
        }
    )


def write_measurement(measurement: Measurement, folder: str, cell_id: str, process: int | None = None) -> None:
    replace_text(_uri(folder, cell_id, process), measurement.model_dump_json(indent=2) + "\n")


def read_measurement(
    folder: str, cell_id: str, warn: Callable[[str], None] | None = None, process: int | None = None
) -> Measurement | None:
    """The measurement of a cell by one process, from 1 on (None: by the only one); None before it was made.

    A damaged one counts as not made and is reported to `warn`; without it, DamagedFileError is raised.
    """
    try:
        return read_model(_uri(folder, cell_id, process), Measurement)
    except MissingFileError:
        return None
    except DamagedFileError as error:
        if warn is None:
            raise
        warn(f"{error} The cell is measured again.")
        return None


@functools.cache
def current_versions() -> dict[str, str]:
    """Versions of this process, Triton's among them where it is installed."""
    try:
        return provenance.versions() | {"triton": importlib.metadata.version("triton")}
    except importlib.metadata.PackageNotFoundError:
        return provenance.versions()


def describe_code(git: str | None, versions: Mapping[str, str]) -> str:
    """The code that a measurement ran, as text: its commit, and the versions that may change a speed."""
    packages = [f"{name} {versions[name]}" for name in SPEED_PACKAGES if name in versions]
    return ", ".join([f"commit {git or 'unknown'}", *packages])


def current_code() -> str:
    return describe_code(provenance.git_commit(), current_versions())


def _uri(folder: str, cell_id: str, process: int | None) -> str:
    name = f"{cell_id}.json" if process is None else f"{cell_id}.process{process}.json"
    return storage.join(folder, MEASUREMENTS_FOLDER, name)
