"""What every parameter of a model is for, and with it whether weight decay applies: the one place that says so.

A module names the roles of its own parameters here; one that is missing is an error, not a guess by its shape. Weight
decay applies to `vqscale.study.trial.DECAYED`: matrices and embeddings, the tensors that Transformer-VQ's reference
code decays (those of other than one dimension: it keeps u, w and all gains as vectors). Mega's code decays everything;
here its moving averages are left alone, and so is a state space, as in state-spaces/s4: decay would pull their time
scales towards arbitrary values.
"""

from collections.abc import Iterator, Mapping

from torch import nn

from vqscale.models.classifier import ClassifierHead
from vqscale.models.gated import GatedAttention
from vqscale.models.gla import GatedLinearAttention
from vqscale.models.layers import AbsolutePositions, Projection, RMSNorm, SampleEmbedding, TokenEmbedding
from vqscale.models.memory import DampedEMA, DiagonalStateSpace, StructuredMemory
from vqscale.models.norms import BatchNorm, LayerNorm, ScaleNorm
from vqscale.models.relative import Mixing
from vqscale.study.trial import DECAYED, Role

ROLES: Mapping[type[nn.Module], Mapping[str, Role]] = {
    Projection: {"weight": "matrix", "bias": "bias"},
    TokenEmbedding: {"weight": "embedding"},
    SampleEmbedding: {"weight": "gain", "bias": "bias"},
    AbsolutePositions: {"scale": "gain"},
    RMSNorm: {"gain": "gain", "bias": "bias"},
    LayerNorm: {"gain": "gain", "bias": "bias"},
    ScaleNorm: {"scale": "gain"},
    BatchNorm: {"gain": "gain", "bias": "bias"},
    Mixing: {"bias_u": "bias", "bias_w": "bias"},
    GatedAttention: {"q_gain": "gain", "k_gain": "gain", "q_shift": "bias", "k_shift": "bias"},
    GatedLinearAttention: {"decay_bias": "bias", "gain": "gain"},
    ClassifierHead: {"bias": "bias"},
    DampedEMA: dict.fromkeys(("alpha", "beta", "delta", "gamma"), "recurrence"),
    DiagonalStateSpace: dict.fromkeys(("log_dt", "log_a_real", "a_imag", "c"), "recurrence"),
    StructuredMemory: {"omega": "recurrence"},
}
"""By class (subclasses inherit) and the parameter's name in it."""


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by its name in `model`, in the order of `named_parameters`."""
    roles = {
        f"{path}.{name}" if path else name: _role(module, name)
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    return {name: roles[name] for name, _ in model.named_parameters()}


def _role(module: nn.Module, name: str) -> Role:
    found = (ROLES.get(kind, {}).get(name) for kind in type(module).__mro__)
    role = next((one for one in found if one is not None), None)
    assert role is not None, f"{type(module).__name__}.{name} has no role: add it to {__name__}.ROLES"
    return role


def decayed(model: nn.Module) -> Iterator[str]:
    """Names of the parameters to which weight decay applies."""
    return (name for name, role in parameter_roles(model).items() if role in DECAYED)
