"""Whether Triton kernels can run on a tensor, found without importing Triton where there is no CUDA device."""

from importlib.util import find_spec

import torch
from torch import Tensor

_INSTALLED = find_spec("triton") is not None


def uses_triton(tensor: Tensor) -> bool:
    """Whether functions without a `backend` argument compute this tensor with a Triton kernel.

    On a CUDA device with Triton installed and compute capability 8.0 or more, and never in float64: references are
    computed by PyTorch.
    """
    return tensor.is_cuda and tensor.dtype != torch.float64 and triton_refusal(tensor.device) is None


def triton_refusal(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on this device, or None."""
    if not _INSTALLED:
        return "triton is not installed: pip install triton"
    from vqkernels.gpu import runtime

    return runtime.refusal(device)
