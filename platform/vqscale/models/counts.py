"""Parameters, training FLOPs and memory of a model from its configuration alone, by group.

Letters: D model width, H heads, G key/value heads, K key width, V value width, F feed-forward width, W vocabulary,
S codebook size, L block length.
"""

from typing import NamedTuple

import numpy as np

from vqscale.models.classifier import head_inputs
from vqscale.models.transformer_full import CHUNK
from vqscale.results.record import EMBEDDING_GROUPS
from vqscale.study.model import ModelConfig

SCATTER_MERGE = 3
"""Operations that merge one value of a block's mean into the running mean: two products and a sum."""


def attention_count(config: ModelConfig) -> int:
    """Attention sub-layers of the model: the reference's layer of SHGA is two gated attention units."""
    return config.n_layer * (2 if config.head == "shga" else 1)


def parameter_groups(config: ModelConfig) -> dict[str, int]:
    """Numbers of values by group. All but `codebook` are trained by gradient.

    `codebook` holds the running sums and counts (buffers). `projection` is q, k, v, gate and output,
    `relative_position` the projection of the relative keys, `attention_bias` the vectors u and w of every head.
    """
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    attentions, relative = attention_count(config), config.arch != "transformer"
    norm = D * (2 if relative else 1)
    final_norm = config.tie_embeddings or not relative
    return {
        "embedding": (2 if config.real_inputs else config.vocab_size) * D,
        "absolute_position": int(config.absolute_positions),
        "relative_position": attentions * D * G * K if relative else 0,
        "projection": attentions * D * (H * K + G * K + G * V + _gate_width(config) + H * V),
        "attention_bias": attentions * 2 * H * K if relative else 0,
        "feed_forward": config.n_layer * _feed_forward_matrices(config) * D * (config.d_ff or 0),
        "norm": norm * (2 * config.n_layer + int(final_norm)),
        "head": _head(config),
        "codebook": attentions * G * (config.codebook_size or 0) * (K + 1),
    }


def parameters(config: ModelConfig) -> int:
    """N with embeddings: all values trained by gradient (codebooks are not: see `parameter_groups`)."""
    return sum(count for group, count in parameter_groups(config).items() if group != "codebook")


def parameters_non_embedding(config: ModelConfig) -> int:
    """N without token embedding, output head and absolute positions; codebooks are left out as well.

    The projection of relative keys, attention biases and norms are counted.
    """
    groups = parameter_groups(config)
    return parameters(config) - sum(groups[group] for group in EMBEDDING_GROUPS)


class Work(NamedTuple):
    """FLOPs of one group for one sequence, and how many times as many its backward pass takes.

    A matrix product takes 2mnk, and its backward pass twice that if both factors need a gradient, once if one does.
    """

    group: str
    forward: float
    backward: float


def flops_per_token(
    config: ModelConfig, context: int, segment: int | None = None, *, sequences: int = 1, training: bool = True
) -> dict[str, float]:
    """FLOPs a token by group, averaged exactly over the positions of a sequence of `context` tokens.

    Counted is what the mathematics needs, whatever an implementation does besides: no masked halves, no cache in the
    first two blocks, no recomputation in the backward pass. Matrix products count 2mnk; the scatter that builds the
    cache counts its sums; everything else that works value by value (norms, softmax, gates, rotations) counts nothing.

    `segment`: tokens between two updates of truncated back-propagation; carried keys and values get no gradient.
    `sequences`: how many share one forward pass and with it the projection of the relative keys.
    `training`: forward and backward pass; otherwise the forward pass alone.

    Groups: `window` is attention between tokens (the whole context for quadratic models), `relative_bias` position
    scores and the relative keys, `cache` scores and values of codes (all S of them, once there is a cache),
    `quantiser` distances to all codes, which have no backward pass.
    """
    totals: dict[str, float] = {"embedding": 0.0}
    for work in _work(config, context, segment or context, sequences):
        flops = work.forward * (1 + (work.backward if training else 0))
        totals[work.group] = totals.get(work.group, 0.0) + flops / context
    return totals


def _work(config: ModelConfig, context: int, segment: int, sequences: int) -> list[Work]:
    groups = parameter_groups(config)
    work = [
        Work("projection", 2.0 * groups["projection"] * context, 2),
        Work("feed_forward", 2.0 * groups["feed_forward"] * context, 2),
        Work("head", 2.0 * _head_matrices(config) * _headed(config, context), 2),
    ]
    if config.real_inputs:  # the samples themselves need no gradient
        work.append(Work("embedding", 2.0 * config.d_model * context, 1))
    attentions = attention_count(config)
    per_attention = _token_pairs(config, context, segment)
    if config.arch != "transformer":
        per_attention += _relative_bias(config, context, segment, sequences)
    if config.arch == "transformer_vq":
        per_attention += _cache(config, context, segment)
    return work + [Work(one.group, one.forward * attentions, one.backward) for one in per_attention]


def _token_pairs(config: ModelConfig, context: int, segment: int) -> list[Work]:
    """Scores and values: a pair within one segment has a gradient on both sides, one across segments on the query's."""
    place = np.arange(context)
    first = np.zeros_like(place)
    if config.block_length is not None:
        first = np.maximum(place // config.block_length - 1, 0) * config.block_length
    carried = np.maximum(place // segment * segment - first, 0).sum()
    own = (place - first + 1).sum() - carried
    pair = 2.0 * config.n_head * (config.d_key + config.d_value)
    return [Work("window", pair * float(own), 2), Work("window", pair * float(carried), 1)]


def _relative_bias(config: ModelConfig, context: int, segment: int, sequences: int) -> list[Work]:
    """Position scores, and the projection of the relative keys from sinusoids, which need no gradient."""
    place = np.arange(context)
    reach = place if config.block_length is None else np.minimum(place, config.block_length)
    ends = np.minimum(np.arange(segment, context + segment, segment), context)
    keys = ends if config.block_length is None else np.full_like(ends, config.block_length + 1)
    scores = 2.0 * config.n_head * config.d_key * float((reach + 1).sum())
    projection = 2.0 * config.d_model * config.n_kv_head * config.d_key * float(keys.sum())
    return [Work("relative_bias", scores, 2), Work("relative_bias", projection / sequences, 1)]


def _cache(config: ModelConfig, context: int, segment: int) -> list[Work]:
    """Scores and mean values of the codes, the means themselves, and the search for the nearest code.

    A code has no gradient; a mean has one only if it holds tokens of the query's own segment.
    """
    assert config.codebook_size is not None, "ModelConfig gives every transformer_vq a codebook"
    assert config.block_length is not None, "ModelConfig gives every transformer_vq a block length"
    K, V, S, L = config.d_key, config.d_value, config.codebook_size, config.block_length
    place = np.arange(context)
    cached = np.maximum(place // L - 1, 0) * L
    queries = float((cached > 0).sum())
    fresh = float((cached > place // segment * segment).sum())
    blocks = max((context - 1) // L - 1, 0)
    score, value = 2.0 * config.n_head * S * K, 2.0 * config.n_head * S * V
    build = config.n_kv_head * V * blocks * (L + SCATTER_MERGE * S)
    return [
        Work("cache", score * queries, 1),
        Work("cache", value * fresh, 2),
        Work("cache", value * (queries - fresh), 1),
        Work("cache_build", float(build), 1),
        Work("quantiser", 2.0 * config.n_kv_head * S * K * context, 0),
    ]


def decode_state_bytes(config: ModelConfig, context: int, bytes_per_value: int) -> int:
    """Bytes that generation carries for one sequence after `context` tokens.

    `transformer_vq`: two blocks of values and codes (8 bytes), and the cache's means and counts in float32, whatever
    the context. Quadratic models: all keys and values.
    """
    G, K, V = config.n_kv_head, config.d_key, config.d_value
    if config.codebook_size is None or config.block_length is None:
        return attention_count(config) * G * context * (K + V) * bytes_per_value
    window = 2 * config.block_length * (V * bytes_per_value + 8)
    return attention_count(config) * G * (window + config.codebook_size * (V + 1) * 4)


def training_memory_bytes(
    config: ModelConfig,
    batch_tokens: int,
    context: int,
    zero: int,
    workers: int,
    precision: str,
    activation_checkpointing: bool,
) -> int:
    """Estimated peak bytes of one worker, without the framework's own (0.3 to 1 GB).

    `batch_tokens`: of one micro-batch over all workers; `context`: tokens of a sequence in one forward pass.
    Parameters, gradients (4 bytes each) and Adam's moments (8) are divided among workers from ZeRO stage 3, 2 and 1;
    with bf16 a copy of the parameters is cast. Activations are what the backward pass needs of every token, in 4
    bytes or, with bf16, 2; with checkpointing one layer's, and the input of every layer. The head's logits, their
    log-softmax and their gradient are float32.
    """
    count = parameters(config)
    shares = [1 if zero < stage else workers for stage in (3, 2, 1)]
    model = sum(size * count / share for size, share in zip((4, 4, 8), shares, strict=True))
    size = 2 if precision == "bf16" else 4
    if precision == "bf16":
        model += 2 * count
    tokens = batch_tokens / workers
    layers = 1 if activation_checkpointing else config.n_layer
    kept = layers * _layer_values(config) * size
    if activation_checkpointing:
        kept += config.n_layer * config.d_model * 4
    scores = tokens * _score_values(config, context, activation_checkpointing) * 4
    return int(model + 4 * parameter_groups(config)["codebook"] + tokens * (kept + 12 * _logits(config)) + scores)


def _logits(config: ModelConfig) -> int:
    """Logits a token; those of a whole sequence are too few to count."""
    if config.classes is None:
        return config.vocab_size
    return config.classes if config.pooling == "none" else 0


def _layer_values(config: ModelConfig) -> float:
    """Values a token that one layer keeps for its backward pass, inputs of every product and non-linearity once."""
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    F = config.d_ff or 0
    keys = 2 * (H + G) * K  # as projected, and normalised or rotated
    if config.arch == "transformer":
        return 4 * D + keys + G * V + H * V + 4 * F
    if config.head == "shga":
        return 2 * (2 * D + keys + 2 * G * V + 4 * H * V)
    return 4 * D + keys + G * V + H * V + 3 * F


def _score_values(config: ModelConfig, context: int, activation_checkpointing: bool) -> float:
    """Scores a token that are alive at once: only `transformer_full` holds any.

    Four copies of one chunk of queries (content, position, softmax, gradient). Within a single chunk, which is not
    recomputed, every attention also keeps its softmax.
    """
    if config.arch != "transformer_full":
        return 0.0
    kept = attention_count(config) if context <= CHUNK and not activation_checkpointing else 0
    return float((4 + kept) * config.n_head * min(context, CHUNK))


def _head(config: ModelConfig) -> int:
    """Values of the head: none of its own for a tied one."""
    if config.classes is None:
        return 0 if config.tie_embeddings else config.vocab_size * config.d_model
    return _head_matrices(config) + config.d_model


def _head_matrices(config: ModelConfig) -> int:
    if config.classes is None:
        return config.vocab_size * config.d_model
    return config.d_model * (head_inputs(config) + config.classes)


def _headed(config: ModelConfig, context: int) -> float:
    """How often the head is applied for one sequence of `context` tokens."""
    return context if config.pooling in (None, "none") else 1 / config.sequences


def _gate_width(config: ModelConfig) -> int:
    return config.n_head * config.d_value if config.head == "shga" else 0


def _feed_forward_matrices(config: ModelConfig) -> int:
    return 3 if config.arch == "transformer" else 2
