"""What a checkpoint is on disk: a folder per step, complete with its manifest. Loads no torch: planning reads it."""

import re

from pydantic import Field, field_validator

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.results.own_files import read_model
from vqscale.study.frozen import Frozen

CHECKPOINT_MANIFEST = "manifest.json"


class FileRecord(Frozen):
    name: str = Field(min_length=1)
    """Path inside the checkpoint's folder."""
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _inside_the_folder(cls, name: str) -> str:
        if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
            raise ValueError("leaves the checkpoint's folder")
        return name


class ProgressNumbers(Frozen):
    """The loop's own numbers, over all attempts."""

    first_loss: float | None
    seconds: float = Field(ge=0)
    revived: float = Field(ge=0)
    peak_memory: int = Field(ge=0)
    shared_steps: int = Field(default=0, ge=0)
    """This and the next are absent in older checkpoints."""
    skipped_updates: int = Field(default=0, ge=0)
    skipped_in_a_row: int = Field(default=0, ge=0)


class CheckpointManifest(Frozen):
    """What a checkpoint holds and how far the trial had come."""

    trial: str
    """Fingerprint of the trial or, for a branch-off checkpoint, of the shared prefix."""
    step: int = Field(gt=0)
    """Updates done."""
    world: int = Field(gt=0)
    """Number of workers that wrote it."""
    zero: int
    decayed: str | None = None
    """Fingerprint of the names of the parameters with weight decay; None in older checkpoints, where it was decided by
    a tensor's dimensions."""
    progress: ProgressNumbers
    files: list[FileRecord]

    def fault(self, uri: str) -> str | None:
        """What in it contradicts its place `uri` or itself; None: nothing."""
        names = [record.name for record in self.files]
        missing = {rank_file(rank) for rank in range(self.world)} - set(names)
        if self.step != step_of(uri):
            return f"its manifest is of step {self.step}"
        if missing:
            return f"its manifest lacks {min(missing)}"
        if len(names) != len(set(names)) or len(names) == self.world:
            return "its manifest names a file twice" if len(names) != len(set(names)) else "its manifest has no engine"
        return None


def checkpoints_folder(trial_folder: str) -> str:
    """Where the checkpoints of the trial in `trial_folder` are."""
    return storage.join(trial_folder, "checkpoints")


def discard_checkpoints(status: str, trial_folder: str) -> None:
    """Remove the checkpoints of a trial whose record is written and that has nothing left to resume."""
    if status == "finished":
        storage.remove(checkpoints_folder(trial_folder))


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def rank_file(rank: int) -> str:
    """Name of a worker's own part of a checkpoint."""
    return f"rank-{rank:05d}.pt"


def step_of(uri: str) -> int:
    """The step in a checkpoint's name."""
    return int(uri.rsplit("-", 1)[-1])


def complete(folder: str) -> list[str]:
    """URIs of the complete checkpoints under `folder`, newest first; their content may be damaged."""
    names = [name for name in storage.listdir(folder) if re.fullmatch(r"step-\d{8,}", name)]
    uris = [storage.join(folder, name) for name in sorted(names, key=step_of, reverse=True)]
    return [uri for uri in uris if _has_manifest(uri)]


def _has_manifest(uri: str) -> bool:
    try:
        return storage.exists(storage.join(uri, CHECKPOINT_MANIFEST))
    except StorageError:  # refused: who reads it is told why
        return True


def steps(folder: str) -> list[int]:
    """Steps of the complete checkpoints under `folder`, newest first."""
    return [step_of(uri) for uri in complete(folder)]


def read_checkpoint_manifest(uri: str) -> CheckpointManifest:
    """Raises DamagedFileError for a damaged one, StorageError where the store does not give it."""
    return read_model(storage.join(uri, CHECKPOINT_MANIFEST), CheckpointManifest)
