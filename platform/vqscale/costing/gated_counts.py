"""Parameters, FLOPs and memory of the gated hybrids' own layers, from a configuration alone; `counts.py` has the rest.

Letters: D model width, N state numbers per channel, H heads, G key/value heads, K key width, V value width.
"""

from vqscale.study.model import ModelConfig

NORM_VALUES = {"rms": (1, 0), "layer": (2, 0), "scale": (0, 1), "batch": (2, 0)}
"""Parameters of one norm: number per channel, and number per norm."""

STATE_VALUES = {"ema": 4, "s4d": 4}
"""Parameters per channel and state number: alpha, beta, delta, gamma; or real and imaginary part of A and of C."""
STATE_BYTES = {"ema": 4, "s4d": 8}
"""Bytes of one state number: a float32, or a pair of them."""
STATE_MULTIPLY_ADDS = {"ema": 2, "s4d": 6}
"""Per token, channel and state number, with the input coefficient multiplied into the output coefficient:
h = decay h + x and y += output h. A complex product with the decay takes four, the real part of the product with the
output two."""


def directions(config: ModelConfig) -> int:
    """Recurrences of one layer: a model that is not causal has a second one that reads backwards."""
    return 0 if config.structured_memory == "none" else 1 if config.causal else 2


def gated_layer(config: ModelConfig) -> dict[str, int]:
    """Parameters of one layer by group, without its norms and its feed-forward layer.

    `attention_bias` holds all vectors: u and w, the projections' biases, gains and shifts of queries and keys.
    """
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    inputs = K + D + (H * V + D if config.gates else 0)
    return {
        "projection": D * (inputs + G * V + H * V),
        "relative_position": D * G * K * config.relative,
        "attention_bias": H * K * (1 + config.relative) + inputs + G * V + 2 * (H + G) * K,
        "state_space": _memory(config),
    }


def _memory(config: ModelConfig) -> int:
    """Parameters of the recurrences and the omega of the residual; a state space also has a step size per channel."""
    kind = config.structured_memory
    if kind in (None, "none"):
        return 0
    assert config.state_dim is not None, "ModelConfig gives every structured memory a state"
    one = config.d_model * (config.state_dim * STATE_VALUES[str(kind)] + (kind == "s4d"))
    return directions(config) * one + config.d_model


def norm_values(config: ModelConfig) -> int:
    """Parameters of all norms: two per layer, and the RMS norm at the end where norms come before sub-layers."""
    channel, beside = NORM_VALUES[str(config.norm)]
    final = config.d_model if config.prenorm else 0
    return 2 * config.n_layer * (channel * config.d_model + beside) + final


def state_space_flops(config: ModelConfig) -> float:
    """FLOPs per token of all recurrences in their recurrent form: two for each multiply-add."""
    if not directions(config):
        return 0.0
    numbers = directions(config) * config.n_layer * config.d_model * (config.state_dim or 0)
    return 2.0 * STATE_MULTIPLY_ADDS[str(config.structured_memory)] * numbers


def state_space_bytes(config: ModelConfig) -> int:
    """Bytes of state that the recurrences of one layer carry for one sequence."""
    if not directions(config):
        return 0
    return config.d_model * (config.state_dim or 0) * STATE_BYTES[str(config.structured_memory)]


def gated_layer_values(config: ModelConfig) -> float:
    """Values per token that one layer keeps for its backward pass: inputs of every product and non-linearity once."""
    D, H, G, K, V = config.d_model, config.n_head, config.n_kv_head, config.d_key, config.d_value
    gates = 3 * H * V + 3 * D if config.gates else 0
    memory = 4 * D if directions(config) else 0
    return 5 * D + memory + 3 * K + 2 * (H + G) * K + 2 * G * V + H * V + 3 * D + gates + 3 * (config.d_ff or 0)
