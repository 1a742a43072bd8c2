"""From the last layer to class logits: pooling over a sequence's tokens, and a head.

Letters: B batch, Q sequences of an example, T position, D model width, C classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vqscale.models.layers import Projection, at_least_float32
from vqscale.study.model import ModelConfig, Pooling


def pool(x_BTD: Float[Tensor, "B T D"], mask_BT: Bool[Tensor, "B T"] | None, pooling: Pooling) -> Float[Tensor, "B D"]:
    """The mean over a sequence's tokens, or its last token, in float32 at least; padding takes no part."""
    x_BTD = at_least_float32(x_BTD)
    if mask_BT is None:
        return x_BTD.mean(1) if pooling == "mean" else x_BTD[:, -1]
    if pooling == "mean":
        count_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
        return x_BTD.masked_fill(~mask_BT[..., None], 0.0).sum(1) / count_B1
    index_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = torch.where(mask_BT, index_T, 0).amax(1)
    return x_BTD[torch.arange(len(last_B), device=last_B.device), last_B]


class ClassifierHead(nn.Module):
    """Linear, GELU, Linear, the last without bias (Mega); of two sequences the features are x1, x2, x1 x2, x1 - x2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.classes is not None, "a language model has no classes"
        assert config.pooling is not None, "ModelConfig gives every classifier its pooling"
        self.pooling, self.sequences = config.pooling, config.sequences
        self.hidden = Projection(config.head_inputs, config.d_model)
        self.bias = nn.Parameter(torch.empty(config.d_model))
        self.out = Projection(config.d_model, config.classes)

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x_BTD: Float[Tensor, "BQ T D"], mask_BT: Bool[Tensor, "BQ T"] | None) -> Tensor:
        """Logits [B, C], or [B, T, C] without pooling; the sequences of an example follow one another in `x_BTD`."""
        if self.pooling == "none":
            return self._logits(x_BTD)
        x_BD = pool(x_BTD, mask_BT, self.pooling)
        if self.sequences == 2:
            one_BD, two_BD = x_BD[0::2], x_BD[1::2]
            x_BD = torch.cat([one_BD, two_BD, one_BD * two_BD, one_BD - two_BD], dim=-1)
        return self._logits(x_BD)

    def _logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(self.hidden(x) + self.bias))
        return at_least_float32(out)
