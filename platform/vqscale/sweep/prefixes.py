"""Removal of shared-prefix checkpoints that no trial still to be trained can continue from."""

from collections.abc import Container

from vqscale import storage
from vqscale.planning.plan import Plan
from vqscale.study.shared_prefix import OLD_FOLDER, prefixes_folder


def discard_unused(plan: Plan, ended: Container[str] = ()) -> None:
    """Remove the shared prefixes that no trial waits for.

    `ended`: ids of trials that have ended since the plan was made.

    Safe while other trials train: a trial that writes or reads a prefix has not ended. The prefix of a failed trial is
    kept for the next run. What earlier versions left under `OLD_FOLDER` is removed as well.
    """
    storage.remove(storage.join(plan.study.folder, OLD_FOLDER))
    folder = prefixes_folder(plan.study.folder)
    left = [one for one in (*plan.pending, *plan.later) if one.sharing is not None and one.trial.id not in ended]
    wanted = {one.sharing.prefix.folder for one in left if one.sharing is not None}
    if not wanted:
        storage.remove(folder)
        return
    for name in storage.listdir(folder):
        if storage.join(folder, name) not in wanted:
            storage.remove(storage.join(folder, name))
