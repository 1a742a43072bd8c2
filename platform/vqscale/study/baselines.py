"""What a model with exact keys is, compared with the model with quantised keys that it is the baseline of."""

from vqscale.study.model import EXACT, WINDOW_BIAS

_NAMES = {
    ("transformer_full", False): "full attention, the paper's baseline (bias over all distances)",
    ("transformer_full", True): "full attention, bias within L: quantisation alone",
    ("mega", False): "Mega (bias over all distances)",
    ("mega", True): "Mega, bias within L: quantisation alone",
}


def window_bias(variant: object) -> bool:
    """Whether a variant's name (the column `variant`) says that the bias ends at the window."""
    return isinstance(variant, str) and WINDOW_BIAS in variant.split("+")


def baseline_name(arch: str, variant: object = None) -> str | None:
    """The name of a baseline with exact keys, by its bias; None for other architectures."""
    return _NAMES.get((arch, window_bias(variant)))


def difference(quantised: str, arch: str, variant: object = None) -> str | None:
    """What changed between the architecture `quantised` and `arch`; None unless that is its own baseline."""
    if EXACT.get(arch) != quantised:
        return None
    if window_bias(variant):
        return "one thing changed: exact keys"
    return "two things changed: exact keys and a bias over all distances"
