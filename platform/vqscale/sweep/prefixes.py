"""Removal of shared-prefix checkpoints that no trial still to be trained can continue from."""

from collections import Counter

from vqscale import storage
from vqscale.planning.designs import DONE
from vqscale.planning.plan import Plan
from vqscale.results.result import Result
from vqscale.study.shared_prefix import OLD_FOLDER, prefixes_folder
from vqscale.study.trial import Trial
from vqscale.sweep.events import StudyEvents


class SharedPrefixes(StudyEvents):
    """The shared prefixes of a plan, with the number of trials that may still need each; removes what none needs.

    Removal is safe while other trials train: a trial that writes or reads a prefix has not ended. The prefix of a
    failed trial is kept for the next run.
    """

    def __init__(self, plan: Plan) -> None:
        self._study_folder = plan.study.folder
        left = [one for one in (*plan.pending, *plan.later) if one.sharing is not None]
        self._prefix_of = {one.trial.id: one.sharing.prefix.folder for one in left if one.sharing is not None}
        self._waiting = Counter(self._prefix_of.values())

    def discard_unused(self) -> None:
        """Remove what no trial waits for, also of runs that were killed before they could, and what earlier versions
        left under `OLD_FOLDER`."""
        storage.remove(storage.join(self._study_folder, OLD_FOLDER))
        folder = prefixes_folder(self._study_folder)
        if not self._waiting:
            storage.remove(folder)
            return
        for name in storage.listdir(folder):
            if storage.join(folder, name) not in self._waiting:
                storage.remove(storage.join(folder, name))

    def ended(self, trial: Trial, result: Result) -> None:
        prefix = self._prefix_of.pop(trial.id, None) if result.status in DONE else None
        if prefix is None:
            return
        self._waiting[prefix] -= 1
        if not self._waiting[prefix]:
            del self._waiting[prefix]
            storage.remove(prefix if self._waiting else prefixes_folder(self._study_folder))
