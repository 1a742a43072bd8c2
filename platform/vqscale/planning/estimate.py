"""What planning estimates for every trial, kept in the study's folder for `vqscale.results.estimates` to compare."""

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.planning.plan import Plan
from vqscale.results.estimates import PLAN_FILE, read_estimates


def write_estimates(plan: Plan) -> None:
    """Keep the estimates of all pending trials in the study's folder; the estimate of a done trial is not changed."""
    known = read_estimates(plan.study.folder)
    now = utc_now()
    for planned in plan.pending:
        known[planned.trial.id] = {
            "seconds": planned.cost.seconds,
            "memory_bytes": planned.cost.memory_bytes,
            "flops": planned.cost.flops,
            "speed_source": plan.speed_source,
            "written_at": now,
        }
    storage.write_json(storage.join(plan.study.folder, PLAN_FILE), {"version": 1, "trials": known})
