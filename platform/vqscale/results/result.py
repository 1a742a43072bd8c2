"""The record of one trial: axes, counts, measurements. A missing measurement is None, never 0 or NaN."""

from typing import Literal

from pydantic import AliasChoices, Field

from vqscale.study.frozen import Frozen

Status = Literal["finished", "diverged", "stopped", "failed"]

EMBEDDING_GROUPS = ("embedding", "head", "absolute_position")
"""Groups of `parameter_groups` that N without embeddings excludes."""
CODEBOOK_GROUPS = ("codebook",)
"""Groups that are not trained by gradient: not in N, unless a convention includes them."""


class PositionLoss(Frozen):
    """Mean held-out loss of the tokens whose position in the context is in [start, end)."""

    start: int = Field(ge=0)
    end: int = Field(gt=0)
    nats: float
    """Nats per token."""


class AccuracyBucket(Frozen):
    """Accuracy of the labels whose example's length, or whose distance to its answer, is in [start, end)."""

    start: int = Field(ge=0)
    end: int = Field(gt=0)
    labels: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)


class LossParts(Frozen):
    """Sums over held-out documents, in the order of the text; classifiers: over examples, in that of their split.

    Neighbours are added up where there are more than `MOST_PARTS`: parts of equally many, which are as independent of
    one another as documents are. Trials that were evaluated on the same text have the same parts.
    """

    units: list[int]
    """Documents or examples of every part."""
    tokens: list[int]
    """Predicted tokens; classifiers: labels."""
    bytes: list[int] | None = None
    """Of text; None for classifiers."""
    nats: list[float]
    right: list[int] | None = None
    """Correctly predicted labels; None for language models."""


MOST_PARTS = 64


class Result(Frozen):
    """One row of a study's table.

    Units: losses in nats per token (classifiers: per label), `bpb` in bits per byte of the raw text, sizes in bytes,
    times in seconds, FLOPs as floating-point operations (a multiply-add is two).
    """

    study: str
    trial_id: str
    name: str
    status: Status
    arch: str
    head: str | None
    variant: str | None = None
    """How an architecture with options differs from its usual form, such as `window-only`; None where it does not."""
    preset: str | None
    seed: int
    d_model: int
    n_layer: int
    codebook_size: int | None
    block_length: int | None
    context: int
    segment: int
    """Tokens of one sequence between two updates; below `context` under truncated back-propagation."""
    tokens: int
    """Training tokens D."""
    steps: int
    batch_tokens: int
    lr: float
    schedule: str = "cosine"
    """cosine, linear or wsd; records from before this column all have the default."""
    decay: float | None = None
    """wsd: share of the training tokens in which the rate falls. None for the other schedules: their rate falls from
    the warm-up on."""
    shared_steps: int = 0
    """Updates taken over from a shorter trial with the same shared prefix, not trained by this one."""
    shared_prefix: str | None = Field(default=None, validation_alias=AliasChoices("shared_prefix", "trunk"))
    """Fingerprint of the updates before the decay, the same for all wsd trials that have them; None for others."""
    setup: str | None = None
    """Fingerprint of everything except the seed; None in records from before this column."""
    decayed: str | None = None
    """Roles of the parameters that decayed; None without weight decay, and in records from before roles decided."""
    precision: str
    engine: str
    zero: int | None
    workers: int
    parameters: int
    parameters_non_embedding: int
    parameter_groups: dict[str, int]
    """Parameters by group; analysis builds any convention of N from it."""
    flops: float
    """Training FLOPs of the whole trial: forward and backward, counted exactly for the architecture."""
    flops_groups: dict[str, float]
    """Training FLOPs per token by group."""
    task: str = "language"
    """language or classification; records from before this column all have the default."""
    loss: float | None
    """Held-out nats per token; for a classifier, per label."""
    loss_error: float | None = None
    """Standard error of `loss` over held-out documents (classifiers: examples), weighted by their tokens; None for a
    single one, and in records from before this column. What another seed would change is not in it."""
    bpb: float | None
    bpb_error: float | None = None
    """As `loss_error`, of `bpb`."""
    perplexity: float | None
    """Like bpb, of language models only."""
    word_perplexity: float | None = None
    """exp(total nats / words) of a corpus that counts words, as PG-19 is reported."""
    word_perplexity_eol: float | None = None
    """The same with every line end counted as a word, as WikiText-103 is reported."""
    evaluation_text: str | None = None
    """What of the held-out split was evaluated, and how it was cut (`TrainConfig.evaluation_text`); None in records
    from before this column, all of which are of the start of the split."""
    evaluation_tokens: int | None = None
    """Held-out tokens that were predicted; classifiers: labels."""
    evaluation_bytes: int | None = None
    """Of text, that those tokens are."""
    evaluation_documents: int | None = None
    """That those tokens are of."""
    loss_by_document: LossParts | None = None
    train_loss: float | None
    loss_by_position: list[PositionLoss]
    accuracy: float | None = Field(default=None, ge=0, le=1)
    """Of classifiers, on the validation split, as are all columns up to `accuracy_by_distance`."""
    accuracy_error: float | None = None
    """Standard error over examples, as `loss_error`."""
    balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Mean recall of the classes that occur."""
    macro_f1: float | None = Field(default=None, ge=0, le=1)
    """Mean F1 of the classes that occur or are predicted."""
    classes: int | None = None
    examples: int | None = None
    """Held-out examples that were evaluated."""
    confusion: list[list[int]] | None = None
    """Labels by true class (row) and predicted class (column), for up to 50 classes."""
    class_names: list[str] | None = None
    """Of the rows and columns of `confusion`."""
    accuracy_by_length: list[AccuracyBucket] = Field(default_factory=list)
    accuracy_by_distance: list[AccuracyBucket] = Field(default_factory=list)
    """By tokens between a label and its answer, where the corpus records them."""
    test_loss: float | None = None
    """As `loss`, on the test split, evaluated once, at the end."""
    test_accuracy: float | None = Field(default=None, ge=0, le=1)
    test_accuracy_error: float | None = None
    """As `accuracy_error`, of `test_accuracy`."""
    tokens_per_second: float | None
    flops_per_second: float | None
    peak_flops: float | None
    """Highest FLOP/s measured on this device; `flops_per_second / peak_flops` is the utilisation."""
    peak_memory_bytes: int | None
    state_bytes: int | None
    """Memory of the state when decoding one sequence at the trained context."""
    code_perplexity: float | None
    """exp(entropy) of code usage, mean over layers: the codes that are effectively in use."""
    dead_codes: float | None = Field(ge=0, le=1)
    """Share of codes that no token of the last update was assigned to, mean over layers."""
    quantisation_error: float | None
    """Root of the keys' squared quantisation error over their squared norm, mean over layers."""
    revived: int | None
    """Codes revived during training."""
    skipped_updates: int | None = None
    """Updates that left no trace because their gradient was not finite; None in records from before this column."""
    seconds_training: float | None
    """Includes the time that shared updates took in the trial that trained them, so that trials remain comparable."""
    seconds_overhead: float | None
    """Start, checkpoints, logging and stop: everything that is neither a training step nor evaluation."""
    seconds_evaluation: float | None
    attempts: int
    device: str | None
    backend: str | None
    """Implementation of VQ attention that ran; None for the quadratic baselines."""
    error: str | None
    """Why the trial failed or diverged, as text for the user."""
    corpus: str
    corpus_fingerprint: str
    versions: dict[str, str]
    git: str | None
    started_at: str
    """Start of the first attempt that left a checkpoint or a record; ISO 8601 with time zone."""
