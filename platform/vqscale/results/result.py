"""The record of one trial: axes, counts, measurements. A missing measurement is None, never 0 or NaN."""

from typing import Literal

from pydantic import AliasChoices, Field

from vqscale.study.frozen import Frozen

Status = Literal["finished", "diverged", "stopped", "failed"]

EMBEDDING_GROUPS = ("embedding", "head", "absolute_position")
"""Groups of `parameter_groups` that N without embeddings leaves out."""
CODEBOOK_GROUPS = ("codebook",)
"""Groups that no gradient trains: in no N, unless a convention says so."""


class PositionLoss(Frozen):
    """Mean held-out loss of the tokens whose position in the context lies in [start, end)."""

    start: int = Field(ge=0)
    end: int = Field(gt=0)
    nats: float
    """Nats a token."""


class AccuracyBucket(Frozen):
    """Accuracy of the labels whose example's length, or whose distance to its answer, lies in [start, end)."""

    start: int = Field(ge=0)
    end: int = Field(gt=0)
    labels: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)


class Result(Frozen):
    """One row of a study's table.

    Units: losses in nats a token (classifiers: a label), `bpb` in bits a byte of the original text, sizes in bytes,
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
    """Training tokens: the horizon D."""
    steps: int
    batch_tokens: int
    lr: float
    schedule: str = "cosine"
    """cosine, linear or wsd; the default is what every record before the column had."""
    decay: float | None = None
    """Share of the horizon in which the rate of wsd falls; None for the others, which fall all the way."""
    shared_steps: int = 0
    """Updates taken over from a shorter trial with the same shared prefix, not trained by this one."""
    shared_prefix: str | None = Field(default=None, validation_alias=AliasChoices("shared_prefix", "trunk"))
    """Fingerprint of the updates before the decay, the same for all horizons of one wsd run; None for others."""
    setup: str | None = None
    """Fingerprint of all but the seed; None in records from before it was kept."""
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
    """Training FLOPs a token by group."""
    task: str = "language"
    """language or classification; the default is what every record before the column had."""
    loss: float | None
    """Held-out nats a token, of a classifier a label."""
    bpb: float | None
    perplexity: float | None
    """As bpb of language models alone."""
    word_perplexity: float | None = None
    """exp(total nats / words) of a corpus that counts words, as PG-19 is reported."""
    word_perplexity_eol: float | None = None
    """The same with every line end counted as a word, as WikiText-103 is reported."""
    train_loss: float | None
    loss_by_position: list[PositionLoss]
    accuracy: float | None = Field(default=None, ge=0, le=1)
    """Of classifiers, on the validation split, like all that follow up to `accuracy_by_distance`."""
    balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Mean recall of the classes that occur."""
    macro_f1: float | None = Field(default=None, ge=0, le=1)
    """Mean F1 of the classes that occur or are named."""
    classes: int | None = None
    examples: int | None = None
    """Held-out examples that were evaluated."""
    confusion: list[list[int]] | None = None
    """Labels by true class (row) and named class (column), up to 50 classes."""
    class_names: list[str] | None = None
    """Of the rows and columns of `confusion`."""
    accuracy_by_length: list[AccuracyBucket] = Field(default_factory=list)
    accuracy_by_distance: list[AccuracyBucket] = Field(default_factory=list)
    """By tokens between a label and its answer, where the corpus says."""
    test_loss: float | None = None
    """As `loss`, on the test split, evaluated once, at the end."""
    test_accuracy: float | None = Field(default=None, ge=0, le=1)
    tokens_per_second: float | None
    flops_per_second: float | None
    peak_flops: float | None
    """Highest FLOP/s this device was measured to reach; `flops_per_second / peak_flops` is the share in use."""
    peak_memory_bytes: int | None
    state_bytes: int | None
    """Memory that decoding one sequence keeps at the trained context."""
    code_perplexity: float | None
    """exp(entropy) of code usage, mean over layers: the codes that are effectively in use."""
    dead_codes: float | None = Field(ge=0, le=1)
    """Share of codes that no token of the last update took, mean over layers."""
    quantisation_error: float | None
    """Root of the squared quantisation error of the keys over their squared norm, mean over layers."""
    revived: int | None
    """Codes revived during training."""
    seconds_training: float | None
    """With the time that the shared updates took where they were trained: comparable with a trial that shares none."""
    seconds_overhead: float | None
    """Start, checkpoints, logging and stop: what is neither a training step nor evaluation."""
    seconds_evaluation: float | None
    attempts: int
    device: str | None
    backend: str | None
    """Implementation of VQ attention that ran; None for the quadratic baselines."""
    error: str | None
    """Why the trial failed or diverged, for a person."""
    corpus: str
    corpus_fingerprint: str
    versions: dict[str, str]
    git: str | None
    started_at: str
    """When its first attempt began of which anything is left; ISO 8601 with time zone."""
