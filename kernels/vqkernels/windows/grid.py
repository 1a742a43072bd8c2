"""A segment's queries in blocks, and the windows of keys around each block.

Letters: T query, U key position, N blocks with queries, L block length, I rows of a block, W columns of a window,
M relative distances, D any width, B batch. Key position 0 begins the block before the first one with queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Grid:
    """Query 0 is at place `first` of block 0; a window is the block before, the own and, with `ahead`, the next.

    A segment that stays within one block is one block of just its T rows, so that decoding token by token computes
    one row per token.
    """

    length: int  # L
    n_query: int  # T
    first: int
    ahead: bool

    @property
    def n_block(self) -> int:
        """N."""
        return -(-(self.first + self.n_query) // self.length)

    @property
    def n_row(self) -> int:
        """I."""
        return self.n_query if self.n_block == 1 else self.length

    @property
    def first_row(self) -> int:
        """The place of row 0 in its block."""
        return self.first if self.n_block == 1 else 0

    @property
    def n_column(self) -> int:
        """W."""
        return (3 if self.ahead else 2) * self.length

    def rows(self, x_TD: Tensor) -> Tensor:
        """[..., T, D] to [..., N, I, D]; zero where there is no query."""
        if self.n_block == 1:
            return x_TD.unsqueeze(-3)
        behind = self.n_block * self.length - self.first - self.n_query
        if self.first or behind:
            x_TD = F.pad(x_TD, (0, 0, self.first, behind))
        return torch.unflatten(x_TD, -2, (self.n_block, self.length))

    def tokens(self, x_NID: Tensor) -> Tensor:
        """The inverse of `rows`."""
        skip = 0 if self.n_block == 1 else self.first
        return x_NID.flatten(-3, -2)[..., skip : skip + self.n_query, :]

    def windows(self, x_UD: Tensor, fill: float = 0) -> Tensor:
        """[..., N, W, D] of the last tokens [..., U, D] up to the last query's; `fill` where there is none."""
        return torch.cat(self.parts_of_windows(x_UD, fill), -2)

    def parts_of_windows(self, x_UD: Tensor, fill: float = 0) -> tuple[Tensor, ...]:
        """The windows as [..., N, L, D] of the block before, the own and, with `ahead`, the next: views of one copy."""
        known = self.length + self.first + self.n_query
        n_block = self.n_block + (2 if self.ahead else 1)
        pad = (0, 0, known - x_UD.shape[-2], n_block * self.length - known)
        blocks = torch.unflatten(F.pad(x_UD, pad, value=fill), -2, (n_block, self.length))
        return tuple(blocks[..., i : i + self.n_block, :, :] for i in range(self.n_column // self.length))

    def distance(self, device: torch.device) -> Tensor:
        """[I, W]: how many tokens a column's token is behind each row's; negative: ahead."""
        row = torch.arange(self.n_row, device=device) + self.length + self.first_row
        return row[:, None] - torch.arange(self.n_column, device=device)

    def by_column(self, score_IM: Tensor, nearest: int, n_column: int) -> Tensor:
        """[..., I, M] scores by distance, the furthest first and `nearest` last, to `n_column` columns; 0 elsewhere.

        A row starts one column later than the row above it, which is how rows that are one column longer lie in memory.
        """
        n_row, n_distance = score_IM.shape[-2:]
        first_column = self.length + self.first_row - (nearest + n_distance - 1)
        skewed = F.pad(score_IM, (first_column, n_column + 1 - first_column - n_distance))
        return torch.unflatten(skewed.flatten(-2)[..., : n_row * n_column], -1, (n_row, n_column))


def seen_pairs(
    grid: Grid, *, causal: bool, reach: int | None, real_BU: Tensor | None, doc_BU: Tensor | None, device: torch.device
) -> Tensor:
    """[B or 1, N, I, W]: which columns of its window a row sees; itself always, so that no row sees nothing.

    `real_BU` False is padding, `doc_BU` numbers documents; both may begin before the first query.
    """
    distance_IW = grid.distance(device)
    near = distance_IW >= 0 if causal else torch.ones_like(distance_IW, dtype=torch.bool)
    if reach is not None:
        near = near & (distance_IW.abs() < reach)
    if real_BU is None:
        real_BU = torch.ones(1, grid.n_query, dtype=torch.bool, device=device)
    seen = near & _flags(grid, real_BU, False)[:, :, None]
    if doc_BU is not None:
        doc = grid.rows(doc_BU[:, -grid.n_query :, None])
        seen = seen & (doc == _flags(grid, doc_BU, -1)[:, :, None])
    return seen | (distance_IW == 0)


def _flags(grid: Grid, x_BU: Tensor, fill: int) -> Tensor:
    return grid.windows(x_BU[..., None], fill)[..., 0]
