"""Named sizes of every architecture.

The table gives the gated (SHGA) VQ model. The other architectures have its width, depth and key width, and a
feed-forward width that gives them the same number of non-embedding parameters.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from vqscale.costing.counts import parameter_groups, parameters_non_embedding
from vqscale.errors import StudyError
from vqscale.study.model import DECAY_RANK, EXACT, GATED_HYBRIDS, PLAIN, STATE_DIM, Arch, Head, ModelConfig


class Preset(NamedTuple):
    """`n_layer` counts pairs of gated attention units; non-embedding parameters are about 13 n_layer d_model^2."""

    d_model: int
    n_layer: int
    d_key: int
    codebook_size: int
    block_length: int


# 190m and 1.3b are the paper's Enwik8 and PG-19 models (reference code, configurations of the experiments); the others
# keep these proportions as far as a narrow model can: d_value = 2 d_model, keys of 1/2 to 1/6 of the width.
PRESETS = {
    #               D   layers    K    S    L      non-embedding parameters
    "pico": Preset(32, 2, 16, 64, 64),  #                  31 k
    "nano": Preset(48, 2, 16, 64, 64),  #                  65 k
    "micro": Preset(64, 3, 16, 64, 64),  #                167 k
    "milli": Preset(80, 3, 16, 64, 64),  #                258 k
    "mini": Preset(96, 3, 32, 128, 128),  #               389 k
    "small": Preset(128, 4, 32, 128, 128),  #             889 k
    "2m": Preset(192, 4, 64, 256, 256),  #                2.1 M
    "5m": Preset(256, 6, 64, 256, 256),  #                5.3 M
    "12m": Preset(384, 6, 64, 256, 256),  #              11.5 M
    "28m": Preset(512, 8, 128, 512, 512),  #             28.3 M
    "65m": Preset(640, 12, 128, 512, 512),  #            64.9 M
    "190m": Preset(768, 24, 128, 512, 512),  #          184.1 M
    "500m": Preset(1280, 24, 128, 512, 512),  #         495.5 M
    "1.3b": Preset(2048, 24, 128, 512, 512),  #        1245.9 M
}

ROTARY_BASE = 1e4
"""RoPE's own base (Su et al. 2021). With the 1e5 of Transformer-VQ's sinusoids, narrow heads have few high frequencies
(docs/decisions/0006)."""

FEED_FORWARD_STEP = 8
"""Feed-forward widths are multiples of this."""

_SET_ELSEWHERE = {"arch", "vocab_size", "classes", "pooling", "sequences", "real_inputs"}
"""Set by the study's `arch`, or by its corpus."""
_QUANTISED = {"codebook_size", "block_length", "codebook_decay", "commit_weight", "revive_below"}
_HYBRID = {"structured_memory", "state_dim", "gates", "attention_function", "norm", "prenorm"}
_OF_SOME: dict[str, set[str]] = {
    "transformer_vq": {"head", "dropout_sinusoid", *_QUANTISED},
    "transformer_full": {"head", "dropout_sinusoid", "bias", "block_length"},
    "transformer": set(),
    "transformer_window": {"window"},
    "longvq": {"dropout_sinusoid", "global_memory", "local_window", *_HYBRID, *_QUANTISED},
    "mega": {"dropout_sinusoid", "bias", "block_length", *_HYBRID},
    "gla": set(),
}
"""Settings that only some architectures have."""
_WITHOUT: list[tuple[str, Any, set[str]]] = [
    ("global_memory", False, _QUANTISED - {"block_length"}),
    ("local_window", False, {"dropout_sinusoid"}),
    ("structured_memory", "none", {"state_dim"}),
    ("bias", "all", {"block_length"}),
]
"""Settings that switch others off: with this key at this value, those have no meaning."""
_UNSET = {"bias": "all"}
"""Which of these values a model has where a study says nothing."""


SHAPE = re.compile(r"d([1-9][0-9]*)x([1-9][0-9]*)")
"""A size written as its shape: `d56x3` is 56 wide and 3 layers deep."""


def size_of(preset: str) -> Preset:
    """The size of a named preset or of a shape such as `d56x3`.

    A shape takes codebook, block length and key width from the widest preset that is no wider; its key width is the
    largest even divisor of its width up to that, so that heads fill the width. Raises StudyError.
    """
    if preset in PRESETS:
        return PRESETS[preset]
    shape = SHAPE.fullmatch(preset)
    if shape is None:
        known = ", ".join(PRESETS)
        raise StudyError(f"model.preset: {preset!r} is unknown. Choose one of {known}, or write a shape such as d56x3.")
    d_model, n_layer = int(shape[1]), int(shape[2])
    if d_model % 2:
        raise StudyError(f"model.preset: {preset!r}: a width of {d_model} is odd; keys are rotated in pairs.")
    narrower = [size for size in PRESETS.values() if size.d_model <= d_model] or [PRESETS["pico"]]
    d_key = max(width for width in range(2, narrower[-1].d_key + 1, 2) if d_model % width == 0)
    return narrower[-1]._replace(d_model=d_model, n_layer=n_layer, d_key=d_key)


def fields_of(arch: Arch) -> frozenset[str]:
    """The keys of a study's `model` section that apply to `arch`, beside `arch` and `preset`."""
    elsewhere = set().union(*_OF_SOME.values()) - _OF_SOME[arch]
    return frozenset(set(ModelConfig.model_fields) - _SET_ELSEWHERE - elsewhere)


def fields_of_others(arch: str, settings: Mapping[str, Any]) -> frozenset[str]:
    """The keys that apply to other architectures, or with other `settings`, and not to this model."""
    if arch not in _OF_SOME:
        return frozenset()
    own = _OF_SOME[arch]
    for key, value, names in _WITHOUT:
        if key in own and settings.get(key, _UNSET.get(key)) == value:
            own = own - names
    return frozenset(set().union(*_OF_SOME.values()) - own)


def resolve(
    arch: str, preset: str, vocab_size: int, overrides: dict[str, Any], task: Mapping[str, Any] = MappingProxyType({})
) -> ModelConfig:
    """The complete configuration of `arch` at the size `preset`, with single dimensions replaced by `overrides`.

    `task`: settings that come from a labelled corpus (`causal`, `classes`, `pooling`, `sequences`, `real_inputs`).

    A replaced width, depth or key width also changes what the presets derive from it (heads, value and feed-forward
    width), unless that is itself replaced. Raises StudyError for an unknown architecture, preset or key, and for
    dimensions that do not fit together.
    """
    _require(arch in _ARCHS, f"model.arch: {arch!r} is unknown. Choose one of {', '.join(_ARCHS)}.")
    known: Arch = _ARCHS[arch]
    fields = fields_of(known)
    for key in overrides:
        _require(key in fields, f"model.{key}: {arch} has no such setting. It has {', '.join(sorted(fields))}.")
    size = size_of(preset)._asdict()
    size |= {key: value for key, value in overrides.items() if key in size}
    try:
        values = _derived(known, {**overrides, **task}, size) | overrides | {"arch": known, "vocab_size": vocab_size}
        return ModelConfig(**values, **task)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["model", *map(str, first["loc"])])
        given = f"{first.get('input')!r}: " if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{where}: {given}{message}") from error


_ARCHS: dict[str, Arch] = {
    "transformer_vq": "transformer_vq",
    "transformer_full": "transformer_full",
    "transformer": "transformer",
    "transformer_window": "transformer_window",
    "gla": "gla",
    "longvq": "longvq",
    "mega": "mega",
}
_HEADS: tuple[Head, ...] = ("shga", "mqa", "mha")


def _derived(arch: Arch, overrides: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    """All dimensions of one model, from those of the table."""
    for key, value in size.items():
        _require(isinstance(value, int) and value > 0, f"model.{key}: {value!r} is no positive whole number.")
    d_model, n_layer, d_key = size["d_model"], size["n_layer"], size["d_key"]
    values: dict[str, Any] = {"d_model": d_model, "n_layer": n_layer, "d_key": d_key}
    if arch == "transformer_vq":
        values |= {"codebook_size": size["codebook_size"], "block_length": size["block_length"]}
    if arch == "transformer_window":
        values["window"] = 2 * size["block_length"]
    if arch in GATED_HYBRIDS:
        return values | _hybrid(arch, overrides, size)
    if arch in EXACT:
        values |= _bias(overrides, size)
    head = overrides.get("head", "shga")
    if arch in PLAIN:
        values |= {"position_base": ROTARY_BASE} if arch != "gla" else {}
    else:
        _require(head in _HEADS, f"model.head: {head!r} is unknown. Choose one of {', '.join(_HEADS)}.")
        values["head"] = head
        if head == "shga":
            return values | {"n_head": 1, "n_kv_head": 1, "d_value": 2 * d_model}
    d_value = d_key
    if arch == "gla":  # keys half as wide as values; values fill the width
        values["d_key"] = overrides.get("d_key", d_key // 2)
        d_value = overrides.get("d_value", 2 * values["d_key"])
    n_head = overrides.get("n_head") or d_model // d_value
    _require(
        "n_head" in overrides or d_model % d_value == 0,
        f"model.d_key: heads of width {d_value} do not fill d_model = {d_model}. Choose a divisor, or set n_head as"
        " well.",
    )
    n_kv_head = 1 if arch not in PLAIN and head == "mqa" else n_head
    values |= {"n_head": n_head, "n_kv_head": overrides.get("n_kv_head", n_kv_head), "d_value": d_value}
    if "d_ff" not in overrides:
        values["d_ff"] = _matching_feed_forward(arch, values | overrides, d_key)
    return values


def _bias(overrides: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    """Of a model with exact keys: the bias's distances, and the block length where they end."""
    bias = overrides.get("bias", _UNSET["bias"])
    return {"bias": bias} | ({"block_length": size["block_length"]} if bias == "window" else {})


def _hybrid(arch: Arch, overrides: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    """Dimensions of `longvq` and `mega`; the feed-forward width is smaller by the structured memory's parameters."""
    values: dict[str, Any] = {"n_head": 1, "n_kv_head": 1, "d_value": 2 * size["d_model"], "structured_memory": "ema"}
    values |= {"attention_function": "softmax", "norm": "rms", "prenorm": True, "gates": True}
    if arch in EXACT:
        values |= _bias(overrides, size)
    if overrides.get("structured_memory") != "none":
        values["state_dim"] = STATE_DIM
    if arch == "longvq":
        values |= {"global_memory": True, "local_window": True, "block_length": size["block_length"]}
        if overrides.get("global_memory") is not False:
            values["codebook_size"] = size["codebook_size"]
    if "d_ff" not in overrides:
        without = {key: value for key, value in size.items() if key not in _QUANTISED}
        values["d_ff"] = _matching_hybrid(
            ModelConfig(vocab_size=1, **{**without, "arch": arch, "d_ff": 1, **values, **overrides})
        )
    return values


def _matching_hybrid(config: ModelConfig) -> int:
    """The feed-forward width that gives `config` as many parameters as two gated attention units per layer."""
    groups = parameter_groups(config)
    rest = parameters_non_embedding(config) - groups["feed_forward"]
    per_width = groups["feed_forward"] // (config.d_ff or 1)
    width = (config.n_layer * _two_units(config.d_model, config.d_key) - rest) / per_width
    return max(FEED_FORWARD_STEP, FEED_FORWARD_STEP * round(width / FEED_FORWARD_STEP))


def _two_units(d_model: int, d_key: int) -> int:
    """Parameters of two gated attention units and their norms."""
    return 2 * (3 * d_model * d_key + 3 * d_model * (2 * d_model) + 2 * d_key + 2 * d_model)


def _matching_feed_forward(arch: Arch, dims: dict[str, Any], unit_key: int) -> int:
    """The feed-forward width that gives a layer as many parameters as two gated attention units of the same width.

    `unit_key`: key width of those units.

    For the paper's 190m model with multi-head attention this is its 4 D; its multi-query model had 5 D, 4 % smaller.
    """
    D, K, V, H, G = (int(dims[key]) for key in ("d_model", "d_key", "d_value", "n_head", "n_kv_head"))
    target = _two_units(D, unit_key)
    attention = D * (H * K + G * K + G * V + H * V)
    if arch == "gla":
        rest, matrices = attention + D * H * V + DECAY_RANK * (D + H * K) + H * K + V + 2 * D, 3
    elif arch in PLAIN:
        rest, matrices = attention + 2 * D, 3
    else:
        rest, matrices = attention + D * G * K + 2 * H * K + 4 * D, 2
    width = (target - rest) / (matrices * D)
    return max(FEED_FORWARD_STEP, FEED_FORWARD_STEP * round(width / FEED_FORWARD_STEP))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise StudyError(message)
