"""The training loop: update, log the metrics, stop if the trial diverges or is asked to, leave checkpoints."""

import math
from typing import Literal

from vqscale.results.metrics_rows import Row
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.checkpointing import Checkpointing, log_every
from vqscale.train.engine import Engine
from vqscale.train.host import Host
from vqscale.train.metrics import agree
from vqscale.train.metrics_logger import MetricsLogger
from vqscale.train.objective import TrainingObjective
from vqscale.train.schedule import learning_rate
from vqscale.train.step import train_step
from vqscale.train.trial_progress import TrialProgress

End = Literal["finished", "diverged", "stopped"]


class TrainingLoop:
    """One attempt at a trial."""

    def __init__(
        self,
        trial: Trial,
        host: Host,
        *,
        engine: Engine,
        objective: TrainingObjective,
        logger: MetricsLogger,
        checkpointing: Checkpointing,
        options: RunOptions,
    ) -> None:
        self._trial, self._host, self._engine, self._objective = trial, host, engine, objective
        self._logger, self._checkpointing = logger, checkpointing
        self._log_every = log_every(options, trial.train)

    def run(self, progress: TrialProgress) -> tuple[End, str | None]:
        """Update until all training tokens are read, the trial diverges or the host asks it to stop.

        Returns how it ended, the same on every rank, and the reason if it diverged.
        """
        steps = self._trial.train.steps
        while progress.step < steps:
            self._update(progress)
            if progress.step % self._log_every and progress.step < steps:
                continue
            row = self._logger.log(progress)
            if reason := self._divergence(row, progress):
                return "diverged", reason
            stop = self._host.publish(row) if self._host.rank == 0 else False
            # The branch-off checkpoint comes first: an attempt resumed from the trial's own one finds it written.
            if self._checkpointing.prefix_due(progress.step):
                self._checkpointing.save_prefix(progress)
            if self._checkpointing.due(progress.step):
                self._checkpointing.save(progress)
            stopped = agree(stop, self._host.device, self._host.group)
            if stopped and progress.step < steps:  # after the last update nothing is left to be stopped
                return "stopped", None
        return "finished", None

    def _update(self, progress: TrialProgress) -> None:
        train, step = self._trial.train, progress.step
        with self._logger.timed():
            parts = self._objective.batch(step)
            update, progress.states = train_step(
                self._engine,
                parts,
                self._objective.score,
                None if self._objective.starts_sequence(step) else progress.states,
                learning_rate(step, train),
                train,
                self._trial.model.commit_weight,
                self._host.device,
                self._host.group,
            )
            self._logger.add(update)
            progress.step += 1

    def _divergence(self, row: Row, progress: TrialProgress) -> str | None:
        """Why the trial has to end as diverged; None while it trains as it should."""
        loss, norm, step = row["loss"], row["gradient_norm"], progress.step
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"loss {loss:g}, gradient norm {norm:g} at step {step}: not a number any more"
        if norm == 0.0:  # every activation is dead: no gradient reaches any parameter
            return f"gradient norm 0 at step {step}, loss {loss:.3g}: nothing is learned any more"
        if progress.first_loss is None:
            progress.first_loss = loss
        # At least three times a uniform prediction's: a first loss logged after many updates does not lower the limit.
        limit = 3 * max(progress.first_loss, _uniform_nats(self._trial))
        if loss > limit:
            return f"loss {loss:.3g} nats at step {step} is above {limit:.3g}, three times where it began"
        return None


def _uniform_nats(trial: Trial) -> float:
    """Cross-entropy of a uniform prediction over the classes or the vocabulary."""
    return math.log(trial.model.classes or trial.model.vocab_size)
