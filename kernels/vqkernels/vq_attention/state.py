"""The state that one segment of a sequence hands to the next; its size does not depend on the length.

Letters: B batch, G key-value heads, S codebook size, V value width, L block length, U position.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from vqkernels.backends import uses_triton
from vqkernels.precision import accumulation_dtype


class VQState(NamedTuple):
    """Everything a later token may still see of the document that is open at `position`.

    Slot j of the window holds position (n-1)L + j with n = position // L: the whole previous block and what there
    is of the current one; empty slots have code -1. The cache holds all blocks before: how many tokens took each
    code and the mean of their values. Tokens of documents that have ended are in neither, so a state needs no
    document numbers. Keys are kept as codes: they follow the codebook, as the cached ones do.
    """

    code_BGU: Tensor  # int64, U = 2L slots
    value_BGUV: Tensor
    mean_BGSV: Tensor  # float32 (float64 in float64)
    count_BGS: Tensor
    position: int

    @classmethod
    def empty(
        cls,
        batch: int,
        n_kv_head: int,
        codebook_size: int,
        d_key: int,
        d_value: int,
        block_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The state before the first token. Nothing in it has the keys' width: `d_key` is only checked."""
        if min(batch, n_kv_head, codebook_size, d_key, d_value, block_length) < 1:
            raise ValueError(
                f"state sizes: got batch {batch}, n_kv_head {n_kv_head}, codebook_size {codebook_size}, d_key {d_key}, "
                f"d_value {d_value}, block_length {block_length}; each must be at least 1"
            )
        wide = accumulation_dtype(dtype)
        heads = (batch, n_kv_head)
        return cls(
            code_BGU=torch.full((*heads, 2 * block_length), -1, dtype=torch.int64, device=device),
            value_BGUV=torch.zeros(*heads, 2 * block_length, d_value, dtype=dtype, device=device),
            mean_BGSV=torch.zeros(*heads, codebook_size, d_value, dtype=wide, device=device),
            count_BGS=torch.zeros(*heads, codebook_size, dtype=wide, device=device),
            position=0,
        )

    @property
    def block_length(self) -> int:
        """L."""
        return self.code_BGU.shape[-1] // 2

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in self[:4])

    def detach(self) -> Self:
        """The same values without their history: where back-propagation through time is truncated."""
        return self._replace(value_BGUV=self.value_BGUV.detach(), mean_BGSV=self.mean_BGSV.detach())

    def to_tensors(self) -> dict[str, Tensor]:
        """As plain tensors, for torch.save."""
        return {
            "code": self.code_BGU,
            "value": self.value_BGUV,
            "mean": self.mean_BGSV,
            "count": self.count_BGS,
            "position": torch.tensor(self.position, dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `to_tensors`. Raises ValueError unless exactly its keys are there."""
        names = {"code", "value", "mean", "count", "position"}
        if tensors.keys() != names:
            raise ValueError(
                f"state tensors: got {sorted(tensors)}; they must be {sorted(names)}; pass what to_tensors() gave"
            )
        return cls(
            tensors["code"], tensors["value"], tensors["mean"], tensors["count"], int(tensors["position"].item())
        )


def block_sums(value_BGUV: Tensor, code_BGU: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums [B, G, S, V] of the values by code and counts [B, G, S]; tokens of code -1 are left out."""
    batch, n_head, _, width = value_BGUV.shape
    if uses_triton(value_BGUV):
        from vqkernels.gpu import segment_sum

        total, count = segment_sum.segment_sum(value_BGUV.flatten(0, 1), code_BGU.flatten(0, 1), size)
        return total.view(batch, n_head, size, width), count.view(batch, n_head, size)
    wide = accumulation_dtype(value_BGUV.dtype)
    group = torch.arange(batch * n_head, device=code_BGU.device).view(batch, n_head, 1)
    # One more row per head takes what is left out, so that nothing needs to be selected on the host.
    row = (torch.where(code_BGU < 0, size, code_BGU) + group * (size + 1)).reshape(-1)
    shape = (batch * n_head * (size + 1),)
    value = value_BGUV.to(wide).reshape(-1, width)
    # An expanded index takes PyTorch's sorted path on a CPU: several times faster than index_add, and deterministic.
    total = value.new_zeros(*shape, width).scatter_add_(0, row[:, None].expand(-1, width), value)
    count = value.new_zeros(shape).index_add_(0, row, value.new_ones(row.shape[0]))
    return (
        total.view(batch, n_head, size + 1, width)[:, :, :size],
        count.view(batch, n_head, size + 1)[:, :, :size],
    )
