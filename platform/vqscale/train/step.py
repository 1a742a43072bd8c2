"""One update, top to bottom. Logging, checkpoints and orchestration live elsewhere."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from vqkernels import CodeStatistics, merge_statistics, update_codebooks
from vqscale.models.norms import running_statistics
from vqscale.study.trial import TrainConfig
from vqscale.train.engine import Engine
from vqscale.train.objective import BatchScore, Part


@dataclass(frozen=True, kw_only=True)
class Update:
    """Measurements of one update, on the device but for the norm: the caller decides when to wait for them."""

    nats: Tensor
    """Mean cross-entropy of this worker's tokens or labels; the mean over workers is that of the update."""
    accuracy: Tensor | None
    """Share of labels predicted correctly, a mean in the same sense; None for a language model."""
    commit: Tensor
    """Commitment loss summed over layers, before its weight; zero without a codebook."""
    norm: float
    """Global gradient norm before clipping."""

    @property
    def skipped(self) -> bool:
        """Whether the gradient was not finite, so that the update left no trace; the same on every rank."""
        return not math.isfinite(self.norm)


def train_step(
    engine: Engine,
    parts: Sequence[Part],
    score: Callable[[Tensor, Part], BatchScore],
    states: list[Any] | None,
    lr: float,
    train: TrainConfig,
    commit_weight: float,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> tuple[Update, list[Any] | None]:
    """Forward, backward and update for this worker's micro-batches.

    `states` holds the carried state of every micro-batch (None: sequences start here). Returns the measurements and the
    states after the update, detached (truncated back-propagation), or None where nothing is carried. Every rank must
    call it.

    An update with a gradient that is not finite is skipped: parameters, optimiser state, codebooks, running statistics
    and carried state are what they were before it. Its data are read and its turn in the schedule is over.
    """
    # A context that is read in several segments needs the state; nothing is carried beyond the end of a context.
    carry = train.segment_length < train.context
    nats, commit = torch.zeros((), device=device), torch.zeros((), device=device)
    accuracies: list[Tensor] = []
    statistics: list[list[CodeStatistics]] = []
    carried: list[Any] = []
    running = [(buffer, buffer.clone()) for buffer in running_statistics(engine.module)]
    for micro, part in enumerate(parts):
        output = engine.forward(**part.inputs, state=states[micro] if states else None, return_state=carry)
        loss, accuracy = score(output["logits"], part)
        engine.accumulate(loss + commit_weight * output["commit"])
        nats += loss.detach() / len(parts)
        accuracies += [] if accuracy is None else [accuracy]
        commit += output["commit"].detach() / len(parts)
        statistics.append([CodeStatistics(*layer) for layer in output["code_stats"]])
        if carry:
            carried.append(output["state"].detach())
    norm = engine.step(lr)
    accuracy = torch.stack(accuracies).mean() if accuracies else None
    update = Update(nats=nats, accuracy=accuracy, commit=commit, norm=norm)
    if update.skipped:
        for buffer, before in running:
            buffer.copy_(before)
        return update, states
    # After the update: all forward passes of it used the same codes. Statistics of all micro-batches and workers are
    # merged first, so that the codebooks do not depend on how the batch was divided.
    update_codebooks(engine.module.codebooks(), [merge_statistics(list(layer)) for layer in zip(*statistics)], group)  # type: ignore[operator]  # noqa: B905
    return update, carried or None
