"""Tokens in rows of one length, none of which holds tokens of two documents.

Letters: B batch, T position, D width, R rows, C tokens per row.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The row and column of each token. A row holds up to C tokens from its left end; the rest of it is zero."""

    size: int  # C
    count: int  # R
    slot_BT: Tensor | None  # row C + column of every token; None: all rows but the last are full
    keep_BR: Tensor | None  # False: the row begins a document and gets nothing from the row before; None: all True
    last_B: Tensor  # the row of the last token
    tail_B: Tensor  # how many tokens that row holds

    @classmethod
    def make(cls, doc_start_BT: Tensor | None, batch: int, length: int, size: int, device: torch.device) -> Self:
        """Rows of `size` tokens, a new one at every document's start. Documents cost at most one row each.

        Reads the flags on the host, as their number decides how many rows there are.
        """
        if doc_start_BT is not None and bool(doc_start_BT.any()):
            return cls._of_documents(doc_start_BT, size)
        count = -(-length // size)
        last_B = torch.full((batch,), count - 1, device=device)
        return cls(size, count, None, None, last_B, torch.full_like(last_B, length - (count - 1) * size))

    @classmethod
    def _of_documents(cls, doc_start_BT: Tensor, size: int) -> Self:
        position_T = torch.arange(doc_start_BT.shape[1], device=doc_start_BT.device)
        begin_BT = torch.where(doc_start_BT, position_T, 0).cummax(dim=1).values
        column_BT = (position_T - begin_BT) % size
        row_BT = (column_BT == 0).cumsum(dim=1) - 1
        last_B = row_BT[:, -1]
        count = int(last_B.max()) + 1
        keep_BR = torch.ones(doc_start_BT.shape[0], count, dtype=torch.bool, device=doc_start_BT.device)
        batch, position = doc_start_BT.nonzero(as_tuple=True)
        keep_BR[batch, row_BT[batch, position]] = False
        return cls(size, count, row_BT * size + column_BT, keep_BR, last_B, column_BT[:, -1] + 1)

    def spread(self, x_BTD: Tensor) -> Tensor:
        """Tokens in their rows: [B, R C, D]."""
        room = self.count * self.size
        if self.slot_BT is None:
            return F.pad(x_BTD, (0, 0, 0, room - x_BTD.shape[1]))
        wide_BTD = self.slot_BT[..., None].expand_as(x_BTD)
        return x_BTD.new_zeros(x_BTD.shape[0], room, x_BTD.shape[2]).scatter(1, wide_BTD, x_BTD)

    def gather(self, y_BUD: Tensor, length: int) -> Tensor:
        """The inverse: [B, T, D] of [B, R C, D]."""
        if self.slot_BT is None:
            return y_BUD[:, :length]
        return y_BUD.gather(1, self.slot_BT[..., None].expand(-1, -1, y_BUD.shape[2]))

    def tail(self, x_BTD: Tensor) -> Tensor:
        """The tokens of the last row, moved to its right end: [B, C, D], zero before them."""
        x_BCD = F.pad(x_BTD[:, -self.size :], (0, 0, max(0, self.size - x_BTD.shape[1]), 0))
        column_C = torch.arange(self.size, device=x_BTD.device)
        inside_BC = column_C >= self.size - self.tail_B[:, None]
        return torch.where(inside_BC[..., None], x_BCD, 0)
