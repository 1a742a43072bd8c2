"""The codebook: an exponential moving average (EMA) of keys by code, learnt without a gradient.

Letters: G key-value heads, S codebook size, K key width, R candidates. Source: Transformer-VQ (Lingle, ICLR 2024);
the revival of dead codes is this project's addition.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqkernels.quantize.statistics import CodeStatistics, evenly_strided

MIN_COUNT = 0.01  # lower bound of the count when sums become means (Transformer-VQ's reference code)


class Codebook(nn.Module):
    """S codewords for each of G key-value heads, kept as running sums and counts in float32.

    `decay` is the EMA's factor. After an update a code whose count is below `revive_below` times the mean count
    of its head is dead and takes a key of the batch; 0 switches revival off.
    """

    key_sum: Tensor
    count: Tensor
    usage: Tensor
    squared_error: Tensor
    squared_norm: Tensor
    revived: Tensor
    threshold: Tensor

    def __init__(
        self, n_kv_head: int, codebook_size: int, d_key: int, decay: float = 0.99, revive_below: float = 0.05
    ) -> None:
        super().__init__()
        _check_codebook(n_kv_head, codebook_size, d_key, decay, revive_below)
        self.decay = decay
        self.revive_below = revive_below
        self.register_buffer("key_sum", torch.empty(n_kv_head, codebook_size, d_key, dtype=torch.float32))
        self.register_buffer("count", torch.empty(n_kv_head, codebook_size, dtype=torch.float32))
        # Of the last update: telemetry only, and not part of a checkpoint.
        self.register_buffer("usage", torch.empty(n_kv_head, codebook_size, dtype=torch.float32), persistent=False)
        for name in ("squared_error", "squared_norm", "revived", "threshold"):
            self.register_buffer(name, torch.empty((), dtype=torch.float32), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Sums drawn from N(0, 1 / (G S)) and counts of 1: the initial values of Transformer-VQ's reference code."""
        n_head, size, _ = self.key_sum.shape
        self.key_sum.normal_(std=1.0 / math.sqrt(n_head * size), generator=generator)
        self.count.fill_(1.0)
        self.usage.zero_()
        self.revived.zero_()
        for value in (self.squared_error, self.squared_norm, self.threshold):
            value.fill_(math.nan)

    @property
    def codebook(self) -> Tensor:
        """The codewords, [G, S, K] float32."""
        return self.key_sum / self.count.clamp(min=MIN_COUNT)[..., None]

    def telemetry(self) -> dict[str, Tensor]:
        """Scalars on the codebook's device: about the last update (NaN before the first), and `revived` so far.

        perplexity: exp of the entropy of the global code usage, mean over heads; dead_share: share of codes that
        no token of the update took; quantisation_error: sqrt(sum |k - c_z|^2 / sum |k|^2); revived: dead codes
        replaced since the codebook was made; threshold: EMA count below which a code was dead, mean over heads.
        """
        share = self.usage / self.usage.sum(-1, keepdim=True)  # 0 / 0 = NaN before the first update
        seen = self.usage.sum() > 0
        dead = (self.usage == 0).float().mean()
        return {
            "perplexity": torch.special.entr(share).sum(-1).exp().mean(),
            "dead_share": torch.where(seen, dead, math.nan),
            "quantisation_error": (self.squared_error / self.squared_norm).sqrt(),
            "revived": self.revived.clone(),
            "threshold": self.threshold.clone(),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a parent to another device but stay float32.

        In bfloat16 an EMA with decay 0.99 ignores changes below a fifth of its value, and counts stop at 256.
        """
        for name, buffer in self._buffers.items():
            if buffer is not None:
                moved = fn(buffer)
                self._buffers[name] = moved if moved.dtype == torch.float32 else buffer.to(moved.device)
        return self


@torch.no_grad()
def update_codebooks(
    codebooks: Sequence[Codebook],
    statistics: Sequence[CodeStatistics],
    group: dist.ProcessGroup | None = None,
) -> None:
    """One EMA step of every codebook on the statistics of the global batch, then revival of dead codes.

    With torch.distributed initialised, sums are exchanged in one all_reduce and candidates in one all_gather for all
    codebooks together. Every rank then computes the same function of the same numbers, so codebooks stay equal bit for
    bit and need no broadcast. Raises ValueError unless there is one CodeStatistics per codebook.
    """
    if len(codebooks) != len(statistics):
        raise ValueError(
            f"statistics: got {len(statistics)} for {len(codebooks)} codebooks; "
            "there must be one for each; pass merge_statistics(...) of each layer's micro-batches"
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1 and codebooks:
        statistics = _global_statistics(statistics, group)
    for codebook, seen in zip(codebooks, statistics, strict=True):
        _update(codebook, seen)


def _global_statistics(statistics: Sequence[CodeStatistics], group: dist.ProcessGroup | None) -> list[CodeStatistics]:
    summed = torch.cat([part.reshape(-1) for one in statistics for part in one[:4]])
    dist.all_reduce(summed, op=dist.ReduceOp.SUM, group=group)
    own = torch.cat([one.candidate_GRK.reshape(-1) for one in statistics])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    sums = iter(torch.split(summed, [part.numel() for one in statistics for part in one[:4]]))
    by_layer = torch.split(torch.stack(gathered), [one.candidate_GRK.numel() for one in statistics], dim=1)
    return [
        CodeStatistics(
            key_sum_GSK=next(sums).view_as(one.key_sum_GSK),
            count_GS=next(sums).view_as(one.count_GS),
            squared_error=next(sums).view(()),
            squared_norm=next(sums).view(()),
            candidate_GRK=_from_all_ranks(rows, one.candidate_GRK),
        )
        for one, rows in zip(statistics, by_layer, strict=True)
    ]


def _from_all_ranks(gathered: Tensor, like_GRK: Tensor) -> Tensor:
    """Candidates of all ranks in rank order, thinned to as many as one rank's."""
    n_head, n_candidate, d_key = like_GRK.shape
    rows = gathered.reshape(-1, n_head, n_candidate, d_key).transpose(0, 1).reshape(n_head, -1, d_key)
    return evenly_strided(rows, ~rows[0, :, 0].isnan(), n_candidate)


def _update(codebook: Codebook, seen: CodeStatistics) -> None:
    # Sums and counts decay alike, so an unused code keeps its place (sum / count) while its count shrinks to dead.
    codebook.key_sum.lerp_(seen.key_sum_GSK, 1.0 - codebook.decay)
    codebook.count.lerp_(seen.count_GS, 1.0 - codebook.decay)
    codebook.usage.copy_(seen.count_GS)
    codebook.squared_error.copy_(seen.squared_error)
    codebook.squared_norm.copy_(seen.squared_norm)
    _revive(codebook, seen.candidate_GRK)


def _revive(codebook: Codebook, candidate_GRK: Tensor) -> None:
    """Give every dead code a key of the batch and a count of twice the threshold, so that it is not dead at once again.

    The j-th of n dead codes takes the candidate at j/n of the list: distinct ones while there are enough, and no random
    numbers, so that ranks and resumed runs agree. All on the device: nothing waits for the number of dead codes.
    """
    threshold_G1 = codebook.revive_below * codebook.count.mean(-1, keepdim=True)
    n_candidate = (~candidate_GRK[0, :, 0].isnan()).sum()  # real ones come first
    dead_GS = (codebook.count < threshold_G1) & (n_candidate > 0)
    n_dead_G1 = dead_GS.sum(-1, keepdim=True)
    place_GS = dead_GS.cumsum(-1) - 1
    spread = place_GS * n_candidate // n_dead_G1.clamp(min=1)
    cyclic = place_GS % n_candidate.clamp(min=1)
    row_GS = torch.where(n_candidate >= n_dead_G1, spread, cyclic).clamp(0, candidate_GRK.shape[1] - 1)
    key_GSK = candidate_GRK.gather(1, row_GS[..., None].expand(-1, -1, candidate_GRK.shape[2]))
    count_G1 = (2.0 * threshold_G1).clamp(min=MIN_COUNT)  # below MIN_COUNT the mean would not be the key
    codebook.key_sum.copy_(torch.where(dead_GS[..., None], key_GSK * count_G1[..., None], codebook.key_sum))
    codebook.count.copy_(torch.where(dead_GS, count_G1, codebook.count))
    codebook.revived += dead_GS.sum()
    codebook.threshold.copy_(threshold_G1.mean())


def _check_codebook(n_kv_head: int, codebook_size: int, d_key: int, decay: float, revive_below: float) -> None:
    for name, value in (("n_kv_head", n_kv_head), ("codebook_size", codebook_size), ("d_key", d_key)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; it must be at least 1; choose a positive number")
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay: got {decay}; it must be in [0, 1); Transformer-VQ uses 0.99")
    if not 0.0 <= revive_below < 1.0:
        raise ValueError(f"revive_below: got {revive_below}; it must be in [0, 1); 0 switches revival off")
