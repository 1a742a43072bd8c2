"""Training objectives: the micro-batches of an update, and the loss and accuracy of a model's logits on them.

Letters: B sequences (of a classifier: examples) of this worker's micro-batch, Q sequences of an example, T tokens,
W vocabulary, C classes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vqscale.data.corpus import Corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.stream import NO_LABEL, LabelledStream
from vqscale.data.stream import TokenStream
from vqscale.study.trial import TrainConfig, Trial
from vqscale.train.host import Host

EOS = 1
"""Ends a document in every corpus and is the first input of the next (reference code: targets shifted, EOS first)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One micro-batch of this worker, on the device."""

    inputs: dict[str, Any]
    """Arguments of the model, but for the carried state."""
    target: Tensor
    """[B, T] tokens or labels, or [B] labels; NO_LABEL where a token has none."""
    weight: Tensor | float | None = None
    """Weight of one label such that the mean over micro-batches and workers is the mean over all labels of the update.
    None: one over the labels of this part, which is the same where all parts have equally many."""


class BatchScore(NamedTuple):
    loss: Tensor
    """Mean cross-entropy, nats per token or label."""
    accuracy: Tensor | None
    """Share of labels that have the largest logit; None for a language model."""


class TrainingObjective(Protocol):
    def starts_sequence(self, step: int) -> bool:
        """Whether state carried from the update before must be dropped."""

    def batch(self, step: int) -> list[Part]:
        """The micro-batches of this worker, a pure function of seed and step."""

    def score(self, logits: Tensor, part: Part) -> BatchScore: ...


def document_starts(tokens_BT: np.ndarray, documents: str) -> np.ndarray | None:
    """Where a document begins; None where nothing has to be isolated, which spares the model its masks.

    Computed on the host: asking the device would make every update wait for it.
    """
    if documents == "packed":
        return None
    starts_BT: np.ndarray = tokens_BT == EOS
    return starts_BT if starts_BT.any() else None


def text_parts(tokens_BT: np.ndarray, train: TrainConfig, device: torch.device) -> list[Part]:
    """The micro-batches of [B, T+1] tokens: inputs and targets shifted by one."""
    parts = []
    for rows in np.split(tokens_BT, train.accumulation):
        starts = document_starts(rows[:, :-1], train.documents)
        inputs = {"tokens_BT": _on(rows[:, :-1], device)}
        inputs |= {} if starts is None else {"doc_start_BT": _on(starts, device)}
        parts.append(Part(inputs=inputs, target=_on(rows[:, 1:], device)))
    return parts


def next_token(logits_BTW: Tensor, part: Part) -> BatchScore:
    """Cross-entropy of the next token, over all tokens of the micro-batch."""
    return BatchScore(F.cross_entropy(logits_BTW.flatten(0, 1).float(), part.target.flatten()), None)


class LanguageObjective:
    """Predict every next token of sequences cut from a text."""

    def __init__(self, corpus: Corpus, train: TrainConfig, host: Host) -> None:
        self._train, self._device = train, host.device
        self._stream = TokenStream(
            corpus.split("train"),
            batch=train.batch_size,
            length=train.segment_length,
            context=train.context,
            seed=train.seed,
            rank=host.rank,
            world=host.world,
        )
        self.starts_sequence = self._stream.starts_sequence
        self.score = next_token

    def batch(self, step: int) -> list[Part]:
        return text_parts(self._stream.batch(step), self._train, self._device)


class ClassificationObjective:
    """Predict the class of every example, or of every token that has one."""

    def __init__(self, corpus: LabelledCorpus, trial: Trial, host: Host) -> None:
        train = trial.train
        self._accumulation, self._device = train.accumulation, host.device
        self._world, self._group = host.world, host.group
        self._stream = LabelledStream(
            corpus.split("train"),
            batch=trial.examples_per_update,
            context=train.context,
            seed=train.seed,
            rank=host.rank,
            world=host.world,
        )

    def starts_sequence(self, step: int) -> bool:
        """Always: an example is read whole in one update."""
        return True

    def batch(self, step: int) -> list[Part]:
        batch = self._stream.batch(step)
        weight = None if batch.label_BT is None else self._weight(batch.label_BT)
        columns = (batch.tokens_BQT, batch.mask_BQT, batch.label)
        pieces = zip(*(np.split(column, self._accumulation) for column in columns), strict=True)
        return [
            Part(inputs=labelled_inputs(tokens, mask, self._device), target=_on(label, self._device), weight=weight)
            for tokens, mask, label in pieces
        ]

    def score(self, logits: Tensor, part: Part) -> BatchScore:
        """Over labelled tokens only, each with the same weight, whichever micro-batch and worker holds it."""
        logits_NC, target_N = logits.flatten(0, -2), part.target.flatten()
        weight = 1 / len(target_N) if part.weight is None else part.weight
        loss = F.cross_entropy(logits_NC, target_N, ignore_index=NO_LABEL, reduction="sum") * weight
        return BatchScore(loss, (logits_NC.detach().argmax(-1) == target_N).sum() * weight)

    def _weight(self, label_BT: np.ndarray) -> Tensor:
        """Weight of a labelled token: one over the labels of an average micro-batch, counted over all workers.

        A mean over each micro-batch would give tokens of sparsely labelled micro-batches more weight than others.
        """
        count = torch.tensor(float((label_BT != NO_LABEL).sum()), device=self._device)
        if self._world > 1:
            dist.all_reduce(count, group=self._group)
        weight: Tensor = self._world * self._accumulation / count.clamp(min=1)
        return weight


def labelled_inputs(tokens_BQT: np.ndarray, mask_BQT: np.ndarray, device: torch.device) -> dict[str, Any]:
    """The model's arguments for examples; without a mask if nothing is padding, and without the axis Q if Q is 1."""
    single = tokens_BQT.shape[1] == 1
    tokens, mask = (tokens_BQT[:, 0], mask_BQT[:, 0]) if single else (tokens_BQT, mask_BQT)
    return {"tokens_BT": _on(tokens, device)} | ({} if mask.all() else {"mask_BT": _on(mask, device)})


def open_objective(trial: Trial, corpus: Corpus | LabelledCorpus, host: Host) -> TrainingObjective:
    """The objective of a trial on its corpus; `host` says which share of a batch is this worker's."""
    if isinstance(corpus, LabelledCorpus):
        return ClassificationObjective(corpus, trial, host)
    return LanguageObjective(corpus, trial.train, host)


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.copy()).to(device)  # a copy: inputs and targets overlap
