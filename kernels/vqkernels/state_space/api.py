"""The entries to the diagonal scan: whole sequences or segments, and single tokens.

Letters: B batch, T position, D width, N state numbers per channel.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vqkernels.state_space.chunked import chunked_scan
from vqkernels.state_space.fft import fft_scan
from vqkernels.state_space.problem import Problem, check_flags, check_shapes, scan_dtypes
from vqkernels.state_space.recurrent import one_step, recurrent_scan

ScanMethod = Literal["recurrent", "fft", "chunked"]

_METHODS: dict[str, Callable[[Problem, bool], tuple[Tensor, Tensor | None]]] = {
    "recurrent": recurrent_scan,
    "fft": fft_scan,
    "chunked": chunked_scan,
}


def diagonal_scan(
    x_BTD: Tensor,
    decay_DN: Tensor,
    input_DN: Tensor,
    output_DN: Tensor,
    *,
    state_BDN: Tensor | None = None,
    mask_BT: Tensor | None = None,
    doc_start_BT: Tensor | None = None,
    return_state: bool = False,
    method: ScanMethod = "chunked",
) -> tuple[Tensor, Tensor | None]:
    """h_t = decay h_{t-1} + input x_t; y_t = Re sum_n output_n h_{t,n}: y [B, T, D] in x's dtype, and the last h.

    `decay`, `input` and `output` [D, N] are real or complex, |decay| < 1 (not checked). `mask_BT` False: x counts as
    zero and y is zero there; time passes. `doc_start_BT` True: h_{t-1} counts as zero there, exactly. `state_BDN`
    continues a sequence that was cut after any number of tokens; `return_state` gives the next one, otherwise None.

    State and arithmetic are float32 (float64 where an argument is), also under autocast. Gradients: all of x,
    decay, input, output and state. `recurrent` is the definition; `chunked` is linear in T and takes everything; `fft`
    takes a whole sequence without state or documents, and rounds all outputs together: a later token moves earlier ones
    by a rounding. With `chunked` every y has the same bits whatever finite x come later, and on a CPU it is faster than
    the FFT at every length, except for one of 24 measurements (docs/benchmarks/scan_cpu.md). On a GPU both run as
    PyTorch's batched products and transforms: there is no kernel of our own, and no speed was measured.

    Raises ValueError for shapes, flags or methods that do not fit.
    """
    check_shapes(x_BTD, decay_DN, input_DN, output_DN, state_BDN)
    check_flags(x_BTD, mask_BT, doc_start_BT)
    carries = return_state or state_BDN is not None or doc_start_BT is not None
    _check_method(method, carries)
    with torch.autocast(x_BTD.device.type, enabled=False):
        problem = Problem.make(x_BTD, decay_DN, input_DN, output_DN, state_BDN, mask_BT, doc_start_BT)
        y_BTD, after_BDN = _METHODS[method](problem, return_state)
        if mask_BT is not None:
            y_BTD = torch.where(mask_BT[..., None], y_BTD, 0)
        return y_BTD.to(x_BTD.dtype), after_BDN


def _check_method(method: str, carries: bool) -> None:
    """`carries`: there is a state to take or give, or a document may start. Raises ValueError."""
    if method not in _METHODS:
        raise ValueError(f"method: got {method!r}; it must be one of {', '.join(map(repr, _METHODS))}")
    if method == "fft" and carries:
        raise ValueError(
            "method: got 'fft' with state, return_state or doc_start; a convolution has no state to reset or to "
            "continue; use 'chunked'"
        )


def diagonal_step(
    x_BD: Tensor, decay_DN: Tensor, input_DN: Tensor, output_DN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """One more token of `diagonal_scan`: y [B, D] in x's dtype and the next state, for decoding.

    Where a document begins, give a state of zeros. Raises ValueError for shapes that do not fit.
    """
    check_shapes(x_BD[:, None], decay_DN, input_DN, output_DN, state_BDN)
    real, kind = scan_dtypes(x_BD, decay_DN, input_DN, output_DN, state_BDN)
    with torch.autocast(x_BD.device.type, enabled=False):
        coefficients = (part.to(kind) for part in (decay_DN, input_DN, output_DN, state_BDN))
        y_BD, after_BDN = one_step(x_BD.to(real), *coefficients)
        return y_BD.to(x_BD.dtype), after_BDN
