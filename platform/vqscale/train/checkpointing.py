"""When a trial writes checkpoints, what they hold, and how an attempt continues from them.

A trial writes its own checkpoints for later attempts and, under the WSD schedule, one branch-off checkpoint for longer
trials with the same shared prefix. Files, manifest and verification are in `checkpoint`.
"""

import math
import time
from typing import Any

import torch

from vqscale.errors import StorageError
from vqscale.models.base import ModelState
from vqscale.results.metrics_rows import Row, metrics_uri, read_rows, write_rows
from vqscale.study.shared_prefix import SharedPrefix, branch_off_step
from vqscale.study.spec import RunOptions
from vqscale.study.trial import TrainConfig, Trial
from vqscale.train import checkpoint
from vqscale.train.checkpoint_files import CheckpointManifest, ProgressNumbers, checkpoints_folder
from vqscale.train.engine import Engine
from vqscale.train.host import Host
from vqscale.train.metrics import revived_codes
from vqscale.train.trial_progress import TrialProgress

LAST_SECONDS = 10.0
"""Training of which a stop during the evaluation may cost the last."""
SAVING_SHARE = 0.05
"""Checkpoints by time take at most this share of it: large ones over a slow network are written more rarely."""


def log_every(options: RunOptions, train: TrainConfig) -> int:
    """Updates between two rows of metrics; a short trial has at least the row at its end."""
    return min(options.log_every, train.steps)


def checkpoint_every(options: RunOptions, train: TrainConfig) -> int:
    """Updates between two checkpoints, by default a tenth of the trial but at least 100.

    A multiple of `log_every`; checkpoints that are due by time or by a stop may lie between two rows of metrics, and
    then hold the part of the next one.
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
        self._saved_step, self._saved_at, self._save_seconds = 0, time.monotonic(), 0.0

    def due(self, step: int) -> bool:
        """Whether the trial's own checkpoint is written after `step` updates; after the last one nothing resumes."""
        train = self._trial.train
        return step % checkpoint_every(self._options, train) == 0 and step < train.steps

    def overdue(self, step: int) -> bool:
        """Whether a checkpoint is due by time. Asked on rank 0: other ranks' clocks differ.

        After the last update sooner than between updates: the evaluation that follows writes none.
        """
        limit = self._options.checkpoint_seconds
        if step >= self._trial.train.steps:
            limit = min(limit, LAST_SECONDS)
        return time.monotonic() - self._saved_at > max(limit, self._save_seconds / SAVING_SHARE)

    def holds(self, step: int) -> bool:
        """Whether a checkpoint of `step` was written or loaded by this attempt."""
        return step == self._saved_step

    def prefix_due(self, step: int) -> bool:
        """Whether longer trials continue from `step` updates of this one."""
        wanted = self._prefix is not None and self._prefix.keep
        return wanted and step == branch_off_step(self._trial.train, self._options.log_every)

    def save(self, progress: TrialProgress) -> None:
        """Write a checkpoint for a later attempt and remove the oldest ones."""
        folder, start = checkpoints_folder(self._folder), time.monotonic()
        # The rows come first: whatever checkpoint a later attempt takes, the rows up to its step are there.
        if self._host.rank == 0:
            write_rows(self._folder, progress.rows)
        more = {"started_at": progress.started_at, "window": progress.window, "rows": progress.rows}
        uri = self._write(progress, folder, self._trial.fingerprint, more)
        checkpoint.prune(uri, self._options.keep_checkpoints, self._host.group)
        self._host.checkpointed(uri, progress.step)
        self._saved_step, self._saved_at = progress.step, time.monotonic()
        self._save_seconds = self._saved_at - start

    def save_prefix(self, progress: TrialProgress) -> None:
        """Write the branch-off checkpoint, with the rows so far, unless another trial has left it there."""
        assert self._prefix is not None
        assert self._trial.shared_prefix is not None
        folder, prefix = self._prefix.folder, self._trial.shared_prefix
        if not checkpoint.holds(folder, progress.step, prefix, self._engine.parameters, self._host.group):
            self._write(progress, folder, prefix, {"rows": progress.rows})

    def restore(self, started_at: str) -> TrialProgress:
        """Load the newest whole checkpoint into the engine, the trial's own or else its prefix's; without one, nothing.

        `started_at`: when this attempt began. Checkpoints of the trial that can never be used are removed.
        """
        folder, host = checkpoints_folder(self._folder), self._host
        found = self._read(folder, self._trial.fingerprint)
        # Without a checkpoint to start from, incomplete ones are of no use either.
        afresh = found.manifest is None and not found.unread
        checkpoint.discard([folder] if afresh else found.useless, host.warn, host.group)
        if found.manifest is not None:
            extra = found.extra
            # absent in older ones
            progress = self._progress(found.manifest, extra, extra.get("started_at", started_at))
            progress.rows = self._rows(extra.get("rows"), progress.step)
            progress.window = extra.get("window")  # absent in older ones, which were written at rows only
            self._saved_step = progress.step
            return progress
        shared = self._restore_prefix(started_at)
        if found.useless or found.unread:
            where = f"step {shared.step}, from its shared prefix" if shared else "the beginning"
            host.warn(f"none of its checkpoints in {folder} can be used: the trial starts from {where}")
        return shared or TrialProgress(started_at=started_at)

    def _rows(self, kept: list[Row] | None, step: int) -> list[Row]:
        """The metrics up to `step`: the checkpoint's own, or those of the trial's file (`kept` is None in older ones).

        Rows that an interrupted attempt wrote beyond this step are made again by the updates that follow.
        """
        faults: list[str] = []
        try:
            found = [row for row in read_rows(self._folder, faults.append) if row["step"] <= step]
        except StorageError as error:
            found, faults = [], [str(error)]
        if kept is None:  # these checkpoints were written at rows only, so the last one is of their step
            if not found or found[-1]["step"] != step:
                have = f"end at step {found[-1]['step']}" if found else "are lost"
                faults.append(f"{metrics_uri(self._folder)}: the metrics up to step {step} {have}.")
        elif not faults and [row["step"] for row in found] != [row["step"] for row in kept]:
            faults.append(f"{metrics_uri(self._folder)}: lacks metrics up to step {step}.")
        for fault in faults:
            more = " They are written again as the checkpoint holds them." if kept is not None else ""
            self._host.warn(fault + more)
        return found if kept is None else kept

    def _restore_prefix(self, started_at: str) -> TrialProgress | None:
        if self._prefix is None or self._trial.shared_prefix is None:
            return None
        # Beyond the start of its decay this trial's learning rate differs from a longer trial's.
        until = self._trial.train.decay_start
        found = self._read(self._prefix.folder, self._trial.shared_prefix, until)
        if found.manifest is None:
            return None
        progress = self._progress(found.manifest, found.extra, started_at)
        progress.rows, progress.shared_steps = found.extra["rows"], found.manifest.step
        return progress

    def _read(self, folder: str, fingerprint: str, until: int | None = None) -> checkpoint.Restored:
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
            progress=_numbers(progress, revived_codes(self._engine.module.codebooks())),  # type: ignore[operator]
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
            shared_steps=numbers.shared_steps,
            states=None if states is None else [ModelState.from_tensors(state) for state in states],
            skipped_updates=numbers.skipped_updates,
            skipped_in_a_row=numbers.skipped_in_a_row,
            first_loss=numbers.first_loss,
            seconds=numbers.seconds,
            seconds_before=numbers.seconds,
            revived_before=numbers.revived,
            peak_memory=numbers.peak_memory,
        )


def _numbers(progress: TrialProgress, revived: float) -> ProgressNumbers:
    """What a manifest says of the progress. `revived`: codes revived by this attempt, those since the last row too."""
    return ProgressNumbers(
        first_loss=progress.first_loss,
        seconds=progress.seconds,
        revived=progress.revived_before + revived,
        peak_memory=progress.peak_memory,
        shared_steps=progress.shared_steps,
        skipped_updates=progress.skipped_updates,
        skipped_in_a_row=progress.skipped_in_a_row,
    )


def _generators(device: torch.device) -> dict[str, Any]:
    return {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_generators(saved: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["rng"])
    if saved["cuda_rng"] is not None:
        torch.cuda.set_rng_state(saved["cuda_rng"], device)
