"""The fused plan of Triton attention, interpreted: what is its own. `test_gpu_attention` runs it through every case."""

import pytest
import torch

from vqkernels.gpu import attention, fused
from vqkernels.gpu.layout import lay_out, operands
from vqkernels.vq_attention.problem import align

SIZES = {"length": 40, "d_key": 16, "d_value": 16, "size": 20, "block_length": 16, "dtype": torch.float32}

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def test_fused_bands_of_few_heads_at_a_time_change_nothing(random_case, gradients, assert_same, monkeypatch):
    monkeypatch.setattr(attention, "_plan", lambda _: fused)
    case = random_case(**SIZES | {"length": 36}, batch=3, heads=1, documents=True)
    whole = gradients(case, "triton")
    for n_head in (0, 2):
        monkeypatch.setattr(fused, "_BAND_BYTES", n_head * 48 * 17 * 4)
        assert_same(gradients(case, "triton"), whole, tolerance=0.0)


def test_fused_bands_cover_every_head_once(random_case, monkeypatch):
    case = random_case(**SIZES, batch=3, heads=2, kv_heads=2)
    options = dict.fromkeys(("mask_BT", "doc_start_BT", "state")) | case.options
    given = operands(align(case.q, case.k, case.v, case.code, case.codebook, block_length=16, **options))
    layout = lay_out(given, 16, 0)
    monkeypatch.setattr(fused, "_BAND_BYTES", 4 * 48 * 17 * 4)
    parts = list(fused._parts(given, layout, fused.block_operands(given, layout)))
    assert [part.heads for part in parts] == [slice(0, 4), slice(4, 6)]
    assert [part.band.shape for part in parts] == [(4, 48, 17), (2, 48, 17)]
