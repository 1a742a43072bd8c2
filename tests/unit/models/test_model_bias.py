"""The bias of models with exact keys: over all distances, or within the window, where quantised keys alone differ."""

import json
from typing import Any

import pytest
import torch

from vqscale.costing.counts import decode_state_bytes, flops_per_token, parameter_groups, training_memory_bytes
from vqscale.costing.presets import fields_of_others, resolve
from vqscale.errors import StudyError
from vqscale.models import build
from vqscale.models.transformer_vq import VQMixing
from vqscale.study.fingerprint import fingerprint
from vqscale.study.model import EXACT, WINDOW_BIAS, ModelConfig

LENGTH, BLOCK, VOCAB = 24, 4, 13
PAIRS = [("transformer_full", head) for head in ("shga", "mqa", "mha")] + [("mega", "whole"), ("mega", "laplace")]
"""Exact architecture and kind; the quantised one of a pair is `EXACT[arch]`."""
TOLERANCE = {"rtol": 0, "atol": 1e-12}
BOTH_WAYS = {"causal": False, "classes": 3, "pooling": "mean"}
READINGS: dict[str, dict[str, torch.Tensor]] = {
    "plain": {},
    "documents": {"doc_start_BT": torch.arange(2 * LENGTH).view(2, LENGTH) % 11 == 9},
    "padding": {"mask_BT": torch.arange(LENGTH) < torch.tensor([[LENGTH], [15]])},
}


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request) -> tuple[str, str]:
    return request.param


@pytest.fixture
def long_BT() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def models(pair, small_config, long_BT):
    """`models(bias, reading, **settings)`: the exact model and the quantised one with the same parameters, every key of
    `long_BT` being a code of its own."""

    def make(bias: str = "window", reading: dict[str, torch.Tensor] | None = None, **settings: Any):
        arch, kind = pair
        windowed = {"block_length": BLOCK} if bias == "window" else {}
        exact = build(small_config(pair, bias=bias, **windowed, **settings), seed=3).double().eval()
        codes = {"codebook_size": long_BT.numel(), "block_length": BLOCK}
        config = small_config((EXACT[arch], kind), **codes, **settings, d_ff=exact.config.d_ff or None)
        quantised = build(config, seed=4).double().eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in exact.parameters():  # every term takes part
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        missing, unexpected = quantised.load_state_dict(exact.state_dict(), strict=False)
        assert not unexpected
        assert all("codebook" in name for name in missing)
        every_key_a_code(quantised, long_BT, reading or {})
        return exact, quantised

    return make


def every_key_a_code(model, tokens_BT, reading) -> None:
    """Codebooks, first layer first, that hold the keys of `tokens_BT`, in float64."""
    for mixing in (module for module in model.modules() if isinstance(module, VQMixing)):
        seen: list[torch.Tensor] = []
        usual = mixing.mix

        def mix(q, k, *rest, seen=seen, usual=usual):
            seen.append(k)
            return usual(q, k, *rest)

        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(mixing, "mix", mix)
            model(tokens_BT, **reading)
        mixing.codebook.key_sum = seen[0].transpose(0, 1).flatten(1, 2)
        mixing.codebook.count = torch.ones_like(mixing.codebook.key_sum[..., 0])


@pytest.mark.parametrize(
    ("way", "task"),
    [("plain", {}), ("documents", {}), ("padding", {}), ("plain", BOTH_WAYS), ("padding", BOTH_WAYS)]
    + [(way, {"classes": 3, "pooling": pooling}) for way in ("plain", "padding") for pooling in ("mean", "last")],
)
def test_a_code_for_every_key_equals_exact_keys_with_the_bias_within_the_window(way, task, models, long_BT):
    reading = READINGS[way]
    exact, quantised = models(reading=reading, **task)
    real = reading.get("mask_BT", torch.ones_like(long_BT, dtype=torch.bool)) if not task else slice(None)
    found, expected = (model(long_BT, **reading)["logits"][real] for model in (quantised, exact))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("cuts", [[8, 16], [4, 5, 12, 23], list(range(1, LENGTH))], ids=len)
def test_a_code_for_every_key_equals_exact_keys_in_segments_and_step_by_step(cuts, models, long_BT):
    exact, quantised = models()
    expected = exact(long_BT)["logits"]
    for model in (exact, quantised):
        state, parts = None, []
        for part in long_BT.tensor_split(cuts, dim=1):
            out = model(part, state=state, return_state=True)
            state, parts = out["state"], [*parts, out["logits"]]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, **TOLERANCE)


def test_a_code_for_every_key_differs_from_the_bias_over_all_distances_beyond_the_window_only(models, long_BT):
    exact, quantised = models(bias="all")
    found, expected = quantised(long_BT)["logits"], exact(long_BT)["logits"]
    torch.testing.assert_close(found[:, : BLOCK + 1], expected[:, : BLOCK + 1], **TOLERANCE)
    assert ((found - expected).abs().amax(-1)[:, BLOCK + 1 :] > 1e-4).all()


@pytest.mark.parametrize("causal", [True, False])
def test_window_bias_in_chunks_equals_one_chunk_in_values_and_gradients(pair, causal, small_config, monkeypatch):
    task = {} if causal else BOTH_WAYS
    model = build(small_config(pair, bias="window", block_length=BLOCK, **task), seed=3).double()
    tokens_BT = torch.randint(0, VOCAB, (1, 19), generator=torch.Generator().manual_seed(2))
    found = []
    for chunk in (256, 3):
        monkeypatch.setattr("vqscale.models.transformer_full.FULL_ATTENTION_CHUNK", chunk)
        model.zero_grad()
        logits = model(tokens_BT)["logits"]
        logits.square().sum().backward()
        found.append((logits, [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", [1, 4, 5, 24, 31])
def test_flops_of_a_window_bias_equal_a_count_of_every_pair(pair, causal, context, small_config):
    task = {} if causal else BOTH_WAYS
    config = small_config(pair, bias="window", block_length=BLOCK, **task)
    attentions = config.n_layer * (2 if config.head == "shga" else 1)
    seen = sum(t + 1 if causal else context for t in range(context))
    near = sum(1 for t in range(context) for u in range(context) if abs(t - u) <= BLOCK and (u <= t or not causal))
    distances = BLOCK + 1 if causal else 2 * BLOCK + 1
    scores = 6 * config.n_head * config.d_key * near
    projected = 4 * config.d_model * config.n_kv_head * config.d_key * distances
    groups = flops_per_token(config, context)
    pairs = 6 * config.n_head * (config.d_key + config.d_value) * seen
    assert groups["window"] == pytest.approx(attentions * pairs / context)
    assert groups["relative_bias"] == pytest.approx(attentions * (scores + projected) / context)


def test_window_bias_costs_what_the_quantised_models_bias_does_and_state_and_size_stay(pair, small_config):
    every, window = small_config(pair), small_config(pair, bias="window", block_length=BLOCK)
    quantised = small_config((EXACT[pair[0]], pair[1]), block_length=BLOCK)
    assert parameter_groups(every) == parameter_groups(window)
    assert decode_state_bytes(every, 40, 4) == decode_state_bytes(window, 40, 4)
    assert training_memory_bytes(every, 64, 32, 0, 1, "fp32", False) == training_memory_bytes(
        window, 64, 32, 0, 1, "fp32", False
    )
    costs = [flops_per_token(config, 40) for config in (every, window, quantised)]
    assert costs[1]["relative_bias"] == costs[2]["relative_bias"] < costs[0]["relative_bias"]
    assert costs[1]["window"] == costs[0]["window"]


def test_bias_enters_the_identity_only_where_it_ends_at_the_window(pair, small_config):
    every, window = small_config(pair), small_config(pair, bias="window", block_length=BLOCK)
    assert every.bias == "all"
    assert "bias" not in every.identity()
    before = {key: value for key, value in every.model_dump().items() if key != "bias"}
    assert ModelConfig(**before) == every
    assert ModelConfig.model_validate_json(json.dumps(before)) == every
    assert fingerprint(window) != fingerprint(every)
    other = resolve(window.arch, "pico", VOCAB, {"bias": "window", "block_length": 8})
    assert other.variant == WINDOW_BIAS
    assert WINDOW_BIAS not in (every.variant or "")


@pytest.mark.parametrize("arch", EXACT)
def test_resolve_takes_the_window_from_the_size_of_the_preset(arch):
    window = resolve(arch, "mini", VOCAB, {"bias": "window"})
    assert window.block_length == resolve(EXACT[arch], "mini", VOCAB, {}).block_length == 128
    assert resolve(arch, "mini", VOCAB, {}).block_length is None
    assert resolve(arch, "mini", VOCAB, {"bias": "all"}) == resolve(arch, "mini", VOCAB, {})


@pytest.mark.parametrize("arch", EXACT)
def test_resolve_refuses_a_bias_that_does_not_fit(arch):
    with pytest.raises(StudyError, match=f"block_length: 64 does not fit {arch} with bias: all"):
        resolve(arch, "pico", VOCAB, {"block_length": 64})
    with pytest.raises(StudyError, match=r"model\.bias: 'near': Input should be 'all' or 'window'"):
        resolve(arch, "pico", VOCAB, {"bias": "near"})
    with pytest.raises(StudyError, match=r"model\.bias: transformer_vq has no such setting"):
        resolve("transformer_vq", "pico", VOCAB, {"bias": "window"})


def test_fields_of_others_hold_the_block_length_where_the_bias_has_no_end():
    assert "block_length" in fields_of_others("transformer_full", {})
    assert "block_length" in fields_of_others("mega", {"bias": "all"})
    assert "block_length" not in fields_of_others("transformer_full", {"bias": "window"})
    assert "bias" in fields_of_others("transformer_vq", {"bias": "window"})
