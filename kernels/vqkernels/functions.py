"""The functions that turn scores into weights: the softmax, or Mega's Laplace function."""

from typing import Literal

import torch
from torch import Tensor

Function = Literal["softmax", "laplace"]

_MEAN, _SIGMA = 0.707107, 0.282095  # sqrt(1/2) and sqrt(1/(4 pi)), with the digits of Mega's reference code


def laplace(x: Tensor) -> Tensor:
    """f(x) = .5 (1 + erf((x - .707107) / (.282095 sqrt 2))), element-wise: from 0 to 1, and 0.0061 at 0.

    Mega (Ma et al. 2022, arXiv 2209.10655; facebookresearch/mega) puts it in place of the softmax, without a
    normaliser: value and slope are those of the squared ReLU at x = sqrt(1/2), and both stay bounded. Its argument
    there is q.k / n + bias, with n the number of keys that the query sees.
    """
    return torch.erf((x - _MEAN).mul_(0.5**0.5 / _SIGMA)).add_(1.0).mul_(0.5)


def check_function(function: str) -> None:
    """Raise ValueError unless `function` is one of `Function`."""
    if function not in ("softmax", "laplace"):
        raise ValueError(f"function: got {function!r}; it must be one of 'softmax', 'laplace'")
