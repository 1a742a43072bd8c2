"""Powers of decays, and sums of them.

Letters: D width, N state numbers per channel, P powers.
"""

import torch
from torch import Tensor


def powers(decay_DN: Tensor, count: int) -> Tensor:
    """decay^0 ... decay^(count - 1) as [D, N, P], in float64 (complex128) whatever the decay is in.

    By doubling: no logarithm, so that zero, negative and complex decays are like all others in values and gradients;
    nothing can overflow where |decay| <= 1. A decay near 1 needs float64: the phase and the logarithm of its
    131,072nd power in float32 are off by that many roundings.
    """
    power_DN = in_float64(decay_DN)
    found_DNP = torch.ones_like(power_DN)[..., None]
    while found_DNP.shape[-1] < count:
        found_DNP = torch.cat((found_DNP, found_DNP * power_DN[..., None]), dim=-1)
        power_DN = power_DN * power_DN
    return found_DNP[..., :count]


def in_float64(x: Tensor) -> Tensor:
    """x in float64 or complex128."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
