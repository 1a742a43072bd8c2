"""A model from its configuration, with weights drawn from a seed."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from vqscale.models.base import LanguageModel
from vqscale.models.gla import GatedLinearTransformer
from vqscale.models.longvq import LongVQ
from vqscale.models.mega import Mega
from vqscale.models.transformer import Transformer
from vqscale.models.transformer_full import TransformerFull
from vqscale.models.transformer_vq import TransformerVQ
from vqscale.models.transformer_window import TransformerWindow
from vqscale.study.model import ModelConfig

_MODELS: dict[str, Callable[[ModelConfig], LanguageModel]] = {
    "transformer_vq": TransformerVQ,
    "transformer_full": TransformerFull,
    "transformer": Transformer,
    "transformer_window": TransformerWindow,
    "gla": GatedLinearTransformer,
    "longvq": LongVQ,
    "mega": Mega,
}


@runtime_checkable
class Initialised(Protocol):
    """A module that draws its own parameters and buffers."""

    def initialise(self, generator: torch.Generator) -> None: ...


def build(config: ModelConfig, *, device: str | torch.device = "cpu", seed: int | None) -> LanguageModel:
    """The model that `config` describes, in float32.

    Its weights depend on `seed` alone: they are drawn on the CPU whatever the device, and the global random state is
    neither read nor changed. `seed` None takes entropy from the operating system. On the device `meta` nothing is
    drawn and no memory is used.
    """
    with torch.device("meta"):  # no memory, and no draws by torch's own initialisers
        model = _MODELS[config.arch](config)
    if torch.device(device).type == "meta":
        return model
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, Initialised):
            module.initialise(generator)
    return model.to(device)
