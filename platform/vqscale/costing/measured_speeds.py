"""The training speeds that runs reached, looked up by how similar a run is to a trial."""

import bisect
import math
import statistics
from collections.abc import Iterable

from vqscale.costing.counts import parameters_non_embedding
from vqscale.results.result import Result
from vqscale.study.trial import Trial

_Kind = tuple[str | None, int | None]
"""Architecture and context; None: any."""


class MeasuredSpeeds:
    """FLOP/s per worker, by architecture, context and size. Made once for all trials of a study: a look-up takes the
    logarithm of the number of sizes, however many runs there are."""

    def __init__(self, ran: Iterable[Result]) -> None:
        kinds: dict[_Kind, dict[int, list[float]]] = {}
        self.runs = 0
        """How many of the runs have a measured speed."""
        for result in ran:
            if not result.flops_per_second:
                continue
            self.runs += 1
            for arch in (result.arch, None):
                for context in (result.context, None):
                    sizes = kinds.setdefault((arch, context), {})
                    sizes.setdefault(result.parameters_non_embedding, []).append(
                        result.flops_per_second / result.workers
                    )
        self._kinds = {kind: _Sizes(speeds) for kind, speeds in kinds.items()}

    def of(self, trial: Trial) -> float:
        """FLOP/s expected of one worker of a trial; there must be runs."""
        return self.at(trial.model.arch, trial.train.context, parameters_non_embedding(trial.model))

    def at(self, arch: str, context: int, n: float) -> float:
        """FLOP/s of one worker at `n` parameters without embeddings: the median of the most similar runs.

        Most similar: of the same architecture where there are such, among those of the same context where there are
        such, then of the size nearest in log N.
        """
        assert self.runs, "no run was measured"
        known_arch = arch if (arch, None) in self._kinds else None
        known_context = context if (known_arch, context) in self._kinds else None
        return self._kinds[known_arch, known_context].nearest(n)


class _Sizes:
    """The speeds of runs of one kind, by N."""

    def __init__(self, speeds: dict[int, list[float]]) -> None:
        self._speeds = speeds
        self._sizes = sorted(speeds)
        self._medians: dict[tuple[int, ...], float] = {}
        """By sizes; many trials ask for the same."""

    def nearest(self, n: float) -> float:
        """The median speed at the size nearest to `n` in log N, or at both where they are equally far."""
        above = bisect.bisect_left(self._sizes, n)
        near = self._sizes[max(0, above - 1) : above + 1]
        distances = [abs(math.log(size / n)) for size in near]
        selected = tuple(size for size, far in zip(near, distances, strict=True) if far == min(distances))
        if selected not in self._medians:
            self._medians[selected] = statistics.median(speed for size in selected for speed in self._speeds[size])
        return self._medians[selected]
