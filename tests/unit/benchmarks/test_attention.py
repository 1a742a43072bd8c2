"""The CPU benchmark of attention: what is compared computes what it says, and one tiny run of the whole command."""

from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from benchmarks.attention import main
from benchmarks.layers import SMOKE_SHAPES, Inputs, Shape, exact_layer, sdpa_layer, vq_layer


@pytest.fixture
def one_thread():
    """Restores the number of threads, which the command sets for its own process."""
    threads = torch.get_num_threads()
    yield "1"
    torch.set_num_threads(threads)


def test_vq_layer_gives_a_gradient_for_every_input():
    given = Inputs(SMOKE_SHAPES[1], 40)
    assert len(vq_layer(given)) == 6
    assert len(vq_layer(given, positions=False)) == 3
    assert all(torch.isfinite(gradient).all() for gradient in vq_layer(given))


@pytest.mark.parametrize("layer", [sdpa_layer, partial(exact_layer, rows=10)], ids=["sdpa", "unsplit"])
@pytest.mark.parametrize("shape", SMOKE_SHAPES, ids=lambda shape: shape.name)
def test_exact_layers_equal_plain_attention(shape, layer):
    given = Inputs(shape, 24)
    leaves = (given.q_BHTK, given.k_BGTK, given.v_BGTV)
    score = (given.q_BHTK @ given.k_BGTK.transpose(-1, -2)).masked_fill(torch.ones(24, 24).triu(1) > 0, -torch.inf)
    expected = torch.autograd.grad(F.softmax(score, -1) @ given.v_BGTV, leaves, given.d_out_BHTV)
    for ours, plain in zip(layer(given), expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_vq_layer_one_token_a_code_equals_sdpa_layer():
    shape = Shape("exact", n_head=2, n_kv_head=2, d_key=8, d_value=8, size=40, length=8)
    given = Inputs(shape, 40)
    given.code_BGT = torch.arange(40).expand(1, 2, 40).contiguous()
    given.k_BGTK = given.codebook_GSK[None].clone().requires_grad_()
    ours, exact = vq_layer(given, positions=False), sdpa_layer(given)
    torch.testing.assert_close(ours[0], exact[0])  # queries
    torch.testing.assert_close(ours[2], exact[2])  # values


def test_attention_smoke_command_writes_every_table(tmp_path, capsys, one_thread):
    main(["--smoke", "--out", str(tmp_path), "--threads", one_thread])
    names = {f"attention_cpu_smoke{ending}" for ending in (".md", ".csv", "_layer.csv", "_decode.csv")}
    assert {path.name for path in tmp_path.iterdir()} == names
    table = pd.read_csv(tmp_path / "attention_cpu_smoke.csv")
    assert len(table) == 2 * 2 * 2
    assert (table["vq_us"] > 0).all()
    layer = pd.read_csv(tmp_path / "attention_cpu_smoke_layer.csv")
    assert layer["full_us"].notna().tolist() == [True, False]
    decode = pd.read_csv(tmp_path / "attention_cpu_smoke_decode.csv")
    assert (decode["bytes_1000"] == decode["bytes_100000"]).all()
    assert "Decoding" in capsys.readouterr().out
