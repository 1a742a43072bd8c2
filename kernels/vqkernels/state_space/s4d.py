"""S4D, a diagonal state space (Gu et al. 2022), as coefficients of the diagonal scan.

Letters: D width, N complex state numbers per channel (N / 2 pairs of the paper's N).
"""

import math
from typing import Literal

import torch
from torch import Tensor


def s4d_coefficients(
    log_dt_D: Tensor, log_a_real_DN: Tensor, a_imag_DN: Tensor, c_DN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decay, input and output [D, N], complex, of x' = A x + u, y = 2 Re(C x), held constant over steps of dt.

    A = -exp(log_a_real) + i a_imag; decay = exp(dt A), input = (exp(dt A) - 1) / A, output = 2 C: half of each
    conjugate pair is kept. B is 1: it and C count by their product. float32 (float64 for float64), also under
    autocast. Source: state-spaces/s4, models/s4/s4d.py at 2ed46fc; its skip D u is the layer's.
    """
    with torch.autocast(log_dt_D.device.type, enabled=False):
        a_DN = torch.complex(-torch.exp(log_a_real_DN), a_imag_DN)
        step_DN = torch.exp(log_dt_D)[:, None] * a_DN
        return torch.exp(step_DN), _expm1(step_DN) / a_DN, 2 * c_DN


def s4d_initial(
    kind: Literal["lin", "inv"], state_dim: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """log_a_real and a_imag [N] at the start: Re A = -1/2, Im A_n = pi n (lin) or 2N / pi (2N / (2n + 1) - 1) (inv).

    `state_dim` is N, the complex numbers kept; the paper counts 2 N. Source: Gu et al. 2022, S4D-Lin and S4D-Inv;
    state-spaces/s4, src/models/sequence/kernels/dplr.py at 1eb1007, has the conjugates.
    Raises ValueError for another kind.
    """
    n_N = torch.arange(state_dim, dtype=torch.float32, device=device)
    imaginary = {"lin": math.pi * n_N, "inv": 2 * state_dim / math.pi * (2 * state_dim / (2 * n_N + 1) - 1)}
    if kind not in imaginary:
        raise ValueError(f"kind: got {kind!r}; it must be 'lin' or 'inv'")
    return torch.full_like(n_N, math.log(0.5)), imaginary[kind]


def _expm1(z: Tensor) -> Tensor:
    """exp(z) - 1 of complex z without cancellation near 0: expm1(a) cos b - 2 sin(b/2)^2 + i exp(a) sin b."""
    real = torch.expm1(z.real) * torch.cos(z.imag) - 2 * torch.sin(z.imag / 2) ** 2
    return torch.complex(real, torch.exp(z.real) * torch.sin(z.imag))
