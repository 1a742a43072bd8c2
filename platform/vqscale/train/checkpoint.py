"""Checkpoints: one folder per step, complete only with its manifest, verified by size and sha256 when read.

Every rank writes its own files to a local draft folder and uploads them; rank 0 writes `manifest.json` last. A folder
without a manifest is what an interrupted write left: no function here reads it.
"""

import hashlib
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from vqscale import storage
from vqscale.errors import MissingFileError, StorageError
from vqscale.results.own_files import DamagedFileError
from vqscale.train.checkpoint_files import (
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileRecord,
    ProgressNumbers,
    checkpoint_name,
    complete,
    rank_file,
    read_checkpoint_manifest,
    step_of,
)
from vqscale.train.engine import Engine, ParameterGroups
from vqscale.train.metrics import world_size


def save(
    engine: Engine,
    extra: dict[str, Any],
    *,
    folder: str,
    trial: str,
    step: int,
    zero: int,
    progress: ProgressNumbers,
    group: ProcessGroup | None = None,
) -> str:
    """Write a checkpoint of all ranks under `folder`; returns its URI. Every rank must call it.

    `extra`: this rank's own part (carried state, random generators), tensors and plain values only. Of `progress`, rank
    0's is written.
    """
    target = storage.join(folder, checkpoint_name(step))
    # Engines and torch.save write to local paths only; the upload takes the files to any fsspec URI, each whole.
    draft = Path(tempfile.mkdtemp(prefix="vqscale-checkpoint-"))
    try:
        engine.save(draft)
        torch.save(extra, draft / rank_file(_rank(group)))
        if _rank(group) == 0:
            storage.remove(target)  # a damaged or incomplete one, of which nothing may stay
        _barrier(group)
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
            decayed=engine.parameters.fingerprint,
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


def holds(folder: str, step: int, trial: str, parameters: ParameterGroups, group: ProcessGroup | None = None) -> bool:
    """Whether `folder` has a complete checkpoint of `step` that this trial could use; the same on every rank."""
    uri = storage.join(folder, checkpoint_name(step))
    return bool(_gather(_rank(group) == 0 and _fits(uri, trial, parameters, group), group)[0])


def _fits(uri: str, trial: str, parameters: ParameterGroups, group: ProcessGroup | None) -> bool:
    try:
        return _misfit(read_checkpoint_manifest(uri), uri, trial, parameters, group) is None
    except StorageError:  # missing, damaged or refused
        return False


@dataclass(kw_only=True)
class Restored:
    """What a search for a checkpoint found; the same on every rank."""

    manifest: CheckpointManifest | None = None
    """Of the checkpoint that was loaded; None: there was none to load."""
    extra: dict[str, Any] = field(default_factory=dict)
    """This rank's own part of it."""
    useless: list[str] = field(default_factory=list)
    """Checkpoints that were passed over for good: damaged, of another trial, number of workers or weight decay."""
    unread: list[str] = field(default_factory=list)
    """Checkpoints that the store did not give; it may give them later."""


class _UselessError(Exception):
    """A checkpoint that can be read and not be used."""


def restore(
    engine: Engine,
    *,
    folder: str,
    trial: str,
    warn: Callable[[str], None],
    until: int | None = None,
    group: ProcessGroup | None = None,
) -> Restored:
    """Load the newest whole checkpoint into `engine`. Every rank must call it.

    `until`: the last step that may be taken; None: any. A checkpoint that is damaged, unreadable, of another trial, of
    another number of workers or with other parameters under weight decay is passed over with a warning in favour of the
    one before it.
    """
    found = Restored()
    # Rank 0 lists for all: object stores may show ranks different listings, and each rank must try the same candidates.
    for uri in _gather(complete(folder) if _rank(group) == 0 else [], group)[0]:
        if until is not None and step_of(uri) > until:
            continue
        local = Path(tempfile.mkdtemp(prefix="vqscale-restore-"))
        try:
            part, fault = _read_part(uri, trial, local, engine.parameters, group)
            # Checked on all ranks before any loads: an engine's load is a collective, and half-loaded is not undone.
            faults = [fault for fault in _gather(fault, group) if fault]
            if part is not None and not faults:
                _load(engine, local, uri)
                found.manifest, found.extra = part
                return found
            useless = [text for text, for_good in faults if for_good]
            warn(f"checkpoint {uri} is not used: {(useless or [faults[0][0]])[0]}")
            (found.useless if useless else found.unread).append(uri)
        finally:
            shutil.rmtree(local, ignore_errors=True)
    return found


def _load(engine: Engine, local: Path, uri: str) -> None:
    """Raises StorageError that names the checkpoint: it is whole, and half-loaded it cannot be passed over here."""
    try:
        engine.load(local)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"checkpoint {uri}: its files are whole, and the engine cannot load them ({reason}). If it fails again,"
            " remove this folder: the trial resumes from the checkpoint before it."
        ) from error


Part = tuple[CheckpointManifest, dict[str, Any]]
Fault = tuple[str, bool]
"""Why a checkpoint cannot be used, and whether that is for good."""


def _read_part(
    uri: str, trial: str, local: Path, parameters: ParameterGroups, group: ProcessGroup | None
) -> tuple[Part | None, Fault | None]:
    """Copy the files of all ranks to `local`, and read the manifest and this rank's own part."""
    try:
        manifest = read_checkpoint_manifest(uri)
        if misfit := _misfit(manifest, uri, trial, parameters, group):
            raise _UselessError(misfit)
        _fetch(uri, manifest, local)
        return (manifest, _read_extra(local / rank_file(_rank(group)))), None
    except (DamagedFileError, _UselessError) as error:
        return None, (str(error), True)
    except StorageError as error:
        return None, (str(error), False)


def _fetch(uri: str, manifest: CheckpointManifest, local: Path) -> None:
    for record in manifest.files:
        path = local / record.name
        try:
            storage.download(storage.join(uri, record.name), str(path))
        except MissingFileError as error:
            raise _UselessError(f"{record.name} is missing") from error
        if not path.is_file() or path.stat().st_size != record.size or sha256_file(path) != record.sha256:
            raise _UselessError(f"{record.name} is damaged (its sha256 does not match)")


def _read_extra(path: Path) -> dict[str, Any]:
    try:
        extra = torch.load(path, weights_only=True)  # runs no code from the file
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _UselessError(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(extra, dict) or not {"states", "rng", "cuda_rng"} <= extra.keys():
        raise _UselessError(f"{path.name} does not hold state and random generators")
    return extra


def _misfit(
    manifest: CheckpointManifest, uri: str, trial: str, parameters: ParameterGroups, group: ProcessGroup | None
) -> str | None:
    """Why a checkpoint whose manifest can be read cannot be used here; None if it can."""
    if manifest.trial != trial:
        return "it belongs to another trial"
    if manifest.world != world_size(group):
        here = world_size(group)
        return f"it was written by {manifest.world} workers and {here} are here; the trial restarts from scratch"
    if (manifest.decayed or parameters.fingerprint_by_dimension) != parameters.fingerprint:
        return (
            "weight decay applied to other parameters when it was written, and the optimiser's state is stored by them;"
            " the trial restarts from scratch"
        )
    return manifest.fault(uri)


def discard(uris: Iterable[str], warn: Callable[[str], None], group: ProcessGroup | None = None) -> None:
    """Remove what no attempt may return to later. What cannot be removed is reported, and passed over again."""
    if _rank(group) == 0:
        for uri in uris:
            try:
                storage.remove(uri)
            except StorageError as error:
                warn(str(error))
    _barrier(group)


def prune(newest: str, keep: int, group: ProcessGroup | None = None) -> None:
    """Remove all but `newest`, which was just written, and the `keep` - 1 complete checkpoints before it.

    Later ones, which could not be read, are neither counted nor removed; nor are incomplete ones that are later than
    `newest`: they may be about to be written.
    """
    if _rank(group) == 0:
        folder, _, last = newest.rpartition("/")
        kept = [uri for uri in complete(folder) if step_of(uri) <= step_of(newest)][:keep]
        for name in storage.listdir(folder):  # zero-padded names sort by step
            if storage.join(folder, name) not in kept and name < last:
                storage.remove(storage.join(folder, name))
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
