"""FLOPs against PyTorch's own counter, memory against what is really kept."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vqscale.costing.counts import decode_state_bytes, flops_per_token, training_memory_bytes
from vqscale.costing.presets import resolve
from vqscale.models import build
from vqscale.study.model import QUANTISED, ModelConfig

BATCH, CONTEXT = 3, 24


def in_place(_target, left, right, **_):
    """FLOPs of a batched product into a tensor that is there already: the counter knows only the one that makes one."""
    return 2 * left[0] * left[1] * left[2] * right[2]


IN_PLACE = {torch.ops.aten.baddbmm_: in_place}


def counted(model, backward=False, batch=BATCH, context=CONTEXT):
    """FLOPs of all matrix products that one pass over `batch` sequences really does."""
    tokens_BT = torch.randint(0, 13, (batch, context), generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(tokens_BT)["logits"]
        if backward:
            logits.square().sum().backward()
    return counter.get_total_flops()


def without_attention(monkeypatch):
    """Replace what mixes tokens by something without products; all around it stays."""

    def mixed(q, k, v, *args, rel_key_GMK=None, **kwargs):
        place = 0.0 if rel_key_GMK is None else rel_key_GMK.mean()
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1) + q.mean() + k.mean() + place

    for name in ("transformer_vq.vq_attention", "longvq.local_attention"):
        monkeypatch.setattr(f"vqscale.models.{name}", lambda *args, **kwargs: (mixed(*args, **kwargs), None))
    monkeypatch.setattr("vqscale.models.transformer_full.full_attention", mixed)
    monkeypatch.setattr("vqscale.models.memory.diagonal_scan", lambda x, *coefficients, **kwargs: (x, None))
    monkeypatch.setattr(
        "vqscale.models.gla.gated_linear_attention",
        lambda q, k, v, log_decay, **kwargs: (v + q.mean() + k.mean() + log_decay.mean(), None),
    )
    monkeypatch.setattr(
        "vqscale.models.transformer_window.local_attention",
        lambda q, k, v, **kwargs: (v + q.mean() + k.mean(), None),
    )
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **kwargs: v + q.mean() + k.mean()
    )


@pytest.mark.parametrize("training", [False, True])
def test_flops_around_attention_equal_the_counter(kind, training, monkeypatch, small_config):
    without_attention(monkeypatch)
    config = small_config(kind)
    flops = flops_per_token(config, CONTEXT, sequences=BATCH, training=training)
    heads, d_key = config.n_head, config.d_key
    reach = 4 if kind[0] in QUANTISED else CONTEXT
    scores = sum(min(place, reach) + 1 for place in range(CONTEXT)) * 2 * heads * d_key / CONTEXT
    attentions = 4 if kind[1] == "shga" else 2
    if config.relative:
        flops["relative_bias"] -= scores * attentions * (3 if training else 1)
    around = ("projection", "feed_forward", "head", "quantiser", "relative_bias")
    expected = sum(flops.get(group, 0.0) for group in around) * BATCH * CONTEXT
    model = build(config, seed=0)
    assert counted(model, backward=training) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "kind", [("transformer", None), ("transformer_full", "mqa"), ("transformer_full", "shga"), ("mega", "laplace")]
)
def test_flops_of_quadratic_attention_equal_the_counter_for_whole_squares(kind, training, small_config):
    """Both compute T x T scores and mask later keys: T^2 pairs (for position scores too) instead of T (T + 1) / 2."""
    config = small_config(kind, **({"structured_memory": "none"} if kind[0] == "mega" else {}))
    flops = flops_per_token(config, CONTEXT, sequences=BATCH, training=training)
    squares = 2 * CONTEXT / (CONTEXT + 1)
    attentions = 4 if kind[1] == "shga" else 2
    flops["window"] *= squares
    if kind[0] != "transformer":
        keys = 2.0 * 16 * 8 * attentions / BATCH * (2 if training else 1)
        flops["relative_bias"] = (flops["relative_bias"] - keys) * squares + keys
    expected = sum(flops.values()) * BATCH * CONTEXT
    assert counted(build(config, seed=0), backward=training) == pytest.approx(expected, rel=1e-12)


def test_flops_needed_by_vq_attention_are_no_more_than_its_linear_implementation_does(small_config):
    config = small_config(("transformer_vq", "shga"), codebook_size=32, block_length=16)
    model = build(config, seed=0)
    model.backend = "blockwise"
    for context in (128, 512):
        needed = sum(flops_per_token(config, context, training=False).values())
        done = counted(model, batch=1, context=context) / context
        assert needed <= done < 2 * needed


def pairs_by_hand(context, block, segment):
    """Pairs of window and cache counted one by one: (own segment, carried) window pairs and cache queries."""
    own = carried = queries = fresh = 0
    for place in range(context):
        begins = place // segment * segment
        for key in range(place + 1):
            if place // block - key // block <= 1:
                own += key >= begins
                carried += key < begins
        cached = [key for key in range(place) if place // block - key // block >= 2]
        queries += bool(cached)
        fresh += any(key >= begins for key in cached)
    return own, carried, queries, fresh


@pytest.mark.parametrize(("context", "segment"), [(24, None), (24, 8), (5, 5), (40, 7)])
def test_flops_of_a_sliding_window_equal_a_count_of_every_pair(context, segment, small_config):
    flops = flops_per_token(small_config(("transformer_window", None)), context, segment)
    pairs = [(i, j) for i in range(context) for j in range(i + 1) if i - j < 12]
    carried = sum(j < i // (segment or context) * (segment or context) for i, j in pairs)
    pair = 2 * 2 * (8 + 8) * 2
    assert flops["window"] * context == pytest.approx(pair * (3 * (len(pairs) - carried) + 2 * carried))


def both_ways(config):
    return ModelConfig(**config.model_dump() | {"causal": False, "classes": 3, "pooling": "none"})


@pytest.mark.parametrize("context", [1, 3, 4, 9, 12, 13, 24, 30])
def test_flops_both_ways_equal_a_count_of_every_pair_and_every_cache(context, small_config):
    places, last = range(context), (context - 1) // 4
    near = sum(abs(i // 4 - j // 4) <= 1 for i in places for j in places)
    positioned = sum(abs(i - j) <= 4 for i in places for j in places)
    cached = sum(any(abs(i // 4 - j // 4) > 1 for j in places) for i in places)
    enter = [n for n in range(last + 1) if n + 2 <= last], [n for n in range(last + 1) if n >= 2]
    merges = len(enter[0]) + len(enter[1]) + sum(2 <= n <= last - 2 for n in range(last + 1))
    flops = flops_per_token(both_ways(small_config(("transformer_vq", "mqa"))), context)
    assert flops["window"] * context == pytest.approx(3 * 2 * 2 * (8 + 8) * 2 * near)
    keys = 2 * 16 * 8 * 9 * 2 * 2
    assert flops["relative_bias"] * context == pytest.approx(3 * 2 * 2 * 8 * 2 * positioned + keys)
    assert flops["cache"] * context == pytest.approx(2 * 2 * 6 * (2 * 8 + 3 * 8) * 2 * cached)
    built = 8 * (4 * len(set(enter[0]) | set(enter[1])) + 3 * 6 * merges)
    assert flops["cache_build"] * context == pytest.approx(2 * built * 2)


@pytest.mark.parametrize("kind", [("transformer", None), ("transformer_full", "mqa"), ("transformer_window", None)])
def test_flops_both_ways_of_exact_attention_equal_a_count_of_every_pair(kind, small_config):
    flops = flops_per_token(both_ways(small_config(kind)), CONTEXT)
    reach = 12 if kind[0] == "transformer_window" else CONTEXT
    pairs = sum(abs(i - j) < reach for i in range(CONTEXT) for j in range(CONTEXT))
    assert flops["window"] * CONTEXT == pytest.approx(3 * 2 * 2 * (8 + 8) * 2 * pairs)
    if kind[0] == "transformer_full":
        keys = 2 * 16 * 8 * (2 * CONTEXT - 1) * 2 * 2
        assert flops["relative_bias"] * CONTEXT == pytest.approx(3 * 2 * 2 * 8 * 2 * pairs + keys)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("memory", "flops_of_one"), [("ema", 4), ("s4d", 12), ("none", 0)])
def test_flops_of_structured_memory_are_those_of_its_recurrences(memory, flops_of_one, causal, small_config):
    of_corpus = {} if causal else {"causal": False, "classes": 3, "pooling": "none"}
    config = small_config(("longvq", "whole"), structured_memory=memory, **of_corpus)
    expected = 2 * 16 * 4 * flops_of_one * (1 if causal else 2)
    for training, passes in ((False, 1), (True, 3)):
        assert flops_per_token(config, CONTEXT, training=training).get("state_space", 0.0) == expected * passes


@pytest.mark.parametrize("causal", [True, False])
def test_flops_of_longvqs_window_alone_equal_a_count_of_every_pair(causal, small_config):
    of_corpus = {} if causal else {"causal": False, "classes": 3, "pooling": "none"}
    flops = flops_per_token(small_config(("longvq", "window"), **of_corpus), CONTEXT)
    pairs = sum(abs(i - j) <= 4 and (j <= i or not causal) for i in range(CONTEXT) for j in range(CONTEXT))
    assert flops["window"] * CONTEXT == pytest.approx(3 * 2 * (8 + 32) * 2 * pairs)
    assert not {"cache", "quantiser"} & set(flops)


def test_decode_state_is_nothing_where_a_sequence_is_read_whole(small_config):
    assert decode_state_bytes(both_ways(small_config(("transformer", None))), CONTEXT, 4) == 0


@pytest.mark.parametrize(("context", "segment"), [(24, None), (21, 21), (24, 8), (24, 12), (20, 5), (3, 3), (30, 1)])
def test_flops_of_window_and_cache_equal_a_count_of_every_pair(context, segment, small_config):
    config = small_config(("transformer_vq", "mqa"))
    flops = flops_per_token(config, context, segment)
    own, carried, queries, fresh = pairs_by_hand(context, 4, segment or context)
    heads, d_key, d_value, codes, attentions = 2, 8, 8, 6, 2
    pair = 2 * heads * (d_key + d_value) * attentions
    assert flops["window"] * context == pytest.approx(pair * (3 * own + 2 * carried))
    value = 2 * heads * codes * d_value * attentions
    cache = 2 * 2 * heads * codes * d_key * attentions * queries + value * (3 * fresh + 2 * (queries - fresh))
    assert flops["cache"] * context == pytest.approx(cache)
    assert flops["quantiser"] == 2 * codes * d_key * attentions


def test_flops_of_recurrence_equal_products_with_the_state_and_its_decay(small_config):
    """Two layers, two heads, 4 x 8 values of state: q S, k v and the decay; backward twice and three times as much."""
    state = 2 * 2 * 4 * 8
    for training, products, decay in ((False, 1, 1), (True, 3, 4)):
        flops = flops_per_token(small_config(("gla", None)), CONTEXT, training=training)
        assert flops["recurrence"] == state * (2 * 2 * products + decay)


def test_flops_per_token_of_vq_model_level_off_and_those_of_quadratic_models_do_not():
    vq, full = (resolve(arch, "190m", 259, {}) for arch in ("transformer_vq", "transformer_full"))
    at = {length: sum(flops_per_token(vq, length).values()) for length in (8192, 131072)}
    assert at[131072] < 1.03 * at[8192]
    assert sum(flops_per_token(full, 131072).values()) > 10 * sum(flops_per_token(full, 8192).values())


def test_decode_state_bytes_equal_the_state(kind, small_config):
    config = small_config(kind)
    tokens_BT = torch.zeros(1, CONTEXT, dtype=torch.int64)
    state = build(config, seed=0).eval()(tokens_BT, return_state=True)["state"]
    kept = sum(tensor.nbytes for layer in state.layers for tensor in layer)
    assert decode_state_bytes(config, CONTEXT, 4) == kept


def kept_for_backward(model, tokens_BT):
    """Bytes of all distinct tensors that autograd keeps, parameters and buffers apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(tokens_BT)["logits"]
    assert logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("arch", ["transformer_vq", "transformer", "gla", "transformer_window", "longvq", "mega"])
@pytest.mark.parametrize("causal", [True, False])
def test_memory_estimate_is_near_what_is_kept(arch, causal):
    config = resolve(arch, "nano", 13, {"block_length": 64} if arch in QUANTISED else {})
    if not causal:
        config = ModelConfig(**config.model_dump() | {"causal": False, "classes": 3, "pooling": "mean"})
    model = build(config, seed=0)
    tokens_BT = torch.randint(0, 13, (4, 512), generator=torch.Generator().manual_seed(1))
    arguments = {"context": 512, "zero": 0, "workers": 1, "precision": "fp32", "activation_checkpointing": False}
    estimate = training_memory_bytes(config, 2048, **arguments) - training_memory_bytes(config, 0, **arguments)
    assert kept_for_backward(model, tokens_BT) == pytest.approx(estimate, rel=0.35)


def test_memory_estimate_falls_with_zero_stage_and_checkpointing():
    config = resolve("transformer_vq", "190m", 259, {})

    def estimate(zero=0, workers=4, precision="fp32", checkpointing=False):
        return training_memory_bytes(config, 65536, 8192, zero, workers, precision, checkpointing)

    stages = [estimate(zero) for zero in range(4)]
    assert stages == sorted(stages, reverse=True)
    assert stages[0] - stages[3] == pytest.approx(16 * 0.75 * 184.6e6, rel=0.01)
    assert estimate(checkpointing=True) < estimate() / 2
    assert estimate(precision="bf16") < estimate()
