"""How blockwise attention walks over its blocks, and the memory it does so in.

Letters: Z = B G batch and key-value heads together, M = Z times the blocks of a sequence: all blocks in one row, those
of one sequence after another; N blocks of a chunk, L block length, D any width. A chunk is what is computed at once:
blocks of one sequence, or whole sequences, so that its blocks are contiguous in memory. A span is a run of chunks
of one sequence between two saved caches.
"""

from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor

from vqkernels.gpu.layout import Layout

_CHUNK_BYTES = {"cpu": 12 << 20}  # scores and values of a chunk should stay in the last-level cache
_CHUNK_BYTES_ELSEWHERE = 256 << 20
_SPAN_CODEBOOKS = 4  # a saved cache holds S rows: one every 4 S tokens costs at most a quarter of the values


@dataclass(frozen=True)
class Chunk:
    """Blocks `low` to `high` - 1 of each of the sequences `sequence` to `sequence_end` - 1, out of `n_per_sequence`."""

    sequence: int
    sequence_end: int
    low: int
    high: int
    n_per_sequence: int
    cached: bool  # some block may see a cache
    checked: bool  # padding, documents or empty slots may be in reach

    @property
    def first(self) -> int:
        """Its first block among all M."""
        return self.sequence * self.n_per_sequence + self.low

    @property
    def end(self) -> int:
        """The block after its last one among all M."""
        return (self.sequence_end - 1) * self.n_per_sequence + self.high

    @property
    def n_block(self) -> int:
        """N."""
        return self.end - self.first

    @property
    def sequences(self) -> slice:
        """Its sequences among all Z."""
        return slice(self.sequence, self.sequence_end)

    @property
    def n_sequence(self) -> int:
        """How many sequences its blocks are of; N is that many times `high` - `low`."""
        return self.sequence_end - self.sequence


@dataclass(frozen=True)
class Span:
    """Chunks of the same sequences, in order."""

    chunks: tuple[Chunk, ...]
    opens: bool  # nothing is in front of it but what its sequences begin with; otherwise the caches there are kept


def plan(
    layout: Layout, dtype: torch.dtype, device: torch.device, *, carried: bool, chunk_blocks: int | None
) -> list[Span]:
    """Divide all blocks into spans and chunks. `chunk_blocks` None: as many as fit the processor's cache."""
    n_block = layout.n_block
    size = chunk_blocks or _chunk_blocks(layout, dtype, device)
    whole = size // n_block
    if whole:
        always = carried or n_block > 2
        chunks = [
            Chunk(z, min(z + whole, layout.n_head), 0, n_block, n_block, always, layout.flags is not None)
            for z in range(0, layout.n_head, whole)
        ]
        return [Span((chunk,), opens=True) for chunk in chunks]
    return [span for z in range(layout.n_head) for span in _one_sequence(layout, z, size, carried)]


def _one_sequence(layout: Layout, z: int, size: int, carried: bool) -> list[Span]:
    # The caches of a whole span are held while its gradients are made: with blocks much shorter than the codebook,
    # as many as there are spans.
    span_blocks = -(-_SPAN_CODEBOOKS * layout.n_code // layout.block_length)
    span_blocks = min(span_blocks, max(_SPAN_CODEBOOKS, isqrt(layout.n_block)))
    spans: list[list[Chunk]] = []
    low = layout.first_block
    while low < layout.n_block:
        # The first two blocks of a sequence see no cache: not computing it is worth a chunk of their own.
        high = min(low + size, layout.n_block if carried or low >= 2 else 2)
        cached = carried or low >= 2
        chunk = Chunk(z, z + 1, low, high, layout.n_block, cached, layout.flags is not None)
        if not spans or high - spans[-1][0].low > span_blocks or cached != spans[-1][0].cached:
            spans.append([])
        spans[-1].append(chunk)
        low = high
    opening = layout.first_block if carried else 2
    return [Span(tuple(chunks), opens=chunks[0].low <= opening) for chunks in spans]


def _chunk_blocks(layout: Layout, dtype: torch.dtype, device: torch.device) -> int:
    scores = 2 * layout.block_length * (2 * layout.block_length + layout.n_code)
    rows = (3 * layout.block_length + layout.n_code) * (layout.d_key + layout.d_value)
    block_bytes = scores * dtype.itemsize + rows * dtype.itemsize
    return max(1, _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_ELSEWHERE) // block_bytes)


class Workspace:
    """Memory by name that chunk after chunk is computed in: fresh memory would cost a page fault every 4 KiB."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor of this shape holding anything, in the memory that `name` had before."""
        size = prod(shape)
        if name not in self._flat or self._flat[name].numel() < size:
            self._flat[name] = torch.empty(size, dtype=dtype, device=self._device)
        return self._flat[name][:size].view(shape)


def in_blocks(x_ZTD: Tensor, layout: Layout) -> Tensor:
    """[..., tokens, D] of queries or keys to [..., N, L, D] on the grid of key positions, zero without a token."""
    grid = layout.n_block * layout.block_length
    front = layout.n_key - x_ZTD.shape[-2]  # queries begin after the carried keys
    padded = torch.nn.functional.pad(x_ZTD, (0, 0, front, grid - layout.n_key)) if grid != x_ZTD.shape[-2] else x_ZTD
    return torch.unflatten(padded, -2, (layout.n_block, layout.block_length))


def with_previous(x_MLD: Tensor, chunk: Chunk, space: Workspace, name: str) -> Tensor:
    """[N + 1, L, D]: the chunk's blocks and the one in front of them, which is zero before all."""
    if chunk.first:
        return x_MLD[chunk.first - 1 : chunk.end]
    padded = space.take(name, chunk.n_block + 1, *x_MLD.shape[1:], dtype=x_MLD.dtype)
    padded[0].zero_()
    padded[1:].copy_(x_MLD[: chunk.end])
    return padded


def windows(x_N1LD: Tensor) -> Tensor:
    """[N + 1, L, D] to [N, 2L, D], each block with the one before it: a view whose rows overlap."""
    n_block, length, width = x_N1LD.shape
    shape, stride = (n_block - 1, 2 * length, width), (length * width, width, 1)
    return x_N1LD.as_strided(shape, stride)


def causal(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[L, L]: zero, and -inf for keys after their query."""
    return torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)


def by_distance(score_NLW: Tensor, first_column: int, n_distance: int) -> Tensor:
    """[N, L, M] view of scores whose row i, column x is row i, column first_column + i + x: one diagonal a column.

    With the window's own block beginning at column c and first_column = c - M + 1, the last column holds distance 0
    and the first distance M - 1. Rows of `score_NLW` must be followed by one more in memory.
    """
    n_block, length, _ = score_NLW.shape
    batch, row, one = score_NLW.stride()
    offset = score_NLW.storage_offset() + first_column
    return score_NLW.as_strided((n_block, length, n_distance), (batch, row + one, one), offset)
