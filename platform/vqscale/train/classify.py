"""Held-out classification on whole examples: cross-entropy per label, accuracy, and accuracy by class and length.

Letters: B examples of a pass, Q sequences of one, T tokens, C classes, N labels, U examples that are evaluated.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from vqscale.data.labelled.corpus import LabelledCorpus, LabelledSplit
from vqscale.data.labelled.stream import NO_LABEL, LabelledBatch, collate, padded_length
from vqscale.data.permutation import Permutation
from vqscale.data.shards import SplitName
from vqscale.models.layers import at_least_float32
from vqscale.results.loss_difference import mean_error
from vqscale.results.result import AccuracyBucket, LossParts
from vqscale.study.trial import TrainConfig
from vqscale.train.evaluate import ROW_TOKENS, loss_parts, rank_of, total
from vqscale.train.metrics import world_size
from vqscale.train.objective import labelled_inputs

MOST_CONFUSED = 50
"""Classes up to which a confusion matrix is kept."""
_BUCKETS = 64
"""Bucket k of lengths and distances holds [2^k, 2^(k+1)); the first one also holds 0."""


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What was measured on a held-out split; every rank holds the same value."""

    nats: float
    """Mean cross-entropy, nats per label."""
    examples: int
    labels: int
    accuracy: float
    loss_error: float | None
    """Standard error of `nats` over examples; None for a single one."""
    accuracy_error: float | None
    parts: LossParts
    balanced_accuracy: float
    """Mean recall of the classes that occur."""
    macro_f1: float
    """Mean F1 of the classes that occur or are predicted."""
    confusion: list[list[int]] | None
    """Labels by true class (row) and predicted class (column); None where there are more than 50 classes."""
    class_names: list[str] | None
    """Of the rows and columns of the confusion matrix."""
    by_length: list[AccuracyBucket]
    by_distance: list[AccuracyBucket]
    """Empty where the corpus has no distances."""


@dataclass
class _Tally:
    """Sums over labels, to be added over ranks."""

    names: tuple[str, ...]
    """Of all classes."""
    examples: int
    by_example: Tensor = field(init=False)
    """Nats, labels and correctly predicted ones by example, [3, U]."""
    by_class: Tensor = field(init=False)
    """True labels, predictions and correct predictions by class, [3, C]."""
    confusion: Tensor = field(init=False)
    length: Tensor = field(default_factory=lambda: torch.zeros(2, _BUCKETS, dtype=torch.float64))
    """Labels and correctly predicted ones by bucket."""
    distance: Tensor = field(default_factory=lambda: torch.zeros(2, _BUCKETS, dtype=torch.float64))

    def __post_init__(self) -> None:
        self.by_example = torch.zeros(3, self.examples, dtype=torch.float64)
        self.by_class = torch.zeros(3, self.classes, dtype=torch.float64)
        kept = self.classes if self.classes <= MOST_CONFUSED else 0
        self.confusion = torch.zeros(kept, kept, dtype=torch.float64)

    @property
    def classes(self) -> int:
        return len(self.names)

    def add(
        self,
        true_N: Tensor,
        predicted_N: Tensor,
        nats_N: Tensor,
        length_N: Tensor,
        distance_N: Tensor | None,
        unit_N: Tensor,
    ) -> None:
        right_N = true_N == predicted_N
        for row, values in zip(self.by_example, (nats_N, torch.ones_like(nats_N), right_N), strict=True):
            row += torch.bincount(unit_N, values.double(), minlength=self.examples)
        for row, ids in zip(self.by_class, (true_N, predicted_N, true_N[right_N]), strict=True):
            row += torch.bincount(ids, minlength=self.classes)
        if len(self.confusion):
            # One bincount of pairs numbered row by row gives the whole matrix.
            pairs = torch.bincount(true_N * self.classes + predicted_N, minlength=self.classes**2)
            self.confusion += pairs.view(self.classes, self.classes)
        _add_buckets(self.length, length_N, right_N)
        if distance_N is not None:
            _add_buckets(self.distance, distance_N, right_N)

    def result(self, device: torch.device, group: ProcessGroup | None) -> Classified:
        """Over all ranks."""
        parts = (self.by_example, self.by_class, self.confusion, self.length, self.distance)
        by_example, by_class, confusion, length, distance = (total(part, device, group) for part in parts)
        nats_U, labels_U, right_U = by_example.numpy()
        true_C, predicted_C, right_C = by_class
        # Classes without a label have no recall; F1 is 2 tp / (true + predicted), 0 / 0 where a class has neither.
        labels, occurs, known = float(true_C.sum()), true_C > 0, true_C + predicted_C > 0
        return Classified(
            nats=float(nats_U.sum()) / labels,
            examples=self.examples,
            labels=int(labels),
            accuracy=float(right_C.sum()) / labels,
            loss_error=mean_error(nats_U, labels_U),
            accuracy_error=mean_error(right_U, labels_U),
            parts=loss_parts(nats_U, labels_U, right_U=right_U),
            balanced_accuracy=float((right_C / true_C)[occurs].mean()),
            macro_f1=float((2 * right_C / (true_C + predicted_C))[known].mean()),
            confusion=confusion.long().tolist() if len(confusion) else None,
            class_names=list(self.names) if len(confusion) else None,
            by_length=_buckets(length),
            by_distance=_buckets(distance),
        )


@torch.no_grad()
def classify(
    model: Any,
    corpus: LabelledCorpus,
    split: SplitName,
    train: TrainConfig,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> Classified:
    """Evaluate on `evaluation_examples` of a split, each cut to `evaluation_context` tokens.

    Examples of similar length share a pass. One that is longer than the training context is read in segments with
    carried state if single tokens are labelled and the model is causal, else whole. The examples are divided among the
    ranks; all ranks return the same result.
    """
    held_out, context = corpus.split(split), train.evaluation_context or train.context
    drawn = _drawn(held_out, train.evaluation_examples)
    units = np.sort(drawn)
    was_training = model.training
    model.eval()
    tally, world, rank = _Tally(corpus.classes, len(drawn)), world_size(group), rank_of(group)
    # Every rank runs the same passes, of the same number of segments: ZeRO-3 gathers parameters in each of them.
    for passed in _passes(held_out, drawn, context, world):
        width = padded_length(held_out, passed, context)
        own = passed[rank::world]
        # A rank without an example of its own runs the first one all the same, and does not count it.
        batch = collate(held_out, own if len(own) else passed[:1], context=context, length=width)
        predicted, nats = _predict(model, batch, train, device)
        if len(own):
            _add(tally, batch, predicted, nats, units)
    model.train(was_training)
    return tally.result(device, group)


def _drawn(split: LabelledSplit, limit: int | None) -> np.ndarray:
    """Examples to be evaluated, sorted by length: all, or a random draw that is the same for every trial.

    A draw, not the first ones: files often come sorted by class.
    """
    count = len(split) if limit is None else min(limit, len(split))
    drawn = Permutation(len(split), 0)(np.arange(count)) if count < len(split) else np.arange(count)
    return drawn[np.argsort(split.lengths[drawn], kind="stable")]


def _passes(split: LabelledSplit, examples: np.ndarray, context: int, world: int) -> list[np.ndarray]:
    """`examples` in passes of about `ROW_TOKENS` per rank, the longest first: a lack of memory shows at once."""
    passes, stop = [], len(examples)
    while stop:
        tokens = padded_length(split, examples[stop - 1 : stop], context) * split.corpus.sequences
        start = max(0, stop - max(1, ROW_TOKENS // tokens) * world)
        passes.append(examples[start:stop])
        stop = start
    return passes


def _predict(model: Any, batch: LabelledBatch, train: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Predicted class and cross-entropy of every label: [B], or [B, T] with meaningless values where no label is."""
    if batch.label_BT is None or not model.config.carries_state or batch.tokens_BQT.shape[2] <= train.context:
        output = model(**labelled_inputs(batch.tokens_BQT, batch.mask_BQT, device))
        return _score(output["logits"], batch.label, device)
    state, found = None, []
    width = batch.tokens_BQT.shape[2]
    for start in range(0, width, train.context):
        here = slice(start, min(start + train.context, width))
        inputs = labelled_inputs(batch.tokens_BQT[..., here], batch.mask_BQT[..., here], device)
        output = model(**inputs, state=state, return_state=here.stop < width)
        state = output["state"]
        found.append(_score(output["logits"], batch.label_BT[:, here], device))
    predicted, nats = zip(*found, strict=True)
    return torch.cat(predicted, dim=1), torch.cat(nats, dim=1)


def _score(logits: Tensor, label: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    logits_NC = at_least_float32(logits.flatten(0, -2))
    true_N = torch.from_numpy(label.copy()).to(device).flatten()
    nats_N = F.cross_entropy(logits_NC, true_N, ignore_index=NO_LABEL, reduction="none")
    return logits_NC.argmax(-1).view(label.shape).cpu(), nats_N.view(label.shape).cpu()


def _add(tally: _Tally, batch: LabelledBatch, predicted: Tensor, nats: Tensor, examples: np.ndarray) -> None:
    """`examples`: numbers of all that are evaluated, ascending."""
    true = torch.from_numpy(batch.label)
    real = true != NO_LABEL
    length_B = torch.from_numpy(batch.mask_BQT.sum(2).max(1))  # of a pair, the longer sequence
    length = length_B if true.ndim == 1 else length_B[:, None].expand(true.shape)
    distance = None if batch.distance_BT is None else torch.from_numpy(batch.distance_BT)[real]
    unit_B = torch.from_numpy(np.searchsorted(examples, batch.index_B))
    unit = unit_B if true.ndim == 1 else unit_B[:, None].expand(true.shape)
    tally.add(true[real], predicted[real], nats[real], length[real], distance, unit[real])


def _add_buckets(counts: Tensor, size_N: Tensor, right_N: Tensor) -> None:
    bucket_N = size_N.double().clamp(min=1).log2().floor().long()
    for row, buckets in zip(counts, (bucket_N, bucket_N[right_N]), strict=True):
        row += torch.bincount(buckets, minlength=_BUCKETS)


def _buckets(counts: Tensor) -> list[AccuracyBucket]:
    return [
        AccuracyBucket(start=2**k if k else 0, end=2 ** (k + 1), labels=int(labels), accuracy=float(right / labels))
        for k, (labels, right) in enumerate(counts.T)
        if labels
    ]
