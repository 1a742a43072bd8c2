"""Blockwise attention against the definition: values and every gradient, whatever the shape."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkernels.vq_attention.blockwise import blockwise_attention
from vqkernels.vq_attention.naive import naive_attention
from vqkernels.vq_attention.problem import align

SHAPES = {
    "one block": {"length": 4},
    "two blocks": {"length": 8},
    "three blocks": {"length": 12},
    "a block and one token": {"length": 5},
    "one token": {"length": 1},
    "shorter than a block": {"length": 3},
    "more codes than tokens": {"length": 9, "size": 40},
    "one code": {"size": 1},
    "blocks of one token": {"block_length": 1, "length": 11},
    "multi-query": {"heads": 6, "kv_heads": 1},
    "multi-head": {"heads": 3, "kv_heads": 3},
    "grouped heads": {"heads": 6, "kv_heads": 3},
    "odd head sizes": {"d_key": 3, "d_value": 11},
    "head size one": {"d_key": 1, "d_value": 1},
    "no distance but zero": {"distances": 0},
    "fewer distances than a block": {"distances": 2},
    "no biases": {"biases": False},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("extra", [{}, {"documents": True, "padding": True}], ids=["plain", "documents and padding"])
def test_blockwise_any_shape_equals_naive(shape, extra, random_case, gradients, assert_same):
    case = random_case(**shape, **extra)
    assert_same(gradients(case, "blockwise"), gradients(case, "naive"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    groups=st.integers(1, 3),
    sizes=st.fixed_dictionaries(
        {
            "batch": st.integers(1, 3),
            "kv_heads": st.integers(1, 3),
            "length": st.integers(1, 40),
            "d_key": st.integers(1, 6),
            "d_value": st.integers(1, 6),
            "size": st.integers(1, 12),
            "block_length": st.integers(1, 9),
            "padding": st.booleans(),
            "documents": st.booleans(),
            "seed": st.integers(0, 1000),
        }
    ),
)
def test_blockwise_random_shapes_equal_naive(groups, sizes, random_case, gradients, assert_same):
    case = random_case(heads=groups * sizes["kv_heads"], **sizes)
    assert_same(gradients(case, "blockwise"), gradients(case, "naive"))


def of_problem(case, implementation, leaf, state=None):
    """Output and gradients of an implementation that is called with a problem."""
    names = ("bias_u_HK", "bias_w_HK", "rel_key_GMK", "mask_BT", "doc_start_BT")
    options = dict.fromkeys(names) | case.options
    arguments = (case.q, case.k, case.v, case.code, case.codebook)
    out = implementation(align(*arguments, block_length=case.block_length, state=state, **options))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    grads = torch.autograd.grad(out, list(leaf.values()), weight.to(out.dtype), retain_graph=True)
    return {"out": out.detach(), **dict(zip(leaf, grads, strict=True))}


@pytest.mark.parametrize("extra", [{}, {"documents": True, "padding": True}], ids=["plain", "documents and padding"])
@pytest.mark.parametrize("before", [0, 3, 20, 41])
@pytest.mark.parametrize("chunk_blocks", [1, 2, 3, 5, 100])
def test_blockwise_any_chunk_size_and_state_equals_naive(chunk_blocks, before, extra, random_case, assert_same):
    whole = random_case(length=90, size=3, heads=4, kv_heads=2, **extra)
    state = whole.part(0, before).run("naive")[1] if before else None
    case, leaf = whole.part(before, 90).leaves()
    found = of_problem(case, partial(blockwise_attention, chunk_blocks=chunk_blocks), leaf, state)
    assert_same(found, of_problem(case, naive_attention, leaf, state), tolerance=1e-9)


@pytest.mark.parametrize("chunk_blocks", [1, 2, 100])
@pytest.mark.parametrize("kind", ["slice of a wider tensor", "transposed", "expanded"])
def test_blockwise_values_with_strides_equal_naive(kind, chunk_blocks, random_case, assert_same):
    case, leaf = random_case(length=60, size=3, batch=1, kv_heads=1).leaves()
    v = leaf["v"]
    strided = {
        "slice of a wider tensor": torch.cat([v, v], dim=-1)[..., : v.shape[-1]],
        "transposed": v.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": v[:, :, :1].expand_as(v),
    }[kind]
    case = case.with_(v=strided)
    found = of_problem(case, partial(blockwise_attention, chunk_blocks=chunk_blocks), leaf)
    assert_same(found, of_problem(case, naive_attention, leaf), tolerance=1e-9)


@pytest.mark.parametrize(
    "shape",
    [
        {"length": 2048, "size": 4, "block_length": 16, "heads": 1, "kv_heads": 1},
        {"length": 256, "size": 16, "block_length": 32, "heads": 32, "kv_heads": 1},
    ],
    ids=["hundreds of tokens a code", "many heads share keys"],
)
def test_blockwise_bfloat16_errs_at_most_twice_as_much_as_naive(shape, random_case):
    case = random_case(batch=1, d_key=16, d_value=16, biases=False, **shape).to(torch.bfloat16)

    def run(one, implementation):
        one, leaf = one.leaves()
        return of_problem(one, implementation, leaf)

    exact = run(case.to(torch.float64), naive_attention)
    plain, found = (run(case, implementation) for implementation in (naive_attention, blockwise_attention))
    for name, allowed in (("out", 2.0), ("q", 3.0), ("k", 3.0), ("v", 3.0)):
        error, reference = ((one[name].double() - exact[name]).norm() for one in (found, plain))
        assert error <= allowed * reference, name


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
@pytest.mark.parametrize("block_length", [2, 3, 5, 8, 16, 50])
def test_vq_attention_any_block_length_gives_the_same(block_length, backend, random_case, gradients, assert_same):
    case = random_case(length=37, block_length=2, documents=True, padding=True)
    expected = gradients(case, "naive")
    found = gradients(case.with_(block_length=block_length), backend)
    for one in (expected, found):
        one.pop("k")  # its window follows the block length by definition
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["one code", "no code near", "codes cluster by block"])
def test_blockwise_lopsided_codes_equal_naive(kind, random_case, gradients, assert_same):
    case = random_case(length=33, size=8)
    code = {
        "one code": torch.full_like(case.code, 7),
        "no code near": torch.where(torch.arange(33) < 12, 0, 1).expand_as(case.code),
        "codes cluster by block": (torch.arange(33) // 4).clamp(max=7).expand_as(case.code),
    }[kind]
    case = case.with_(code=code.contiguous())
    assert_same(gradients(case, "blockwise"), gradients(case, "naive"))


def test_blockwise_empty_code_with_huge_logit_stays_finite(random_case):
    case = random_case(length=40)
    codebook = case.codebook.clone()
    codebook[:, 0] = 1e4
    case = case.with_(codebook=codebook, code=case.code.clamp(min=1))
    out, _ = case.run("blockwise")
    assert out.isfinite().all()
    torch.testing.assert_close(out, case.run("naive")[0], rtol=0, atol=1e-12)


def test_blockwise_input_without_gradient_gets_none(random_case):
    case = random_case()
    v = case.v.clone().requires_grad_()
    out, _ = case.with_(v=v).run("blockwise")
    out.sum().backward()
    assert v.grad is not None
    assert case.q.grad is None


def test_blockwise_second_derivative_raises(random_case):
    case, leaf = random_case().leaves()
    out, _ = case.run("blockwise")
    (first,) = torch.autograd.grad(out.square().sum(), leaf["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
