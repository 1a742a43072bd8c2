"""Parameters, training FLOPs and memory of a model from its configuration alone, by group.

Letters: D model width, H heads, G key/value heads, K key width, V value width, F feed-forward width, W vocabulary,
S codebook size, L block length.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqscale.costing.gated_counts import (
    gated_layer,
    gated_layer_values,
    norm_values,
    state_space_bytes,
    state_space_flops,
)
from vqscale.results.result import EMBEDDING_GROUPS
from vqscale.study.model import DECAY_RANK, FULL_ATTENTION_CHUNK, GATED_HYBRIDS, PLAIN, ModelConfig

Places = NDArray[np.int64]
"""One position per token of a sequence."""

GATED_LINEAR_CHUNK = 64
"""`vqkernels.gated_linear.CHUNK_LENGTH`, repeated here (a test compares the two), because the kernels load torch."""
WINDOW_BLOCKS = 16
"""`vqkernels.windows.attend.MOST_BLOCKS`, likewise."""
SCATTER_MERGE = 3
"""Operations that merge one value of a block's mean into the running mean: two products and a sum."""


def attention_count(config: ModelConfig) -> int:
    """Attention sub-layers of the model: a layer of SHGA, as the reference counts, is two gated attention units."""
    return config.n_layer * (2 if config.head == "shga" else 1)


def parameter_groups(config: ModelConfig) -> dict[str, int]:
    """Numbers of values by group. All but `codebook` are trained by gradient.

    `codebook` holds the running sums and counts (buffers). `projection` is q, k, v, gate and output, and for `gla` the
    matrices that give the decay; `relative_position` the projection of the relative keys, `attention_bias` the
    vectors u and w of every head, for `gla` the bias of the decay.
    """
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    attentions, relative, gla = attention_count(config), config.relative, config.arch == "gla"
    norm = D * (2 if relative else 1)
    final_norm = config.tie_embeddings or not relative
    groups = {
        "embedding": (2 if config.real_inputs else config.vocab_size) * D,
        "absolute_position": int(config.absolute_positions),
        "relative_position": attentions * D * G * K if relative else 0,
        "projection": attentions * (D * (H * K + G * K + G * V + _gate_width(config) + H * V) + _decay(config)),
        "attention_bias": attentions * (2 * H * K if relative else H * K * gla),
        "feed_forward": config.n_layer * _feed_forward_matrices(config) * D * (config.d_ff or 0),
        "norm": norm * (2 * config.n_layer + int(final_norm)) + attentions * V * gla,
        "head": _head(config),
        "codebook": attentions * G * (config.codebook_size or 0) * (K + 1),
    }
    if config.arch in GATED_HYBRIDS:
        groups |= {group: config.n_layer * count for group, count in gated_layer(config).items()}
        groups |= {"norm": norm_values(config)}
    return groups


def parameters(config: ModelConfig) -> int:
    """N with embeddings: all values trained by gradient (codebooks are not: see `parameter_groups`)."""
    return sum(count for group, count in parameter_groups(config).items() if group != "codebook")


def parameters_non_embedding(config: ModelConfig) -> int:
    """N without token embedding, output head and absolute positions; codebooks are not counted either.

    The projection of relative keys, attention biases and norms are counted.
    """
    groups = parameter_groups(config)
    return parameters(config) - sum(groups[group] for group in EMBEDDING_GROUPS)


class Work(NamedTuple):
    """FLOPs of one group for one sequence; `backward`: FLOPs of the backward pass in units of `forward`.

    A matrix product takes 2mnk, its backward pass twice as many if both factors need a gradient, as many if one does.
    """

    group: str
    forward: float
    backward: float


def flops_per_token(
    config: ModelConfig, context: int, segment: int | None = None, *, sequences: int = 1, training: bool = True
) -> dict[str, float]:
    """FLOPs per token by group, averaged exactly over the positions of a sequence of `context` tokens.

    The mathematics is counted, not what an implementation does in addition: no masked halves, no cache in the first
    two blocks, no recomputation in the backward pass. Matrix products count 2mnk; the scatter that builds the cache
    counts its sums; all other elementwise work (norms, softmax, gates, rotations) counts nothing.

    `segment`: tokens between two updates of truncated back-propagation; carried keys and values get no gradient.
    `sequences`: how many share one forward pass and with it the projection of the relative keys.
    `training`: forward and backward pass; otherwise the forward pass alone.

    Groups: `window` is attention between tokens (the whole context for quadratic models), `relative_bias` position
    scores and the relative keys, `cache` scores and values of codes (all S of them, once there is a cache),
    `quantiser` distances to all codes, which have no backward pass, `recurrence` the state of `gla` token by token, not
    as its chunks compute it: writing and reading, and one product per value for the decay; `state_space` the
    recurrences of a structured memory in the same form.

    A model that is not causal has pairs on both sides, and the cache of a query merges the blocks before and after its
    window.
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
    if config.arch in GATED_HYBRIDS:
        work.append(Work("state_space", state_space_flops(config) * context, 2))
    if config.real_inputs:  # the samples themselves need no gradient
        work.append(Work("embedding", 2.0 * config.d_model * context, 1))
    attentions = attention_count(config)
    per_attention = _recurrence(config, context) if config.arch == "gla" else _token_pairs(config, context, segment)
    if config.relative:
        per_attention += _relative_bias(config, context, segment, sequences)
    if config.quantised:
        per_attention += _cache(config, context, segment)
    return work + [Work(one.group, one.forward * attentions, one.backward) for one in per_attention]


def _recurrence(config: ModelConfig, context: int) -> list[Work]:
    """S = decay S + k^T v and q S for every token: two matrix products, and the decay, whose backward pass scales the
    gradient of S, multiplies it with S and sums over values."""
    state = float(config.n_head * config.d_key * config.d_value * context)
    return [Work("recurrence", 4 * state, 2), Work("recurrence", state, 3)]


def _seen(config: ModelConfig, context: int) -> tuple[Places, Places]:
    """First and last position that each query of a sequence attends to token by token, not through the cache."""
    place = np.arange(context)
    if config.window is not None:
        first, last = place - config.window + 1, place + config.window - 1
    elif config.global_memory is False and config.block_length is not None:
        first, last = place - config.block_length, place + config.block_length
    elif config.quantised and config.block_length is not None:
        block = place // config.block_length
        first, last = (block - 1) * config.block_length, (block + 2) * config.block_length - 1
    else:
        first, last = np.zeros_like(place), np.full_like(place, context - 1)
    return np.maximum(first, 0), place if config.causal else np.minimum(last, context - 1)


def _token_pairs(config: ModelConfig, context: int, segment: int) -> list[Work]:
    """Scores and values: a pair within one segment has a gradient on both sides, a pair across segments only on the
    query's side."""
    first, last = _seen(config, context)
    begins = np.arange(context) // segment * segment
    carried = np.maximum(begins - first, 0).sum()
    own = (last - first + 1).sum() - carried
    pair = 2.0 * config.n_head * (config.d_key + config.d_value)
    return [Work("window", pair * float(own), 2), Work("window", pair * float(carried), 1)]


def _relative_bias(config: ModelConfig, context: int, segment: int, sequences: int) -> list[Work]:
    """Position scores, and the projection of the relative keys from sinusoids, which need no gradient."""
    reach = context if config.block_length is None else config.block_length
    place = np.arange(context)
    before, after = np.minimum(place, reach), np.minimum(place[::-1], reach)
    pairs = (before + 1).sum() + (0 if config.causal else after.sum())
    ends = np.minimum(np.arange(segment, context + segment, segment), context)
    keys = ends if config.block_length is None else np.full_like(ends, reach + 1)
    if not config.causal:
        keys = 2 * keys - 1
    scores = 2.0 * config.n_head * config.d_key * float(pairs)
    projection = 2.0 * config.d_model * config.n_kv_head * config.d_key * float(keys.sum())
    return [Work("relative_bias", scores, 2), Work("relative_bias", projection / sequences, 1)]


def _cache(config: ModelConfig, context: int, segment: int) -> list[Work]:
    """Scores and mean values of the codes, the means themselves, and the search for the nearest code.

    A code has no gradient; a mean has one only if tokens of the query's own segment are in it.
    """
    assert config.codebook_size is not None, "ModelConfig gives quantised keys a codebook"
    assert config.block_length is not None, "ModelConfig gives quantised keys a block length"
    K, V, S, L = config.d_key, config.d_value, config.codebook_size, config.block_length
    first, last = _seen(config, context)
    both = not config.causal
    queries = float(((first > 0) | (both & (last < context - 1))).sum())
    fresh = queries if both else float((first > np.arange(context) // segment * segment).sum())
    score, value = 2.0 * config.n_head * S * K, 2.0 * config.n_head * S * V
    summed, merged = _caches_built((context - 1) // L + 1, both)
    build = config.n_kv_head * V * (summed * L + merged * SCATTER_MERGE * S)
    return [
        Work("cache", score * queries, 1),
        Work("cache", value * fresh, 2),
        Work("cache", value * (queries - fresh), 1),
        Work("cache_build", float(build), 1),
        Work("quantiser", 2.0 * config.n_kv_head * S * K * context, 0),
    ]


def _caches_built(blocks: int, both: bool) -> tuple[int, int]:
    """Number of blocks whose tokens are summed, and number of merges of two caches.

    A block enters the cache of the past for the windows after it and, `both` ways, the cache of the future for the
    windows before it; a window that has both caches merges the two.
    """
    enter = max(blocks - 2, 0)
    if not both:
        return enter, enter
    return min(2 * enter, blocks), 2 * enter + max(blocks - 4, 0)


def decode_state_bytes(config: ModelConfig, context: int, bytes_per_value: int) -> int:
    """Bytes of state that generation carries for one sequence after `context` tokens.

    `transformer_vq`: two blocks of values and codes (8 bytes), and the cache's means and counts in float32, independent
    of the context. `gla`: one matrix per head in float32. `transformer_window`: keys and values of two windows, with a
    mask of the real ones; `longvq` without a global memory: those of two blocks. A structured memory adds its state in
    float32. Quadratic models: all keys and values. Zero where a sequence can only be read whole.
    """
    G, K, V = config.n_kv_head, config.d_key, config.d_value
    if not config.carries_state:
        return 0
    if config.arch == "gla":
        return config.n_layer * G * K * V * 4
    if config.window is not None:
        return config.n_layer * 2 * config.window * (G * (K + V) * bytes_per_value + 1)
    memory = config.n_layer * state_space_bytes(config) if config.arch in GATED_HYBRIDS else 0
    if config.block_length is None or config.bias is not None:
        return memory + attention_count(config) * G * context * (K + V) * bytes_per_value
    if config.codebook_size is None:
        return memory + config.n_layer * 2 * config.block_length * (G * (K + V) * bytes_per_value + 1)
    window = 2 * config.block_length * (V * bytes_per_value + 8)
    return memory + attention_count(config) * G * (window + config.codebook_size * (V + 1) * 4)


def training_memory_bytes(
    config: ModelConfig,
    batch_tokens: int,
    context: int,
    zero: int,
    workers: int,
    precision: str,
    activation_checkpointing: bool,
) -> int:
    """Estimated peak bytes of one worker, without the framework's own 0.3 to 1 GB.

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
    head = 12 * _logits(config)  # logits, log-softmax and gradient: three float32
    return int(model + 4 * parameter_groups(config)["codebook"] + tokens * (kept + head) + scores)


def _logits(config: ModelConfig) -> int:
    """Logits per token; one set of logits per sequence is too little to count."""
    if config.classes is None:
        return config.vocab_size
    return config.classes if config.pooling == "none" else 0


def _layer_values(config: ModelConfig) -> float:
    """Values per token that one layer keeps for its backward pass: inputs of every product and non-linearity once."""
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    F = config.d_ff or 0
    keys = 2 * (H + G) * K  # as projected, and normalised or rotated
    if config.arch == "gla":
        # at every halving of a chunk the decays from and to the border and what they scale; and the chunk's weights
        halvings = GATED_LINEAR_CHUNK.bit_length() - 1
        return 4 * D + (11 + 2 * halvings) * H * K + GATED_LINEAR_CHUNK * H + 8 * H * V + 4 * F
    if config.arch in PLAIN:
        windows = 0 if config.window is None else (2 if config.causal else 3) * G * (K + V)
        return 4 * D + keys + G * V + H * V + 4 * F + windows
    if config.arch in GATED_HYBRIDS:
        return gated_layer_values(config)
    if config.head == "shga":
        return 2 * (2 * D + keys + 2 * G * V + 4 * H * V)
    return 4 * D + keys + G * V + H * V + 3 * F


def _score_values(config: ModelConfig, context: int, activation_checkpointing: bool) -> float:
    """Scores per token that are alive at the same time in the backward pass of attention that works by chunks.

    `transformer_full` and `mega`: four copies of one chunk of queries (content, position, softmax, gradient). Quantised
    keys seen from both sides: three copies of the scores of a chunk of blocks, for three blocks of keys and all codes.
    Within a single chunk, which is not recomputed, every attention also keeps its softmax, or all three.
    """
    if config.quantised and not config.causal:
        assert config.codebook_size is not None, "ModelConfig gives quantised keys a codebook"
        assert config.block_length is not None, "ModelConfig gives quantised keys a block length"
        chunk = WINDOW_BLOCKS * config.block_length
        copies, columns, of_each = 3, 3 * config.block_length + config.codebook_size, 3
    elif config.arch in ("transformer_full", "mega"):
        chunk, copies, columns, of_each = FULL_ATTENTION_CHUNK, 4, min(context, FULL_ATTENTION_CHUNK), 1
    else:
        return 0.0
    single = context <= chunk and not activation_checkpointing
    kept = of_each * attention_count(config) if single else 0
    alive = copies * (min(chunk / context, 1.0) if config.quantised else 1.0)
    return float((alive + kept) * config.n_head * columns)


def _head(config: ModelConfig) -> int:
    """Values of the head; a tied head has none of its own."""
    if config.classes is None:
        return 0 if config.tie_embeddings else config.vocab_size * config.d_model
    return _head_matrices(config) + config.d_model


def _head_matrices(config: ModelConfig) -> int:
    if config.classes is None:
        return config.vocab_size * config.d_model
    return config.d_model * (config.head_inputs + config.classes)


def _headed(config: ModelConfig, context: int) -> float:
    """How often the head is applied per sequence of `context` tokens."""
    return context if config.pooling in (None, "none") else 1 / config.sequences


def _gate_width(config: ModelConfig) -> int:
    return config.n_head * config.d_value if config.head == "shga" or config.arch == "gla" else 0


def _decay(config: ModelConfig) -> int:
    """Values of the matrices of one layer that give the decay of every key channel."""
    return DECAY_RANK * (config.d_model + config.n_head * config.d_key) if config.arch == "gla" else 0


def _feed_forward_matrices(config: ModelConfig) -> int:
    return 3 if config.arch in PLAIN else 2
