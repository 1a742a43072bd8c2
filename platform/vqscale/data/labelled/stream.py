"""Batches of labelled examples as a pure function of (seed, step).

B examples, Q sequences of one example (1 or 2), T positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vqscale.data.labelled.corpus import LabelledSplit
from vqscale.data.labelled.format import AnyArray, Example
from vqscale.data.permutation import Permutation
from vqscale.errors import CorpusError

NO_LABEL = -100
"""Value at positions without a label (and without a distance); PyTorch's cross-entropy ignores it."""
PAD_MULTIPLE = 64
"""Batches are padded to a multiple of this, so that few different shapes occur."""
POOL = 32
"""Batches whose examples are sorted by length together, so that there is little padding; at most an epoch."""


@dataclass(frozen=True)
class LabelledBatch:
    """Examples padded on the right with id 0; `mask_BQT` is True on real tokens.

    `label_B` for labelled sequences or `label_BT` for labelled tokens (`NO_LABEL` elsewhere), the other one is None;
    `distance_BT` as in `Example`. `index_B` are the numbers of the examples in the split.
    """

    index_B: npt.NDArray[np.int64]
    tokens_BQT: npt.NDArray[np.int64]
    mask_BQT: npt.NDArray[np.bool_]
    label_B: npt.NDArray[np.int64] | None
    label_BT: npt.NDArray[np.int64] | None
    distance_BT: npt.NDArray[np.int64] | None

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """`label_B` or `label_BT`, whichever the batch has."""
        label = self.label_B if self.label_BT is None else self.label_BT
        assert label is not None
        return label


def padded_length(split: LabelledSplit, index_B: npt.NDArray[np.int64], context: int) -> int:
    """T of a batch of these examples: the longest, rounded up to a multiple of PAD_MULTIPLE, at most `context`."""
    longest = int(split.lengths[index_B].max())
    return min(-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE, context)


def collate(
    split: LabelledSplit, index_B: npt.NDArray[np.int64], *, context: int, length: int | None = None
) -> LabelledBatch:
    """The examples `index_B` of `split` as a batch of `length` positions (None: `padded_length`).

    A sequence longer than `context` is cut: a labelled one keeps its first tokens, one of labelled tokens its last.
    """
    length = padded_length(split, index_B, context) if length is None else length
    layout = split.corpus.manifest.layout
    batch, of_tokens = len(index_B), layout.labels == "token"
    tokens_BQT = np.zeros((batch, layout.sequences, length), dtype=np.int64)
    mask_BQT = np.zeros(tokens_BQT.shape, dtype=np.bool_)
    label_BT, distance_BT = (
        np.full((batch, length), NO_LABEL) if wanted else None for wanted in (of_tokens, layout.distances)
    )
    examples = [split.example(int(index)) for index in index_B]
    for row, example in enumerate(examples):
        for number, tokens in enumerate(example.tokens):
            kept = tokens[-length:] if of_tokens else tokens[:length]
            tokens_BQT[row, number, : len(kept)] = kept
            mask_BQT[row, number, : len(kept)] = True
        for target_BT, values in ((label_BT, example.labels), (distance_BT, example.distances)):
            if target_BT is not None:
                _place(target_BT[row], example, values)
    label_B = None if of_tokens else np.array([example.label for example in examples], dtype=np.int64)
    return LabelledBatch(index_B, tokens_BQT, mask_BQT, label_B, label_BT, distance_BT)


def _place(row_T: npt.NDArray[np.int64], example: Example, values: AnyArray | None) -> None:
    """Write `values` at the example's labelled positions; positions that were cut off are skipped."""
    assert example.positions is not None
    assert values is not None
    positions = example.positions.astype(np.int64) - max(0, len(example.tokens[0]) - len(row_T))
    row_T[positions[positions >= 0]] = values[positions >= 0]


class LabelledStream:
    """Assigns the examples of a split to batches, each once per epoch in a keyed order; epochs follow without a gap.

    The examples of several consecutive steps (a pool) are sorted by length and cut into batches of similar lengths,
    which are used in a keyed order. The rows of all ranks together, their padding included, do not depend on the
    number of workers.
    """

    def __init__(
        self, split: LabelledSplit, *, batch: int, context: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        assert 0 <= rank < world
        assert min(batch, context) > 0
        if batch % world:
            raise CorpusError(f"batch: {batch} examples cannot be shared by {world} workers. Use a multiple.")
        self._split, self._seed = split, seed
        self.batch_size, self.context = batch, context
        self._rows = slice(rank * (batch // world), (rank + 1) * (batch // world))
        self._pool_steps = max(1, min(POOL, len(split) // batch))
        self._pool: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the batches depend on, as JSON: equal descriptions give equal global batches."""
        return {
            "corpus": self._split.corpus.fingerprint,
            "split": self._split.name,
            "batch": self.batch_size,
            "context": self.context,
            "seed": self._seed,
        }

    def batch(self, step: int) -> LabelledBatch:
        """The rows of this rank [B / world] at `step`."""
        index_B = self._indices(step)
        length = padded_length(self._split, index_B, self.context)
        return collate(self._split, index_B[self._rows], context=self.context, length=length)

    def _indices(self, step: int) -> npt.NDArray[np.int64]:
        """The examples [B] of the global batch at `step`."""
        number, place = divmod(step, self._pool_steps)
        if self._pool is None or self._pool[0] != number:
            self._pool = number, self._sorted(number)
        indices_B: npt.NDArray[np.int64] = self._pool[1][place]
        return indices_B

    def _sorted(self, pool: int) -> npt.NDArray[np.int64]:
        """The batches [steps, B] of one pool, in the order of its steps."""
        steps = self._pool_steps
        size = steps * self.batch_size
        drawn = self._drawn(np.arange(pool * size, (pool + 1) * size))
        by_length = drawn[np.argsort(self._split.lengths[drawn], kind="stable")]
        batches: npt.NDArray[np.int64] = by_length.reshape(steps, self.batch_size)
        return batches[Permutation(steps, self._seed, pool)(np.arange(steps))]

    def _drawn(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The examples with these numbers in the order of the run."""
        indices = np.empty_like(numbers)
        for epoch in np.unique(numbers // len(self._split)):
            in_epoch = numbers // len(self._split) == epoch
            order = Permutation(len(self._split), self._seed, int(epoch))
            indices[in_epoch] = order(numbers[in_epoch] % len(self._split))
        return indices
