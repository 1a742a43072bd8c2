"""Who sees whom: causality, padding, documents, batch."""

import itertools

import pytest
import torch

from vqkernels import vq_attention

BACKENDS = ["naive", "blockwise"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_vq_attention_jacobian_is_lower_triangular(backend, random_case):
    case = random_case(batch=1, heads=1, length=14, d_value=2, block_length=3)
    jacobian = torch.autograd.functional.jacobian(lambda v: case.with_(v=v).run(backend)[0][0, 0].sum(-1), case.v)
    by_position = jacobian[:, 0, 0].abs().sum(-1)
    assert torch.equal(by_position.triu(1), torch.zeros_like(by_position))
    assert (by_position[torch.ones_like(by_position).tril().bool()] > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_vq_attention_later_tokens_change_nothing_before(backend, random_case):
    case = random_case(length=25)
    other = random_case(length=25, seed=1)
    mixed = {
        n: torch.cat([getattr(case, n)[:, :, :13], getattr(other, n)[:, :, 13:]], 2) for n in ("q", "k", "v", "code")
    }
    out = case.with_(**mixed).run(backend)[0]
    torch.testing.assert_close(out[:, :, :13], case.run(backend)[0][:, :, :13], rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_anywhere_is_as_if_cut_out(backend, random_case):
    """Without position biases a padded sequence equals the one without its padding."""
    case = random_case(length=31, padding=True, biases=False)
    out, _ = case.run(backend)
    for b, real in enumerate(case.options["mask_BT"]):
        dense = {n: getattr(case, n)[b : b + 1][:, :, real] for n in ("q", "k", "v", "code")}
        expected, _ = case.with_(**dense, options={}).run(backend)
        torch.testing.assert_close(out[b : b + 1][:, :, real], expected, rtol=0, atol=1e-12)
        assert torch.equal(out[b][:, ~real], torch.zeros_like(out[b][:, ~real]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_content_changes_nothing(backend, random_case):
    case = random_case(length=31, padding=True, documents=True)
    hidden = ~case.options["mask_BT"][:, None, :, None]
    noisy = {n: getattr(case, n).masked_fill(hidden, float("nan")) for n in ("q", "k", "v")}
    noisy_case, leaf = case.with_(**noisy, code=case.code.masked_fill(hidden[..., 0], 3)).leaves()
    out, state = noisy_case.run(backend)
    expected, expected_state = case.run(backend)
    assert torch.equal(out, expected)
    assert torch.equal(state.mean_BGSV, expected_state.mean_BGSV)
    assert torch.equal(state.count_BGS, expected_state.count_BGS)
    grads = torch.autograd.grad(out.sum(), [leaf["q"], leaf["v"], leaf["bias_u_HK"]])
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_everywhere_gives_zeros_and_finite_gradients(backend, random_case):
    case, leaf = random_case(length=17, padding=True).leaves()
    case.options["mask_BT"][0] = False
    out, state = case.run(backend)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert torch.equal(state.count_BGS[0], torch.zeros_like(state.count_BGS[0]))
    assert (state.code_BGU[0] == -1).all()
    for grad in torch.autograd.grad(out.square().sum(), list(leaf.values())):
        assert grad.isfinite().all()


def _boundaries(starts, length):
    places = sorted({0, length, *starts})
    return list(itertools.pairwise(places))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "starts",
    [[0], [4], [5], [1, 2, 3], [4, 8, 12], [6, 7, 20], [13, 27], [11], list(range(31))],
    ids=lambda starts: "-".join(map(str, starts[:6])),
)
def test_documents_each_equal_to_being_alone(backend, starts, random_case, assert_same):
    case = random_case(batch=1, heads=2, length=31)
    flags = torch.zeros(1, 31, dtype=torch.bool)
    flags[:, starts] = True
    case, leaf = case.with_(options={**case.options, "doc_start_BT": flags}).leaves()
    out, _ = case.run(backend)
    alone = case.with_(options={n: x for n, x in case.options.items() if n != "doc_start_BT"})
    parts = [alone.part(a, b).run(backend)[0] for a, b in _boundaries(starts, 31)]
    names = [name for name in leaf if name != "k"]
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found, expected = (torch.autograd.grad(x, [leaf[n] for n in names], probe) for x in (out, torch.cat(parts, 2)))
    torch.testing.assert_close(out, torch.cat(parts, dim=2), rtol=0, atol=1e-12)
    assert_same(dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_documents_ended_leave_nothing_in_the_state(backend, random_case):
    case = random_case(batch=1, length=26)
    flags = torch.zeros(1, 26, dtype=torch.bool)
    flags[:, [3, 9]] = True
    _, state = case.with_(options={**case.options, "doc_start_BT": flags}).run(backend)
    in_window = (state.code_BGU >= 0).sum()
    assert in_window + state.count_BGS.sum() == 26 - 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_permuted_permutes_the_output(backend, random_case):
    case = random_case(batch=4, documents=True, padding=True)
    order = [2, 0, 3, 1]
    out, state = case.run(backend)
    shuffled, shuffled_state = case.rows(order).run(backend)
    assert torch.equal(shuffled, out[order])
    assert torch.equal(shuffled_state.mean_BGSV, state.mean_BGSV[order])


@pytest.mark.parametrize("backend", BACKENDS)
def test_head_groups_equal_repeated_key_value_heads(backend, random_case):
    case = random_case(heads=6, kv_heads=2, documents=True)
    repeated = {n: getattr(case, n).repeat_interleave(3, dim=1) for n in ("k", "v", "code")}
    options = {**case.options, "rel_key_GMK": case.options["rel_key_GMK"].repeat_interleave(3, dim=0)}
    many = case.with_(**repeated, codebook=case.codebook.repeat_interleave(3, dim=0), options=options)
    torch.testing.assert_close(case.run(backend)[0], many.run(backend)[0], rtol=0, atol=1e-13)


def test_vq_attention_without_return_state_gives_none(random_case):
    case = random_case()
    _, state = vq_attention(case.q, case.k, case.v, case.code, case.codebook, block_length=4)
    assert state is None
