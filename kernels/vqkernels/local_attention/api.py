"""The entry to local attention: checks, the implementation, carried state.

Letters: B batch, H query heads, G key-value heads, T position, K key width, V value width, L block length,
M relative distances, N blocks, R query heads per key-value head, I rows of a block, W columns of its window.
"""

from typing import Literal

import torch
from torch import Tensor

from vqkernels.functions import Function
from vqkernels.local_attention.checks import check_local
from vqkernels.local_attention.naive import naive_local_attention
from vqkernels.local_attention.problem import LocalProblem, gather, next_state
from vqkernels.local_attention.state import LocalState
from vqkernels.windows.attend import (
    Biases,
    attend,
    attend_without_positions,
    biases,
    by_head,
    by_token,
    chunk_blocks,
    in_chunks,
    split,
)
from vqkernels.windows.grid import Grid, seen_pairs


def local_attention(
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTV: Tensor,
    *,
    block_length: int,
    causal: bool,
    bias_u_HK: Tensor | None = None,
    bias_w_HK: Tensor | None = None,
    rel_key_GMK: Tensor | None = None,
    mask_BT: Tensor | None = None,
    doc_start_BT: Tensor | None = None,
    function: Function = "softmax",
    reach: int | None = None,
    state: LocalState | None = None,
    return_state: bool = False,
    backend: Literal["auto", "naive", "blockwise"] = "auto",
) -> tuple[Tensor, LocalState | None]:
    """Attention to the keys of the own and the previous block (and the next, if not causal): out [B, H, T, V], state.

    Query i gives key j the score (q_i + u).k_j + (q_i + w).rel_key[i - j]; q, u, w and rel_key come with the softmax
    temperature in them. Relative keys are of distances 0 .. M - 1 if causal, and otherwise of -(M // 2) .. M // 2 with
    M odd, at most L; beyond there is no position. Head h reads key-value head h // (H / G). With "laplace" the weight
    is f((q_i + u).k_j / n + (q_i + w).rel_key[i - j]), not normalised, where n keys are seen, the own one included.

    `reach` is how many tokens back are seen, itself included (and as many ahead, if not causal): at most L + 1, which
    the blocks hold from every position; None: all of those blocks. `mask_BT` False marks padding: no query sees such
    a token and its output is zero. `doc_start_BT` True begins a new document. `state` continues a causal sequence that
    was cut after any number of tokens, on the same grid of blocks; `return_state` gives the next one. Time and memory
    are linear in T. "naive" is the definition, quadratic in both; "auto" is "blockwise".

    Raises ValueError for arguments that do not fit.
    """
    check_local(
        q_BHTK, k_BGTK, v_BGTV, block_length, causal, bias_u_HK, bias_w_HK, rel_key_GMK, mask_BT, doc_start_BT,
        function, reach, state, return_state, backend,
    )  # fmt: skip
    problem = gather(
        q_BHTK,
        k_BGTK,
        v_BGTV,
        block_length=block_length,
        causal=causal,
        bias_u_HK=bias_u_HK,
        bias_w_HK=bias_w_HK,
        rel_key_GMK=rel_key_GMK,
        mask_BT=mask_BT,
        doc_start_BT=doc_start_BT,
        function=function,
        reach=reach,
        state=state,
    )
    with torch.autocast(q_BHTK.device.type, enabled=False):
        out = (naive_local_attention if backend == "naive" else _blockwise)(problem)
        after = next_state(problem, k_BGTK.dtype, v_BGTV.dtype) if return_state else None
        if mask_BT is not None:
            out = out.masked_fill(~mask_BT[:, None, :, None], 0.0)
        return out.to(v_BGTV.dtype), after


def _blockwise(problem: LocalProblem) -> Tensor:
    """Output [B, H, T, V]; anything finite where the query is padding."""
    grid, n_kv_head = problem.grid, problem.k_BGUK.shape[1]
    q = by_head(problem.q_BHTK, n_kv_head, grid)
    keys, values = (grid.parts_of_windows(x.transpose(0, 1)) for x in (problem.k_BGUK, problem.v_BGUV))
    seen = seen_pairs(
        grid,
        causal=problem.causal,
        reach=problem.reach,
        real_BU=problem.real_BU,
        doc_BU=problem.doc_BU,
        device=q.device,
    )
    bias = biases(
        problem.bias_u_HK, problem.bias_w_HK, problem.rel_key_GMK, n_kv_head=n_kv_head, causal=problem.causal, like=q
    )
    plain = bias.rel_key_GMK is None and problem.function == "softmax" and q.shape[-1] == problem.v_BGUV.shape[-1]
    if plain:
        q = q if bias.u_GRK is None else q + bias.u_GRK[:, None, None, :, None]
        return by_token(attend_without_positions(q, keys, values, seen), grid)
    return by_token(_in_chunks(q, keys, values, seen, grid, bias, problem.function), grid)


def _in_chunks(
    q_GBNRIK: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    seen_BNIW: Tensor,
    grid: Grid,
    bias: Biases,
    function: Function,
) -> Tensor:
    def one(q: Tensor, seen: Tensor, *keys_and_values: Tensor) -> Tensor:
        n_seen = seen[0].sum(-1) if function == "laplace" else None
        keys, values = keys_and_values[: len(keys_and_values) // 2], keys_and_values[len(keys_and_values) // 2 :]
        return attend(q, keys, values, grid, bias, function=function, seen_BNIW=seen[0], n_seen_BNI=n_seen)

    size = chunk_blocks(q_GBNRIK, grid.n_column)
    tensors = (q_GBNRIK, seen_BNIW[None], *keys, *values)
    return in_chunks(one, list(zip(*(split(x, grid.n_block, size) for x in tensors), strict=True)))
