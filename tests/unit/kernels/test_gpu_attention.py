"""Triton attention, interpreted on a CPU in float32, against the definition: values and every gradient.

The interpreter takes about a millisecond for an operation on a tile, so each code path has one small case here; the
other combinations are marked slow.
"""

from contextlib import ExitStack

import pytest
import torch

from vqkernels import vq_attention
from vqkernels.gpu import attention, blocks, cache, fused, fused_kernels, scores, wide
from vqkernels.gpu.layout import lay_out, operands
from vqkernels.gpu.runtime import config, forced, recorded
from vqkernels.vq_attention.problem import align

TOLERANCE = 1e-4  # of the largest value, in float32
SIZES = {"batch": 1, "length": 44, "d_key": 16, "d_value": 24, "size": 20, "block_length": 16, "dtype": torch.float32}
SHAPES = {
    "whole blocks": {"length": 48},
    "one head, whole blocks": {"batch": 2, "length": 48, "heads": 1},
    "no multiple of the block": {},
    "two tokens": {"length": 2},
    "one block and one token": {"length": 17},
    "odd sizes": {"length": 53, "d_key": 24, "d_value": 40, "size": 50, "block_length": 24},
    "two key-value heads": {"kv_heads": 2},
    "grouped heads": {"batch": 2, "length": 35, "heads": 4, "kv_heads": 2},
    "no distance but zero": {"distances": 0},
    "few distances": {"distances": 5},
    "no biases": {"biases": False},
    "many codes": {"size": 100},
}
COVERED = ("whole blocks", "no multiple of the block", "two key-value heads")
"""Shapes whose paths "one head, whole blocks", "odd sizes" and "grouped heads" take as well."""
OPTIONAL = dict.fromkeys(("bias_u_HK", "bias_w_HK", "rel_key_GMK", "mask_BT", "doc_start_BT"))

_chosen_plan = attention._plan

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def _slow_if(condition, *values, **options):
    return pytest.param(*values, marks=[pytest.mark.slow] if condition else [], **options)


ONE_PLAN = pytest.mark.parametrize("plan", ["fused", _slow_if(True, "wide")], indirect=True)
"""For what the operator does whichever plan it runs."""


@pytest.fixture(autouse=True, params=["wide", "fused"])
def plan(request, monkeypatch):
    """Each way of computing at every width, whichever the table would choose."""
    monkeypatch.setattr(attention, "_plan", lambda _: {"wide": wide, "fused": fused}[request.param])
    return request.param


def _problem(case, state=None):
    options = OPTIONAL | case.options
    return align(
        case.q, case.k, case.v, case.code, case.codebook, block_length=case.block_length, state=state, **options
    )


def _arguments(case, state=None):
    """The custom op's, as leaves."""
    problem = _problem(case, state)
    tensors = (
        None if x is None else x.detach().clone().requires_grad_(x.is_floating_point())
        for x in (problem.k_BGTK, *operands(problem))
    )
    return (*tensors, problem.block_length, problem.lead)


@pytest.mark.parametrize("shape", [_slow_if(name in COVERED, shape, id=name) for name, shape in SHAPES.items()])
def test_triton_any_shape_equals_naive(shape, random_case, gradients, assert_same):
    case = random_case(**SIZES | shape)
    assert_same(gradients(case, "triton"), gradients(case, "naive"), tolerance=TOLERANCE)


@pytest.mark.parametrize(
    "shape",
    [_slow_if(True, {}), {"length": 48, "heads": 1}, {"batch": 2, "length": 37, "kv_heads": 2, "distances": 3}],
    ids=["no multiple of the block", "whole blocks", "few distances"],
)
def test_triton_documents_and_padding_equal_naive(shape, random_case, gradients, assert_same):
    case = random_case(**SIZES | shape, documents=True, padding=True)
    assert_same(gradients(case, "triton"), gradients(case, "naive"), tolerance=TOLERANCE)


PLAIN, FLAGGED = {}, {"documents": True, "padding": True}


@pytest.mark.parametrize(
    ("cut", "stop", "extra"),
    [
        _slow_if(slow, cut, stop, extra, id=f"{cut}-{'plain' if extra is PLAIN else 'documents and padding'}")
        # each `stop` is far enough for a block whose queries read the cache
        for cut, stop, extra, slow in (
            (1, 41, PLAIN, False),
            (16, 49, PLAIN, False),
            (37, 61, PLAIN, True),
            (1, 41, FLAGGED, True),
            (16, 49, FLAGGED, True),
            (37, 61, FLAGGED, False),
        )
    ],
)
def test_triton_carried_state_equals_naive(cut, stop, extra, random_case, gradients, assert_same):
    case = random_case(**SIZES | {"length": stop, "kv_heads": 2} | extra)
    _, state = case.part(0, cut).run("naive")
    rest = case.part(cut, stop)
    assert_same(gradients(rest, "triton", state), gradients(rest, "naive", state), tolerance=TOLERANCE)


def test_triton_segments_equal_the_whole(random_case, assert_same):
    case = random_case(**SIZES | {"length": 70, "heads": 1, "documents": True})
    whole, _ = case.run("naive")
    parts, state = [], None
    for start, stop in ((0, 10), (10, 43), (43, 44), (44, 70)):
        out, state = case.part(start, stop).run("triton", state)
        parts.append(out)
    assert_same({"out": torch.cat(parts, dim=2)}, {"out": whole}, tolerance=TOLERANCE)


@pytest.mark.parametrize("kind", ["hardly but one code", "no code near"])
def test_triton_lopsided_codes_equal_naive(kind, random_case, gradients, assert_same):
    case = random_case(**SIZES)
    token = torch.arange(44)
    code = torch.where(token % 11 == 4, 3, 7) if kind == "hardly but one code" else torch.where(token < 20, 0, 1)
    case = case.with_(code=code.expand_as(case.code).contiguous())
    assert_same(gradients(case, "triton"), gradients(case, "naive"), tolerance=TOLERANCE)


def test_triton_nan_in_padding_reaches_nothing(random_case, gradients, assert_same):
    case = random_case(**SIZES, heads=1, padding=True)
    hidden = ~case.options["mask_BT"][:, None, :, None]
    spoilt = case.with_(**{name: getattr(case, name).masked_fill(hidden, float("nan")) for name in "qkv"})
    assert_same(gradients(spoilt, "triton"), gradients(case, "triton"), tolerance=0.0)


def test_triton_repeated_gives_the_same_bits(random_case, gradients, assert_same):
    case = random_case(**SIZES | {"length": 36}, documents=True)
    assert_same(gradients(case, "triton"), gradients(case, "triton"), tolerance=0.0)


ODD_TILES = {
    "tall": {"BM": 32, "BN": 16, "BV": 16, "BS": 32, "BT": 16, "BK": 16},
    "broad": {"BM": 16, "BN": 32, "BV": 64, "BS": 16, "BT": 32, "BK": 32},
    "larger than everything": {"BM": 64, "BN": 128, "BV": 64, "BS": 64, "BT": 64, "BK": 64},
}


@pytest.mark.parametrize("sizes", ODD_TILES.values(), ids=ODD_TILES.keys())
def test_triton_any_tiles_give_the_same(sizes, random_case, gradients, assert_same):
    case = random_case(**SIZES | {"d_value": 40, "size": 33, "block_length": 21, "length": 44}, documents=True)
    expected = gradients(case, "naive")
    with _all_forced(sizes):
        assert_same(gradients(case, "triton"), expected, tolerance=TOLERANCE)


def _all_forced(sizes):
    """Every kernel of the wide plan with these tiles."""
    stack = ExitStack()
    for module in (cache, scores, fused_kernels):
        for kernel in vars(module).values():
            if hasattr(kernel, "configs"):
                tiles = {name: sizes[name] for name, _ in kernel.configs[0].tiles}
                stack.enter_context(forced(kernel, config(32, 4, 1, **tiles)))
    return stack


@ONE_PLAN
def test_triton_op_passes_opcheck(random_case):
    sizes = SIZES | {"heads": 1, "length": 20, "padding": True}
    _, state = random_case(**sizes).run("naive")
    torch.library.opcheck(torch.ops.vqkernels.vq_attention.default, _arguments(random_case(**sizes), state))


@ONE_PLAN
def test_triton_compiled_whole_gives_the_same(random_case, assert_same):
    case, leaf = random_case(**SIZES, documents=True).leaves()

    def run(*tensors):
        q, k, v = tensors[:3]
        options = case.options | dict(zip(list(leaf)[3:], tensors[3:], strict=True))
        return vq_attention(q, k, v, case.code, case.codebook, block_length=16, backend="triton", **options)[0]

    found = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        out = function(*leaf.values())
        grads = torch.autograd.grad(out.square().sum(), list(leaf.values()))
        found.append({"out": out.detach(), **dict(zip(leaf, grads, strict=True))})
    assert_same(found[1], found[0], tolerance=0.0)


@ONE_PLAN
def test_triton_second_derivative_raises(random_case):
    case, leaf = random_case(**SIZES).leaves()
    out, _ = case.run("triton")
    (first,) = torch.autograd.grad(out.square().sum(), leaf["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="vq_attention_backward"):
        first.sum().backward()


def test_triton_op_under_autocast_casts_operands_and_keeps_the_sums_wide(random_case, monkeypatch):
    _, state = random_case(**SIZES).run("naive")
    seen = []
    monkeypatch.setattr(attention, "compute", lambda given, *_: seen.append(given) or _made(given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.ops.vqkernels.vq_attention(*_arguments(random_case(**SIZES), state))
    (given,) = seen
    assert {x.dtype for x in (given.q_BGRTK, given.v_BGUV, given.codebook_GSK, given.rel_key_GMK)} == {torch.bfloat16}
    assert {given.total_BGSV.dtype, given.count_BGS.dtype} == {torch.float32}


def _made(given):
    rows = given.q_BGRTK.shape[:-1]
    return given.v_BGUV.new_zeros(*rows, given.v_BGUV.shape[-1]), given.q_BGRTK.new_zeros(rows, dtype=torch.float32)


@pytest.mark.parametrize("carried", [False, True])
def test_triton_launches_without_looking_at_the_data(carried, random_case):
    _, state = random_case(**SIZES).run("naive")
    problem = _problem(random_case(**SIZES, padding=carried), state if carried else None)
    given = operands(problem)
    given = type(given)(*(None if x is None else x.to("meta") for x in given))
    with recorded(90) as launches:
        out, lse = attention.compute(given, 16, problem.lead)
        attention.compute_gradients(given, 16, problem.lead, out, lse, torch.empty_like(out))
    assert {launch.kernel.name for launch in launches} >= {"vq_cache_scan_kernel"}


def test_wide_plan_copies_no_values_of_whole_blocks(random_case):
    problem = _problem(random_case(**SIZES | {"length": 64, "heads": 1}))
    layout = lay_out(operands(problem), 16, 0)
    assert blocks.pad(problem.v_BGUV.flatten(0, 1), layout).data_ptr() == problem.v_BGUV.data_ptr()
    assert blocks.to_blocks(problem.q_BGRTK, layout).data_ptr() == problem.q_BGRTK.data_ptr()


@pytest.mark.parametrize(("d_key", "d_value", "chosen"), [(128, 256, fused), (128, 257, wide), (257, 64, wide)])
def test_triton_plan_follows_the_widths(d_key, d_value, chosen, random_case):
    layout = lay_out(operands(_problem(random_case(**SIZES))), 16, 0)
    assert _chosen_plan(layout._replace(d_key=d_key, d_value=d_value)) is chosen
