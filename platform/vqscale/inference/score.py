"""The likelihood of a text under a model, read segment by segment with the state carried between them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vqscale.data.tokenize import EOS
from vqscale.models.base import LanguageModel

SEGMENT = 1024
"""Tokens of one forward pass; for architectures with constant state memory does not grow with the text."""


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Cross-entropy of one text."""

    nats: float
    """Mean per token."""
    tokens: int
    text_bytes: int
    token_nats: NDArray[np.float32]
    """[T] of every token."""

    @property
    def bpb(self) -> float:
        """Bits per byte of the text."""
        return self.nats * self.tokens / math.log(2) / self.text_bytes

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.nats, 700.0))


@torch.no_grad()
def score_tokens(model: LanguageModel, ids: NDArray[Any], text_bytes: int, device: torch.device) -> TextScore:
    """Score the document `ids` [T]: the first token is predicted from the document end that opens every document.

    Raises ValueError for an empty text.
    """
    if not len(ids):
        raise ValueError("text: is empty; there is no token to predict")
    tokens_T = torch.from_numpy(np.concatenate([[EOS], ids]).astype(np.int64)).to(device)
    state, parts = None, []
    for start in range(0, len(ids), SEGMENT):
        next_T = tokens_T[start + 1 :][:SEGMENT]
        output = model(tokens_T[None, start : start + len(next_T)], state=state, return_state=True)
        state = output["state"]
        parts.append(F.cross_entropy(output["logits"][0].float(), next_T, reduction="none"))
    nats_T = torch.cat(parts)
    return TextScore(
        nats=float(nats_T.double().mean()),
        tokens=len(ids),
        text_bytes=text_bytes,
        token_nats=nats_T.float().cpu().numpy(),
    )
