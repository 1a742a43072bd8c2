"""Which updates of a study are trained once for several token budgets, and the order of trials that makes it possible.

Trials of one prefix (`Trial.shared_prefix`) are queued from the fewest training tokens to the most: each continues from
the checkpoint that the one before it left where its decay began. Nothing waits for that checkpoint: a trial that starts
before it exists trains all of its updates itself, with the same outcome.
"""

import bisect
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vqscale.study.fingerprint import fingerprint
from vqscale.study.shared_prefix import SharedPrefix, branch_off_step, prefix_folder
from vqscale.study.spec import Study
from vqscale.study.trial import TOKEN_BUDGET_FIELDS, Trial
from vqscale.train import checkpoint_files


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a trial that is still to be trained has in common with others."""

    prefix: SharedPrefix
    shared_steps: int
    """Updates that it takes over, if the trials of its prefix are trained one after another."""
    turn: int
    """Its place among those trials; 0 is the shortest."""


def sharing(trials: Iterable[Trial], study: Study) -> dict[str, Sharing]:
    """By trial id, what the WSD trials among `trials` share; `trials` are all that are left to train."""
    found: dict[str, Sharing] = {}
    for kin in _grouped((one.shared_prefix, one) for one in trials if one.shared_prefix is not None).values():
        ordered = sorted(kin, key=lambda one: (_branch_off(one, study), one.train.tokens))
        folder = prefix_folder(study.folder, kin[0])
        before = sorted(checkpoint_files.steps(folder))
        for turn, one in enumerate(ordered):
            own = _branch_off(one, study)
            place = bisect.bisect_right(before, one.train.decay_start)
            keep = turn + 1 < len(ordered) and own > 0
            prefix = SharedPrefix(folder=folder, keep=keep)
            found[one.id] = Sharing(prefix=prefix, shared_steps=before[place - 1] if place else 0, turn=turn)
            bisect.insort(before, own)
    return found


def warmup_notes(trials: Iterable[Trial]) -> list[str]:
    """Notes on WSD trials that differ only in their training tokens but share nothing: their warm-up is a share."""
    kin = _grouped((_without_token_budget(one), one) for one in trials if one.shared_prefix is not None)
    apart = [row for row in kin.values() if len({one.shared_prefix for one in row}) > 1]
    if not apart:
        return []
    return [
        f"wsd: {sum(map(len, apart))} trials differ only in their training tokens but share no updates: their warm-ups"
        " take different numbers of updates. Give the warm-up in train.warmup_tokens."
    ]


def _branch_off(trial: Trial, study: Study) -> int:
    return branch_off_step(trial.train, study.run.log_every)


def _without_token_budget(trial: Trial) -> str:
    common = trial.train.model_dump(exclude=set(TOKEN_BUDGET_FIELDS))
    return fingerprint({"model": trial.model, "train": common, "corpus": trial.corpus_fingerprint})


def _grouped(pairs: Iterable[tuple[str, Trial]]) -> Mapping[str, list[Trial]]:
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return {key: [trial for _, trial in row] for key, row in itertools.groupby(ordered, key=lambda pair: pair[0])}
