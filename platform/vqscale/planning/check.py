"""Whether the parts of a trial fit each other, the workers and the corpus."""

from typing import Any

from vqscale.costing.trial_cost import estimated_memory_bytes
from vqscale.data.corpus import Corpus
from vqscale.data.stream import TokenStream
from vqscale.errors import CorpusError, StudyError
from vqscale.study.deepspeed_keys import check_deepspeed_keys
from vqscale.study.model import QUANTISED
from vqscale.study.spec import Study
from vqscale.study.trial import TrainConfig, Trial

DEEPSPEED_OWNED = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.batch_tokens and train.accumulation",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_clipping": "train.clip",
    "zero_optimization.stage": "train.zero",
    "optimizer": "train.lr, beta1, beta2, adam_eps and weight_decay",
    "scheduler": "train.schedule, train.warmup, train.decay and train.lr_final",
}
"""DeepSpeed's keys for what the training loop itself sets, and the study's keys for the same."""
DEEPSPEED_RELIED_ON = {
    "managed_gradient_accumulation": "counts micro-batches by DeepSpeed's own rule",
    "zero_optimization.compute_grad_norm": "skips updates by the gradient norm",
    "bf16.check_grad_overflow": "skips updates whose gradient is not finite, the same on every engine",
}
"""DeepSpeed's keys that may not be switched off, and what the training loop does with them."""


class GridPointError(StudyError):
    """Settings that cannot be trained together: dropped from a design with this reason, refused in a sweep."""


def check_trial(trial: Trial, study: Study) -> None:
    """Check that the parts of a trial fit each other and the workers.

    Raises GridPointError for settings that do not fit together, StudyError for a mistake in the study.
    """
    model, train, workers = trial.model, trial.train, study.resources.workers
    block, size = model.block_length, model.codebook_size
    if block and model.arch in QUANTISED and train.segment_length % block:
        raise GridPointError(
            f"train.context: {train.segment_length} tokens per update are no multiple of model.block_length {block}:"
            f" VQ attention works in whole blocks. Use a multiple of {block}, or a block_length that divides it."
        )
    if size and size > train.batch_tokens:
        raise GridPointError(
            f"model.codebook_size: {size} codes are more than the {train.batch_tokens} tokens of a batch"
            " (train.batch_tokens): most would never be used. Use fewer codes or a larger batch."
        )
    check_backend(trial, study)
    micro = train.batch_size // train.accumulation
    share = workers * train.segment_length * train.accumulation * model.sequences
    if micro % (workers * model.sequences):
        pairs = ", two per example," if model.sequences == 2 else ""
        raise GridPointError(
            f"train.batch_tokens: {micro} sequences of {train.segment_length} tokens per micro-batch{pairs} cannot be"
            f" shared by {workers} workers. Make train.batch_tokens a multiple of {share}."
        )
    check_memory(trial, study)
    if train.engine == "plain" and (workers > 1 or train.deepspeed):
        raise StudyError("train.engine: plain serves one worker without DeepSpeed settings. Use engine: deepspeed.")
    check_deepspeed(train.deepspeed, train.zero)


def check_memory(trial: Trial, study: Study) -> None:
    """Check that the estimated peak memory of a worker is within the stated limit. Raises GridPointError."""
    limit, needed = study.resources.memory_gib_per_worker, estimated_memory_bytes(trial, study)
    if limit is not None and needed > limit * 2**30:
        raise GridPointError(
            f"resources.memory_gib_per_worker: about {needed / 2**30:.3g} GiB are needed, the limit is {limit:g} GiB."
            " Use more train.accumulation, a higher train.zero with more workers, or train.activation_checkpointing."
        )


def check_backend(trial: Trial, study: Study) -> None:
    """Check that the named implementation of VQ attention can run in the study's workers. Raises StudyError.

    Workers with GPUs may run Triton even where this machine cannot.
    """
    name, gpus = trial.train.backend, study.resources.gpus_per_worker
    if name == "auto":
        return
    if not trial.model.quantised:
        if name == "triton":
            raise StudyError("train.backend: triton belongs to models with quantised keys, such as transformer_vq")
        return
    has_kernels = trial.model.causal and trial.model.attention_function != "laplace"
    if name == "triton" and has_kernels and gpus not in ("auto", 0):
        return
    # Loaded here: planning a study without a named backend needs no torch.
    import torch

    from vqkernels import BackendUnavailableError
    from vqscale.models.transformer_vq import attention_backend

    try:
        attention_backend(trial.model, name, "cuda" if torch.cuda.is_available() and gpus != 0 else "cpu")
    except BackendUnavailableError as error:
        hint = "; for workers with GPUs set resources.gpus_per_worker" if has_kernels else ""
        raise StudyError(f"train.{error}{hint}") from error


def check_deepspeed(overrides: dict[str, Any], stage: int) -> None:
    """Check that overrides change nothing that the training loop relies on. Raises StudyError with the key to use."""
    try:
        check_deepspeed_keys(overrides)
    except ValueError as error:
        raise StudyError(str(error)) from error
    zero = overrides.get("zero_optimization", {})
    for key, instead in DEEPSPEED_OWNED.items():
        section, name = (zero, "stage") if key == "zero_optimization.stage" else (overrides, key)
        if name in section:
            raise StudyError(
                f"train.deepspeed: {key}: {section[name]!r} would override what the training loop sets."
                f" Leave it out and set {instead}."
            )
    for key, use in DEEPSPEED_RELIED_ON.items():
        place, _, name = key.rpartition(".")
        if (value := (overrides.get(place, {}) if place else overrides).get(name, True)) is not True:
            raise StudyError(f"train.deepspeed: {key}: {value!r} cannot be set: the training loop {use}. Leave it out.")
    # DeepSpeed's 16-bit optimisers of stage 0 keep the gradients where they can be neither clipped nor skipped.
    for name in ("bf16", "bfloat16", "fp16"):
        if stage == 0 and overrides.get(name, {}).get("enabled", False):
            raise StudyError(
                f"train.deepspeed: {name}: 16-bit parameters at train.zero: 0 would be neither clipped nor skipped."
                " Use train.precision: bf16, or train.zero: 1."
            )


def check_length(train: TrainConfig, corpus: Corpus) -> None:
    """Check that the training split holds a sequence, by the rule of the stream that cuts it. Raises GridPointError."""
    try:
        TokenStream(
            corpus.split("train"),
            batch=train.batch_size,
            length=train.segment_length,
            context=train.context,
            seed=train.seed,
        )
    except CorpusError as error:
        raise GridPointError(f"train.{error}") from error


def check_evaluation(stated: Any, corpus: Corpus) -> None:
    """Check that the validation split holds the tokens of the evaluation that a study states. Raises StudyError.

    The default is no such statement: a smaller split is then evaluated as a whole, and the plan says so.
    """
    held_out = len(corpus.split("validation"))
    if stated is not None and int(stated) > held_out:
        raise StudyError(
            f"train.evaluation_tokens: {stated} are more than the {held_out} tokens of the validation split of"
            f" {corpus.uri}. Use {held_out} at most, or leave the key out."
        )
