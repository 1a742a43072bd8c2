"""What produced a number: versions, commit, processor. Nothing here identifies the machine itself. Loads no torch."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

from vqscale.version import __version__


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, vqscale and the packages that may change a result; a package that is absent is left out."""
    names = ("torch", "deepspeed", "ray", "mlflow", "numpy")
    found = {"python": platform.python_version(), "vqscale": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout that this code was imported from, with `+changes` when it is not clean; None elsewhere."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def cpu_model() -> str:
    """The processor's own name, or its instruction set where the system does not report a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> str:
    """Processor, cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_model()}, {cores} cores usable, {psutil.virtual_memory().total / 2**30:.0f} GiB memory"
