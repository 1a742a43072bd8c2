"""VQ attention, vector quantisation and their peers in PyTorch (and, with a GPU, Triton)."""

from vqkernels.errors import BackendUnavailableError
from vqkernels.functions import laplace
from vqkernels.gated_linear import gated_linear_attention
from vqkernels.local_attention.api import local_attention
from vqkernels.local_attention.state import LocalState
from vqkernels.quantize.codebook import Codebook, update_codebooks
from vqkernels.quantize.nearest import codewords, commitment_loss, nearest_code, straight_through
from vqkernels.quantize.statistics import CodeStatistics, code_statistics, merge_statistics
from vqkernels.state_space.api import diagonal_scan, diagonal_step
from vqkernels.state_space.ema import ema_coefficients
from vqkernels.state_space.s4d import s4d_coefficients, s4d_initial
from vqkernels.vq_attention.api import resolve_backend, vq_attention
from vqkernels.vq_attention.bidirectional import vq_attention_bidirectional
from vqkernels.vq_attention.decode import DecodeState, decode_step, vq_attention_decode
from vqkernels.vq_attention.state import VQState

__all__ = [
    "BackendUnavailableError",
    "CodeStatistics",
    "Codebook",
    "DecodeState",
    "LocalState",
    "VQState",
    "code_statistics",
    "codewords",
    "commitment_loss",
    "decode_step",
    "diagonal_scan",
    "diagonal_step",
    "ema_coefficients",
    "gated_linear_attention",
    "laplace",
    "local_attention",
    "merge_statistics",
    "nearest_code",
    "resolve_backend",
    "s4d_coefficients",
    "s4d_initial",
    "straight_through",
    "update_codebooks",
    "vq_attention",
    "vq_attention_bidirectional",
    "vq_attention_decode",
]
