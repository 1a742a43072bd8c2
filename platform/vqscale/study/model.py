"""A model as one frozen value: every dimension is set here, none by a default elsewhere."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vqscale.study.frozen import Frozen

Arch = Literal["transformer_vq", "transformer_full", "transformer", "longvq", "mega", "gla", "transformer_window"]
Head = Literal["shga", "mqa", "mha"]
Pooling = Literal["mean", "last", "none"]
Bias = Literal["all", "window"]

HEADED = ("transformer_vq", "transformer_full")
"""Architectures with a choice of head type."""
PLAIN = ("transformer", "transformer_window", "gla")
"""Architectures of the usual block: pre-norm, several heads, SwiGLU, no relative bias."""
GATED_HYBRIDS = ("longvq", "mega")
"""Architectures whose gated attention reads a structured memory (EMA or state space)."""
DECAY_RANK = 16
"""Rank of the projection that gives the decay of `gla` (the paper's, at every width)."""
FULL_ATTENTION_CHUNK = 256
"""Queries that `transformer_full` scores at once. Each chunk is recomputed in the backward pass, so that no T x U
matrix is ever kept. The counts of recomputation and peak memory use this number too."""
STATE_DIM = 16
"""State numbers per channel of the structured memory, unless a study sets another (Mega's n_dim)."""
QUANTISED = ("transformer_vq", "longvq")
"""Architectures that may quantise keys; `ModelConfig.quantised` says whether one does."""
EXACT = {"transformer_full": "transformer_vq", "mega": "longvq"}
"""Architectures with exact keys over the whole context, and those with quantised keys that they are the baselines of.

With the bias over all distances two things differ: the keys and the bias. With the bias within the window the keys
alone differ (`WINDOW_BIAS`)."""
WINDOW_BIAS = "window-bias"
"""The variant of such a baseline whose bias ends where that of quantised keys does."""


class ModelConfig(Frozen):
    """Architecture and dimensions of one model (Transformer-VQ, Lingle 2024, names and defaults of its reference code).

    `n_layer` counts as the reference does: a layer is two gated attention units for SHGA, attention + MLP otherwise.
    `codebook_size` is absent for the quadratic baselines, `block_length` unless their bias ends there.
    """

    arch: Arch
    head: Head | None = None
    """Head type of `transformer_vq` and `transformer_full`; `transformer` is always multi-head and has None."""
    vocab_size: int = Field(gt=0)
    d_model: int = Field(gt=0)
    n_layer: int = Field(gt=0)
    d_key: int = Field(gt=0)
    """Key width K of one head."""
    d_value: int = Field(gt=0)
    """Value width V of one head (SHGA: usually 2 D; otherwise usually K)."""
    n_head: int = Field(gt=0)
    """Query heads H."""
    n_kv_head: int = Field(gt=0)
    """Key/value heads G: 1 for SHGA and MQA, H for MHA."""
    d_ff: int | None = Field(default=None, gt=0)
    """Feed-forward width; None for SHGA, which has no feed-forward layer."""
    codebook_size: int | None = Field(default=None, gt=0)
    block_length: int | None = Field(default=None, gt=0)
    """Block length L. Without quantised keys: the reach of `longvq`'s window, or of `bias: window`."""
    bias: Bias | None = None
    """`transformer_full`, `mega`: distances with a relative bias. all, as in the paper's baselines; window: up to L, as
    where keys are quantised (not causal: and as far ahead), with none beyond."""
    tie_embeddings: bool = False
    """Tied: final norm and logits times 0.005; untied: no final norm, scale 1 (the reference's two recipes)."""
    absolute_positions: bool = False
    position_base: float = Field(default=1e5, gt=0)
    """Base of the sinusoids of the relative bias (and of RoPE for `transformer`)."""
    dropout_sinusoid: float = Field(default=0.0, ge=0, lt=1)
    dropout_residual: float = Field(default=0.0, ge=0, lt=1)
    dropout_layer: float = Field(default=0.0, ge=0, lt=1)
    codebook_decay: float = Field(default=0.99, gt=0, lt=1)
    commit_weight: float = Field(default=1e-4, ge=0)
    revive_below: float = Field(default=0.05, ge=0, lt=1)
    """A code is dead when its EMA count is below this share of the mean count; 0 turns revival off."""
    structured_memory: Literal["ema", "s4d", "none"] | None = None
    """`longvq`, `mega`: the recurrence before attention; damped EMA (Mega) or diagonal state space (S4D)."""
    state_dim: int | None = Field(default=None, gt=0)
    """State numbers per channel of the structured memory: real for ema, complex (pairs of real numbers) for s4d."""
    global_memory: bool | None = None
    """`longvq`: attention to quantised keys beyond the window; False: the window only."""
    local_window: bool | None = None
    """`longvq`: a window with position bias; False: quantised keys only, without positions."""
    gates: bool | None = None
    """`longvq`, `mega`: reset and update gates."""
    attention_function: Literal["softmax", "laplace"] | None = None
    """`longvq`, `mega`: softmax, or Mega's element-wise Laplace function of scores over the number of keys."""
    norm: Literal["rms", "layer", "scale", "batch"] | None = None
    """`longvq`, `mega`: the norm of every sub-layer."""
    prenorm: bool | None = None
    """`longvq`, `mega`: norm before a sub-layer; False: after its residual sum."""
    window: int | None = Field(default=None, gt=0)
    """`transformer_window`: tokens that a query sees, itself included (to each side where not causal)."""
    causal: bool = True
    """False: every token sees the whole sequence; classifiers only."""
    classes: int | None = Field(default=None, gt=1)
    """Classes that the head distinguishes; None: a language model over the vocabulary."""
    pooling: Pooling | None = None
    """Classifiers: mean over a sequence's tokens, its last token, or none (a class for every token)."""
    sequences: int = Field(default=1, ge=1, le=2)
    """Sequences that one example holds: two for retrieval, encoded alike and then compared."""
    real_inputs: bool = False
    """Token ids are samples of a signal, mapped linearly to [-1, 1] and projected, in place of an embedding."""

    ADDED: ClassVar[frozenset[str]] = frozenset(
        {"structured_memory", "state_dim", "global_memory", "local_window", "gates", "attention_function", "norm"}
        | {"prenorm", "window", "causal", "classes", "pooling", "sequences", "real_inputs", "bias"}
    )

    @model_validator(mode="before")
    @classmethod
    def _of_before_bias(cls, values: Any) -> Any:
        """A model written before `bias` was a choice: all distances."""
        if isinstance(values, dict) and values.get("arch") in EXACT and "bias" not in values:
            return values | {"bias": "all"}
        return values

    def identity(self) -> dict[str, Any]:
        """Without the bias over all distances, which every baseline had before it was a choice."""
        return {key: value for key, value in super().identity().items() if (key, value) != ("bias", "all")}

    @property
    def quantised(self) -> bool:
        """Whether keys are replaced by codes, so that there is a codebook."""
        return self.codebook_size is not None

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        quantised = self.arch == "transformer_vq" or (self.arch == "longvq" and self.global_memory is True)
        if quantised != (self.codebook_size is not None):
            raise ValueError(f"codebook_size belongs to models with quantised keys only, not to {self.arch}")
        if (self.arch in EXACT) != (self.bias is not None):
            raise ValueError(f"bias: {self.bias} does not fit {self.arch}")
        if (self.arch in QUANTISED or self.bias == "window") != (self.block_length is not None):
            having = f"{', '.join(QUANTISED)} and models with bias: window"
            raise ValueError(
                f"block_length: {self.block_length} does not fit {self.arch}"
                f"{f' with bias: {self.bias}' if self.bias else ''}: it belongs to {having}"
            )
        if (self.head is None) != (self.arch not in HEADED):
            raise ValueError(f"head: {self.head} does not fit {self.arch}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is no multiple of n_kv_head {self.n_kv_head}")
        if (self.d_ff is None) != (self.head == "shga"):
            raise ValueError(f"d_ff: {self.d_ff} does not fit: shga has no feed-forward layer, all others have one")
        if not self.relative and self.dropout_sinusoid:
            raise ValueError(f"dropout_sinusoid belongs to models with a relative bias, not to {self.arch}")
        rotated = {"d_model": self.d_model} if self.arch in (*HEADED, *GATED_HYBRIDS) else {"d_key": self.d_key}
        rotated = {} if self.arch == "gla" else rotated
        for name, width in rotated.items():
            if width % 2:
                raise ValueError(f"{name} {width} is odd: positions take half of it as sines and half as cosines")
        return self

    @model_validator(mode="after")
    def _settings_of_one_kind_only(self) -> "ModelConfig":
        hybrid = ("structured_memory", "gates", "attention_function", "norm", "prenorm")
        kinds: dict[str, bool] = dict.fromkeys(hybrid, self.arch in GATED_HYBRIDS)
        kinds |= dict.fromkeys(("global_memory", "local_window"), self.arch == "longvq")
        kinds |= {"window": self.arch == "transformer_window", "pooling": self.classes is not None}
        kinds |= {"state_dim": self.arch in GATED_HYBRIDS and self.structured_memory != "none"}
        for name, needed in kinds.items():
            if needed != (getattr(self, name) is not None):
                raise ValueError(f"{name}: {getattr(self, name)} does not fit {self.arch}")
        if self.norm == "batch" and self.causal:
            raise ValueError(
                "norm: batch takes its statistics from whole batches: a token would see later ones. Use rms"
            )
        if self.arch == "longvq" and not (self.global_memory or self.local_window):
            raise ValueError("global_memory and local_window are both off: attention would see nothing")
        if self.arch == "gla" and self.n_kv_head != self.n_head:
            raise ValueError(
                f"n_kv_head: {self.n_kv_head} is not n_head {self.n_head}: each head of gla has its own state"
            )
        if self.arch == "gla" and not self.causal and self.n_layer == 1:
            raise ValueError("n_layer: 1 layer of gla reads one way; causal: false needs 2, the second read backwards")
        if self.classes is None and not (self.causal and self.sequences == 1):
            raise ValueError("causal: false and sequences: 2 belong to classifiers: a language model predicts in order")
        if self.sequences == 2 and self.pooling == "none":
            raise ValueError("pooling: none gives a class for every token; two sequences are compared as wholes")
        if self.classes is None and self.real_inputs:
            raise ValueError("real_inputs belongs to classifiers: a language model predicts tokens")
        if self.classes is not None and self.tie_embeddings:
            raise ValueError("tie_embeddings belongs to language models: classes are no tokens")
        return self

    @property
    def carries_state(self) -> bool:
        """Whether a sequence may be read in segments: not where tokens see later ones, or where they are pooled."""
        return self.causal and self.pooling in (None, "none")

    @property
    def head_inputs(self) -> int:
        """Features that a classifier's head takes of an example (without pooling, of a token)."""
        return self.d_model * (4 if self.sequences == 2 else 1)

    @property
    def relative(self) -> bool:
        """Whether positions enter as a relative bias (otherwise queries and keys are rotated, or not at all)."""
        return self.arch in (*HEADED, *GATED_HYBRIDS) and self.local_window is not False

    @property
    def variant(self) -> str | None:
        """How an architecture with options differs from its usual form, as a short name; None where it does not."""
        names = {
            "no-memory": self.structured_memory == "none",
            "s4d": self.structured_memory == "s4d",
            f"state{self.state_dim}": self.state_dim not in (None, STATE_DIM),
            "window-only": self.global_memory is False,
            "no-window": self.local_window is False,
            "no-gates": self.gates is False,
            "laplace": self.attention_function == "laplace",
            f"{self.norm}-norm": self.norm not in (None, "rms"),
            "post-norm": self.prenorm is False,
            WINDOW_BIAS: self.bias == "window",
            f"w{self.window}": self.window is not None,
            "causal": self.classes is not None and self.pooling != "none" and self.causal,
            "last": self.pooling == "last",
        }
        return "+".join(name for name, differs in names.items() if differs) or None
