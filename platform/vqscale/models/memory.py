"""The structured memory of the gated hybrids: a diagonal recurrence along the sequence, forwards and, where a model is
not causal, backwards as well.

Letters: B batch, T position, D model width, N state numbers per channel.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqkernels import diagonal_scan, diagonal_step, ema_coefficients, s4d_coefficients, s4d_initial
from vqscale.models.base import LayerState, Segment
from vqscale.models.layers import at_least_float32
from vqscale.study.model import ModelConfig


class Recurrence(nn.Module, ABC):
    """One direction of a structured memory: D channels that each drive N numbers of state."""

    def __init__(self, width: int, state_dim: int) -> None:
        super().__init__()
        self.width, self.state_dim = width, state_dim

    @abstractmethod
    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay, input and output [D, N], real or complex, in float32 at least."""

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], segment: Segment, state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B T D"], LayerState]:
        """The memory's output and, if asked for, its state (float32 at least)."""
        coefficients = self.coefficients()
        # Decoding: one step of the recurrence costs less than a scan that is set up for one token.
        if state and x_BTD.shape[1] == 1 and segment.mask is None and segment.doc_start is None:
            y_BD, after_BDN = diagonal_step(x_BTD[:, 0], *coefficients, state[0])
            return y_BD[:, None], (after_BDN,) if return_state else ()
        y_BTD, last_BDN = diagonal_scan(
            x_BTD,
            *coefficients,
            state_BDN=state[0] if state else None,
            mask_BT=segment.mask,
            doc_start_BT=segment.doc_start,
            return_state=return_state,
        )
        return y_BTD, () if last_BDN is None else (last_BDN,)


class DampedEMA(Recurrence):
    """Mega's multi-dimensional damped exponential moving average, with its own initial values.

    Source: Ma et al. 2022 (arXiv 2209.10655) and facebookresearch/mega at aeaa4b4: delta and alpha N(0, 0.2), beta
    N(0, 0.02) around 1, -1, 1, -1, ..., gamma N(0, 1).
    """

    def __init__(self, width: int, state_dim: int) -> None:
        super().__init__(width, state_dim)
        self.alpha, self.beta, self.delta, self.gamma = (nn.Parameter(torch.empty(width, state_dim)) for _ in range(4))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.alpha, std=0.2, generator=generator)
        nn.init.normal_(self.delta, std=0.2, generator=generator)
        nn.init.normal_(self.beta, std=0.02, generator=generator)
        nn.init.normal_(self.gamma, generator=generator)
        with torch.no_grad():
            self.beta[:, 0::2] += 1
            self.beta[:, 1::2] -= 1

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        alpha, beta, delta, gamma = map(at_least_float32, (self.alpha, self.beta, self.delta, self.gamma))
        return ema_coefficients(alpha, beta, delta, gamma)


class DiagonalStateSpace(Recurrence):
    """S4D: a diagonal state space with the poles of S4D-Lin and steps drawn from 0.001 to 0.1 log-uniformly.

    Source: Gu et al. 2022 (arXiv 2206.11893) and state-spaces/s4. `c` holds real and imaginary part of C, each
    N(0, 1/2); the skip D u is the structured memory's omega.
    """

    def __init__(self, width: int, state_dim: int) -> None:
        super().__init__(width, state_dim)
        self.log_dt = nn.Parameter(torch.empty(width))
        self.log_a_real, self.a_imag = (nn.Parameter(torch.empty(width, state_dim)) for _ in range(2))
        self.c = nn.Parameter(torch.empty(width, state_dim, 2))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.uniform_(self.log_dt, math.log(STEPS[0]), math.log(STEPS[1]), generator=generator)
        nn.init.normal_(self.c, std=math.sqrt(0.5), generator=generator)
        real_N, imaginary_N = s4d_initial("lin", self.state_dim)
        with torch.no_grad():
            self.log_a_real.copy_(real_N)
            self.a_imag.copy_(imaginary_N)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        log_dt, log_a_real, a_imag = map(at_least_float32, (self.log_dt, self.log_a_real, self.a_imag))
        c_DN = torch.view_as_complex(at_least_float32(self.c).contiguous())
        return s4d_coefficients(log_dt, log_a_real, a_imag, c_DN)


STEPS = (0.001, 0.1)
"""Shortest and longest step of a state space at the start (S4's own)."""
RECURRENCES: dict[str, type[Recurrence]] = {"ema": DampedEMA, "s4d": DiagonalStateSpace}


class StructuredMemory(nn.Module):
    """y = SiLU(recurrence(x) + omega x), Mega's; not causal: plus a second recurrence on the reversed sequence.

    Lag 0 counts in both directions (as in Mega). Padding on the right enters neither.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.structured_memory is not None, "ModelConfig gives every gated hybrid a structured memory or none"
        assert config.state_dim is not None, "ModelConfig gives every structured memory a state"
        kind = RECURRENCES[config.structured_memory]
        self.forwards = kind(config.d_model, config.state_dim)
        self.backwards = None if config.causal else kind(config.d_model, config.state_dim)
        self.omega = nn.Parameter(torch.empty(config.d_model))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.omega, generator=generator)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], segment: Segment, state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B T D"], LayerState]:
        """What every token knows of its past (and future), and the state after the last token, if asked for."""
        seen_BTD, after = self.forwards(x_BTD, segment, state, return_state)
        if self.backwards is not None:
            mask_BT = None if segment.mask is None else segment.mask.flip(1)
            turned_BTD, _ = self.backwards(x_BTD.flip(1), segment._replace(mask=mask_BT), (), False)
            seen_BTD = seen_BTD + turned_BTD.flip(1)
        return F.silu(seen_BTD + self.omega.to(x_BTD.dtype) * x_BTD), after
