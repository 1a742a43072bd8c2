"""One row of metrics from the updates since the last: loss, speed, share of the peak, memory, codebook health."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from vqscale.costing.counts import flops_per_token
from vqscale.data.corpus import Corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.results.metrics_rows import Row
from vqscale.study.trial import Trial
from vqscale.train import metrics
from vqscale.train.ceiling import matmul_ceiling
from vqscale.train.host import Host
from vqscale.train.schedule import learning_rate
from vqscale.train.step import Update
from vqscale.train.trial_progress import TrialProgress


class MetricsLogger:
    """Collects what updates report and logs it in rows."""

    def __init__(self, trial: Trial, corpus: Corpus | LabelledCorpus, model: Any, host: Host) -> None:
        self._trial, self._corpus, self._model, self._host = trial, corpus, model, host
        self._flops_per_token = sum(flops_per_token(trial.model, trial.train.context, trial.train.segment).values())
        self._window = metrics.MetricsWindow(host.device, host.group)
        self._window_seconds = 0.0
        self.peak_flops = matmul_ceiling(host.device.type, trial.train.precision) * host.world
        """FLOP/s that all workers reach in plain matrix products."""
        metrics.reset_memory(host.device)  # after the products above: they are no part of the trial's peak memory

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around one update: its time counts as training."""
        start = time.perf_counter()
        yield
        self._window_seconds += time.perf_counter() - start

    def add(self, update: Update) -> None:
        self._window.add(update)

    def state(self) -> dict[str, Any] | None:
        """This worker's part of the row that is not logged yet; None where a row was just logged."""
        window = self._window.state()
        return None if window is None else {**window, "seconds": self._window_seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the row that `state` was taken of."""
        self._window.restore(state)
        self._window_seconds = state["seconds"]

    def log(self, progress: TrialProgress) -> Row:
        """One row of metrics, the same on every rank but for memory and system metrics, also added to `progress`.

        Logging is where the host waits for the device; that wait belongs to the time of the updates.
        """
        start = time.perf_counter()
        tokens = self._window.updates * self._trial.train.batch_tokens
        values = self._window.read()
        seconds = self._window_seconds + time.perf_counter() - start
        self._window_seconds = 0.0
        codebooks = metrics.codebook_telemetry(self._model.codebooks())
        if codebooks:
            codebooks["codebook/revived"] += progress.revived_before
        progress.seconds += seconds
        progress.peak_memory = max(progress.peak_memory, metrics.peak_memory_bytes(self._host.device))
        row: Row = {
            "step": progress.step,
            "tokens": progress.step * self._trial.train.batch_tokens,
            **values,
            **(self._bits(values["loss"]) if values else {}),
            "skipped_updates": progress.skipped_updates,
            "lr": learning_rate(progress.step - 1, self._trial.train),
            **self._speed(tokens / seconds),
            "peak_memory_bytes": progress.peak_memory,
            "seconds": progress.seconds,
            **codebooks,
            **metrics.system_metrics(self._host.device),
        }
        progress.rows.append(row)
        return row

    def _bits(self, nats: float) -> Row:
        """Bits per byte of text, by the mean bytes of a training token; empty where there is no text to predict."""
        if isinstance(self._corpus, LabelledCorpus):
            return {}
        return {"bpb": nats / math.log(2) / self._corpus.bytes_per_token}

    def _speed(self, tokens_per_second: float) -> Row:
        flops = tokens_per_second * self._flops_per_token
        return {
            "tokens_per_second": tokens_per_second,
            "flops_per_second": flops,
            "flops_share": flops / self.peak_flops,
        }
