"""What works on this machine, what does not, and how to fix it."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from vqkernels import BackendUnavailableError, resolve_backend
from vqscale import storage
from vqscale.address import Address
from vqscale.errors import TrackingError, UserError
from vqscale.planning.plan import plan
from vqscale.study.places import open_study
from vqscale.study.spec import Study
from vqscale.track.store import check_reachable, local_file

CheckState = Literal["ok", "warning", "broken"]
GIB = 2**30
LOW_DISK_BYTES = 5 * GIB
LOW_MEMORY_BYTES = 2 * GIB
SUBPROCESS_SECONDS = 120
SHOWN_VERSIONS = ("torch", "ray", "deepspeed", "mlflow", "numpy", "pyarrow", "tokenizers")

_LIST_OPS = """
import json, os, sys
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
import deepspeed
from deepspeed.ops.op_builder.all_ops import ALL_OPS
real = {name: builder for name, builder in ALL_OPS.items() if "not_implemented" not in name}
ops = {name: bool(builder.is_compatible(verbose=False)) for name, builder in real.items()}
sys.stdout.write("\\nops " + json.dumps(ops))
"""
_START_RAY = """
import ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
ray.shutdown()
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    state: CheckState
    found: str
    fix: str | None = None
    """What to do about it; None where nothing needs fixing."""


def diagnose(study_path: str | None = None, *, deep: bool = False) -> list[Check]:
    """Check everything a study needs. Leaves no files behind; starts a Ray cluster only if `deep`."""
    return list(_checks(study_path, deep))


def _checks(study_path: str | None, deep: bool) -> Iterator[Check]:
    yield python()
    yield packages()
    yield processor()
    yield cuda()
    yield attention()
    yield ray_installed()
    if deep:
        yield ray_starts()
    yield deepspeed_ops()
    yield stale_locks(extensions_folder())
    yield compiler()
    if study_path is None:
        yield disk(str(Path.cwd()))
        return
    try:
        study = open_study(study_path)
    except UserError as error:
        yield Check(name="study", state="broken", found=str(error), fix="correct the study file")
        return
    yield planned(study, study_path)
    yield disk(study.folder)
    yield tracking(study.tracking.uri)


def python() -> Check:
    return Check(name="python", state="ok", found=f"{platform.python_version()} at {sys.executable}")


def packages(distribution: str = "vqscale") -> Check:
    """The packages that `distribution` needs, each in a version that it allows."""
    wrong = []
    for line in importlib.metadata.requires(distribution) or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        have = _version(need.name)
        if have is None:
            wrong.append(f"{need.name} is missing")
        elif not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} is not {need.specifier}")
    if wrong:
        fix = "pip install -c constraints.txt vqscale"
        return Check(name="packages", state="broken", found="; ".join(wrong), fix=fix)
    shown = [f"{name} {have}" for name in (distribution, *SHOWN_VERSIONS) if (have := _version(name))]
    return Check(name="packages", state="ok", found=", ".join(shown))


def processor() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    found = f"{cores} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free, bf16"
    if memory.available < LOW_MEMORY_BYTES:
        fix = "end other programs: one worker of a trial takes about 0.7 GiB"
        return Check(name="cpu", state="warning", found=found, fix=fix)
    return Check(name="cpu", state="ok", found=found)


def cuda() -> Check:
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use precision: fp32"
        return Check(name="cuda", state="ok", found=f"{names}, CUDA {torch.version.cuda}, {bf16}")
    if shutil.which("nvidia-smi") is None:
        return Check(name="cuda", state="ok", found="no GPU: trials train on the CPU")
    return Check(
        name="cuda",
        state="warning",
        found=f"a GPU driver is installed, but torch {torch.__version__} cannot use it",
        fix="install a CUDA build of torch that fits the driver: https://pytorch.org/get-started",
    )


def attention() -> Check:
    """The implementations of VQ attention that can run here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for name in ("naive", "blockwise", "triton"):
        try:
            found.append(resolve_backend(name, device))
        except BackendUnavailableError:
            continue
    auto = resolve_backend("auto", device)
    return Check(name="vq attention", state="ok", found=f"{', '.join(found)}; auto is {auto} on {device}")


def ray_installed() -> Check:
    """Ray with its dashboard, and the environment variables that change what it does."""
    missing = [name for name in ("ray.dashboard", "aiohttp", "opencensus") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install -c constraints.txt 'ray[default,train,tune]'"
        return Check(name="ray", state="broken", found=f"{', '.join(missing)} missing", fix=fix)
    address = os.environ.get("RAY_ADDRESS")
    where = f"RAY_ADDRESS: runs join {address}" if address else "runs start a cluster of their own on this machine"
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else GIB
    if free < GIB // 2:
        found = f"{where}; /dev/shm has {free / 2**20:.0f} MiB free"
        fix = "give the container more shared memory (docker run --shm-size=2g)"
        return Check(name="ray", state="warning", found=found, fix=fix)
    return Check(name="ray", state="ok", found=where)


def ray_starts() -> Check:
    started = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    error = _python(_START_RAY, environment)[1]
    if error:
        fix = "look for other Ray processes (`ray status`), free space in /tmp and /dev/shm, and a writable home folder"
        return Check(name="ray cluster", state="broken", found=f"does not start: {error}", fix=fix)
    return Check(name="ray cluster", state="ok", found=f"starts and ends in {time.monotonic() - started:.0f} s")


def deepspeed_ops() -> Check:
    """Whether DeepSpeed imports. Its compiled operators are extras: vqscale needs none of them and builds none."""
    output, error = _python(
        _LIST_OPS, {**os.environ, **({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})}
    )
    marker = output.rfind("\nops ")
    if error or marker < 0:
        fix = "pip install -c constraints.txt deepspeed; or use train: {engine: plain}"
        return Check(name="deepspeed", state="broken", found=f"does not import: {error}", fix=fix)
    ops: dict[str, bool] = json.loads(output[marker + 5 :])
    able = [name for name, compatible in ops.items() if compatible]
    found = (
        f"imports; needs no compiled operator ({len(able)} of {len(ops)} could be built: {', '.join(able) or 'none'})"
    )
    return Check(name="deepspeed", state="ok", found=found)


def extensions_folder() -> Path:
    """Where torch builds its C++ extensions."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path.home() / ".cache" / "torch_extensions"


def stale_locks(folder: Path) -> Check:
    """Lock files of builds that were killed: the next build of such an extension waits for ever, without a message."""
    locks = sorted(folder.glob("**/lock")) if folder.is_dir() else []
    if not locks:
        return Check(name="torch extensions", state="ok", found=f"no stale lock in {folder}")
    names = " ".join(str(lock) for lock in locks)
    return Check(
        name="torch extensions",
        state="warning",
        found=f"{len(locks)} locked builds: a program that needs one of them waits for ever",
        fix=f"if nothing is being built now: rm {names}",
    )


def compiler() -> Check:
    have = {name: shutil.which(name) for name in ("c++", "ninja")}
    absent = [name for name, path in have.items() if path is None]
    if absent:
        fix = "only for DeepSpeed's own operators (train.deepspeed): install g++ and ninja"
        return Check(name="compiler", state="warning", found=f"{' and '.join(absent)} not found", fix=fix)
    return Check(name="compiler", state="ok", found=", ".join(str(path) for path in have.values()))


def planned(study: Study, source: str) -> Check:
    """Whether the study expands into trials and its corpus exists."""
    try:
        trials = plan(study, source=source, allow_changed=True)
    except UserError as error:
        return Check(name="study", state="broken", found=str(error), fix="correct the study file or its corpus")
    done = len(trials.trials) - len(trials.pending)
    return Check(name="study", state="ok", found=f"{study.study}: {len(trials.trials)} trials, {done} of them done")


def disk(folder: str) -> Check:
    """Whether the results folder can be written and has free space. Nothing is left there."""
    if not storage.is_local(folder):
        return _remote_storage(folder)
    path = Path(folder)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        fix = "name a folder you can write (storage:)"
        return Check(name="storage", state="broken", found=f"{existing} cannot be written", fix=fix)
    free = shutil.disk_usage(existing).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < LOW_DISK_BYTES:
        return Check(name="storage", state="warning", found=found, fix="free some space, or name another storage:")
    return Check(name="storage", state="ok", found=found)


def _remote_storage(uri: str) -> Check:
    try:
        storage.require_writable(uri)
    except UserError as error:
        fix = "check the address, the credentials (AWS_*) and the endpoint (FSSPEC_S3_ENDPOINT_URL)"
        return Check(name="storage", state="broken", found=str(error), fix=fix)
    return Check(name="storage", state="ok", found=f"{uri} can be written")


def tracking(uri: Address | str) -> Check:
    """Whether the tracking store answers.

    A SQLite file that two processes created at the same time may have been left half-migrated: that is broken too.
    """
    try:
        resolved = check_reachable(uri)
    except TrackingError as error:
        return Check(name="tracking", state="broken", found=str(error), fix="start the server or name another store")
    file = local_file(resolved)
    if file is None:
        return Check(name="tracking", state="ok", found=f"{resolved} answers")
    if not file.exists():
        return Check(name="tracking", state="ok", found=f"{resolved}: created by the first run")
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            rows = database.execute("select name from sqlite_master where name like '\\_alembic\\_tmp%' escape '\\'")
            half = [str(name) for (name,) in rows]
    except sqlite3.DatabaseError as error:
        fix = f"move {file} away: the next run creates a new store from the study's own records"
        return Check(name="tracking", state="broken", found=f"{file}: {error}", fix=fix)
    if half:
        fix = f"move {file} away: the next run creates a new store"
        return Check(name="tracking", state="broken", found=f"{file} is half-migrated ({half[0]})", fix=fix)
    return Check(name="tracking", state="ok", found=f"{file}, {file.stat().st_size / 2**20:.1f} MiB")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(code: str, environment: dict[str, str]) -> tuple[str, str]:
    """Run code in a fresh interpreter: its output, and the last line of its error ("" when it succeeded)."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"did not end within {SUBPROCESS_SECONDS} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.stdout, "" if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")
