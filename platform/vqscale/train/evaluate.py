"""Held-out loss on whole documents or contiguous text, with carried state, in total and by position."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from vqscale.data.evaluation import TextCounts, documents, sequences, text_counts
from vqscale.results.result import PositionLoss
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
    """Evaluate on the first `evaluation_tokens` of a split, in sequences of `evaluation_context`.

    A sequence is read in segments of the training context with the state carried between them, so that a model with
    constant state can be evaluated on any length. Ranks divide the sequences among them; all return the same result.
    """
    context = train.evaluation_context or train.context
    tokens = corpus.split(split)
    if train.evaluation_by == "documents":
        held_out = documents(tokens, limit_tokens=train.evaluation_tokens)
    else:
        held_out = sequences(tokens, context, limit_tokens=train.evaluation_tokens)
    longest = max(length for _, length in held_out)
    # float64 sums: float32 loses digits after some 10^7 tokens, and ranks must add up to what one rank would have.
    nats_T = torch.zeros(longest, dtype=torch.float64)
    count_T = torch.zeros(longest, dtype=torch.float64)
    text_bytes = torch.zeros(1, dtype=torch.float64)
    segment = min(train.context, longest)
    rows = max(1, ROW_TOKENS // segment)
    was_training = model.training
    model.eval()
    world, rank = world_size(group), rank_of(group)
    # Every rank runs the same passes, of the same number of segments: ZeRO-3 gathers parameters in each of them.
    for first in range(0, len(held_out), rows * world):
        chunk = held_out[first : first + rows * world]
        width = max(length for _, length in chunk) + 1
        batch = [_read(tokens, *sequence) for sequence in chunk[rank::world]]
        _add_batch(model, batch, width, segment, train, device, nats_T, count_T)
        text_bytes += sum(int(corpus.token_bytes[row[1:]].sum()) for row in batch)
    model.train(was_training)
    counts = text_counts(tokens, train.evaluation_tokens) if tokens.record.words is not None else None
    nats_T, count_T, text_bytes = (total(part, device, group) for part in (nats_T, count_T, text_bytes))
    return _result(nats_T, count_T, text_bytes, counts)


def _read(tokens: Any, start: int, length: int) -> np.ndarray:
    row: np.ndarray = tokens.read(start, length + 1).astype(np.int64)
    return row


def _add_batch(
    model: Any,
    batch: list[np.ndarray],
    width: int,
    segment: int,
    train: TrainConfig,
    device: torch.device,
    nats_T: Tensor,
    count_T: Tensor,
) -> None:
    """Add the losses of `batch` (rows of at most `width` tokens, padded on the right) to the sums by position.

    An empty batch runs one row of padding: the other ranks' passes may contain collectives.
    """
    padded = np.full((max(len(batch), 1), width), PAD, dtype=np.int64)
    mask = np.zeros(padded.shape, dtype=bool)
    for index, row in enumerate(batch):
        padded[index, : len(row)] = row
        mask[index, : len(row)] = True
    ragged = not mask.all()
    state = None
    for start in range(0, width - 1, segment):
        stop = min(start + segment, width - 1)
        inputs, targets = padded[:, start:stop], padded[:, start + 1 : stop + 1]
        real = mask[:, start + 1 : stop + 1]
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
        nats_T[start:stop] += (loss_BT.double().cpu() * weight_BT).sum(0)
        count_T[start:stop] += weight_BT.sum(0)


def rank_of(group: ProcessGroup | None) -> int:
    return dist.get_rank(group) if world_size(group) > 1 else 0


def total(part: Tensor, device: torch.device, group: ProcessGroup | None) -> Tensor:
    if world_size(group) == 1:
        return part
    on_device = part.to(device)
    dist.all_reduce(on_device, group=group)
    return on_device.cpu()


def _result(nats_T: Tensor, count_T: Tensor, text_bytes: Tensor, counts: TextCounts | None) -> HeldOut:
    tokens = int(count_T.sum())
    return HeldOut(
        nats=float(nats_T.sum()) / tokens,
        tokens=tokens,
        text_bytes=int(text_bytes),
        by_position=[
            PositionLoss(start=start, end=end, nats=float(nats_T[start:end].sum() / count_T[start:end].sum()))
            for start, end in position_buckets(len(count_T))
        ],
        counts=counts,
    )


def position_buckets(length: int) -> list[tuple[int, int]]:
    """Positions [0, length) in buckets whose borders double: 0-1, 1-2, 2-4, 4-8 ..."""
    borders = [0, *(2**i for i in range(length.bit_length()) if 2**i < length), length]
    return list(itertools.pairwise(borders))
