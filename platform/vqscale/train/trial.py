"""A trial from its first token to its result. Who started it (a test, a shell, Ray Train) is behind `Host`."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import safetensors.torch
import torch
from torch.distributed import ProcessGroup

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.costing.counts import flops_per_token
from vqscale.data.corpus import Corpus, open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.errors import CorpusError
from vqscale.models.base import ModelState
from vqscale.models.build import build
from vqscale.models.transformer_vq import attention_backend
from vqscale.study.shared_prefix import Trunk, branch_step
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import checkpoint, metrics
from vqscale.train.ceiling import matmul_ceiling
from vqscale.train.classify import Classified, classify
from vqscale.train.engine import Engine, open_engine
from vqscale.train.evaluate import HeldOut, evaluate
from vqscale.train.objective import open_objective
from vqscale.train.schedule import learning_rate
from vqscale.train.step import train_step

Row = dict[str, float | int]


class Host(Protocol):
    """What a trial needs from whoever runs it."""

    rank: int
    world: int
    device: torch.device
    group: ProcessGroup | None

    def publish(self, row: Row) -> bool:
        """Take one row of metrics (rank 0 only); True asks the trial to stop here."""

    def checkpointed(self, uri: str, row: Row) -> None:
        """A complete checkpoint lies at `uri` (every rank is told)."""

    def warn(self, message: str) -> None: ...


@dataclass
class LocalHost:
    """One process on one device: tests, notebooks, `engine: plain`."""

    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rank: int = 0
    world: int = 1
    group: ProcessGroup | None = None
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def publish(self, row: Row) -> bool:
        self.rows.append(row)
        return False

    def checkpointed(self, uri: str, row: Row) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended and what was measured; equal on every rank."""

    status: Literal["finished", "diverged", "stopped"]
    error: str | None
    step: int
    row: Row
    """The last row of training metrics."""
    held_out: HeldOut | Classified | None
    """On the validation split."""
    test: Classified | None
    """Of a classifier on the test split."""
    shared_steps: int
    """Updates that were taken over from a trunk, not trained by this trial."""
    seconds_training: float
    """In training steps, over all attempts, with those that the shared updates took when they were trained."""
    seconds_training_now: float
    """In training steps of this attempt."""
    seconds_evaluation: float
    peak_memory_bytes: int
    peak_flops: float
    revived: int
    backend: str | None
    started_at: str
    """When its first attempt began of which anything is left, ISO 8601 with time zone."""


class _Loop:
    """The mutable middle of a trial: what changes from update to update and what a checkpoint must hold."""

    def __init__(
        self,
        trial: Trial,
        corpus: Corpus | LabelledCorpus,
        folder: str,
        options: RunOptions,
        host: Host,
        trunk: Trunk | None,
    ) -> None:
        train = trial.train
        if corpus.fingerprint != trial.corpus_fingerprint:
            raise CorpusError(
                f"{trial.corpus}: holds corpus {corpus.fingerprint[:12]}, but the trial was planned on"
                f" {trial.corpus_fingerprint[:12]}. Plan the study again."
            )
        self.trial, self.train, self.corpus, self.options, self.host = trial, train, corpus, options, host
        self.folder, self.trunk = folder, trunk
        torch.manual_seed(train.seed)
        model = build(trial.model, device=host.device, seed=train.seed)
        model.activation_checkpointing = train.activation_checkpointing
        model.backend = train.backend
        model.autocast_bf16 = train.precision == "bf16"
        self.engine: Engine = open_engine(model, train, host.world)
        self.model: Any = self.engine.module
        self.model.train()
        self.objective = open_objective(trial, corpus, host)
        self.flops_per_token = sum(flops_per_token(trial.model, train.context, train.segment).values())
        self.window = metrics.Window(host.device, host.group)
        self.step = self.shared_steps = 0
        self.states: list[Any] | None = None
        self.rows: list[Row] = []
        self.first_loss: float | None = None
        self.seconds = 0.0
        self.seconds_before = 0.0
        """Training seconds of earlier attempts, and of a trunk."""
        self.window_seconds = 0.0
        self.revived_before = 0.0
        """Codes revived by earlier attempts; a codebook counts from when it was made."""
        self.peak_memory = 0
        self.started_at = utc_now()
        # Dropout draws from a generator of its own a rank, so that ranks differ and a resumed run continues the draw.
        torch.manual_seed(train.seed * 1_000_003 + host.rank)
        self.peak_flops = matmul_ceiling(host.device.type, train.precision) * host.world  # before memory is counted
        metrics.reset_memory(host.device)

    @property
    def log_every(self) -> int:
        return min(self.options.log_every, self.train.steps)

    @property
    def checkpoint_every(self) -> int:
        """A multiple of `log_every`: rows of metrics do not depend on where checkpoints are."""
        wanted = self.options.checkpoint_every or max(100, math.ceil(self.train.steps / 10))
        return math.ceil(wanted / self.log_every) * self.log_every

    @property
    def leaves_trunk(self) -> bool:
        """Whether longer trials go on from where this one stands."""
        return self.trunk is not None and self.trunk.keep and self.step == branch_step(self.train, self.log_every)

    @property
    def checkpoints(self) -> str:
        return checkpoints_folder(self.folder)

    def update(self) -> None:
        start = time.perf_counter()
        parts = self.objective.batch(self.step)
        states = None if self.objective.starts_sequence(self.step) else self.states
        result, self.states = train_step(
            self.engine,
            parts,
            self.objective.score,
            states,
            learning_rate(self.step, self.train),
            self.train,
            self.trial.model.commit_weight,
            self.host.device,
            self.host.group,
        )
        self.window.add(result)
        self.step += 1
        self.window_seconds += time.perf_counter() - start

    def read(self) -> Row:
        """One row of metrics, the same on every rank but for the memory of this one."""
        start = time.perf_counter()
        updates = self.window.updates
        values = self.window.read()
        seconds = self.window_seconds + time.perf_counter() - start
        tokens = updates * self.train.batch_tokens
        telemetry = metrics.codebook_telemetry(self.model.codebooks())
        if telemetry:
            telemetry["codebook/revived"] += self.revived_before
        self.peak_memory = max(self.peak_memory, metrics.memory_bytes(self.host.device))
        speed = tokens / seconds
        row: Row = {
            "step": self.step,
            "tokens": self.step * self.train.batch_tokens,
            **values,
            **self._bits(values["loss"]),
            "lr": learning_rate(self.step - 1, self.train),
            "tokens_per_second": speed,
            "flops_per_second": speed * self.flops_per_token,
            "flops_share": speed * self.flops_per_token / self.peak_flops,
            "peak_memory_bytes": self.peak_memory,
            "seconds": self.seconds + seconds,
            **telemetry,
            **metrics.system_metrics(self.host.device),
        }
        self.seconds += seconds
        self.window_seconds = 0.0
        self.rows.append(row)
        return row

    def _bits(self, nats: float) -> dict[str, float]:
        """Bits a byte of text, by the mean bytes of a training token; nothing where there is no text to predict."""
        if isinstance(self.corpus, LabelledCorpus):
            return {}
        return {"bpb": nats / math.log(2) / self.corpus.bytes_per_token}

    def fault(self, row: Row) -> str | None:
        """Why the trial has to end as diverged, if it has to."""
        loss, norm = row["loss"], row["gradient_norm"]
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"loss {loss:g}, gradient norm {norm:g} at step {self.step}: not a number any more"
        if norm == 0.0:
            return f"gradient norm 0 at step {self.step}, loss {loss:.3g}: nothing is learned any more"
        if self.first_loss is None:
            self.first_loss = loss
        limit = 3 * max(self.first_loss, math.log(self.trial.model.classes or self.trial.model.vocab_size))
        if loss > limit:
            return f"loss {loss:.3g} nats at step {self.step} is above {limit:.3g}, three times where it began"
        return None

    def save(self, row: Row) -> None:
        """Write a checkpoint for a later attempt."""
        if self.host.rank == 0:
            self.write_rows()
        uri = self._write(row, self.checkpoints, self.trial.fingerprint, {"started_at": self.started_at})
        checkpoint.prune(self.checkpoints, self.options.keep_checkpoints, self.host.group)
        self.host.checkpointed(uri, row)

    def save_trunk(self, row: Row) -> None:
        """Write a checkpoint for longer trials, with the rows so far, unless another trial has left it there."""
        assert self.trunk is not None
        assert self.trial.trunk is not None
        if not checkpoint.holds(self.trunk.folder, self.step, self.trial.trunk, self.host.group):
            self._write(row, self.trunk.folder, self.trial.trunk, {"rows": self.rows})

    def _write(self, row: Row, folder: str, fingerprint: str, more: dict[str, Any]) -> str:
        generators = self._generators()
        states = [state.to_tensors() for state in self.states] if self.states else None
        progress = {
            "first_loss": self.first_loss,
            "seconds": self.seconds,
            "revived": row.get("codebook/revived", 0.0),
            "peak_memory": self.peak_memory,
            "shared_steps": self.shared_steps,
        }
        uri = checkpoint.save(
            self.engine,
            {"states": states, **generators, **more},
            folder=folder,
            trial=fingerprint,
            step=self.step,
            zero=self.train.zero,
            progress=progress,
            group=self.host.group,
        )
        self._set_generators(generators)  # DeepSpeed draws from them while it saves; a resumed run would not know
        return uri

    def _generators(self) -> dict[str, Any]:
        on_gpu = self.host.device.type == "cuda"
        return {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.host.device) if on_gpu else None,
        }

    def _set_generators(self, saved: dict[str, Any]) -> None:
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"], self.host.device)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one, else from the longest trunk that fits."""
        extra = self._restore(self.checkpoints, self.trial.fingerprint)
        if extra is not None:
            self.started_at = extra.get("started_at", self.started_at)  # older checkpoints do not say
            self.rows = [row for row in read_rows(self.folder) if row["step"] <= self.step]
            return
        checkpoint.discard(self.checkpoints, self.host.group)
        if self.trunk is None or self.trial.trunk is None:
            return
        extra = self._restore(self.trunk.folder, self.trial.trunk, until=self.train.decay_start)
        if extra is not None:
            self.rows, self.shared_steps = extra["rows"], self.step

    def _restore(self, folder: str, fingerprint: str, until: int | None = None) -> dict[str, Any] | None:
        """Take the newest whole checkpoint in `folder`, at most of step `until`; what it holds beside the engine."""
        found = checkpoint.restore(
            self.engine, folder=folder, trial=fingerprint, warn=self.host.warn, until=until, group=self.host.group
        )
        if found is None:
            return None
        manifest, extra = found
        self.step = manifest.step
        self.first_loss = manifest.progress["first_loss"]
        self.seconds = self.seconds_before = manifest.progress["seconds"]
        self.revived_before = manifest.progress["revived"]
        self.peak_memory = manifest.progress["peak_memory"]
        self.shared_steps = manifest.progress.get("shared_steps", 0)
        if extra["states"] is not None:
            self.states = [ModelState.from_tensors(state) for state in extra["states"]]
        self._set_generators(extra)
        return extra

    def write_rows(self) -> None:
        storage.write_text(metrics_uri(self.folder), "".join(json.dumps(row) + "\n" for row in self.rows))


def checkpoints_folder(folder: str) -> str:
    return storage.join(folder, "checkpoints")


def discard_checkpoints(status: str, folder: str) -> None:
    """Remove the checkpoints of a trial whose record is written and that has nothing left to go on with."""
    if status == "finished":
        storage.remove(checkpoints_folder(folder))


def metrics_uri(folder: str) -> str:
    return storage.join(folder, "metrics.jsonl")


def read_rows(folder: str) -> list[Row]:
    """The metric rows of a trial, oldest first; empty before its first checkpoint."""
    uri = metrics_uri(folder)
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read_text(uri).splitlines()]


def run_trial(trial: Trial, folder: str, options: RunOptions, host: Host, trunk: Trunk | None = None) -> Outcome:
    """Train and evaluate one trial; goes on where an earlier attempt in `folder` stopped, else from its `trunk`.

    The trial's folder afterwards holds `metrics.jsonl`, `model.safetensors` and the last checkpoints. Every rank must
    call it; errors of the machine are raised.
    """
    corpus = open_corpus(trial.corpus)
    with _closing(_Loop(trial, corpus, folder, options, host, trunk)) as loop:
        loop.resume()
        status, error = _train(loop)
        held_out, test, seconds = None, None, 0.0
        if status != "diverged":
            start = time.perf_counter()
            held_out, test = _evaluate(loop)
            seconds = time.perf_counter() - start
        _write_outputs(loop, status)
        return Outcome(
            status=status,
            error=error,
            step=loop.step,
            row=loop.rows[-1],
            held_out=held_out,
            test=test,
            shared_steps=loop.shared_steps,
            seconds_training=loop.seconds,
            seconds_training_now=loop.seconds - loop.seconds_before,
            seconds_evaluation=seconds,
            peak_memory_bytes=loop.peak_memory,
            peak_flops=loop.peak_flops,
            revived=round(loop.rows[-1].get("codebook/revived", 0)),
            backend=_backend(loop),
            started_at=loop.started_at,
        )


@contextlib.contextmanager
def _closing(loop: _Loop) -> Iterator[_Loop]:
    try:
        yield loop
    finally:
        loop.engine.close()


def _train(loop: _Loop) -> tuple[Literal["finished", "diverged", "stopped"], str | None]:
    """Update until the horizon, a fault or a request to stop."""
    while loop.step < loop.train.steps:
        loop.update()
        last = loop.step == loop.train.steps
        if loop.step % loop.log_every and not last:
            continue
        row = loop.read()
        if error := loop.fault(row):
            return "diverged", error
        stop = loop.host.publish(row) if loop.host.rank == 0 else False
        if loop.leaves_trunk:  # before the checkpoint: an attempt that goes on from there finds it left
            loop.save_trunk(row)
        if loop.step % loop.checkpoint_every == 0 and not last:
            loop.save(row)
        if metrics.agree(stop, loop.host.device, loop.host.group):
            return "stopped", None
    return "finished", None


def _evaluate(loop: _Loop) -> tuple[HeldOut | Classified, Classified | None]:
    """On the validation split and, of a classifier, on the test split."""
    train, host = loop.train, loop.host
    if isinstance(loop.corpus, LabelledCorpus):
        held_out = classify(loop.model, loop.corpus, "validation", train, host.device, host.group)
        return held_out, classify(loop.model, loop.corpus, "test", train, host.device, host.group)
    return evaluate(loop.model, loop.corpus, "validation", train, host.device, host.group), None


def _write_outputs(loop: _Loop, status: str) -> None:
    weights = loop.engine.weights()
    if loop.host.rank:
        return
    loop.write_rows()
    if status != "diverged":
        data = safetensors.torch.save(weights, metadata={"config": loop.trial.model.model_dump_json()})
        storage.write_bytes(storage.join(loop.folder, "model.safetensors"), data)


def _backend(loop: _Loop) -> str | None:
    """The implementation of VQ attention that ran; None for an architecture without it."""
    return attention_backend(loop.trial.model, loop.train.backend, loop.host.device)
