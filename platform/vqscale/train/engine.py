"""Engines: how gradients become an update. The training step knows only the `Engine` protocol.

`plain` is torch on one device; `deepspeed` shards optimiser state, gradients and parameters over workers (ZeRO 0-3).
Both keep parameters and optimiser state in fp32; `precision: bf16` is autocast in the model, as in the paper
(fp32 parameters, bf16 activations), so every engine and every ZeRO stage computes the same numbers. The learning rate
is set before every update; DeepSpeed's own schedulers are not used (its warm-ups make the first two updates at rate 0).
"""

import contextlib
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vqscale.models.roles import decayed
from vqscale.study.fingerprint import fingerprint
from vqscale.study.trial import TrainConfig

DEEPSPEED_TAG = "engine"


class Engine(Protocol):
    """Backward, update and state of one model."""

    module: nn.Module
    parameters: "ParameterGroups"

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...

    def accumulate(self, loss: Tensor) -> None:
        """Back-propagate the mean loss of one micro-batch; the update is by the mean over micro-batches and workers."""

    def step(self, lr: float) -> float:
        """Clip, update, clear the gradients; waits for the global gradient norm and returns it.

        The norm is that before clipping: after it, a run that is about to diverge looks like any other. Where it is not
        finite (a NaN or infinite gradient, or squares beyond float32) the update is skipped: parameters and optimiser
        state stay as they are. ZeRO 1 to 3 skip it by themselves, so every engine does.
        """

    def save(self, folder: Path) -> None:
        """Write this rank's share of parameters, buffers and optimiser state."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote with the same engine on the same number of workers."""

    def weights(self) -> dict[str, Tensor]:
        """Whole parameters and buffers on the CPU (all ranks must call it; only rank 0's is meaningful)."""

    def close(self) -> None:
        """Release what the engine holds, so that the next one starts clean."""


class ParameterGroups:
    """The parameters of a model with and without weight decay, by role (`vqscale.models.roles`), never by shape.

    Made before an engine takes the model: ZeRO 3 leaves parameters without a shape.
    """

    def __init__(self, module: nn.Module) -> None:
        names = set(decayed(module))
        named = dict(module.named_parameters())
        self.with_decay = [parameter for name, parameter in named.items() if name in names]
        self.without_decay = [parameter for name, parameter in named.items() if name not in names]
        self.fingerprint = fingerprint(sorted(names))
        """Of the names of those with decay; checkpoints hold it, because optimiser state is stored by group."""
        self.fingerprint_by_dimension = fingerprint(sorted(name for name, value in named.items() if value.ndim > 1))
        """What it was before roles decided: that of checkpoints without one."""


def _adamw(parameters: ParameterGroups, train: TrainConfig) -> torch.optim.AdamW:
    """torch's own class under DeepSpeed too: DeepSpeed's fused and CPU versions are compiled at run time."""
    shares = ((parameters.with_decay, train.weight_decay), (parameters.without_decay, 0.0))
    return torch.optim.AdamW(
        [{"params": share, "weight_decay": rate} for share, rate in shares if share],
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.adam_eps,
    )


class PlainEngine:
    """One device, torch alone."""

    def __init__(self, module: nn.Module, train: TrainConfig) -> None:
        self.module, self.parameters = module, ParameterGroups(module)
        self._train = train
        self._optimizer = _adamw(self.parameters, train)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        output: dict[str, Any] = self.module(*args, **kwargs)
        return output

    def accumulate(self, loss: Tensor) -> None:
        torch.autograd.backward(loss / self._train.accumulation)  # gradients add up, so each loss takes its share

    def step(self, lr: float) -> float:
        norm = clip(self.module.parameters(), self._train.clip)
        set_rate(self._optimizer, lr)
        if math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)  # None, not zero: an unused parameter is then left as it is
        return norm

    def save(self, folder: Path) -> None:
        torch.save(
            {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}, folder / "engine.pt"
        )

    def load(self, folder: Path) -> None:
        saved = torch.load(folder / "engine.pt", weights_only=True)
        self.module.load_state_dict(saved["module"])
        self._optimizer.load_state_dict(saved["optimizer"])

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def close(self) -> None:
        self._optimizer.state.clear()  # twice the parameters' memory, which references to the engine would keep


def deepspeed_config(train: TrainConfig, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a trial: generated, then overridden by the study's `train.deepspeed`.

    `train_batch_size` counts the sequences of the whole update, over `world` workers and all micro-batches.
    """
    config: dict[str, Any] = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // train.accumulation // world,
        "gradient_accumulation_steps": train.accumulation,
        # Always stated: left out it means 1.0 (since June 2026), not off. At stage 0 this engine clips; see `step`.
        "gradient_clipping": train.clip if train.clip and train.zero > 0 else 0.0,
        "zero_optimization": {"stage": train.zero},
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "steps_per_print": 10**12,  # never
        "wall_clock_breakdown": False,
    }
    return merged(config, train.deepspeed)


def merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `override` in place of its own; keys that neither names stay."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class DeepSpeedEngine:
    """DeepSpeed around a client `torch.optim.AdamW`: no op is compiled at run time."""

    def __init__(self, module: nn.Module, train: TrainConfig, world: int) -> None:
        deepspeed = import_deepspeed()
        self.parameters = ParameterGroups(module)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with _without_deprecations():
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=module, optimizer=_adamw(self.parameters, train), config=deepspeed_config(train, world)
            )
        # A user's `bf16` or `fp16` override may cast buffers along with parameters, depending on DeepSpeed's version.
        # Codebooks must stay in fp32: in bf16 a moving average with decay 0.99 ignores changes below a fifth of itself.
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.data = buffers[name].to(buffer.device)
        if train.zero == 3:
            _limit_norms_to_float32(self._optimizer)
        self.module = module
        self._train = train

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        output: dict[str, Any] = self._engine(*args, **kwargs)
        return output

    def accumulate(self, loss: Tensor) -> None:
        self._engine.backward(loss)  # divides by the number of micro-batches itself
        # DeepSpeed counts micro-batches in `step`; only the call after the last one updates, and that is ours to make.
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, lr: float) -> float:
        set_rate(self._optimizer, lr)
        # Stage 0 clips but reports no norm (None). Its gradients are whole and already averaged over the workers here,
        # so that clipping them outside gives the same update.
        if self._train.zero == 0:
            norm = clip(self.module.parameters(), self._train.clip)
            if not math.isfinite(norm):  # DeepSpeed has to count the update, and AdamW leaves what has no gradient
                self._engine.zero_grad()
            self._engine.step()
            return norm
        self._engine.step()
        # Of the mean over micro-batches, before clipping; in float64 at stage 3. Infinite for a skipped update, also
        # where the gradient was NaN.
        return float(torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32))

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=DEEPSPEED_TAG)

    def load(self, folder: Path) -> None:
        # With optimiser state: at stage 3 `load_module_only=True` returns a path and loads nothing.
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=DEEPSPEED_TAG)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed finds no checkpoint of its own in {folder}")

    def weights(self) -> dict[str, Tensor]:
        with self._whole_parameters():
            return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    @contextlib.contextmanager
    def _whole_parameters(self) -> Iterator[None]:
        if self._train.zero < 3:  # only stage 3 shards parameters
            yield
            return
        with import_deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            yield

    def close(self) -> None:
        self._engine.destroy()


def _limit_norms_to_float32(optimizer: Any) -> None:
    """Let ZeRO 3, which sums squares in float64, skip the updates that overflow float32 sums on every other engine."""
    norms_of_groups, largest = optimizer._get_norm_groups, math.sqrt(torch.finfo(torch.float32).max)
    optimizer._get_norm_groups = lambda: [torch.where(norm > largest, float("inf"), norm) for norm in norms_of_groups()]


def import_deepspeed() -> Any:
    """DeepSpeed with its shared-memory collective switched off: that is compiled at first use, for 30 to 200 seconds.

    gloo takes its place. Must be called before anything else imports DeepSpeed.
    """
    if not torch.cuda.is_available():  # spares DeepSpeed its search for every kind of accelerator it knows
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    with _without_deprecations():
        import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide deprecation warnings of DeepSpeed's own imports, some of which come late: no user can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def set_rate(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(parameters: Iterable[nn.Parameter], largest: float | None) -> float:
    """Scale whole gradients in place to a global norm of at most `largest`, if given; returns the norm before.

    Gradients whose norm is not finite are lost.
    """
    return float(nn.utils.clip_grad_norm_(list(parameters), largest if largest is not None else float("inf")))


def open_engine(module: nn.Module, train: TrainConfig, world: int) -> Engine:
    if train.engine == "plain":
        assert world == 1, "the plain engine runs on one worker; planning refuses more"
        return PlainEngine(module, train)
    return DeepSpeedEngine(module, train, world)
