"""One model at one context length, trained on random tokens with the training step of `vqscale.train`.

Legend: B sequences of an update, T tokens of a sequence.
"""

import numpy as np
import torch

from vqscale.costing.counts import parameters
from vqscale.models.build import build
from vqscale.study.trial import TrainConfig
from vqscale.throughput.memory import LiveTensors, OutOfMemoryError, free_memory
from vqscale.throughput.plan import Cell
from vqscale.train.engine import PlainEngine
from vqscale.train.metrics import synchronise
from vqscale.train.objective import next_token, text_parts
from vqscale.train.step import train_step

LEARNING_RATE = 1e-4
PRIMING_TOKENS = 16


class TrainingCell:
    """Weights and optimiser state exist from `warm_up` on."""

    def __init__(self, cell: Cell, *, activation_checkpointing: bool = False) -> None:
        self._model, self._device, self._backend = cell.model, cell.torch_device, cell.backend
        self._train = TrainConfig(
            context=cell.context,
            tokens=cell.tokens_per_step,
            batch_tokens=cell.tokens_per_step,
            lr=LEARNING_RATE,
            precision=cell.precision,
            engine="plain",
            documents="packed",
            activation_checkpointing=activation_checkpointing,
        )
        random = np.random.default_rng(0)
        self._tokens_BT = random.integers(0, cell.model.vocab_size, (cell.batch, cell.context + 1), dtype=np.int64)
        self._engine: PlainEngine | None = None

    def warm_up(self) -> int:
        """Build the model and bring it to its steady state; returns the bytes alive at the peak of one update.

        These are its weights, gradients, moments and activations, without those of other models.
        """
        if self._device.type == "cuda":
            others = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._prepare()
            return int(torch.cuda.max_memory_allocated(self._device) - others)
        free = free_memory()
        if self._least_bytes > free:
            raise OutOfMemoryError(f"{self._least_bytes} bytes at least are needed; {free:.0f} are free")
        tensors = LiveTensors(limit=free)
        with tensors:
            self._prepare()
        return tensors.peak

    @property
    def _least_bytes(self) -> int:
        """Bytes that an update needs at least on the CPU, known before it runs (`LiveTensors` counts only after an
        operation has allocated).

        Weights, gradients and moments; one copy of the logits; for the naive attention, one layer's float32 scores and
        their softmax.
        """
        tokens = self._train.batch_tokens
        scores = 2 * self._model.n_head * self._train.context if self._backend == "naive" else 0
        return 16 * parameters(self._model) + 4 * tokens * (self._model.vocab_size + scores)

    def _prepare(self) -> None:
        module = build(self._model, device=self._device, seed=0)
        if self._backend:
            module.backend = self._backend
        module.autocast_bf16 = self._train.precision == "bf16"
        module.activation_checkpointing = self._train.activation_checkpointing
        module.train()
        self._engine = PlainEngine(module, self._train)
        # AdamW allocates its moments at the first update. A tiny one comes first, so that the second has all of them
        # allocated and its peak is that of every later update.
        self._update(self._tokens_BT[:1, : PRIMING_TOKENS + 1])
        self._update(self._tokens_BT)
        synchronise(self._device)

    def run(self, updates: int) -> None:
        """Train for `updates` updates, and wait until the device has finished them."""
        for _ in range(updates):
            self._update(self._tokens_BT)
        synchronise(self._device)

    def _update(self, tokens_BT: np.ndarray) -> None:
        assert self._engine is not None, "warm_up comes first"
        parts = text_parts(tokens_BT, self._train, self._device)
        weight = self._model.commit_weight
        train_step(self._engine, parts, next_token, None, LEARNING_RATE, self._train, weight, self._device)
