"""Which updates of a study are trained once for several horizons, and in what order so that they are.

Trials of one trunk (`Trial.trunk`) are queued in ascending horizon: each goes on from the checkpoint that the one
before it left where its decay began. Nothing waits for that: a trial that starts before the checkpoint is there trains
all of its updates itself, with the same outcome.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vqscale.study.fingerprint import fingerprint
from vqscale.study.shared_prefix import Trunk, branch_step, trunk_folder
from vqscale.study.spec import Study
from vqscale.study.trial import HORIZON, Trial
from vqscale.train import checkpoint_files


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a trial that is still to be trained has in common with others."""

    trunk: Trunk
    shared_steps: int
    """Updates that it takes over, if the trials of its trunk are trained one after another."""
    turn: int
    """Its place among those trials; 0 is the shortest."""


def sharing(trials: Iterable[Trial], study: Study) -> dict[str, Sharing]:
    """Of the wsd trials among `trials`, which are all that is left to train, by trial id."""
    found: dict[str, Sharing] = {}
    for kin in _grouped((one.trunk, one) for one in trials if one.trunk is not None).values():
        ordered = sorted(kin, key=lambda one: (_leaves(one, study), one.train.tokens))
        folder = trunk_folder(study.folder, kin[0])
        there = checkpoint_files.steps(folder)
        for turn, one in enumerate(ordered):
            before = [*there, *(_leaves(other, study) for other in ordered[:turn])]
            shared = max((step for step in before if step <= one.train.decay_start), default=0)
            keep = turn + 1 < len(ordered) and _leaves(one, study) > 0
            found[one.id] = Sharing(trunk=Trunk(folder=folder, keep=keep), shared_steps=shared, turn=turn)
    return found


def warmup_notes(trials: Iterable[Trial]) -> list[str]:
    """What keeps wsd trials apart that differ in nothing but the horizon: a warm-up that is a share of it."""
    kin = _grouped((_but_for_the_horizon(one), one) for one in trials if one.trunk is not None)
    apart = [row for row in kin.values() if len({one.trunk for one in row}) > 1]
    if not apart:
        return []
    return [
        f"wsd: {sum(map(len, apart))} trials differ only in their horizon but share no updates: their warm-ups take"
        " different numbers of updates. Give the warm-up in train.warmup_tokens."
    ]


def _leaves(trial: Trial, study: Study) -> int:
    return branch_step(trial.train, study.run.log_every)


def _but_for_the_horizon(trial: Trial) -> str:
    common = trial.train.model_dump(exclude=set(HORIZON))
    return fingerprint({"model": trial.model, "train": common, "corpus": trial.corpus_fingerprint})


def _grouped(pairs: Iterable[tuple[str, Trial]]) -> Mapping[str, list[Trial]]:
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return {key: [trial for _, trial in row] for key, row in itertools.groupby(ordered, key=lambda pair: pair[0])}
