"""The measurement of one cell, kept in its own file: a stopped study resumes with the cells that are missing."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping

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
    """Seconds of one update in every repeat; the n-th repeats of all cells of a round were timed together."""
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


def write_measurement(measurement: Measurement, folder: str, cell_id: str) -> None:
    replace_text(_uri(folder, cell_id), measurement.model_dump_json(indent=2) + "\n")


def read_measurement(folder: str, cell_id: str, warn: Callable[[str], None] | None = None) -> Measurement | None:
    """The measurement of a cell; None before it was made.

    A damaged one counts as not made and is reported to `warn`; without it, DamagedFileError is raised.
    """
    try:
        return read_model(_uri(folder, cell_id), Measurement)
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


def _uri(folder: str, cell_id: str) -> str:
    return storage.join(folder, MEASUREMENTS_FOLDER, f"{cell_id}.json")
