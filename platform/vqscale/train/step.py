"""One update, top to bottom. Logging, checkpoints and orchestration live elsewhere.

Legend: B sequences of this worker's micro-batch, T tokens of a segment, W vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from vqkernels import CodeStatistics, merge_statistics, update_codebooks
from vqscale.study.trial import TrainConfig
from vqscale.train.engine import Engine

EOS = 1
"""Document end in every corpus; it opens the next document as its prompt (reference: targets shifted, EOS first)."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update leaves behind, all on the device: reading it is the caller's choice of when to wait."""

    nats: Tensor
    """Mean cross-entropy of this worker's tokens, nats a token."""
    commit: Tensor
    norm: Tensor
    """Global gradient norm before clipping."""


def document_starts(tokens_BT: np.ndarray, documents: str) -> np.ndarray | None:
    """Where a document begins, or None when nothing has to be isolated (decided on the host: no device sync)."""
    if documents == "packed":
        return None
    starts_BT: np.ndarray = tokens_BT == EOS
    return starts_BT if starts_BT.any() else None


def train_step(
    engine: Engine,
    tokens_BT: np.ndarray,
    states: list[Any] | None,
    lr: float,
    train: TrainConfig,
    commit_weight: float,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> tuple[Update, list[Any] | None]:
    """Forward, backward and update for this worker's rows.

    `tokens_BT` is [B, T+1] int64: inputs and targets shifted by one. `states` holds the carried state of every
    micro-batch (None: sequences start here) and is returned detached; None comes back when nothing is carried.
    """
    carry = train.segment_length < train.context
    nats = torch.zeros((), device=device)
    commit = torch.zeros((), device=device)
    statistics: list[list[CodeStatistics]] = []
    carried: list[Any] = []
    for micro, rows in enumerate(np.split(tokens_BT, train.accumulation)):
        inputs_BT, targets_BT = (torch.from_numpy(part.copy()).to(device) for part in (rows[:, :-1], rows[:, 1:]))
        starts = document_starts(rows[:, :-1], train.documents)
        output = engine.forward(
            inputs_BT,
            state=states[micro] if states else None,
            doc_start_BT=None if starts is None else torch.from_numpy(starts).to(device),
            return_state=carry,
        )
        loss = F.cross_entropy(output["logits"].flatten(0, 1).float(), targets_BT.flatten())
        engine.accumulate(loss + commit_weight * output["commit"])
        nats += loss.detach() / train.accumulation
        commit += output["commit"].detach() / train.accumulation
        statistics.append([CodeStatistics(*layer) for layer in output["code_stats"]])
        if carry:
            carried.append(output["state"].detach())
    norm = engine.step(lr)
    update_codebooks(engine.module.codebooks(), [merge_statistics(list(layer)) for layer in zip(*statistics)], group)  # type: ignore[operator]  # noqa: B905
    return Update(nats=nats, commit=commit, norm=norm), carried or None
