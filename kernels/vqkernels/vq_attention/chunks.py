"""How blockwise attention walks over a sequence: chunks of blocks, and moving rows between tokens and blocks.

Letters: B batch, G key-value heads, R query heads a key-value head, T query position, U key position, N blocks of a
chunk, L block length, V width. A chunk is what is computed at once; a span is a run of chunks between two
saved caches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.precision import accumulation_dtype
from vqkernels.vq_attention.problem import Problem

_CHUNK_BYTES = {"cpu": 16 << 20}  # scores, values and caches of a chunk should stay in the last-level cache
_CHUNK_BYTES_ELSEWHERE = 256 << 20
_SPAN_CODEBOOKS = 4  # a saved cache holds S rows: one every 4 S tokens costs at most a quarter of the values


@dataclass(frozen=True)
class Chunk:
    """Blocks `first` to `end` - 1 of the key positions."""

    first: int
    end: int
    cached: bool  # some block may see a cache
    checked: bool  # padding, documents or empty slots may be in reach

    @property
    def n_block(self) -> int:
        """N."""
        return self.end - self.first


@dataclass(frozen=True)
class Layout:
    """The static part of a problem and the walk over it."""

    block_length: int
    lead: int
    n_query: int
    spans: tuple[tuple[Chunk, ...], ...]

    def query_rows(self, chunk: Chunk) -> tuple[int, int]:
        """Query positions of a chunk; they may reach beyond both ends of the segment."""
        return chunk.first * self.block_length - self.lead, chunk.end * self.block_length - self.lead

    def key_rows(self, chunk: Chunk, back: int) -> tuple[int, int]:
        """Key positions of a chunk moved `back` blocks."""
        return (chunk.first - back) * self.block_length, (chunk.end - back) * self.block_length


def plan(problem: Problem, chunk_blocks: int | None = None) -> Layout:
    """Divide the blocks that hold queries into chunks and spans. `chunk_blocks` None: as fits the processor's cache."""
    length, lead = problem.block_length, problem.lead
    first, end = lead // length, -(-(lead + problem.n_query) // length)
    size = chunk_blocks or _chunk_blocks(problem)
    carried = problem.mean_BGSV is not None
    span_blocks = -(-_SPAN_CODEBOOKS * problem.codebook_GSK.shape[1] // length)
    spans: list[list[Chunk]] = []
    while first < end:
        # The first two blocks of a sequence see no cache: not computing it is worth a chunk of their own.
        stop = min(end, first + size, 2 if not carried and first < 2 else end)
        chunk = Chunk(
            first, stop, carried or first >= 2, problem.irregular or (carried and (first - 2) * length < lead)
        )
        if not spans or chunk.end - spans[-1][0].first > span_blocks:
            spans.append([])
        spans[-1].append(chunk)
        first = stop
    return Layout(length, lead, problem.n_query, tuple(tuple(span) for span in spans))


def _chunk_blocks(problem: Problem) -> int:
    batch, n_head, n_group, _, d_key = problem.q_BGRTK.shape
    size, width, length = problem.codebook_GSK.shape[1], problem.v_BGUV.shape[3], problem.block_length
    scores = n_group * length * (2 * length + size)
    rows = (2 + n_group) * length * (d_key + width) + size * width
    block_bytes = batch * n_head * (scores + rows) * accumulation_dtype(problem.v_BGUV.dtype).itemsize
    return max(1, _CHUNK_BYTES.get(problem.q_BGRTK.device.type, _CHUNK_BYTES_ELSEWHERE) // block_bytes)


def rows(x: Tensor, low: int, high: int, dim: int, fill: float = 0.0) -> Tensor:
    """Positions low..high-1 of a dimension, filled where they are outside."""
    size = x.shape[dim]
    inside = x.narrow(dim, max(low, 0), max(min(high, size) - max(low, 0), 0))
    front, back = max(-low, 0), max(high - size, 0)
    if not front and not back:
        return inside
    after = x.dim() - 1 - dim % x.dim()
    return F.pad(inside, (0, 0) * after + (front, back), value=fill)


def add_rows(target: Tensor, x: Tensor, low: int, dim: int) -> None:
    """target[low : low + len(x)] += x along a dimension, without what is outside."""
    begin, end = max(low, 0), min(low + x.shape[dim], target.shape[dim])
    if begin < end:
        target.narrow(dim, begin, end - begin).add_(x.narrow(dim, begin - low, end - begin))


def put_rows(target: Tensor, x: Tensor, low: int, dim: int) -> None:
    """target[low : low + len(x)] = x along a dimension, without what is outside."""
    begin, end = max(low, 0), min(low + x.shape[dim], target.shape[dim])
    target.narrow(dim, begin, end - begin).copy_(x.narrow(dim, begin - low, end - begin))


def by_block(x_BGRTV: Tensor, n_block: int) -> Tensor:
    """[B, G, R, N L, V] to [B, G, N, R, L, V]."""
    return torch.unflatten(x_BGRTV, 3, (n_block, -1)).transpose(2, 3)


def by_token(x_BGNRLV: Tensor) -> Tensor:
    """[B, G, N, R, L, V] to [B, G, R, N L, V]."""
    return x_BGNRLV.transpose(2, 3).flatten(3, 4)


def windows(x_BGUV: Tensor, length: int) -> Tensor:
    """[B, G, (N + 1) L, V] to [B, G, N, 2L, V]: each block with the one before it."""
    return x_BGUV.unfold(2, 2 * length, length).transpose(-1, -2).contiguous()


def add_windows(target_BGUV: Tensor, x_BGNUV: Tensor, low: int, length: int) -> None:
    """The inverse of `windows` as a sum: both halves of every window into the rows they came from."""
    add_rows(target_BGUV, x_BGNUV[:, :, :, :length].flatten(2, 3), low, dim=2)
    add_rows(target_BGUV, x_BGNUV[:, :, :, length:].flatten(2, 3), low + length, dim=2)


def skew_template(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[L, 2L + 1]: zero, and -inf where `skewed` puts a key after its query."""
    row = torch.arange(length, device=device)[:, None]
    column = torch.arange(2 * length + 1, device=device)
    template = torch.zeros(length, 2 * length + 1, dtype=dtype, device=device)
    return template.masked_fill_((column > length) & (column < 2 * length - row), float("-inf"))


def skewed(x: Tensor) -> Tensor:
    """[..., L, 2L + 1] seen as [..., L, 2L] with row i moved i columns to the right: no copy.

    Column x of row i becomes window column i + x, so that distance d = L + i - column stands at x = L - d.
    """
    length = x.shape[-2]
    return torch.unflatten(x.flatten(-2)[..., : 2 * length * length], -1, (length, 2 * length))


def unskewed(x: Tensor) -> Tensor:
    """The inverse of `skewed`, [..., L, 2L] to [..., L, 2L + 1]."""
    length = x.shape[-2]
    return torch.unflatten(F.pad(x.flatten(-2), (0, length)), -1, (length, 2 * length + 1))
