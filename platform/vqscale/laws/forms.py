"""Functional forms: L = E + sum over axes of (coefficient * x^-exponent), one axis or two.

Axis letters of the arrays: R runs, A axes of the law, P parameters. Inside, a law is evaluated in logarithms,
log L = logsumexp(e, a_j - alpha_j z_j) with z the centred log x, after Hoffmann et al. 2022 (arXiv 2203.15556);
centring takes away most of the correlation between a coefficient and its exponent. theta_P = [e, a_1.., alpha_1..].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqscale.errors import FitError
from vqscale.laws.record import Term

Array = NDArray[np.float64]

COMMON_CELL = ("corpus_fingerprint", "arch", "head", "block_length", "segment", "precision")
"""What must agree between two runs before their losses lie on one curve, whatever the law."""
MODEL = ("preset", "d_model", "n_layer")


@dataclass(frozen=True, kw_only=True)
class Law:
    """One functional form over named columns of a table.

    `cell` names the columns that split a table into subsets, each fitted on its own; every other column may vary
    freely among the runs of one fit.
    """

    name: str
    axes: tuple[str, ...]
    """Columns that hold x."""
    letters: tuple[str, ...]
    cell: tuple[str, ...]
    frontier: bool = False
    """Only runs that no cheaper run beats are fitted."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the order of `natural`."""
        return ("E", "A", "alpha", "B", "beta")[: 1 + 2 * len(self.axes)]

    @property
    def form(self) -> str:
        terms = zip("AB", self.letters, ("alpha", "beta"), strict=False)
        return "L = E + " + " + ".join(f"{scale} {letter}^-{power}" for scale, letter, power in terms)

    @property
    def terms(self) -> list[Term]:
        rows = zip("AB", self.letters, ("alpha", "beta"), strict=False)
        return [Term(coefficient=scale, powers={letter: power}) for scale, letter, power in rows]

    @property
    def minimum_runs(self) -> int:
        """One more than there are parameters: with as many, any data would fit exactly."""
        return len(self.parameters) + 1


_NAMED = (
    Law(
        name="power_n",
        axes=("parameters_non_embedding",),
        letters=("N",),
        cell=(*COMMON_CELL, "codebook_size", "context", "tokens"),
    ),
    Law(name="power_d", axes=("tokens",), letters=("D",), cell=(*COMMON_CELL, "codebook_size", "context", *MODEL)),
    Law(
        name="power_c", axes=("flops",), letters=("C",), cell=(*COMMON_CELL, "codebook_size", "context"), frontier=True
    ),
    Law(name="codebook", axes=("codebook_size",), letters=("S",), cell=(*COMMON_CELL, "context", "tokens", *MODEL)),
    Law(
        name="chinchilla",
        axes=("parameters_non_embedding", "tokens"),
        letters=("N", "D"),
        cell=(*COMMON_CELL, "codebook_size", "context"),
    ),
)
LAWS = {law.name: law for law in _NAMED}


def named_law(name: str, *, n_column: str = "parameters_non_embedding") -> Law:
    """The law called `name`, with N read from `n_column`. Raises FitError for an unknown name."""
    if name not in LAWS:
        raise FitError(f"law: {name!r} is unknown. Choose from {', '.join(LAWS)}.")
    law = LAWS[name]
    return replace(law, axes=tuple(n_column if axis == "parameters_non_embedding" else axis for axis in law.axes))


def log_loss(theta_P: Array, z_RA: Array) -> Array:
    """log L of every run."""
    return _log_sum_and_shares(theta_P, z_RA)[0]


def log_loss_jacobian(theta_P: Array, z_RA: Array) -> Array:
    """d log L / d theta: [R, P]."""
    return log_loss_and_jacobian(theta_P, z_RA)[1]


def log_loss_and_jacobian(theta_P: Array, z_RA: Array) -> tuple[Array, Array]:
    log_loss_R, share_RT = _log_sum_and_shares(theta_P, z_RA)
    return log_loss_R, np.concatenate([share_RT, -share_RT[:, 1:] * z_RA], axis=1)


def _log_sum_and_shares(theta_P: Array, z_RA: Array) -> tuple[Array, Array]:
    """log of the sum of the terms (E first), and each term's share in it: [R], [R, 1 + A].

    Written out because scipy's logsumexp takes most of a fit's time on arrays this small.
    """
    runs, axes = z_RA.shape
    terms_RT = np.empty((runs, 1 + axes))
    terms_RT[:, 0] = theta_P[0]
    terms_RT[:, 1:] = theta_P[1 : 1 + axes] - theta_P[1 + axes :] * z_RA
    largest_R = terms_RT.max(axis=1)
    exponential_RT = np.exp(terms_RT - largest_R[:, None])
    sum_R = exponential_RT.sum(axis=1)
    return largest_R + np.log(sum_R), exponential_RT / sum_R[:, None]


def natural(theta_P: Array, centre_A: Array) -> Array:
    """[E, A, alpha, B, beta] in the units of x, from centred logarithms."""
    axes = len(centre_A)
    exponents = theta_P[1 + axes :]
    coefficients = np.exp(theta_P[1 : 1 + axes] + exponents * centre_A)
    pairs = np.stack([coefficients, exponents], axis=1).ravel()
    return np.concatenate([np.exp(theta_P[:1]), pairs])


def predict(parameters: Sequence[float], x_RA: Array) -> Array:
    """L of every run from natural parameters [E, A, alpha, ...], in the unit that was fitted."""
    values = np.asarray(parameters, dtype=np.float64)
    terms_RA = values[1::2] * x_RA ** -values[2::2]
    return np.asarray(values[0] + terms_RA.sum(axis=1), dtype=np.float64)
