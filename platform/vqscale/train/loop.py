"""The training loop: update, log the metrics, stop if the trial diverges or is asked to, leave checkpoints."""

import math
from typing import Literal

from vqscale.errors import StudyInterruptedError
from vqscale.results.metrics_rows import Row
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.checkpointing import Checkpointing, log_every
from vqscale.train.engine import Engine
from vqscale.train.host import Host
from vqscale.train.metrics_logger import MetricsLogger
from vqscale.train.objective import TrainingObjective
from vqscale.train.pulse import Pulse
from vqscale.train.schedule import learning_rate
from vqscale.train.step import train_step
from vqscale.train.trial_progress import TrialProgress

End = Literal["finished", "diverged", "stopped"]
SKIPS_IN_A_ROW = 10
"""So many skipped updates one after another end a trial as diverged, however often metrics are logged."""
SKIPS_REPORTED = 10
"""From here on only every hundredth skipped update of a trial is reported."""


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
        self._pulse = Pulse(host)

    def run(self, progress: TrialProgress) -> tuple[End, str | None]:
        """Update until all training tokens are read, the trial diverges or the host asks it to stop.

        Returns how it ended, the same on every rank, and the reason if it diverged. Raises StudyInterruptedError after
        a checkpoint when the host is leaving.
        """
        steps = self._trial.train.steps
        if progress.window is not None:
            self._logger.restore(progress.window)
        try:
            while progress.step < steps:
                self._update(progress)
                last = progress.step == steps or self._hopeless(progress)
                logged, stop = progress.step % self._log_every == 0 or last, False
                if logged:
                    row = self._logger.log(progress)
                    if reason := self._divergence(row, progress):
                        return "diverged", reason
                    stop = self._host.publish(row) if self._host.rank == 0 else False
                stopped = (logged or self._pulse.due(progress.step)) and self._save_or_leave(progress, stop=stop)
                if stopped and progress.step < steps:  # after the last update nothing is left to be stopped
                    return "stopped", None
            return "finished", None
        finally:
            self._host.unsaved = False

    def _save_or_leave(self, progress: TrialProgress, *, stop: bool) -> bool:
        """Write the checkpoints that are due; returns whether the trial stops here.

        Raises StudyInterruptedError when the host is leaving.
        """
        step, own = progress.step, self._checkpointing
        wishes = self._pulse.agree(step, stop=stop, save=own.overdue(step))
        # The branch-off checkpoint comes first: an attempt resumed from the trial's own one finds it written.
        if own.prefix_due(step):
            own.save_prefix(progress)
        if (own.due(step) or wishes.save or wishes.leave) and not own.holds(step):
            progress.window = self._logger.state()
            own.save(progress)
            self._host.unsaved = False
        if wishes.leave:
            raise StudyInterruptedError("the study that this trial belongs to is stopping")
        return wishes.stop

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
            progress.update_done(skipped=update.skipped)
            self._host.unsaved = True
        if update.skipped:
            self._report_skip(progress)

    def _report_skip(self, progress: TrialProgress) -> None:
        count = progress.skipped_updates
        if count <= SKIPS_REPORTED or count % 100 == 0:
            more = "; from now on every hundredth is reported" if count == SKIPS_REPORTED else ""
            self._host.warn(
                f"update {progress.step} was skipped: its gradient is not finite (NaN or infinite). Skipped so far:"
                f" {count}{more}"
            )

    def _hopeless(self, progress: TrialProgress) -> bool:
        """Whether one update after another is skipped: parameters no longer change, so neither will this."""
        return progress.skipped_in_a_row >= min(SKIPS_IN_A_ROW, self._trial.train.steps)

    def _divergence(self, row: Row, progress: TrialProgress) -> str | None:
        """Why the trial has to end as diverged; None while it trains as it should."""
        step = progress.step
        if self._hopeless(progress):
            count = progress.skipped_in_a_row
            return f"the last {count} updates up to step {step} were skipped: their gradients are not finite"
        if "loss" not in row:  # every update since the last row was skipped
            return None
        loss, norm = row["loss"], row["gradient_norm"]
        if not math.isfinite(loss):
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
