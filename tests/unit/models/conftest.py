"""Small models of every architecture and head type, in float64 so that equality means equality."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vqscale.models import LanguageModel, build, resolve
from vqscale.study.model import ModelConfig

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
]

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
def make_model() -> MakeModel:
    """`make_model(kind, **overrides)`: a model of width 16 with random biases, so that every term takes part."""

    def make(kind: tuple[str, str | None], *, seed: int = 0, **overrides: Any) -> LanguageModel:
        arch, head = kind
        dims: dict[str, Any] = {"d_model": 16, "n_layer": 2, "d_key": 8}
        if arch == "transformer_vq":
            dims |= {"codebook_size": 6, "block_length": 4}
        if arch == "gla":
            dims |= {"d_key": 4}
        if arch == "transformer_window":
            dims |= {"window": 12}
        if head is not None:
            dims["head"] = head
        of_corpus = {key: overrides.pop(key) for key in ("classes", "pooling", "causal") if key in overrides}
        config = resolve(arch, "pico", VOCAB, dims | overrides)
        model = build(ModelConfig(**config.model_dump() | of_corpus), seed=seed).double()
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
