"""Streaming decode in Triton, interpreted on a CPU in float32: every step is that of the whole sequence at once."""

import pytest
import torch

from vqkernels import DecodeState, VQState, decode_step
from vqkernels.gpu import decode
from vqkernels.gpu.runtime import config, forced, recorded
from vqkernels.vq_attention.decode import Token

SIZES = {"d_key": 24, "d_value": 40, "size": 50, "block_length": 24, "dtype": torch.float32}
BIASES = ("bias_u_HK", "bias_w_HK", "rel_key_GMK")


pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def _step(case, i, state, **options):
    flags = {"mask_B": case.options.get("mask_BT"), "doc_start_B": case.options.get("doc_start_BT")}
    return decode_step(
        *(x[:, :, i] for x in (case.q, case.v, case.code)),
        case.codebook,
        state,
        **{name: case.options[name] for name in BIASES if name in case.options},
        **{name: flag[:, i] for name, flag in flags.items() if flag is not None},
        **options,
    )


def _decode(case, start, stop):
    """Outputs of the tokens start..stop-1 after a prefill of those before, and the state then."""
    before = case.part(0, start).run()[1] if start else _empty(case)
    state = DecodeState.from_state(before)
    outs = [_step(case, i, state, backend="triton") for i in range(start, stop)]
    return torch.stack(outs, 2), state.to_state()


def _empty(case):
    batch, n_head, _, width = case.v.shape
    size, d_key = case.codebook.shape[1:]
    return VQState.empty(batch, n_head, size, d_key, width, case.block_length)


def _assert_same_state(found, expected):
    assert found.position == expected.position
    assert torch.equal(found.code_BGU, expected.code_BGU)
    assert torch.equal(found.count_BGS, expected.count_BGS)
    torch.testing.assert_close(found.mean_BGSV, expected.mean_BGSV, rtol=0, atol=1e-5)
    filled = (found.code_BGU >= 0)[..., None]
    assert torch.equal(found.value_BGUV * filled, expected.value_BGUV * filled)


SCENES = {
    "query groups": {"batch": 1, "heads": 6, "kv_heads": 2},
    "no biases": {"batch": 1, "biases": False},
    "near keys only": {"batch": 1, "distances": 5},
    "documents and padding": {"documents": True, "padding": True},
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_decode_triton_steps_across_block_ends_equal_the_whole(scene, random_case, monkeypatch):
    monkeypatch.setattr(decode, "_COLUMNS", 32)
    case = random_case(**SIZES, **{"heads": 1, **scene}, length=76)
    for start, stop in ((0, 1), (23, 25), (47, 49), (51, 52), (71, 73)):
        whole, after = case.part(0, stop).run()
        out, state = _decode(case, start, stop)
        torch.testing.assert_close(out, whole[:, :, start:], rtol=0, atol=2e-5)
        _assert_same_state(state, after)


def test_decode_triton_every_position_equals_the_whole(random_case):
    case = random_case(batch=1, heads=2, d_key=16, d_value=16, size=20, block_length=16, length=52, dtype=torch.float32)
    whole, after = case.run()
    out, state = _decode(case, 0, 52)
    torch.testing.assert_close(out, whole, rtol=0, atol=2e-5)
    _assert_same_state(state, after)


def test_decode_triton_documents_that_end_leave_nothing_behind(random_case):
    case = random_case(**SIZES, heads=1, length=57)
    starts = torch.zeros(2, 57, dtype=torch.bool)
    starts[0, 49] = starts[1, 30] = starts[1, 55] = True
    case = case.with_(options={**case.options, "doc_start_BT": starts})
    whole, after = case.run()
    out, state = _decode(case, 48, 57)
    torch.testing.assert_close(out, whole[:, :, 48:], rtol=0, atol=2e-5)
    _assert_same_state(state, after)


def test_decode_triton_padding_that_is_not_finite_gives_zeros(random_case):
    case = random_case(**SIZES, heads=1, length=28, padding=True)
    mask = case.options["mask_BT"]
    assert not mask[:, 22:].all(1).any()
    spoilt = case.with_(**{n: getattr(case, n).masked_fill(~mask[:, None, :, None], float("nan")) for n in "qv"})
    out, _ = _decode(spoilt, 22, 28)
    torch.testing.assert_close(out, case.run()[0][:, :, 22:], rtol=0, atol=2e-5)
    assert (out[~mask[:, None, 22:].expand(out.shape[:3])] == 0).all()


@pytest.mark.parametrize("tiles", [{"BV": 16}, {"BV": 64}])
def test_decode_triton_forced_tiles_change_nothing(tiles, random_case):
    case = random_case(**SIZES, batch=1, length=50)
    merging = config(32, 4, 1, BP=2, BU=16, BS=16, **tiles)
    with forced(decode._SPLIT, config(32, 4, 1, BK=16, **tiles)), forced(decode._MERGE, merging):
        out, state = _decode(case, 46, 50)
    whole, after = case.run()
    torch.testing.assert_close(out, whole[:, :, 46:], rtol=0, atol=2e-5)
    _assert_same_state(state, after)


def test_decode_triton_repeated_gives_the_same_bits(random_case):
    case = random_case(**SIZES, batch=1, length=50)
    (out, state), (again, state_again) = (_decode(case, 46, 50) for _ in range(2))
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(state[:4], state_again[:4], strict=True))


def test_decode_triton_never_reads_the_device_and_keeps_its_tensors():
    """On the meta device nothing can be read: a step that runs there can be captured in a CUDA graph."""

    def meta(*shape, dtype=torch.bfloat16):
        return torch.zeros(*shape, dtype=dtype, device="meta")

    state = DecodeState.from_state(VQState.empty(2, 1, 512, 128, 1536, 512, device="meta", dtype=torch.bfloat16))
    tensors = list(vars(state).values())
    token = Token(
        meta(2, 1, 3, 128),
        None,
        meta(2, 1, 1536),
        meta(2, 1, dtype=torch.int64),
        meta(1, 512, 128, dtype=torch.float32),
        *(meta(3, 128), meta(3, 128), meta(1, 513, 128)),
        meta(2, dtype=torch.bool),
    )
    with recorded(90) as launches:
        out = decode.decode_token(token, state)
    assert [one.kernel for one in launches] == [decode._SPLIT, decode._MERGE]
    assert out.shape == (2, 3, 1536)
    assert all(a is b for a, b in zip(tensors, vars(state).values(), strict=True))
