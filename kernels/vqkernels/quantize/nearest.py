"""Nearest code, codeword look-up, straight-through keys and the commitment loss.

Letters: B batch, G key-value heads, T position, K key width, S codebook size.
A code of -1 marks padding: a token that no sum, count or query includes.
"""

import torch
from torch import Tensor

from vqkernels.backends import uses_triton

_MAX_DISTANCES = 1 << 21  # distances held at once: 8 MiB of float32


@torch.no_grad()
def nearest_code(k_BGTK: Tensor, codebook_GSK: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Index of the nearest codeword of each key: int64 [B, G, T], -1 where `mask_BT` is False.

    Distances are float32 whatever the inputs; equal ones go to the lowest index. |k|^2 is the same for every code
    and left out: |c|^2 - 2 k.c. Works through T in pieces, so that memory stays bounded; on CUDA one Triton kernel
    does it, to the same definition: codes differ where two codewords are as near up to float32 rounding.
    """
    if uses_triton(k_BGTK):
        from vqkernels.gpu import nearest

        found: Tensor = nearest.nearest_code(k_BGTK, codebook_GSK.detach(), mask_BT)
        return found
    batch, n_head, length, _ = k_BGTK.shape
    # In bfloat16 two codes at similar distances would swap: 8 bits of |c|^2 - 2 k.c are not enough to tell them apart.
    with torch.autocast(k_BGTK.device.type, enabled=False):
        codebook = codebook_GSK.detach().float()
        square_G1S = codebook.square().sum(-1)[:, None, :]
        piece = max(1, _MAX_DISTANCES // max(1, batch * n_head * codebook.shape[1]))
        code_BGT = torch.empty(batch, n_head, length, dtype=torch.int64, device=k_BGTK.device)
        for start in range(0, length, piece):
            keys = k_BGTK[:, :, start : start + piece].float()
            distance = torch.sub(square_G1S, keys @ codebook.transpose(-1, -2), alpha=2)
            code_BGT[:, :, start : start + piece] = distance.argmin(-1)
    if mask_BT is not None:
        code_BGT.masked_fill_(~mask_BT[:, None, :], -1)
    return code_BGT


def codewords(code_BGT: Tensor, codebook_GSK: Tensor) -> Tensor:
    """The codeword of every token, [B, G, T, K] in the codebook's dtype; zero where the code is -1."""
    n_head, size, d_key = codebook_GSK.shape
    offset_G1 = torch.arange(n_head, device=code_BGT.device)[:, None] * size
    row = code_BGT.clamp(min=0) + offset_G1
    found = codebook_GSK.reshape(n_head * size, d_key).index_select(0, row.reshape(-1)).view(*code_BGT.shape, d_key)
    return found.masked_fill((code_BGT < 0)[..., None], 0.0)


def straight_through(k_BGTK: Tensor, code_BGT: Tensor, codebook_GSK: Tensor) -> Tensor:
    """Quantised keys in k's dtype: the value is the codeword, the derivative with respect to k the identity.

    Tokens of code -1 give zeros and pass no gradient. The codebook gets none.
    """
    passed = (k_BGTK - k_BGTK.detach()).masked_fill((code_BGT < 0)[..., None], 0.0)
    return codewords(code_BGT, codebook_GSK.detach()).to(k_BGTK.dtype) + passed


def commitment_loss(k_BGTK: Tensor, code_BGT: Tensor, codebook_GSK: Tensor) -> Tensor:
    """Mean over real tokens of the sum over heads of |k - sg(c_z)|^2; a float32 scalar, 0 if no token is real."""
    with torch.autocast(k_BGTK.device.type, enabled=False):
        error = k_BGTK.float() - codewords(code_BGT, codebook_GSK.detach().float())
        real_BT = code_BGT[:, 0] >= 0
        squared_BT = error.square().sum((1, 3))
        return squared_BT.masked_fill(~real_BT, 0.0).sum() / real_BT.sum().clamp(min=1)
