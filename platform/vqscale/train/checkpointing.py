"""When a trial writes checkpoints, what they hold, and how an attempt continues from them.

A trial writes its own checkpoints for later attempts and, under the WSD schedule, one branch-off checkpoint for longer
trials with the same shared prefix. Files, manifest and verification are in `checkpoint`.
"""

import math
from typing import Any

import torch

from vqscale.models.base import ModelState
from vqscale.results.metrics_rows import read_rows, write_rows
from vqscale.study.shared_prefix import SharedPrefix, branch_off_step
from vqscale.study.spec import RunOptions
from vqscale.study.trial import TrainConfig, Trial
from vqscale.train import checkpoint
from vqscale.train.checkpoint_files import CheckpointManifest, checkpoints_folder
from vqscale.train.engine import Engine
from vqscale.train.host import Host
from vqscale.train.trial_progress import TrialProgress


def log_every(options: RunOptions, train: TrainConfig) -> int:
    """Updates between two rows of metrics; a short trial has at least the row at its end."""
    return min(options.log_every, train.steps)


def checkpoint_every(options: RunOptions, train: TrainConfig) -> int:
    """Updates between two checkpoints, by default a tenth of the trial but at least 100.

    A multiple of `log_every`: when metrics are logged no window of updates is partly filled, so rows of metrics do not
    depend on where checkpoints are.
    """
    wanted = options.checkpoint_every or max(100, math.ceil(train.steps / 10))
    every = log_every(options, train)
    return math.ceil(wanted / every) * every


class Checkpointing:
    """Saving and restoring one trial. Every rank must call every method."""

    def __init__(
        self, trial: Trial, engine: Engine, folder: str, options: RunOptions, host: Host, prefix: SharedPrefix | None
    ) -> None:
        self._trial, self._engine, self._host = trial, engine, host
        self._folder, self._options, self._prefix = folder, options, prefix

    def due(self, step: int) -> bool:
        """Whether the trial's own checkpoint is written after `step` updates; after the last one nothing resumes."""
        train = self._trial.train
        return step % checkpoint_every(self._options, train) == 0 and step < train.steps

    def prefix_due(self, step: int) -> bool:
        """Whether longer trials continue from `step` updates of this one."""
        wanted = self._prefix is not None and self._prefix.keep
        return wanted and step == branch_off_step(self._trial.train, self._options.log_every)

    def save(self, progress: TrialProgress) -> None:
        """Write a checkpoint for a later attempt and remove the oldest ones."""
        folder = checkpoints_folder(self._folder)
        # The rows come first: whatever checkpoint a later attempt takes, the rows up to its step are there.
        if self._host.rank == 0:
            write_rows(self._folder, progress.rows)
        uri = self._write(progress, folder, self._trial.fingerprint, {"started_at": progress.started_at})
        checkpoint.prune(folder, self._options.keep_checkpoints, self._host.group)
        self._host.checkpointed(uri, progress.rows[-1])

    def save_prefix(self, progress: TrialProgress) -> None:
        """Write the branch-off checkpoint, with the rows so far, unless another trial has left it there."""
        assert self._prefix is not None
        assert self._trial.shared_prefix is not None
        if not checkpoint.holds(self._prefix.folder, progress.step, self._trial.shared_prefix, self._host.group):
            self._write(progress, self._prefix.folder, self._trial.shared_prefix, {"rows": progress.rows})

    def restore(self, started_at: str) -> TrialProgress:
        """Load the newest whole checkpoint into the engine, the trial's own or else its prefix's; without one, nothing.

        `started_at`: when this attempt began. Checkpoints of the trial that cannot be used are removed.
        """
        found = self._read(checkpoints_folder(self._folder), self._trial.fingerprint)
        if found is not None:
            manifest, extra = found
            progress = self._progress(manifest, extra, extra.get("started_at", started_at))  # absent in older ones
            # Rows that an interrupted attempt wrote beyond this step are made again by the updates that follow.
            progress.rows = [row for row in read_rows(self._folder) if row["step"] <= progress.step]
            return progress
        checkpoint.discard(checkpoints_folder(self._folder), self._host.group)
        return self._restore_prefix(started_at) or TrialProgress(started_at=started_at)

    def _restore_prefix(self, started_at: str) -> TrialProgress | None:
        if self._prefix is None or self._trial.shared_prefix is None:
            return None
        # Beyond the start of its decay this trial's learning rate differs from a longer trial's.
        until = self._trial.train.decay_start
        found = self._read(self._prefix.folder, self._trial.shared_prefix, until)
        if found is None:
            return None
        manifest, extra = found
        progress = self._progress(manifest, extra, started_at)
        progress.rows, progress.shared_steps = extra["rows"], manifest.step
        return progress

    def _read(
        self, folder: str, fingerprint: str, until: int | None = None
    ) -> tuple[CheckpointManifest, dict[str, Any]] | None:
        host = self._host
        return checkpoint.restore(
            self._engine, folder=folder, trial=fingerprint, warn=host.warn, until=until, group=host.group
        )

    def _write(self, progress: TrialProgress, folder: str, fingerprint: str, more: dict[str, Any]) -> str:
        generators = _generators(self._host.device)
        states = [state.to_tensors() for state in progress.states] if progress.states else None
        uri = checkpoint.save(
            self._engine,
            {"states": states, **generators, **more},
            folder=folder,
            trial=fingerprint,
            step=progress.step,
            zero=self._trial.train.zero,
            progress=_numbers(progress),
            group=self._host.group,
        )
        # An engine may draw random numbers while it saves. This attempt must see the same draws afterwards as one that
        # is resumed from the checkpoint.
        _set_generators(generators, self._host.device)
        return uri

    def _progress(self, manifest: CheckpointManifest, extra: dict[str, Any], started_at: str) -> TrialProgress:
        """What `_write` wrote, without the rows; the random generators are set as they were then."""
        _set_generators(extra, self._host.device)
        numbers, states = manifest.progress, extra["states"]
        return TrialProgress(
            started_at=started_at,
            step=manifest.step,
            shared_steps=numbers.get("shared_steps", 0),  # absent in older checkpoints
            states=None if states is None else [ModelState.from_tensors(state) for state in states],
            first_loss=numbers["first_loss"],
            seconds=numbers["seconds"],
            seconds_before=numbers["seconds"],
            revived_before=numbers["revived"],
            peak_memory=numbers["peak_memory"],
        )


def _numbers(progress: TrialProgress) -> dict[str, Any]:
    """What a manifest says of the progress, in plain JSON."""
    return {
        "first_loss": progress.first_loss,
        "seconds": progress.seconds,
        "revived": progress.revived,
        "peak_memory": progress.peak_memory,
        "shared_steps": progress.shared_steps,
    }


def _generators(device: torch.device) -> dict[str, Any]:
    return {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_generators(saved: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["rng"])
    if saved["cuda_rng"] is not None:
        torch.cuda.set_rng_state(saved["cuda_rng"], device)
