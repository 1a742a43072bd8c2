"""`plan(study)`: the trials of a study with their cost, and which of them are already done. Nothing is started."""

import os
from dataclasses import dataclass

from vqscale import storage
from vqscale.errors import StudyError
from vqscale.plan.cost import UNMEASURED_SHARE, Cost, measured_speed, trial_cost
from vqscale.plan.expand import expand
from vqscale.results.record import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial
from vqscale.train.metrics import peak_flops
from vqscale.train.record import read_result

DONE = ("finished", "diverged", "stopped")


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    trial: Trial
    cost: Cost
    result: Result | None
    """The record of an earlier run; a failed one is trained again."""

    @property
    def done(self) -> bool:
        return self.result is not None and self.result.status in DONE


@dataclass(frozen=True, kw_only=True)
class Plan:
    study: Study
    trials: list[PlannedTrial]
    speed_source: str
    """Where the estimate of time comes from, in words."""

    @property
    def pending(self) -> list[PlannedTrial]:
        return [planned for planned in self.trials if not planned.done]

    @property
    def results(self) -> list[Result]:
        return [planned.result for planned in self.trials if planned.result is not None]

    def folder(self, trial: Trial) -> str:
        return storage.join(self.study.folder, "trials", trial.id)


def plan(study: Study, *, source: str = "study", allow_changed: bool = False) -> Plan:
    """Expand, check and price a study.

    Raises StudyError for a study that cannot run as it stands, also when its folder holds finished trials that the
    file no longer describes (unless `allow_changed`, which leaves them out).
    """
    trials = expand(study, source=source)
    known = {trial.id: trial for trial in trials}
    folder = storage.join(study.folder, "trials")
    results = {name: read_result(storage.join(folder, name)) for name in storage.listdir(folder)}
    strangers = [name for name, result in results.items() if name not in known and result and result.status in DONE]
    if strangers and not allow_changed:
        raise StudyError(
            f"{source}: study {study.study!r} in {study.folder} has {len(strangers)} finished trials that this file no"
            f" longer describes (such as {strangers[0]}): the study was changed under the same name. Give it another"
            " name, or add --allow-changed to go on without them."
        )
    ran = [result for name, result in results.items() if result and name in known]
    speed, words = _speed(study, ran)
    planned = [
        PlannedTrial(trial=trial, cost=trial_cost(trial, study, speed), result=results.get(trial.id))
        for trial in trials
    ]
    return Plan(study=study, trials=planned, speed_source=words)


def _speed(study: Study, ran: list[Result]) -> tuple[float, str]:
    """FLOP/s that a trial is expected to reach on this study's workers, and why."""
    measured = measured_speed(ran)
    if measured:
        return measured, f"median speed of the {len(ran)} trials that ran"
    peak = peak_flops("cpu", "fp32") * study.resources.workers
    cores = os.cpu_count() or 1
    share = min(study.resources.cpus_per_worker / cores, 1.0)
    return (
        peak * share * UNMEASURED_SHARE,
        f"{UNMEASURED_SHARE:.0%} of this machine's matrix-product peak; measured speeds replace it once trials ran",
    )
