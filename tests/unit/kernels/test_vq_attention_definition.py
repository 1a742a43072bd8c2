"""The implementations against independent answers: the paper's own numbers and a loop over pairs of tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vqkernels import vq_attention

GOLDEN = Path(__file__).resolve().parents[3] / "../shared/data/golden/vq_attention_shga.npz"
BACKENDS = ["naive", "blockwise"]


@pytest.mark.reference
@pytest.mark.skipif(not GOLDEN.exists(), reason=f"needs {GOLDEN.name} in the folder shared/ beside the repository")
@pytest.mark.parametrize("backend", BACKENDS)
def test_vq_attention_paper_values_gives_output_and_gradients(backend, assert_same):
    with np.load(GOLDEN) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind in "fi"}
    length = int(data["block_len"])
    leaf = {name: data[name].clone().requires_grad_() for name in ("q", "k", "v", "u", "w", "R")}
    out, _ = vq_attention(
        leaf["q"],
        leaf["k"],
        leaf["v"],
        data["z"],
        data["codebook"],
        block_length=length,
        bias_u_HK=leaf["u"],
        bias_w_HK=leaf["w"],
        rel_key_GMK=leaf["R"][:, : length + 1],
        backend=backend,
    )
    projected = out.transpose(1, 2).flatten(2) @ data["w_out"]
    found = torch.autograd.grad((projected * data["probe"]).sum(), list(leaf.values()))
    assert_same(
        {"out": projected.detach(), **dict(zip(leaf, found, strict=True))},
        {"out": data["out"], **{name: data[f"d{name}"] for name in leaf}},
    )


def _by_pairs(case):
    """The formula, token by token."""
    u, w, rel_key = (case.options[name] for name in ("bias_u_HK", "bias_w_HK", "rel_key_GMK"))
    batch, heads, length, _ = case.q.shape
    real = case.options.get("mask_BT", torch.ones(batch, length, dtype=torch.bool))
    document = case.options.get("doc_start_BT", torch.zeros(batch, length, dtype=torch.bool)).long().cumsum(1)
    out = torch.zeros(batch, heads, length, case.v.shape[3], dtype=case.v.dtype)
    for b in range(batch):
        for h in range(heads):
            g = h * case.k.shape[1] // heads
            for i in range(length):
                seen = [j for j in range(i + 1) if real[b, i] and real[b, j] and document[b, i] == document[b, j]]
                if not seen:
                    continue
                logit = []
                for j in seen:
                    score = (case.q[b, h, i] + u[h]) @ case.codebook[g, case.code[b, g, j]]
                    if i - j < rel_key.shape[1]:
                        score = score + (case.q[b, h, i] + w[h]) @ rel_key[g, i - j]
                    logit.append(score)
                out[b, h, i] = torch.stack(logit).softmax(0) @ case.v[b, g, seen]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("distances", [0, 3, 4])
def test_vq_attention_any_case_equals_sum_over_pairs(backend, documents, padding, distances, random_case):
    case = random_case(heads=4, kv_heads=2, length=23, distances=distances, documents=documents, padding=padding)
    torch.testing.assert_close(case.run(backend)[0], _by_pairs(case), rtol=0, atol=1e-12)


def _straight_through_by_pairs(case):
    """d(sum of outputs)/dk when only pairs in the same or neighbouring blocks pass a gradient to the key."""
    key = case.codebook[0][case.code[0, 0]].clone().requires_grad_()
    length, position = case.block_length, torch.arange(case.q.shape[2])
    near = position[None, :] // length >= position[:, None] // length - 1
    score = torch.where(near, case.q[0, 0] @ key.T, case.q[0, 0] @ key.detach().T)
    score = score.masked_fill(position[None, :] > position[:, None], float("-inf"))
    return torch.autograd.grad((score.softmax(-1) @ case.v[0, 0]).sum(), key)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_vq_attention_key_gradient_comes_from_own_and_next_block_only(backend, random_case):
    case, leaf = random_case(batch=1, heads=1, biases=False).leaves()
    found = torch.autograd.grad(case.run(backend)[0].sum(), leaf["k"])[0]
    torch.testing.assert_close(found[0, 0], _straight_through_by_pairs(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vq_attention_output_never_depends_on_unquantised_keys(backend, random_case):
    case = random_case()
    changed = case.with_(k=case.k + 1.0)
    assert torch.equal(case.run(backend)[0], changed.run(backend)[0])
