"""A trial from its first token to its result. Whatever starts it (a test, a script, Ray Train) is behind `Host`."""

import contextlib
import time
from dataclasses import dataclass

import safetensors.torch
import torch

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.data.corpus import Corpus, open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.errors import CorpusError
from vqscale.models.build import build
from vqscale.models.transformer_vq import attention_backend
from vqscale.results.metrics_rows import Row, write_rows
from vqscale.results.own_files import replace_bytes
from vqscale.study.shared_prefix import SharedPrefix
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.checkpointing import Checkpointing
from vqscale.train.classify import Classified, classify
from vqscale.train.engine import Engine, open_engine
from vqscale.train.evaluate import HeldOut, evaluate_text
from vqscale.train.host import Host
from vqscale.train.loop import End, TrainingLoop
from vqscale.train.metrics_logger import MetricsLogger
from vqscale.train.objective import open_objective


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """How a trial ended and what was measured; equal on every rank."""

    status: End
    error: str | None
    step: int
    row: Row
    """The last row of training metrics."""
    held_out: HeldOut | Classified | None
    """On the validation split."""
    test: Classified | None
    """Of a classifier on the test split."""
    shared_steps: int
    """Updates that were taken over from a shared prefix, not trained by this trial."""
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
    """When the earliest attempt began of which a checkpoint remains, ISO 8601 with time zone."""


def run_trial(
    trial: Trial, folder: str, options: RunOptions, host: Host, shared_prefix: SharedPrefix | None = None
) -> TrialOutcome:
    """Train and evaluate one trial; continues an earlier attempt in `folder`, else from its `shared_prefix`.

    The trial's folder afterwards holds `metrics.jsonl`, `model.safetensors` and the last checkpoints. Every rank must
    call it. Raises CorpusError where the corpus is not the one that was planned; errors of the machine are raised.
    """
    host.enter("loading")
    corpus = open_corpus(trial.corpus)
    _require_planned(corpus, trial)
    with contextlib.closing(_open_engine(trial, host)) as engine:
        objective = open_objective(trial, corpus, host)
        started_at = utc_now()
        # Dropout draws from the global generator, seeded for each rank, so that ranks differ and a resumed run
        # continues the draw; restoring a checkpoint below sets the generator again.
        torch.manual_seed(trial.train.seed * 1_000_003 + host.rank)
        logger = MetricsLogger(trial, corpus, engine.module, host)
        checkpointing = Checkpointing(trial, engine, folder, options, host, shared_prefix)
        progress = checkpointing.restore(started_at)
        host.enter(f"resumed at {progress.step}" if progress.step else "first updates")
        loop = TrainingLoop(
            trial,
            host,
            engine=engine,
            objective=objective,
            logger=logger,
            checkpointing=checkpointing,
            options=options,
        )
        status, error = loop.run(progress)
        evaluated = status != "diverged"
        if evaluated:
            host.enter("evaluating")
        held_out, test, seconds = _evaluate(engine, corpus, trial, host) if evaluated else (None, None, 0.0)
        _write_outputs(engine, trial, folder, host, progress.rows, with_weights=evaluated)
        return TrialOutcome(
            status=status,
            error=error,
            step=progress.step,
            row=progress.rows[-1],
            held_out=held_out,
            test=test,
            shared_steps=progress.shared_steps,
            seconds_training=progress.seconds,
            seconds_training_now=progress.seconds_this_attempt,
            seconds_evaluation=seconds,
            peak_memory_bytes=progress.peak_memory,
            peak_flops=logger.peak_flops,
            revived=round(progress.revived),
            backend=attention_backend(trial.model, trial.train.backend, host.device),
            started_at=progress.started_at,
        )


def _require_planned(corpus: Corpus | LabelledCorpus, trial: Trial) -> None:
    if corpus.fingerprint != trial.corpus_fingerprint:
        raise CorpusError(
            f"{trial.corpus}: holds corpus {corpus.fingerprint[:12]}, but the trial was planned on"
            f" {trial.corpus_fingerprint[:12]}. Plan the study again."
        )


def _open_engine(trial: Trial, host: Host) -> Engine:
    """The trial's model as drawn from its seed, equal on every rank, in the trial's engine."""
    train = trial.train
    torch.manual_seed(train.seed)  # the model has a generator of its own; this covers what the engine may draw
    model = build(trial.model, device=host.device, seed=train.seed)
    model.activation_checkpointing = train.activation_checkpointing
    model.backend = train.backend
    model.autocast_bf16 = train.precision == "bf16"
    engine = open_engine(model, train, host.world)
    engine.module.train()
    return engine


def _evaluate(
    engine: Engine, corpus: Corpus | LabelledCorpus, trial: Trial, host: Host
) -> tuple[HeldOut | Classified, Classified | None, float]:
    """On the validation split and, of a classifier, on the test split; and the seconds that it took."""
    model, train, start = engine.module, trial.train, time.perf_counter()
    held_out: HeldOut | Classified
    test = None
    if isinstance(corpus, LabelledCorpus):
        held_out = classify(model, corpus, "validation", train, host.device, host.group)
        test = classify(model, corpus, "test", train, host.device, host.group)
    else:
        held_out = evaluate_text(model, corpus, "validation", train, host.device, host.group)
    return held_out, test, time.perf_counter() - start


def _write_outputs(
    engine: Engine, trial: Trial, folder: str, host: Host, rows: list[Row], *, with_weights: bool
) -> None:
    weights = engine.weights()  # a collective under ZeRO-3: every rank takes part, rank 0 writes
    if host.rank:
        return
    write_rows(folder, rows)
    if with_weights:
        data = safetensors.torch.save(weights, metadata={"config": trial.model.model_dump_json()})
        replace_bytes(storage.join(folder, "model.safetensors"), data)
