"""Mega's damped exponential moving average as coefficients of the diagonal scan.

Letters: D width, N state numbers per channel.
"""

import math

import torch
from torch import Tensor


def ema_coefficients(
    alpha_DN: Tensor, beta_DN: Tensor, delta_DN: Tensor, gamma_DN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decay, input and output [D, N] of h_t = p beta x_t + q h_{t-1} and y_t = sum_n gamma_n / sqrt(N) h_{t,n}.

    p = sigmoid(delta) and q = 1 - p sigmoid(alpha), in float32 (float64 for float64), also under autocast. Source:
    facebookresearch/mega at aeaa4b4, `MultiHeadEMA._calc_coeffs`, `_compute_kernel`, `step`; its residual
    SiLU(y + omega x) is the layer's.
    """
    with torch.autocast(alpha_DN.device.type, enabled=False):
        p_DN = torch.sigmoid(delta_DN)
        decay_DN = 1 - p_DN * torch.sigmoid(alpha_DN)
        return decay_DN, p_DN * beta_DN, gamma_DN / math.sqrt(gamma_DN.shape[1])
