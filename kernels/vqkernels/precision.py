"""The precision of sums and of matrix products."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax, sums and counts: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def matmul_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype matrix products run in: autocast's where it is on (never for float64), else the promoted one.

    Found out by hand because the package's own functions switch autocast off around their sums and softmax.
    """
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    device_type = tensors[0].device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return dtype
