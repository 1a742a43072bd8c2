"""What a model is trained for: what one update reads, and how its logits are judged.

Legend: B sequences (of a classifier: examples) of this worker's micro-batch, Q sequences of an example, T tokens,
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

EOS = 1
"""Document end in every corpus; it opens the next document as its prompt (reference: targets shifted, EOS first)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One micro-batch of this worker, on the device."""

    inputs: dict[str, Any]
    """Arguments of the model, but for the carried state."""
    target: Tensor
    """[B, T] tokens or labels, or [B] labels; NO_LABEL where nothing is asked."""
    weight: Tensor | float | None = None
    """Of one label, so that the mean over micro-batches and workers is the mean over all labels of the update; None:
    that of the mean over this part, where all have equally many."""


class BatchScore(NamedTuple):
    loss: Tensor
    """Mean cross-entropy, nats a token or label."""
    accuracy: Tensor | None
    """Share of labels that the largest logit names; None for a language model."""


class TrainingObjective(Protocol):
    def starts_sequence(self, step: int) -> bool:
        """Whether state carried from the update before must be dropped."""

    def batch(self, step: int) -> list[Part]:
        """The micro-batches of this worker, a pure function of seed and step."""

    def score(self, logits: Tensor, part: Part) -> BatchScore: ...


def document_starts(tokens_BT: np.ndarray, documents: str) -> np.ndarray | None:
    """Where a document begins, or None when nothing has to be isolated (decided on the host: no device sync)."""
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

    def __init__(self, corpus: Corpus, train: TrainConfig, host: Any) -> None:
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
    """Name the class of every example, or of every token that has one."""

    def __init__(self, corpus: LabelledCorpus, trial: Trial, host: Any) -> None:
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
        """Always: examples are read whole."""
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
        """Over labelled tokens alone, each with the same weight wherever in the update it stands."""
        logits_NC, target_N = logits.flatten(0, -2), part.target.flatten()
        weight = 1 / len(target_N) if part.weight is None else part.weight
        loss = F.cross_entropy(logits_NC, target_N, ignore_index=NO_LABEL, reduction="sum") * weight
        return BatchScore(loss, (logits_NC.detach().argmax(-1) == target_N).sum() * weight)

    def _weight(self, label_BT: np.ndarray) -> Tensor:
        """Of a labelled token: one over the labels of an average micro-batch, counted over all workers."""
        count = torch.tensor(float((label_BT != NO_LABEL).sum()), device=self._device)
        if self._world > 1:
            dist.all_reduce(count, group=self._group)
        weight: Tensor = self._world * self._accumulation / count.clamp(min=1)
        return weight


def labelled_inputs(tokens_BQT: np.ndarray, mask_BQT: np.ndarray, device: torch.device) -> dict[str, Any]:
    """The model's arguments for examples; without a mask where nothing is padding, and without Q where it is one."""
    single = tokens_BQT.shape[1] == 1
    tokens, mask = (tokens_BQT[:, 0], mask_BQT[:, 0]) if single else (tokens_BQT, mask_BQT)
    return {"tokens_BT": _on(tokens, device)} | ({} if mask.all() else {"mask_BT": _on(mask, device)})


def open_objective(trial: Trial, corpus: Corpus | LabelledCorpus, host: Any) -> TrainingObjective:
    """The objective of a trial on its corpus; `host` says which share of a batch is this worker's."""
    if isinstance(corpus, LabelledCorpus):
        return ClassificationObjective(corpus, trial, host)
    return LanguageObjective(corpus, trial.train, host)


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.copy()).to(device)
