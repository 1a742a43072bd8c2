"""Statistics of a batch for its codebook: sums, counts, error, and keys that may revive dead codes.

Letters: B batch, G key-value heads, T position, K key width, S codebook size, R candidates (as many as codes).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqkernels.backends import uses_triton
from vqkernels.quantize.nearest import codewords


class CodeStatistics(NamedTuple):
    """Sums over the real tokens of a batch, all float32."""

    key_sum_GSK: Tensor
    count_GS: Tensor
    squared_error: Tensor  # sum of |k - c_z|^2 over tokens and heads
    squared_norm: Tensor  # sum of |k|^2 over tokens and heads
    candidate_GRK: Tensor  # evenly strided real keys in batch order; NaN rows where there are fewer tokens than codes


@torch.no_grad()
def code_statistics(k_BGTK: Tensor, code_BGT: Tensor, codebook_GSK: Tensor) -> CodeStatistics:
    """Statistics of one batch; tokens of code -1 are left out of all of them."""
    n_head, size, d_key = codebook_GSK.shape
    with torch.autocast(k_BGTK.device.type, enabled=False):
        rows = k_BGTK.detach().transpose(0, 1).reshape(n_head, -1, d_key)
        codes = code_BGT.transpose(0, 1).reshape(n_head, -1)
        real_G = codes >= 0
        keys = rows.float().masked_fill(~real_G[..., None], 0.0)
        error = keys - codewords(codes[None], codebook_GSK.float())[0]
        key_sum, count = _sums_by_code(rows, codes, size)
        return CodeStatistics(
            key_sum_GSK=key_sum,
            count_GS=count,
            squared_error=error.square().sum(),
            squared_norm=keys.square().sum(),
            candidate_GRK=evenly_strided(keys, real_G[0], size),
        )


@torch.no_grad()
def merge_statistics(statistics: Sequence[CodeStatistics]) -> CodeStatistics:
    """The statistics of several batches as if they had been one, in the order given."""
    if not statistics:
        raise ValueError("statistics: got an empty sequence; there is nothing to merge; pass at least one batch's")
    size = statistics[0].count_GS.shape[1]
    rows = torch.cat([one.candidate_GRK for one in statistics], dim=1)
    return CodeStatistics(
        key_sum_GSK=torch.stack([one.key_sum_GSK for one in statistics]).sum(0),
        count_GS=torch.stack([one.count_GS for one in statistics]).sum(0),
        squared_error=torch.stack([one.squared_error for one in statistics]).sum(),
        squared_norm=torch.stack([one.squared_norm for one in statistics]).sum(),
        candidate_GRK=evenly_strided(rows, ~rows[0, :, 0].isnan(), size),
    )


def evenly_strided(rows_GNK: Tensor, real_N: Tensor, wanted: int) -> Tensor:
    """`wanted` evenly strided ones of the real rows in their order; NaN rows where there are fewer.

    Thinning equal parts and then thinning their concatenation picks the same rows as thinning the whole,
    so that the choice does not depend on how a batch was divided among ranks or micro-batches.
    """
    order = torch.argsort(~real_N, stable=True)
    n_real = real_N.sum()
    place = torch.arange(wanted, device=rows_GNK.device) * n_real.clamp(min=wanted) // wanted
    picked = rows_GNK[:, order[place.clamp(max=max(order.shape[0] - 1, 0))]]
    return picked.masked_fill((place >= n_real)[None, :, None], float("nan"))


def _sums_by_code(row_GNK: Tensor, codes_GN: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums [G, S, K] and counts [G, S] in float32; rows of code -1, which may hold anything, are left out."""
    if uses_triton(row_GNK):
        from vqkernels.gpu import segment_sum

        total, count = segment_sum.segment_sum(row_GNK, codes_GN, size)
        return total, count
    n_head, _, d_key = row_GNK.shape
    # One more row per head takes the tokens of code -1, so that nothing needs to be selected on the host.
    head_G1 = torch.arange(n_head, device=codes_GN.device)[:, None]
    place = (torch.where(codes_GN < 0, size, codes_GN) + head_G1 * (size + 1)).reshape(-1)
    keys = row_GNK.reshape(-1, d_key).float()
    key_sum = keys.new_zeros(n_head * (size + 1), d_key).index_add_(0, place, keys)
    count = keys.new_zeros(n_head * (size + 1)).index_add_(0, place, keys.new_ones(place.shape[0]))
    return key_sum.view(n_head, size + 1, d_key)[:, :size].clone(), count.view(n_head, size + 1)[:, :size].clone()
