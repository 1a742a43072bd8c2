"""Wrong arguments: the message names the argument, what was given and the rule."""

import re

import pytest
import torch

from vqkernels import BackendUnavailableError, VQState, resolve_backend, vq_attention_decode


@pytest.mark.parametrize("name", ["naive", "blockwise"])
def test_backend_named_resolves_to_itself(name):
    assert resolve_backend(name, "cpu") == name


def test_backend_auto_is_blockwise():
    assert resolve_backend("auto", torch.device("cpu")) == "blockwise"


def test_backend_auto_gives_the_same_as_blockwise(random_case):
    case = random_case()
    assert torch.equal(case.run("auto")[0], case.run("blockwise")[0])


def test_backend_triton_on_a_cpu_raises_with_the_reason(random_case, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"device cpu.*need a CUDA device.*'blockwise'"):
        random_case(dtype=torch.float32).run("triton")


def test_backend_triton_in_float64_raises(random_case):
    with pytest.raises(BackendUnavailableError, match="float64"):
        random_case().run("triton")


def test_backend_triton_not_installed_names_the_remedy(random_case, monkeypatch):
    monkeypatch.setattr("vqkernels.backends._INSTALLED", False)
    with pytest.raises(BackendUnavailableError, match="pip install triton"):
        random_case(dtype=torch.float32).run("triton")


def test_backend_unknown_raises():
    with pytest.raises(ValueError, match="'flash'"):
        resolve_backend("flash", "cpu")


WRONG = {
    "q: got shape": lambda case: case.with_(q=case.q[0]),
    "q: got 3 heads for 2": lambda case: case.with_(q=case.q[:, :3]),
    "q: got 0 tokens": lambda case: case.part(0, 0),
    "k: got shape": lambda case: case.with_(k=case.k[:, :, 1:]),
    "v: got shape": lambda case: case.with_(v=case.v[:1]),
    "code: got shape": lambda case: case.with_(code=case.code[:, :, 1:]),
    "code: got dtype": lambda case: case.with_(code=case.code.int()),
    "codebook: got shape": lambda case: case.with_(codebook=case.codebook[..., 1:]),
    "block_length: got 0": lambda case: case.with_(block_length=0),
    "bias_u: got shape": lambda case: case.with_(options={"bias_u_HK": torch.zeros(1, 5)}),
    "mask: got dtype": lambda case: case.with_(options={"mask_BT": torch.zeros(2, 29)}),
    "doc_start: got shape": lambda case: case.with_(options={"doc_start_BT": torch.zeros(2, 1, dtype=torch.bool)}),
    "rel_key: got distances up to 4 for block_length 3": lambda case: case.with_(block_length=3),
    "rel_key: got shape": lambda case: case.with_(options={"rel_key_GMK": torch.zeros(5, 5)}),
}


@pytest.mark.parametrize(("message", "change"), WRONG.items(), ids=WRONG.keys())
def test_vq_attention_wrong_argument_raises(message, change, random_case):
    case = change(random_case(heads=4, kv_heads=2))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        case.run()


@pytest.mark.parametrize(
    ("message", "sizes"),
    {
        "block_length: got 4 with a state of 8": (2, 1, 6, 5, 7, 8),
        "state window": (3, 1, 6, 5, 7, 4),
        "state cache": (2, 1, 9, 5, 7, 4),
    }.items(),
)
def test_vq_attention_state_of_another_shape_raises(message, sizes, random_case):
    with pytest.raises(ValueError, match=f"^{message}"):
        random_case().run("blockwise", VQState.empty(*sizes))


def test_state_empty_with_no_slots_raises():
    with pytest.raises(ValueError, match="block_length 0"):
        VQState.empty(1, 1, 1, 1, 1, 0)


def test_vq_attention_code_outside_the_codebook_raises(random_case):
    case = random_case()
    with pytest.raises((IndexError, RuntimeError)):
        case.with_(code=case.code + 6).run()


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("rel_key: got distances up to 5", {"rel_key_GMK": torch.zeros(1, 6, 5)}),
        ("mask: got dtype", {"mask_B": torch.ones(2)}),
        ("bias_w: got shape", {"bias_w_HK": torch.zeros(5)}),
    ],
)
def test_decode_wrong_argument_raises(message, options, random_case):
    case = random_case()
    _, state = case.run()
    tokens = (x[:, :, 0] for x in (case.q, case.k, case.v, case.code))
    with pytest.raises(ValueError, match=f"^{message}"):
        vq_attention_decode(*tokens, case.codebook, state, **options)
