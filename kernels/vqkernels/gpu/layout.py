"""The input of the attention kernels: a problem's tensors with batch and heads in one dimension, and its block grid.

Letters as in `vq_attention.problem`; Z = B G batch and key-value heads together (z = b G + g), N blocks of L key
positions, the last perhaps in part. Query t is at key position lead + t, and every kernel numbers blocks by key
position. Nothing here waits for the device: lengths are Python ints, flags stay tensors.

Each way of computing attention (a "plan") has

    forward(given: Operands, layout: Layout) -> out [B, G, R, T, V], lse [B, G, R, T]
    backward(given: Operands, layout: Layout, out, lse, d_out) -> Gradients

with lse in float32, of base-2 logarithms: weight = 2 ** (score log2(e) - lse); infinite for a query that sees
nothing, whose output is zero.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.vq_attention.problem import Problem


class Operands(NamedTuple):
    """The tensors of a `Problem` that the kernels compute with, in the order of the custom op's arguments."""

    q_BGRTK: Tensor
    v_BGUV: Tensor
    code_BGU: Tensor
    codebook_GSK: Tensor
    bias_u_GRK: Tensor | None
    bias_w_GRK: Tensor | None
    rel_key_GMK: Tensor | None
    total_BGSV: Tensor | None  # sums of the carried cache
    count_BGS: Tensor | None
    doc_BU: Tensor | None
    real_BU: Tensor | None


class Gradients(NamedTuple):
    """Gradients of one call, None where there is no such input. Operand dtype, but that of the sums is float32."""

    q_BGRTK: Tensor
    k_BGTK: Tensor
    v_BGUV: Tensor
    bias_u_GRK: Tensor | None
    bias_w_GRK: Tensor | None
    rel_key_GMK: Tensor | None
    total_BGSV: Tensor | None


class Flags(NamedTuple):
    """Documents, padding and the carried window, as the kernels read them; int32."""

    doc_BU: Tensor  # number of the token's document; -1: padding
    open_BN: Tensor  # the document whose tokens the block's cache holds
    keep_BN: Tensor  # 1 where the cache continues the block before's, 0 where a document began in between


class Layout(NamedTuple):
    """Sizes of a problem, and which tokens enter its caches."""

    batch: int  # B
    n_kv_head: int  # G
    n_group: int  # R
    n_query: int  # T
    n_key: int  # U
    lead: int
    block_length: int  # L
    n_code: int  # S
    d_key: int  # K
    d_value: int  # V
    entering_ZU: Tensor  # int32 code under which a token enters the cache of the next block but one; -1: it does not
    flags: Flags | None  # None: one document, every token real

    @property
    def n_head(self) -> int:
        """Z."""
        return self.batch * self.n_kv_head

    @property
    def n_block(self) -> int:
        """N."""
        return -(-self.n_key // self.block_length)

    @property
    def first_block(self) -> int:
        """The first block with a query."""
        return self.lead // self.block_length

    @property
    def whole(self) -> bool:
        """Whether the queries fill their blocks and every key block has queries: then blocks are views of tokens."""
        return self.lead == 0 and self.n_key % self.block_length == 0


def operands(problem: Problem) -> Operands:
    """The problem's tensors, the carried means as sums."""
    total = None
    if problem.mean_BGSV is not None and problem.count_BGS is not None:
        total = problem.mean_BGSV * problem.count_BGS[..., None]
    return Operands(
        problem.q_BGRTK,
        problem.v_BGUV,
        problem.code_BGU,
        problem.codebook_GSK,
        problem.bias_u_GRK,
        problem.bias_w_GRK,
        problem.rel_key_GMK,
        total,
        problem.count_BGS,
        problem.doc_BU,
        problem.real_BU,
    )


def lay_out(given: Operands, block_length: int, lead: int) -> Layout:
    """Sizes and flags of a call."""
    batch, n_kv_head, n_group, n_query, d_key = given.q_BGRTK.shape
    n_key, d_value = given.v_BGUV.shape[2:]
    entering_ZU = given.code_BGU.flatten(0, 1).to(torch.int32)
    flags = None
    if given.doc_BU is not None and given.real_BU is not None:
        end_BN = given.doc_BU[:, block_length - 1 :: block_length]  # documents open at the ends of whole blocks
        flags = _flags(given.doc_BU, given.real_BU, end_BN, -(-n_key // block_length))
        end_BU = F.pad(end_BN.repeat_interleave(block_length, dim=1), (0, n_key % block_length), value=-1)
        closed_ZU = (given.doc_BU != end_BU).repeat_interleave(n_kv_head, dim=0)
        entering_ZU = entering_ZU.masked_fill(closed_ZU, -1)
    return Layout(
        batch,
        n_kv_head,
        n_group,
        n_query,
        n_key,
        lead,
        block_length,
        given.codebook_GSK.shape[1],
        d_key,
        d_value,
        entering_ZU.contiguous(),
        flags,
    )


def codeword_keys(given: Operands) -> Tensor:
    """[Z, U, K]: the codeword each token is read by; any one for code -1, which no query sees."""
    n_head, size, width = given.codebook_GSK.shape
    row = given.code_BGU.clamp(min=0) + torch.arange(n_head, device=given.code_BGU.device)[:, None] * size
    keys = given.codebook_GSK.reshape(-1, width).index_select(0, row.flatten())
    return keys.view(-1, given.code_BGU.shape[2], width)


def _flags(doc_BU: Tensor, real_BU: Tensor, end_BN: Tensor, n_block: int) -> Flags:
    """Block n sees what blocks up to n - 2 left of the document open at their end; number 0 before the keys."""
    open_BN = F.pad(end_BN, (2, 0))[:, :n_block]
    before_BN = F.pad(end_BN, (3, 0))[:, :n_block]
    return Flags(
        doc_BU=doc_BU.masked_fill(~real_BU, -1).to(torch.int32).contiguous(),
        open_BN=open_BN.to(torch.int32).contiguous(),
        keep_BN=(open_BN == before_BN).to(torch.int32).contiguous(),
    )
