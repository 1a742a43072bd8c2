"""Held-out loss on whole documents or contiguous text, with carried state: in total, by position and by document.

Letters: B sequences of a pass, T positions, W vocabulary, U documents that are evaluated.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from vqscale.data.evaluation import HeldOutText, Piece, TextCounts, text_counts
from vqscale.results.loss_difference import mean_error
from vqscale.results.result import MOST_PARTS, LossParts, PositionLoss
from vqscale.study.trial import TrainConfig
from vqscale.train.metrics import world_size
from vqscale.train.objective import document_starts

PAD = 0
"""Any valid id: padded positions are masked and their losses have weight zero."""
ROW_TOKENS = 16384
"""Tokens that one forward pass of the evaluation holds, over all its rows."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Loss over held-out tokens; every rank holds the same value."""

    nats: float
    """Mean cross-entropy, nats per token."""
    tokens: int
    text_bytes: int
    """Bytes of text that the predicted tokens stand for."""
    documents: int
    """That these tokens are of."""
    loss_error: float | None
    """Standard error of `nats` over documents; None for a single one."""
    bpb_error: float | None
    parts: LossParts
    by_position: list[PositionLoss]
    counts: TextCounts | None
    """Words and line ends of that text, of a corpus that counts words."""

    @property
    def bpb(self) -> float:
        return self.nats * self.tokens / math.log(2) / self.text_bytes

    @property
    def perplexity(self) -> float:
        return _exp(self.nats)

    @property
    def word_perplexity(self) -> float | None:
        """exp(total nats / words), as PG-19 is reported (Rae et al. 2020)."""
        return self._by_unit(self.counts.words) if self.counts else None

    @property
    def word_perplexity_eol(self) -> float | None:
        """The same with every line end counted as a word, as WikiText-103 is reported (Merity et al. 2016)."""
        return self._by_unit(self.counts.words + self.counts.line_ends) if self.counts else None

    def _by_unit(self, units: int) -> float | None:
        return _exp(self.nats * self.tokens / units) if units else None


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # exp(710) overflows float64: a diverged model gets a huge, finite perplexity


@torch.no_grad()
def evaluate_text(
    model: Any,
    corpus: Any,
    split: str,
    train: TrainConfig,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> HeldOut:
    """Evaluate on `evaluation_tokens` of a split, in sequences of `evaluation_context`, or in whole documents.

    A sequence is read in segments of the training context with the state carried between them, so that a model with
    constant state can be evaluated on any length. Ranks divide the sequences among them; all return the same result.
    """
    tokens = corpus.split(split)
    text = HeldOutText(tokens, train)
    longest = max(length for _, length in text.pieces)
    sums = _Sums.zeros(longest, len(text.documents))
    segment = min(train.context, longest)
    rows = max(1, ROW_TOKENS // segment)
    was_training = model.training
    model.eval()
    world, rank = world_size(group), rank_of(group)
    # Every rank runs the same passes, of the same number of segments: ZeRO-3 gathers parameters in each of them.
    for first in range(0, len(text.pieces), rows * world):
        chunk = text.pieces[first : first + rows * world]
        width = max(length for _, length in chunk) + 1
        batch = _batch(corpus, tokens, text, chunk[rank::world], width)
        _add_batch(model, batch, segment, train, device, sums)
    model.train(was_training)
    counts = text_counts(tokens, text.pieces) if tokens.record.words is not None else None
    return _result(_Sums(*(total(part, device, group) for part in sums)), counts)


class _Sums(NamedTuple):
    """Sums over predicted tokens, by position T and by document U.

    In float64: float32 loses digits after some 10^7 tokens, and ranks must add up to what one rank would have.
    """

    nats_T: Tensor
    count_T: Tensor
    nats_U: Tensor
    count_U: Tensor
    bytes_U: Tensor

    @classmethod
    def zeros(cls, positions: int, documents: int) -> "_Sums":
        sizes = (positions, positions, documents, documents, documents)
        return cls(*(torch.zeros(size, dtype=torch.float64) for size in sizes))


@dataclass(frozen=True)
class _Batch:
    """Sequences padded on the right; `real_BT` and `unit_BT` are those of the predicted tokens."""

    tokens_BT: np.ndarray
    """One more than are predicted: the first only prompts."""
    real_BT: np.ndarray
    bytes_BT: np.ndarray
    unit_BT: np.ndarray
    """Place of the document that a token is of."""


def _batch(corpus: Any, tokens: Any, text: HeldOutText, pieces: Sequence[Piece], width: int) -> _Batch:
    """`pieces` in rows of `width` tokens. Without any it is one row of padding: the other ranks' passes may contain
    collectives.
    """
    padded = np.full((max(len(pieces), 1), width), PAD, dtype=np.int64)
    shape = (len(padded), width - 1)
    found = _Batch(padded, np.zeros(shape, dtype=bool), np.zeros(shape), np.zeros(shape, dtype=np.int64))
    for row, (start, length) in enumerate(pieces):
        ids = tokens.read(start, length + 1)
        padded[row, : length + 1] = ids
        found.real_BT[row, :length] = True
        found.bytes_BT[row, :length] = corpus.token_bytes[ids[1:]]
        found.unit_BT[row, :length] = text.units(start, length)
    return found


def _add_batch(model: Any, batch: _Batch, segment: int, train: TrainConfig, device: torch.device, sums: _Sums) -> None:
    """Add the losses of `batch` to the sums by position and by document."""
    padded, width = batch.tokens_BT, batch.tokens_BT.shape[1]
    ragged = not batch.real_BT.all()
    state = None
    for start in range(0, width - 1, segment):
        stop = min(start + segment, width - 1)
        inputs, targets = padded[:, start:stop], padded[:, start + 1 : stop + 1]
        real = batch.real_BT[:, start:stop]
        starts = document_starts(inputs, train.documents)
        output = model(
            torch.from_numpy(inputs.copy()).to(device),
            state=state,
            mask_BT=torch.from_numpy(real.copy()).to(device) if ragged else None,
            doc_start_BT=None if starts is None else torch.from_numpy(starts).to(device),
            return_state=stop < width - 1,
        )
        state = output["state"]
        logits_BTW = output["logits"].float()
        goal_BT = torch.from_numpy(targets.copy()).to(device)
        loss_BT = F.cross_entropy(logits_BTW.transpose(1, 2), goal_BT, reduction="none")
        weight_BT = torch.from_numpy(real.copy()).double()
        nats_BT = loss_BT.double().cpu() * weight_BT
        sums.nats_T[start:stop] += nats_BT.sum(0)
        sums.count_T[start:stop] += weight_BT.sum(0)
        unit = torch.from_numpy(batch.unit_BT[:, start:stop].flatten())
        bytes_BT = torch.from_numpy(batch.bytes_BT[:, start:stop].copy())
        for by_unit, values_BT in ((sums.nats_U, nats_BT), (sums.count_U, weight_BT), (sums.bytes_U, bytes_BT)):
            by_unit += torch.bincount(unit, values_BT.flatten(), minlength=len(by_unit))


def rank_of(group: ProcessGroup | None) -> int:
    return dist.get_rank(group) if world_size(group) > 1 else 0


def total(part: Tensor, device: torch.device, group: ProcessGroup | None) -> Tensor:
    if world_size(group) == 1:
        return part
    on_device = part.to(device)
    dist.all_reduce(on_device, group=group)
    return on_device.cpu()


def _result(sums: _Sums, counts: TextCounts | None) -> HeldOut:
    nats_T, count_T, nats_U, count_U, bytes_U = (part.numpy() for part in sums)
    tokens, text_bytes = int(count_T.sum()), int(bytes_U.sum())
    return HeldOut(
        nats=float(nats_T.sum()) / tokens,
        tokens=tokens,
        text_bytes=text_bytes,
        documents=len(nats_U),
        loss_error=mean_error(nats_U, count_U),
        bpb_error=mean_error(nats_U / math.log(2), bytes_U) if text_bytes else None,
        parts=loss_parts(nats_U, count_U, bytes_U=bytes_U),
        by_position=[
            PositionLoss(start=start, end=end, nats=float(nats_T[start:end].sum() / count_T[start:end].sum()))
            for start, end in position_buckets(len(count_T))
        ],
        counts=counts,
    )


def loss_parts(
    nats_U: np.ndarray, count_U: np.ndarray, *, bytes_U: np.ndarray | None = None, right_U: np.ndarray | None = None
) -> LossParts:
    """Sums by document in at most `MOST_PARTS` parts: neighbours together, as many documents in each."""
    borders = [part[0] for part in np.array_split(np.arange(len(nats_U)), min(MOST_PARTS, len(nats_U)))]

    def whole(values: np.ndarray) -> list[int]:
        return [round(value) for value in np.add.reduceat(values, borders).tolist()]

    return LossParts(
        units=whole(np.ones(len(nats_U))),
        tokens=whole(count_U),
        bytes=None if bytes_U is None else whole(bytes_U),
        # To a millionth: a sum over thousands of fp32 losses knows no more.
        nats=[round(value, 6) for value in np.add.reduceat(nats_U, borders).tolist()],
        right=None if right_U is None else whole(right_U),
    )


def position_buckets(length: int) -> list[tuple[int, int]]:
    """Positions [0, length) in buckets whose borders double: 0-1, 1-2, 2-4, 4-8 ..."""
    borders = [0, *(2**i for i in range(length.bit_length()) if 2**i < length), length]
    return list(itertools.pairwise(borders))
