"""Checkpoints: one folder per step, complete only with its manifest, verified by size and sha256 when read.

Every rank writes its own files to a local draft folder and uploads them; rank 0 writes `manifest.json` last. A folder
without a manifest is what an interrupted write left: no function here reads it.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from vqscale import storage
from vqscale.train.checkpoint_files import (
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileRecord,
    checkpoint_name,
    complete,
    read_checkpoint_manifest,
    step_of,
)
from vqscale.train.engine import Engine
from vqscale.train.metrics import world_size


def save(
    engine: Engine,
    extra: dict[str, Any],
    *,
    folder: str,
    trial: str,
    step: int,
    zero: int,
    progress: dict[str, Any],
    group: ProcessGroup | None = None,
) -> str:
    """Write a checkpoint of all ranks under `folder`; returns its URI. Every rank must call it.

    `extra`: this rank's own part (carried state, random generators), tensors and plain values only. `progress`: plain
    JSON for the manifest, rank 0's is written.
    """
    target = storage.join(folder, checkpoint_name(step))
    # Engines and torch.save write to local paths only; the upload takes the files to any fsspec URI, each whole.
    draft = Path(tempfile.mkdtemp(prefix="vqscale-checkpoint-"))
    try:
        engine.save(draft)
        torch.save(extra, draft / f"rank-{_rank(group):05d}.pt")
        records = [_upload(path, draft, target) for path in sorted(draft.rglob("*")) if path.is_file()]
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    # This gather also ends every rank's uploads before rank 0 writes the manifest, which declares them complete.
    all_records = _gather(records, group)
    if _rank(group) == 0:
        manifest = CheckpointManifest(
            trial=trial,
            step=step,
            world=world_size(group),
            zero=zero,
            progress=progress,
            files=sorted((record for records in all_records for record in records), key=lambda record: record.name),
        )
        storage.write_text(storage.join(target, CHECKPOINT_MANIFEST), manifest.model_dump_json(indent=2))
    _barrier(group)  # no rank may prune or report this checkpoint before its manifest exists
    return target


def _upload(path: Path, draft: Path, target: str) -> FileRecord:
    name = path.relative_to(draft).as_posix()
    storage.upload(str(path), storage.join(target, name))
    return FileRecord(name=name, size=path.stat().st_size, sha256=sha256_file(path))


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(folder: str, step: int, trial: str, group: ProcessGroup | None = None) -> bool:
    """Whether `folder` has a complete checkpoint of `step` that this trial could use; the same on every rank."""
    uri = storage.join(folder, checkpoint_name(step))
    found = False
    if _rank(group) == 0 and storage.exists(storage.join(uri, CHECKPOINT_MANIFEST)):
        found = _misfit(read_checkpoint_manifest(uri), trial, group) is None
    return bool(_gather(found, group)[0])


def restore(
    engine: Engine,
    *,
    folder: str,
    trial: str,
    warn: Callable[[str], None],
    until: int | None = None,
    group: ProcessGroup | None = None,
) -> tuple[CheckpointManifest, dict[str, Any]] | None:
    """Load the newest whole checkpoint into `engine`; None where there is none. Every rank must call it.

    `until`: the last step that may be taken; None: any. A checkpoint that is damaged, of another trial or of another
    number of workers is skipped with a warning in favour of the one before it.
    """
    # Rank 0 lists for all: object stores may show ranks different listings, and each rank must try the same candidates.
    for uri in _gather(complete(folder) if _rank(group) == 0 else [], group)[0]:
        if until is not None and step_of(uri) > until:
            continue
        local = Path(tempfile.mkdtemp(prefix="vqscale-restore-"))
        try:
            manifest = read_checkpoint_manifest(uri)
            fault = _fetch(uri, manifest, local) or _misfit(manifest, trial, group)
            # Checked on all ranks before any loads: an engine's load is a collective, and half-loaded is not undone.
            faults = [fault for fault in _gather(fault, group) if fault]
            if faults:
                warn(f"checkpoint {uri} is not used: {faults[0]}")
                continue
            engine.load(local)
            extra = torch.load(local / f"rank-{_rank(group):05d}.pt", weights_only=True)  # runs no code from the file
            return manifest, extra
        finally:
            shutil.rmtree(local, ignore_errors=True)
    return None


def _fetch(uri: str, manifest: CheckpointManifest, local: Path) -> str | None:
    """Copy the files of all ranks to `local`; returns what is wrong with them, if anything."""
    for record in manifest.files:
        path = local / record.name
        try:
            storage.download(storage.join(uri, record.name), str(path))
        except FileNotFoundError:
            return f"{record.name} is missing"
        if path.stat().st_size != record.size or sha256_file(path) != record.sha256:
            return f"{record.name} is damaged (its sha256 does not match)"
    return None


def _misfit(manifest: CheckpointManifest, trial: str, group: ProcessGroup | None) -> str | None:
    """Why an undamaged checkpoint cannot be used here; None if it can."""
    if manifest.trial != trial:
        return "it belongs to another trial"
    if manifest.world != world_size(group):
        here = world_size(group)
        return f"it was written by {manifest.world} workers and {here} are here; the trial restarts from scratch"
    return None


def discard(folder: str, group: ProcessGroup | None = None) -> None:
    """Remove every checkpoint: a trial that restarts from scratch must not return to them later."""
    if _rank(group) == 0:
        storage.remove(folder)
    _barrier(group)


def prune(folder: str, keep: int, group: ProcessGroup | None = None) -> None:
    """Remove all but the newest `keep` complete checkpoints, and older incomplete ones."""
    if _rank(group) == 0:
        kept = complete(folder)[:keep]
        newest = kept[0].rsplit("/", 1)[-1] if kept else ""
        # Zero-padded names sort by step. An incomplete folder that is newer is left: it may be about to be written.
        for name in storage.listdir(folder):
            uri = storage.join(folder, name)
            if uri not in kept and name < newest:
                storage.remove(uri)
    _barrier(group)


def _rank(group: ProcessGroup | None) -> int:
    return dist.get_rank(group) if world_size(group) > 1 else 0


def _barrier(group: ProcessGroup | None) -> None:
    if world_size(group) > 1:
        dist.barrier(group=group)


def _gather(value: Any, group: ProcessGroup | None) -> list[Any]:
    if world_size(group) == 1:
        return [value]
    values: list[Any] = [None] * world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values
