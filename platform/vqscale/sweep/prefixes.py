"""Trunk checkpoints of a study are removed once no trial that is still to be trained can go on from them."""

from collections.abc import Container

from vqscale import storage
from vqscale.plan.plan import Plan
from vqscale.study.shared_prefix import trunks_folder


def discard_unused(plan: Plan, ended: Container[str] = ()) -> None:
    """Remove the trunks that no trial waits for; `ended`: trials (by id) that are done since the plan was made.

    Safe while other trials train: a trial that writes or reads a trunk has not ended. A failed trial waits for the
    next run.
    """
    folder = trunks_folder(plan.study.folder)
    left = [one for one in (*plan.pending, *plan.later) if one.sharing is not None and one.trial.id not in ended]
    wanted = {one.sharing.trunk.folder for one in left if one.sharing is not None}
    if not wanted:
        storage.remove(folder)
        return
    for name in storage.listdir(folder):
        if storage.join(folder, name) not in wanted:
            storage.remove(storage.join(folder, name))
