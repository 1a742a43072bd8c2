"""Training batches as a pure function of (seed, step): no state to save, the same for any number of workers.

B rows of the global batch, T tokens of one update, C tokens of one sequence. C = T: every update has new sequences;
C = k T: every row reads one sequence in k updates and carries its model state from update to update.
"""

import numpy as np
import numpy.typing as npt

from vqscale.data.corpus import TokenSplit
from vqscale.data.permutation import Permutation
from vqscale.errors import CorpusError


class TokenStream:
    """Cuts a split into sequences of `context` tokens and assigns each to a row once per epoch, in a keyed order.

    An epoch has `sequences` = (tokens - 1) // context sequences [o + i C, o + (i + 1) C] (the last token is only a
    target). The offset o of an epoch is drawn at random, so that it is not always the same tokens that are left over.
    Sequence number n of the run goes to row n % batch; the next epoch follows without a gap.
    """

    def __init__(
        self, split: TokenSplit, *, batch: int, length: int, context: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        assert 0 <= rank < world
        assert min(batch, length, context) > 0
        if batch % world:
            raise CorpusError(
                f"batch: {batch} sequences cannot be shared by {world} workers. Use a multiple of {world}."
            )
        if context % length:
            raise CorpusError(f"context: {context} is no multiple of the {length} tokens of one update.")
        if len(split) <= context:
            raise CorpusError(
                f"context: a sequence needs {context} + 1 tokens, but {split.name} of {split.corpus.uri} "
                f"has {len(split)}. Use a shorter context or a larger corpus."
            )
        self._split, self._seed = split, seed
        self.batch_size, self.length, self.context = batch, length, context
        self.sequences = (len(split) - 1) // context
        self._rows = np.arange(rank * (batch // world), (rank + 1) * (batch // world))

    @property
    def description(self) -> dict[str, str | int]:
        """Everything that the batches depend on, as JSON: equal descriptions give equal global batches."""
        return {
            "corpus": self._split.corpus.fingerprint,
            "split": self._split.name,
            "batch": self.batch_size,
            "length": self.length,
            "context": self.context,
            "seed": self._seed,
        }

    @property
    def steps_per_sequence(self) -> int:
        return self.context // self.length

    def starts_sequence(self, step: int) -> bool:
        """True where every row begins a new sequence: state carried from the previous step must be dropped."""
        return step % self.steps_per_sequence == 0

    def epoch(self, step: int) -> int:
        """The epoch of the first row of the global batch at `step`."""
        return step // self.steps_per_sequence * self.batch_size // self.sequences

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Tokens [B / world, T + 1] of this rank at `step`: inputs [:, :-1], targets [:, 1:]."""
        rows = np.empty((len(self._rows), self.length + 1), dtype=np.int64)
        for row, start in zip(rows, self.starts(step), strict=True):
            row[:] = self._split.read(int(start), self.length + 1)
        return rows

    def starts(self, step: int) -> npt.NDArray[np.int64]:
        """The first token [B / world] of each row of this rank at `step`."""
        turn, segment = divmod(step, self.steps_per_sequence)
        numbers = turn * self.batch_size + self._rows
        starts = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(numbers // self.sequences):
            in_epoch = numbers // self.sequences == epoch
            offset, order = self._order(int(epoch))
            starts[in_epoch] = offset + order(numbers[in_epoch] % self.sequences) * self.context
        return starts + segment * self.length

    def _order(self, epoch: int) -> tuple[int, Permutation]:
        """The offset and the order of an epoch."""
        # Part of the order of data: another generator or another draw would change every trial.
        left_over = len(self._split) - 1 - self.sequences * self.context
        offset = int(np.random.default_rng([self._seed, epoch]).integers(left_over + 1))
        return offset, Permutation(self.sequences, self._seed, epoch)
