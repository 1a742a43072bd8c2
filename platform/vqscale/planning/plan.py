"""`plan(study)`: the trials of a study with their cost, and which of them are already done. Nothing is started."""

import functools
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

from vqscale import storage
from vqscale.costing.facts import evaluation_text
from vqscale.costing.machine_peak import processor_peak_flops
from vqscale.costing.measured_speeds import MeasuredSpeeds
from vqscale.costing.trial_cost import UNMEASURED_SHARE, TrialCost, trial_cost
from vqscale.errors import StudyError
from vqscale.planning.designs import DONE, Dropped
from vqscale.planning.expand import Expansion, expand
from vqscale.planning.shared_prefixes import Sharing, sharing, warmup_notes
from vqscale.results.records import Records, read_results
from vqscale.results.result import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    trial: Trial
    cost: TrialCost
    result: Result | None
    """The record of an earlier run; a failed one is trained again."""
    origins: tuple[str, ...] = ("sweep",)
    """`sweep` or types of designs that name it."""
    budget: float | None = None
    """Training FLOPs that its training tokens were solved for; None where they were given."""
    stage: float | None = None
    """Budget of a re-centred design: trained once all smaller ones are; None: at any time."""
    sharing: Sharing | None = None
    """Updates in common with trials of other token budgets; None where there are none, or the trial is done."""

    @property
    def done(self) -> bool:
        return self.result is not None and self.result.status in DONE

    @property
    def shared_steps(self) -> int:
        """Updates that it is expected to take over from a shorter trial."""
        return self.sharing.shared_steps if self.sharing else 0

    @property
    def cost_to_train(self) -> TrialCost:
        """`cost`, which covers all its training tokens, without the updates that it takes over."""
        return self.cost.part(1 - self.shared_steps / self.cost.steps) if self.shared_steps else self.cost


@dataclass(frozen=True, kw_only=True)
class Plan:
    study: Study
    trials: list[PlannedTrial]
    speed_source: str
    """What the estimate of time is based on, as text."""
    dropped: list[Dropped] = field(default_factory=list)
    """Grid points of designs that are not trained, with the reason."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user on how grid points were selected."""
    damaged: list[str] = field(default_factory=list)
    """Records that cannot be read or not as a whole, as text for the user: which file, what follows."""
    later: list[PlannedTrial] = field(default_factory=list)
    """For one stage of a plan: trials of the study that are still to be trained and not in this stage."""

    @property
    def queue(self) -> list[PlannedTrial]:
        """The pending trials in the order in which they are submitted to the cluster.

        First the shortest trial of every shared prefix, then the next longer one of each, so that a trial seldom starts
        before the branch-off checkpoint that it continues from exists. Within a turn the most expensive ones come
        first, so that the worker groups finish at about the same time.
        """
        return sorted(self.pending, key=lambda one: (one.sharing.turn if one.sharing else 0, -one.cost_to_train.flops))

    @functools.cached_property
    def by_id(self) -> dict[str, PlannedTrial]:
        return {planned.trial.id: planned for planned in self.trials}

    @functools.cached_property
    def pending(self) -> list[PlannedTrial]:
        return [planned for planned in self.trials if not planned.done]

    @property
    def results(self) -> list[Result]:
        return [planned.result for planned in self.trials if planned.result is not None]

    @functools.cached_property
    def hold_out_from(self) -> float | None:
        """Training FLOPs from which trials are held out of fits; None where no design holds any out."""
        return self.study.hold_out_from_runs(
            (one.trial.preset, one.cost.tokens_per_parameter, one.cost.flops) for one in self.trials
        )

    def stage(self, trained: Container[float | None]) -> "Plan | None":
        """The part of the plan that is trained next, with all done trials: the smallest budget of re-centred designs
        that is not in `trained`, and the trials without a stage (until `trained` holds None). None where nothing is
        left."""
        left = [planned for planned in self.pending if planned.stage not in trained]
        now = {None, min((planned.stage for planned in left if planned.stage is not None), default=None)}
        next_ones = {planned.trial.id for planned in left if planned.stage in now}
        selected: list[PlannedTrial] = []
        later: list[PlannedTrial] = []
        for planned in self.trials:
            (selected if planned.done or planned.trial.id in next_ones else later).append(planned)
        return replace(self, trials=selected, later=later) if left else None

    def folder(self, trial: Trial) -> str:
        return storage.join(self.study.folder, "trials", trial.id)


def plan(study: Study, *, source: str = "study", allow_changed: bool = False) -> Plan:
    """Expand a study into trials, check them and estimate their cost.

    Raises StudyError for a study that cannot run as it is, also when its folder holds finished trials that the file no
    longer describes (unless `allow_changed`, which leaves them out), and StorageError where the store does not give a
    record. A damaged record is named, and its trial is trained again.
    """
    records = read_results(storage.join(study.folder, "trials"))
    results = records.results
    found = expand(study, source=source, results=results)
    known = {trial.id for trial in found.trials}
    unrecognised = [name for name, result in results.items() if name not in known and result and result.status in DONE]
    if unrecognised and not allow_changed:
        raise StudyError(
            f"{source}: study {study.study!r} in {study.folder} has {len(unrecognised)} finished trials that this file"
            f" no longer describes (such as {unrecognised[0]}): the study was changed under the same name. Give it"
            " another name, or continue without them by `vqscale run --allow-changed`."
            f"{_as_before(study, found, unrecognised)}"
        )
    measured = MeasuredSpeeds(result for name, result in results.items() if result and name in known)
    speed_of, speed_source = _speeds(study, measured)
    planned = [
        PlannedTrial(
            trial=one.trial,
            cost=trial_cost(one.trial, study, speed_of(one.trial) * study.resources.workers),
            result=_of_known_text(results.get(one.trial.id), one.trial),
            origins=one.origins,
            budget=one.budget,
            stage=one.stage,
        )
        for one in found.selected
    ]
    shared = sharing([one.trial for one in planned if not one.done], study)
    return Plan(
        study=study,
        trials=[replace(one, sharing=shared.get(one.trial.id)) for one in planned],
        speed_source=speed_source,
        dropped=found.dropped,
        notes=[*found.notes, *warmup_notes(found.trials)],
        damaged=_damages(records, known),
    )


def _of_known_text(result: Result | None, trial: Trial) -> Result | None:
    """A record with the text that its trial was evaluated on, which older records do not hold, but the trial's identity
    does."""
    if result is None or result.evaluation_text is not None:
        return result
    return result.model_copy(update={"evaluation_text": evaluation_text(trial)})


def _as_before(study: Study, found: Expansion, unrecognised: Sequence[str]) -> str:
    """The remedy where the trials were evaluated on the start of the split, which was the only way once."""
    if "evaluation_sample" in study.train:
        return ""
    before = {_from_the_start(one).id for one in found.trials}
    if before.isdisjoint(unrecognised):
        return ""
    return (
        " They were evaluated on the first tokens of the held-out split, as an earlier version did: with"
        " `evaluation_sample: start` under `train` the study describes them and continues as it began."
    )


def _from_the_start(trial: Trial) -> Trial:
    """The same trial, evaluated on the first tokens of the split."""
    train = trial.train.model_copy(update={"evaluation_sample": "start", "evaluation_block": None})
    # Not by `model_copy`: that takes over the identity that may have been computed.
    return Trial(**{name: getattr(trial, name) for name in Trial.model_fields} | {"train": train})


def _damages(records: Records, known: Container[str]) -> list[str]:
    """What is wrong with records, and what follows. `known`: ids of the study's trials."""
    found = [
        f"{why} {'The trial is trained again.' if name in known else 'The study does not describe this trial.'}"
        for name, why in records.damaged.items()
    ]
    found += [
        f"{name}: its record holds {', '.join(fields)}, which this version of vqscale does not know: a newer one wrote"
        " it. The rest of the record counts."
        for name, fields in records.unknown.items()
        if name in known
    ]
    return found


def _speeds(study: Study, measured: MeasuredSpeeds) -> tuple[Callable[[Trial], float], str]:
    """FLOP/s expected of one worker of a trial, and what that is based on."""
    resources = study.resources
    if measured.runs:
        return measured.of, f"the speed of the most similar of {measured.runs} trials that ran"
    if resources.flops_per_second is not None:
        stated = resources.flops_per_second
        return lambda _: stated, f"the stated resources.flops_per_second of {stated:.4g} per worker"
    share = min(resources.cpus_per_worker / (os.cpu_count() or 1), 1.0)
    assumed = processor_peak_flops() * share * UNMEASURED_SHARE
    return (
        lambda _: assumed,
        f"{UNMEASURED_SHARE:.0%} of this machine's matrix-product peak, until trials have been measured",
    )
