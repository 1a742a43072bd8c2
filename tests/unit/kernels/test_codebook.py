"""The codebook's moving averages, revival of dead codes, precision and telemetry."""

import math

import pytest
import torch
from torch import nn

from vqkernels import Codebook, CodeStatistics, code_statistics, nearest_code, update_codebooks


def _codebook(n_head=1, size=4, d_key=3, *, seed=0, **options):
    codebook = Codebook(n_head, size, d_key, **options)
    codebook.reset_parameters(torch.Generator().manual_seed(seed))
    return codebook


def _statistics(codebook, k, mask=None):
    return code_statistics(k, nearest_code(k, codebook.codebook, mask), codebook.codebook)


def _keys(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codebook_begins_with_sums_of_the_stated_deviation():
    codebook = _codebook(2, 512, 64)
    assert codebook.codebook.shape == (2, 512, 64)
    assert codebook.key_sum.std().item() == pytest.approx(1 / math.sqrt(2 * 512), rel=0.02)
    assert torch.equal(codebook.count, torch.ones(2, 512))


def test_update_repeated_follows_the_closed_form():
    codebook = _codebook(revive_below=0.0)
    start_sum, start_count = codebook.key_sum.clone(), codebook.count.clone()
    seen = _statistics(codebook, _keys(2, 1, 30, 3))
    for _ in range(7):
        update_codebooks([codebook], [seen])
    kept = 0.99**7
    torch.testing.assert_close(codebook.key_sum, kept * start_sum + (1 - kept) * seen.key_sum_GSK)
    torch.testing.assert_close(codebook.count, kept * start_count + (1 - kept) * seen.count_GS)
    torch.testing.assert_close(codebook.codebook, codebook.key_sum / codebook.count.clamp(min=0.01)[..., None])


def test_update_without_revival_lets_an_unused_code_keep_its_direction():
    codebook = _codebook(revive_below=0.0)
    before = codebook.codebook[0, 3].clone()
    seen = CodeStatistics(torch.zeros(1, 4, 3), torch.zeros(1, 4), torch.zeros(()), torch.ones(()), _keys(1, 4, 3))
    update_codebooks([codebook], [seen])
    torch.testing.assert_close(codebook.codebook[0, 3], before)


def _with_dead_codes(size, dead, revive_below=0.05):
    codebook = _codebook(1, size, 3, revive_below=revive_below)
    codebook.count.fill_(10.0)
    codebook.count[0, dead] = 1e-4
    seen = CodeStatistics(
        torch.zeros(1, size, 3), codebook.count.clone(), torch.ones(()), torch.ones(()), _keys(1, size, 3, seed=7)
    )
    return codebook, seen


def test_dead_codes_become_distinct_candidates_with_every_buffer_reset():
    codebook, seen = _with_dead_codes(8, [1, 4, 6])
    alive = codebook.codebook[0, [0, 2, 3, 5, 7]].clone()
    update_codebooks([codebook], [seen])
    threshold = codebook.telemetry()["threshold"]
    torch.testing.assert_close(codebook.codebook[0, [1, 4, 6]], seen.candidate_GRK[0, [0, 2, 5]])
    torch.testing.assert_close(codebook.count[0, [1, 4, 6]], (2 * threshold).expand(3))
    torch.testing.assert_close(
        codebook.key_sum[0, [1, 4, 6]], codebook.codebook[0, [1, 4, 6]] * codebook.count[0, [1, 4, 6], None]
    )
    torch.testing.assert_close(codebook.codebook[0, [0, 2, 3, 5, 7]], alive * 0.99)
    assert codebook.telemetry()["revived"] == 3


def test_revived_code_survives_the_next_update():
    codebook, seen = _with_dead_codes(8, [1, 4, 6])
    update_codebooks([codebook], [seen])
    update_codebooks([codebook], [seen])
    assert codebook.telemetry()["revived"] == 3


def test_revived_code_of_a_rare_codebook_is_exactly_its_key():
    codebook = _codebook(1, 4, 3)
    codebook.count.copy_(torch.tensor([[0.05, 0.05, 0.05, 1e-6]]))
    counts = torch.tensor([[1e-3, 1e-3, 1e-3, 0.0]])
    seen = CodeStatistics(torch.zeros(1, 4, 3), counts, torch.ones(()), torch.ones(()), _keys(1, 4, 3))
    update_codebooks([codebook], [seen])
    torch.testing.assert_close(codebook.codebook[0, 3], seen.candidate_GRK[0, 0])


def test_revival_with_fewer_candidates_than_dead_codes_reuses_them_in_turn():
    codebook, seen = _with_dead_codes(16, list(range(1, 16)), revive_below=0.5)
    candidates = seen.candidate_GRK.clone()
    candidates[:, 2:] = math.nan
    update_codebooks([codebook], [seen._replace(candidate_GRK=candidates)])
    torch.testing.assert_close(codebook.codebook[0, 1:5], candidates[0, [0, 1, 0, 1]])
    assert codebook.codebook.isfinite().all()


def test_revival_without_any_real_token_does_nothing():
    codebook, seen = _with_dead_codes(8, [1, 4])
    update_codebooks([codebook], [seen._replace(candidate_GRK=torch.full((1, 8, 3), math.nan))])
    assert codebook.telemetry()["revived"] == 0
    assert codebook.codebook.isfinite().all()


def test_revival_switched_off_revives_nothing():
    codebook, seen = _with_dead_codes(8, [1, 4], revive_below=0.0)
    update_codebooks([codebook], [seen])
    assert codebook.telemetry()["revived"] == 0


def test_training_of_codes_reduces_the_quantisation_error():
    k = _keys(4, 2, 200, 6)
    codebook = _codebook(2, 16, 6, decay=0.9)
    errors = []
    for _ in range(60):
        update_codebooks([codebook], [_statistics(codebook, k)])
        errors.append(codebook.telemetry()["quantisation_error"].item())
    assert errors[-1] < 0.8 * errors[0]
    assert codebook.telemetry()["dead_share"] == 0


def test_telemetry_tells_usage_error_and_dead_codes():
    codebook = _codebook(2, 4, 3)
    counts = torch.tensor([[5.0, 5.0, 0.0, 0.0], [3.0, 3.0, 3.0, 3.0]])
    seen = CodeStatistics(torch.ones(2, 4, 3), counts, torch.tensor(4.0), torch.tensor(16.0), _keys(2, 4, 3))
    update_codebooks([codebook], [seen])
    told = codebook.telemetry()
    assert told["perplexity"].item() == pytest.approx((2 + 4) / 2)
    assert told["dead_share"].item() == pytest.approx(2 / 8)
    assert told["quantisation_error"].item() == pytest.approx(0.5)
    assert told["threshold"].item() == pytest.approx(0.05 * codebook.count.mean().item())
    assert told["revived"] == 0


def test_telemetry_before_any_update_is_absent():
    told = _codebook().telemetry()
    assert told.pop("revived") == 0
    assert all(value.isnan() for value in told.values())


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double])
def test_codebook_stays_float32_when_its_parent_is_cast(cast):
    codebook = _codebook()
    before = codebook.codebook.clone()
    parent = cast(nn.Sequential(nn.Linear(2, 2), codebook))
    assert parent[0].weight.dtype != torch.float32
    assert all(buffer.dtype == torch.float32 for buffer in codebook.buffers())
    assert torch.equal(codebook.codebook, before)


def test_codebook_moves_between_devices():
    codebook = _codebook().to("meta")
    assert codebook.codebook.device.type == "meta"
    codebook = nn.Sequential(codebook).to_empty(device="cpu")[0]
    codebook.reset_parameters()
    assert codebook.codebook.isfinite().all()
    with torch.device("meta"):
        assert Codebook(2, 512, 128).key_sum.is_meta


def test_codebook_state_dict_holds_sums_and_counts_only():
    codebook, other = _codebook(), _codebook(seed=1)
    assert set(codebook.state_dict()) == {"key_sum", "count"}
    other.load_state_dict(codebook.state_dict())
    assert torch.equal(codebook.codebook, other.codebook)


def test_codebook_has_nothing_to_optimise():
    assert not list(_codebook().parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("codebook_size", {"codebook_size": 0}),
        ("d_key", {"d_key": 0}),
        ("decay", {"decay": 1.0}),
        ("revive_below", {"revive_below": -0.1}),
    ],
)
def test_codebook_impossible_option_raises(name, options):
    with pytest.raises(ValueError, match=f"^{name}: got"):
        Codebook(**{"n_kv_head": 1, "codebook_size": 4, "d_key": 3, **options})


def test_update_with_statistics_of_other_layers_raises():
    with pytest.raises(ValueError, match="got 0 for 1 codebooks"):
        update_codebooks([_codebook()], [])
