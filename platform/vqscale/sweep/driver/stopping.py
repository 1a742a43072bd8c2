"""Early stopping for the choice of a codebook: stop what can no longer be within tolerance, keep what can."""

import math
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class WithinTolerance(FIFOScheduler):  # type: ignore[misc]
    """Stop a trial at a rung when its bits per byte are further from the best at that rung than `margin`.

    Halving (ASHA) keeps the best few; here the goal is a smaller codebook that is a little worse, so a trial
    is only stopped for being clearly worse. Rungs are in training tokens, so a trial that was retried or resumed is
    judged at the same points; all trials read the same data in the same order, so their losses are paired.
    """

    def __init__(self, rungs: list[int], margin: float) -> None:
        super().__init__()
        self._rungs, self._margin = sorted(rungs), margin
        self._best: dict[int, float] = {}
        self._passed: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> Any:
        tokens, bpb = result["tokens"], result["bpb"]
        if not math.isfinite(bpb):  # no row of metrics
            return TrialScheduler.CONTINUE
        passed = [rung for rung in self._rungs if self._passed.get(trial.trial_id, 0) < rung <= tokens]
        if not passed:
            return TrialScheduler.CONTINUE
        rung = passed[-1]
        self._passed[trial.trial_id] = rung
        self._best[rung] = min(bpb, self._best.get(rung, bpb))
        return TrialScheduler.STOP if bpb > self._best[rung] + self._margin else TrialScheduler.CONTINUE
