"""What a checkpoint is on disk: a folder per step, complete with its manifest. Loads no torch: planning reads it."""

from typing import Any

from vqscale import storage
from vqscale.study.frozen import Frozen

CHECKPOINT_MANIFEST = "manifest.json"


class FileRecord(Frozen):
    name: str
    size: int
    sha256: str


class CheckpointManifest(Frozen):
    """What a checkpoint holds and how far the trial had come."""

    trial: str
    """Fingerprint of the trial or, for a branch-off checkpoint, of the shared prefix."""
    step: int
    """Updates done."""
    world: int
    """Number of workers that wrote it."""
    zero: int
    progress: dict[str, Any]
    """The loop's own numbers: seconds spent, first loss, revived codes, peak memory, shared updates."""
    files: list[FileRecord]


def checkpoints_folder(trial_folder: str) -> str:
    """Where the checkpoints of the trial in `trial_folder` are."""
    return storage.join(trial_folder, "checkpoints")


def discard_checkpoints(status: str, trial_folder: str) -> None:
    """Remove the checkpoints of a trial whose record is written and that has nothing left to resume."""
    if status == "finished":
        storage.remove(checkpoints_folder(trial_folder))


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(uri: str) -> int:
    """The step in a checkpoint's name."""
    return int(uri.rsplit("-", 1)[-1])


def complete(folder: str) -> list[str]:
    """URIs of the complete checkpoints under `folder`, newest first."""
    names = [name for name in storage.listdir(folder) if name.startswith("step-")]
    uris = [storage.join(folder, name) for name in sorted(names, reverse=True)]
    return [uri for uri in uris if storage.exists(storage.join(uri, CHECKPOINT_MANIFEST))]


def steps(folder: str) -> list[int]:
    """Steps of the complete checkpoints under `folder`, newest first."""
    return [step_of(uri) for uri in complete(folder)]


def read_checkpoint_manifest(uri: str) -> CheckpointManifest:
    return CheckpointManifest.model_validate_json(storage.read_text(storage.join(uri, CHECKPOINT_MANIFEST)))
