"""What planning estimates for every trial, kept in the study's folder for `vqscale.results.estimates` to compare."""

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.planning.plan import Plan
from vqscale.results.estimates import PLAN_FILE, Warn, read_estimates
from vqscale.results.own_files import replace_json


def write_estimates(plan: Plan, warn: Warn = None) -> None:
    """Keep the estimates of all pending trials in the study's folder; the estimate of a done trial is not changed.

    Estimates that were damaged are reported to `warn`; without it, DamagedFileError is raised.
    """
    known = read_estimates(plan.study.folder, warn)
    now = utc_now()
    for planned in plan.pending:
        known[planned.trial.id] = {
            "seconds": planned.cost.seconds,
            "memory_bytes": planned.cost.memory_bytes,
            "flops": planned.cost.flops,
            "speed_source": plan.speed_source,
            "written_at": now,
        }
    replace_json(storage.join(plan.study.folder, PLAN_FILE), {"version": 1, "trials": known})
