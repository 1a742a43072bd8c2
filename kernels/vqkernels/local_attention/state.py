"""What local attention carries from one segment of a sequence to the next.

Letters: B batch, G key-value heads, K key width, V value width, L block length, U window slot.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor


class LocalState(NamedTuple):
    """The previous block and what there is of the current one, of the document that is open at `position`.

    Slot j holds position (n-1)L + j with n = position // L. A slot is not real if it is empty or holds padding or a
    token of a document that has ended.
    """

    key_BGUK: Tensor  # U = 2L slots
    value_BGUV: Tensor
    real_BU: Tensor
    position: int

    @classmethod
    def empty(
        cls,
        batch: int,
        n_kv_head: int,
        d_key: int,
        d_value: int,
        block_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The state before the first token."""
        if min(batch, n_kv_head, d_key, d_value, block_length) < 1:
            raise ValueError(
                f"state sizes: got batch {batch}, n_kv_head {n_kv_head}, d_key {d_key}, d_value {d_value}, "
                f"block_length {block_length}; each must be at least 1"
            )
        slots = (batch, n_kv_head, 2 * block_length)
        return cls(
            key_BGUK=torch.zeros(*slots, d_key, dtype=dtype, device=device),
            value_BGUV=torch.zeros(*slots, d_value, dtype=dtype, device=device),
            real_BU=torch.zeros(batch, 2 * block_length, dtype=torch.bool, device=device),
            position=0,
        )

    @property
    def block_length(self) -> int:
        """L."""
        return self.real_BU.shape[-1] // 2

    @property
    def lead(self) -> int:
        """Slots in use: the previous block and the tokens of the current one."""
        return self.block_length + self.position % self.block_length

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in self[:3])

    def detach(self) -> Self:
        """The same values without their history: where back-propagation through time is truncated."""
        return self._replace(key_BGUK=self.key_BGUK.detach(), value_BGUV=self.value_BGUV.detach())
