"""A trial: one training run as a complete, frozen value with a readable name and an identity."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vqscale.formatting import short_count
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen
from vqscale.study.model import PLAIN, ModelConfig

Documents = Literal["isolated", "packed"]
Precision = Literal["fp32", "bf16"]
EngineName = Literal["plain", "deepspeed"]
Task = Literal["language", "classification"]
Schedule = Literal["cosine", "linear", "wsd"]
EvaluationSample = Literal["spread", "start"]
Role = Literal["matrix", "embedding", "bias", "gain", "recurrence"]
"""What a parameter is for; `vqscale.models.roles` names that of every one."""
DECAYED: tuple[Role, ...] = ("matrix", "embedding")
"""Roles to which weight decay applies. It was decided by a tensor's dimensions before, which differs in all
architectures but the plain ones: biases and gains of several heads, and recurrences, have two."""
_SHORT = {"transformer_vq": "vq", "transformer_full": "full", "transformer_window": "window"}
TOKEN_BUDGET_FIELDS = ("tokens", "warmup", "warmup_tokens", "decay")
"""Fields in which trials of one shared prefix may differ, as long as their warm-ups take equally many updates."""
NOT_IN_PREFIX = (*TOKEN_BUDGET_FIELDS, "evaluation_sample", "evaluation_block")
"""What the updates of a shared prefix do not depend on. Other keys of the evaluation entered its fingerprint before."""
LARGEST_BLOCK = 2048
"""Tokens of a held-out block, unless a sequence is longer."""
LEAST_BLOCKS = 16


class TrainConfig(Frozen):
    """How one model is trained. Lengths and sizes are in tokens, schedules in shares of the training tokens."""

    context: int = Field(gt=0)
    """Context length T: tokens a sequence holds in training."""
    segment: int | None = Field(default=None, gt=0)
    """Tokens between optimiser updates; shorter than `context` means truncated back-propagation with carried state."""
    tokens: int = Field(gt=0)
    """D: training tokens of the trial. The learning-rate schedule ends exactly there."""
    batch_tokens: int = Field(gt=0)
    """Tokens of one optimiser update, over all workers."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches of one update."""
    lr: float = Field(gt=0, le=1e3)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Linear warm-up, as a share of the training tokens."""
    warmup_tokens: int | None = Field(default=None, gt=0)
    """Linear warm-up in tokens, the same for every token budget; None: `warmup` applies."""
    schedule: Schedule = "cosine"
    """cosine, linear: from the warm-up to the last update. wsd: warm-up, then stable at `lr`, then decay: runs with
    different token budgets are identical up to the decay of the shortest."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """wsd: share of the training tokens, at the end, in which the rate falls."""
    lr_final: float = Field(default=0.1, ge=0, le=1)
    """The decay ends at this share of `lr` (0.1 in the Transformer-VQ recipes)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    adam_eps: float = Field(default=1e-9, ge=1e-30)
    """Not below what fp32 holds apart from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the parameters in `DECAYED`, times the learning rate (decoupled, as AdamW does)."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm; None: no clipping."""
    precision: Precision = "fp32"
    engine: EngineName = "deepspeed"
    zero: int = Field(default=1, ge=0, le=3)
    activation_checkpointing: bool = False
    backend: Literal["auto", "naive", "blockwise", "triton"] = "auto"
    """Implementation of VQ attention; the result holds the one that ran."""
    documents: Documents = "isolated"
    """isolated: nothing is seen across a document's end; packed: attention runs across it, as in the paper."""
    evaluation_tokens: int = Field(default=65536, gt=0)
    """Held-out tokens of a language model's final evaluation (all of the split when it holds fewer)."""
    evaluation_sample: EvaluationSample = "spread"
    """spread: `evaluation_tokens` drawn from all of the split, in blocks, or in whole documents where those are
    evaluated; the draw is the same for every trial. start: the first tokens of the split, as all trials before this
    field were evaluated."""
    evaluation_block: int | None = Field(default=None, gt=0)
    """spread: tokens of a block; None: `evaluation_block_tokens` says how many. Trials with blocks of the same size are
    evaluated on the same text at every context length."""
    evaluation_context: int | None = Field(default=None, gt=0)
    """Length of the held-out sequences, evaluated with carried state; None: the training context. Classifiers: tokens
    to which held-out examples are cut."""
    evaluation_by: Literal["contiguous", "documents"] = "contiguous"
    evaluation_examples: int | None = Field(default=None, gt=0)
    """Classifiers: examples of every held-out split that are evaluated, the same for all trials; None: all."""
    seed: int = Field(default=0, ge=0)
    deepspeed: dict[str, object] = Field(default_factory=dict)
    """Overrides of the generated DeepSpeed configuration, by its own keys."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"evaluation_examples", "evaluation_block"})
    BEFORE: ClassVar[Mapping[str, Any]] = {"evaluation_sample": "start"}

    @property
    def segment_length(self) -> int:
        """Tokens of one sequence in one update."""
        return self.segment or self.context

    @property
    def batch_size(self) -> int:
        """Sequences of one update, over all workers; an example of a classifier may hold two."""
        return self.batch_tokens // self.segment_length

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.steps if self.warmup_tokens is None else self.warmup_tokens / self.batch_tokens)

    @property
    def decay_steps(self) -> int:
        """Updates of the decay of wsd; for cosine and linear all updates after the warm-up."""
        return max(1, round(self.decay * self.steps)) if self.schedule == "wsd" else self.steps - self.warmup_steps

    @property
    def evaluation_length(self) -> int:
        """Tokens of a held-out sequence."""
        return self.evaluation_context or self.context

    @property
    def evaluation_block_tokens(self) -> int:
        """Tokens of a block of the spread evaluation: 2,048, but a sixteenth of the tokens where they are few, so that
        the blocks remain spread, and never less than a sequence; powers of two, so that lengths of sequences divide
        them."""
        if self.evaluation_block is not None:
            return self.evaluation_block
        few = 1 << max(0, (self.evaluation_tokens // LEAST_BLOCKS).bit_length() - 1)
        return max(1 << (self.evaluation_length - 1).bit_length(), min(LARGEST_BLOCK, few))

    @property
    def evaluation_text(self) -> str:
        """What of a held-out split is evaluated, and how it is cut, in a few words: trials that agree in it and in
        their corpus are evaluated on the same text."""
        documents = self.evaluation_by == "documents"
        block = self.evaluation_block_tokens
        cut = " by document" if documents else f" by {block}" if self.evaluation_sample == "spread" else ""
        return f"{self.evaluation_sample} {self.evaluation_tokens}{cut}"

    @property
    def decay_start(self) -> int:
        """Updates before the decay: under wsd they do not depend on the token budget."""
        return self.steps - self.decay_steps

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.context % self.segment_length:
            raise ValueError(f"context {self.context} is no multiple of segment {self.segment}")
        if self.batch_tokens % (self.segment_length * self.accumulation):
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is no multiple of {self.segment_length} tokens x {self.accumulation}"
                " micro-batches: an update holds whole sequences"
            )
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens {self.tokens} is less than one update of batch_tokens {self.batch_tokens}")
        if self.evaluation_block is not None:
            self._check_block(self.evaluation_block)
        if self.warmup_steps + max(self.decay_steps, 0) > self.steps:
            raise ValueError(
                f"a warm-up of {self.warmup_steps} and a decay of {self.decay_steps} updates do not fit the"
                f" {self.steps} updates of train.tokens: shorten warmup_tokens or decay"
            )
        return self

    def _check_block(self, block: int) -> None:
        if self.evaluation_sample != "spread" or self.evaluation_by != "contiguous":
            raise ValueError(
                f"evaluation_block {block} has no meaning with evaluation_sample {self.evaluation_sample} and"
                f" evaluation_by {self.evaluation_by}: only contiguous text that is spread is cut into blocks"
            )
        if block < self.evaluation_length:
            raise ValueError(
                f"evaluation_block {block} is less than the {self.evaluation_length} tokens of a held-out sequence:"
                f" raise it to {self.evaluation_length} or more, or shorten evaluation_context"
            )


class Trial(Frozen):
    """One training run: model x corpus x recipe x seed."""

    model: ModelConfig
    train: TrainConfig
    preset: str | None = None
    corpus: str
    """Address of the corpus; its fingerprint, not this address, is part of the trial's identity."""
    corpus_fingerprint: str

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"model": self.model, "train": self._recipe, "corpus": self.corpus_fingerprint})

    @cached_property
    def setup(self) -> str:
        """Fingerprint of everything except the seed: runs that share it are repetitions of one another."""
        train = {key: value for key, value in self._recipe.items() if key != "seed"}
        return fingerprint({"model": self.model, "train": train, "corpus": self.corpus_fingerprint})

    @cached_property
    def shared_prefix(self) -> str | None:
        """Fingerprint of the updates before the decay, the same for all wsd trials that have them; None for others."""
        if self.train.schedule != "wsd":
            return None
        common = {key: value for key, value in self._recipe.items() if key not in NOT_IN_PREFIX}
        common |= {"warmup_steps": self.train.warmup_steps}
        return fingerprint({"model": self.model, "train": common, "corpus": self.corpus_fingerprint})

    @property
    def _recipe(self) -> dict[str, Any]:
        """What of `train` enters the identity: a classifier is evaluated on examples, which no text is drawn from; and
        which parameters decay, where any do and it was decided otherwise before."""
        recipe = self.train.identity()
        if self.train.weight_decay and self.model.arch not in PLAIN:
            recipe["decayed"] = DECAYED
        if self.task == "classification":
            recipe.pop("evaluation_sample", None)
        return recipe

    @property
    def examples_per_update(self) -> int:
        """Examples of a classifier's update, over all workers."""
        return self.train.batch_size // self.model.sequences

    @property
    def task(self) -> Task:
        return "language" if self.model.classes is None else "classification"

    @property
    def id(self) -> str:
        """Folder, MLflow tag and resume key: the readable name and twelve digits of the fingerprint."""
        return f"{self.name}-{self.fingerprint[:12]}"

    @property
    def name(self) -> str:
        model, train = self.model, self.train
        kind = _SHORT.get(model.arch, model.arch)
        parts = [kind, model.variant, model.head if model.head not in (None, "shga") else None]
        parts += [self.preset or f"d{model.d_model}x{model.n_layer}"]
        parts += [f"S{model.codebook_size}" if model.codebook_size else None]
        parts += [f"T{train.context}", f"D{short_count(train.tokens)}", f"seed{train.seed}"]
        return "-".join(part for part in parts if part)
