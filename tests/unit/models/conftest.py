"""Small models of every architecture and head type, in float64 so that equality means equality."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vqscale.costing.presets import resolve
from vqscale.models import LanguageModel, build
from vqscale.study.model import GATED_HYBRIDS, QUANTISED, ModelConfig

VOCAB = 13
KINDS = [
    ("transformer", None),
    ("transformer_full", "shga"),
    ("transformer_full", "mqa"),
    ("transformer_full", "mha"),
    ("transformer_vq", "shga"),
    ("transformer_vq", "mqa"),
    ("transformer_vq", "mha"),
    ("gla", None),
    ("transformer_window", None),
    ("longvq", "whole"),
    ("longvq", "window"),
    ("longvq", "bare"),
    ("longvq", "s4d"),
    ("longvq", "laplace"),
    ("mega", "whole"),
    ("mega", "laplace"),
]

VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "window": {"global_memory": False},
    "bare": {"structured_memory": "none", "local_window": False, "gates": False, "prenorm": False, "norm": "layer"},
    "s4d": {"structured_memory": "s4d"},
    "laplace": {"attention_function": "laplace", "norm": "scale"},
}
"""Settings of the gated hybrids, in place of the head types of others."""

MakeModel = Callable[..., LanguageModel]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these small products, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def kind(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    return request.param


@pytest.fixture
def small_config() -> Callable[..., ModelConfig]:
    """`small_config(kind, **overrides)`: of width 16, two layers, six codes and blocks of four."""

    def config(kind: tuple[str, str | None], **overrides: Any) -> ModelConfig:
        arch, variant = kind
        dims: dict[str, Any] = {"d_model": 16, "n_layer": 2, "d_key": 8}
        if arch in QUANTISED:
            dims |= {"codebook_size": 6, "block_length": 4}
        if arch == "gla":
            dims |= {"d_key": 4}
        if arch == "transformer_window":
            dims |= {"window": 12}
        if arch in GATED_HYBRIDS:
            dims |= {"state_dim": 4} | VARIANTS[variant or "whole"]
        elif variant is not None:
            dims["head"] = variant
        of_corpus = {key: overrides.pop(key) for key in ("classes", "pooling", "causal") if key in overrides}
        dims |= overrides
        for without, key in (("global_memory", "codebook_size"), ("structured_memory", "state_dim")):
            if dims.get(without) in (False, "none"):
                del dims[key]
        return resolve(arch, "pico", VOCAB, dims, of_corpus)

    return config


@pytest.fixture
def make_model(small_config: Callable[..., ModelConfig]) -> MakeModel:
    """`make_model(kind, **overrides)`: a model of width 16 with random biases, so that every term takes part."""

    def make(kind: tuple[str, str | None], *, seed: int = 0, **overrides: Any) -> LanguageModel:
        model = build(small_config(kind, **overrides), seed=seed).double()
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1 or parameter.shape == (model.config.n_head, 8):
                    parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return model

    return make


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 19), generator=torch.Generator().manual_seed(5))
