"""What all models share: tokens to logits through a stack of layers, with a state that later segments continue.

Letters: B batch, Q sequences of an example, T position, U key position (carried ones first), D model width,
W vocabulary, C classes.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqkernels import Codebook
from vqscale.models.classifier import ClassifierHead
from vqscale.models.layers import (
    AbsolutePositions,
    Projection,
    RMSNorm,
    SampleEmbedding,
    TokenEmbedding,
    at_least_float32,
)
from vqscale.models.norms import recomputation
from vqscale.study.model import ModelConfig

LayerState = tuple[Tensor, ...]
"""What one layer carries to the next segment. A plain tuple: ZeRO-3's hooks rebuild what crosses a module's border."""


@dataclass(frozen=True)
class ModelState:
    """All that a model must remember of the tokens it has read.

    `layers`: the tensors of each layer, in the layer's own order. `length`: tokens read. `age`: how many of them
    belong to the document that is open. `document` (quadratic models, once a document end or padding was met): the
    number of each remembered token's document, -1 for padding; `open_document`: the number of the open document.
    """

    layers: tuple[LayerState, ...]
    length: int
    age: Int[Tensor, " B"]
    document: Int[Tensor, "B U"] | None = None
    open_document: Int[Tensor, " B"] | None = None

    def detach(self) -> "ModelState":
        return replace(self, layers=tuple(tuple(tensor.detach() for tensor in layer) for layer in self.layers))

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dictionary of tensors, to be saved."""
        tensors = {f"layer.{i}.{j}": tensor for i, layer in enumerate(self.layers) for j, tensor in enumerate(layer)}
        tensors |= {"length": torch.tensor(self.length), "age": self.age}
        if self.document is not None and self.open_document is not None:
            tensors |= {"document": self.document, "open_document": self.open_document}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "ModelState":
        """The state that `to_tensors` gave."""
        layers: dict[int, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("layer."):
                _, i, j = name.split(".")
                layers.setdefault(int(i), {})[int(j)] = tensor
        ordered = tuple(tuple(layers[i][j] for j in range(len(layers[i]))) for i in range(len(layers)))
        length = int(tensors["length"].item())
        return cls(ordered, length, tensors["age"], tensors.get("document"), tensors.get("open_document"))


class ModelOutput(TypedDict):
    """`logits` [B, T, W] in float32, of classifiers [B, C] or, of every token, [B, T, C]; `commit`: commitment losses
    summed over layers (zero for the baselines); `code_stats`: in training mode the fields of one
    vqkernels.CodeStatistics per codebook, ordered as `codebooks()`."""

    logits: Tensor
    state: ModelState | None
    commit: Tensor
    code_stats: list[tuple[Tensor, ...]]


class Segment(NamedTuple):
    """The tokens of one forward pass beside their values; the same for all layers.

    `mask` is False at padding, `doc_start` True where a document begins. Quadratic models look at `document` instead:
    the document of every key, -1 for padding, of which the last T belong to this segment.
    """

    mask: Bool[Tensor, "B T"] | None
    doc_start: Bool[Tensor, "B T"] | None
    document: Int[Tensor, "B U"] | None
    start: int
    """Tokens read before this segment."""


class LayerOutput(NamedTuple):
    """`statistics`: one plain tuple per codebook; `state`: empty unless it was asked for."""

    x: Tensor
    commit: Tensor
    statistics: tuple[tuple[Tensor, ...], ...]
    state: LayerState


def document_age(doc_start_BT: Tensor | None, carried_B: Tensor, length: int) -> Int[Tensor, "B T"]:
    """The position of every token in its document; `carried_B` tokens of the open one came before."""
    index_T = torch.arange(length, device=carried_B.device)
    if doc_start_BT is None:
        return carried_B[:, None] + index_T
    # The running maximum of the starts' indices is the index of the newest start; -1 before the first one.
    start_BT = torch.where(doc_start_BT, index_T, -1).cummax(dim=1).values
    return torch.where(start_BT >= 0, index_T - start_BT, carried_B[:, None] + index_T)


def _require_whole(state: ModelState | None, doc_start_BT: Tensor | None, return_state: bool) -> None:
    """Raise ValueError for arguments that only a causal model without pooling can serve."""
    if state is not None or return_state:
        raise ValueError(
            "state: this model is not causal or pools its tokens: its output depends on all of them, so that no state"
            " can be carried from one segment to the next. Give it the whole sequence, or build it with causal: true"
            " and without pooling."
        )
    if doc_start_BT is not None:
        raise ValueError(
            "doc_start: this model is not causal or pools its tokens, and reads every row as one document. Give each"
            " document a row of its own, padded on the right."
        )


class LanguageModel(nn.Module):
    """Embedding, layers, head. A subclass makes `layers`, each called as
    `layer(x_BTD, segment, state, return_state=..., backend=...)` with plain tuples and giving LayerOutput's fields."""

    remembers_all_keys: ClassVar[bool]
    """Whether the state grows with the tokens read (quadratic models)."""
    norm_bias: ClassVar[bool]
    """Whether the final norm has a bias beside its gain."""
    tied_scale: ClassVar[float]
    """What the logits of a tied head are multiplied by."""

    def __init__(self, config: ModelConfig, layers: list[nn.Module], *, std: float | None, final_norm: bool) -> None:
        """`std`: of embedding and head; None for the reference's N(0, 1) embedding and fan-in scaled head."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.autocast_bf16 = False
        self.backend = "auto"
        embedding = SampleEmbedding if config.real_inputs else TokenEmbedding
        self.embed = embedding(config.vocab_size, config.d_model, std=1.0 if std is None else std)
        absolute = config.absolute_positions
        self.positions = AbsolutePositions(config.d_model, config.position_base) if absolute else None
        self.layers = nn.ModuleList(layers)
        self.final_norm = RMSNorm(config.d_model, bias=self.norm_bias) if final_norm else None
        self.head: nn.Module | None = None
        if config.classes is not None:
            self.head = ClassifierHead(config)
        elif not config.tie_embeddings:
            self.head = Projection(config.d_model, config.vocab_size, std=std)

    def codebooks(self) -> list[Codebook]:
        """The codebooks of all layers, first layer first; empty where keys are not quantised."""
        return [module for module in self.modules() if isinstance(module, Codebook)]

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"] | Int[Tensor, "B Q T"],
        state: ModelState | None = None,
        mask_BT: Bool[Tensor, "B T"] | Bool[Tensor, "B Q T"] | None = None,
        doc_start_BT: Bool[Tensor, "B T"] | None = None,
        return_state: bool = False,
    ) -> ModelOutput:
        """Logits for the token after each token; of a classifier for each sequence, example of Q or token.

        `state` continues a sequence, and `return_state` asks for the state at its end. Tokens where `mask_BT` is False
        are padding: no token sees them and their logits are meaningless. A token where `doc_start_BT` is True sees
        nothing before itself, nor do those after it. Raises ValueError for a state where a sequence is read whole.
        """
        if tokens_BT.ndim == 3:  # the sequences of an example are encoded alike and meet in the head
            tokens_BT = tokens_BT.flatten(0, 1)
            mask_BT = None if mask_BT is None else mask_BT.flatten(0, 1)
        # Here, not around the call: DeepSpeed switches off an autocast that it finds around its engine.
        with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=self.autocast_bf16):
            return self._forward(tokens_BT, state, mask_BT, doc_start_BT, return_state)

    def _forward(
        self,
        tokens_BT: Tensor,
        state: ModelState | None,
        mask_BT: Tensor | None,
        doc_start_BT: Tensor | None,
        return_state: bool,
    ) -> ModelOutput:
        if not self.config.carries_state:
            _require_whole(state, doc_start_BT, return_state)
        segment, open_B = self._segment(tokens_BT, state, mask_BT, doc_start_BT)
        carried_B = tokens_BT.new_zeros(tokens_BT.shape[0], dtype=torch.int64) if state is None else state.age
        age_BT = document_age(doc_start_BT, carried_B, tokens_BT.shape[1])
        x_BTD: Tensor = self.embed(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(age_BT)
        before = [()] * len(self.layers) if state is None else state.layers
        outputs: list[LayerOutput] = []
        for layer, layer_state in zip(self.layers, before, strict=True):
            outputs.append(self._run(layer, x_BTD, segment, layer_state, return_state))
            x_BTD = outputs[-1].x
        after = None
        if return_state:
            layers = tuple(output.state for output in outputs)
            length = segment.start + tokens_BT.shape[1]
            after = ModelState(layers, length, age_BT[:, -1] + 1, segment.document, open_B)
        return ModelOutput(
            logits=self._logits(x_BTD, mask_BT),
            state=after,
            commit=torch.stack([output.commit for output in outputs]).sum(),
            code_stats=[statistics for output in outputs for statistics in output.statistics],
        )

    def _segment(
        self, tokens_BT: Tensor, state: ModelState | None, mask_BT: Tensor | None, doc_start_BT: Tensor | None
    ) -> tuple[Segment, Tensor | None]:
        start = 0 if state is None else state.length
        known = state is not None and state.document is not None
        if not self.remembers_all_keys or (mask_BT is None and doc_start_BT is None and not known):
            return Segment(mask_BT, doc_start_BT, None, start), None
        past_BU = tokens_BT.new_zeros(tokens_BT.shape[0], start, dtype=torch.int64)
        open_B = past_BU.new_zeros(tokens_BT.shape[0])
        if state is not None and state.document is not None and state.open_document is not None:
            past_BU, open_B = state.document, state.open_document
        # Documents are numbered from the sequence's beginning; a query sees keys with its own document's number.
        document_BT = open_B[:, None].expand(tokens_BT.shape)
        if doc_start_BT is not None:
            document_BT = document_BT + doc_start_BT.cumsum(dim=1)
        open_B = document_BT[:, -1]
        if mask_BT is not None:
            document_BT = document_BT.masked_fill(~mask_BT, -1)
        return Segment(mask_BT, doc_start_BT, torch.cat([past_BU, document_BT], dim=1), start), open_B

    def _run(
        self, layer: nn.Module, x_BTD: Tensor, segment: Segment, state: LayerState, return_state: bool
    ) -> LayerOutput:
        def run(x_BTD: Tensor) -> Any:
            return layer(x_BTD, tuple(segment), state, return_state=return_state, backend=self.backend)

        if self.activation_checkpointing and torch.is_grad_enabled():
            contexts = nullcontext(), recomputation()  # around the forward pass, and around its repetition
            return LayerOutput(*checkpoint(run, x_BTD, use_reentrant=False, context_fn=lambda: contexts))
        return LayerOutput(*run(x_BTD))

    def _logits(self, x_BTD: Float[Tensor, "B T D"], mask_BT: Tensor | None) -> Tensor:
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)
        if isinstance(self.head, ClassifierHead):
            logits: Tensor = self.head(x_BTD, mask_BT)
            return logits
        if self.head is not None:
            return at_least_float32(self.head(x_BTD))
        return at_least_float32(self.embed(x_BTD, as_head=True)) * self.tied_scale
