"""Forms that are no sum of power terms: interactions of N and D, and repeated data.

Such a form says how its logarithm follows from `theta`, coordinates in which a search is well conditioned (centred log
x, logarithms of what is positive), and how `theta` becomes the constants that are recorded. Everything is written so
that `theta` may be complex: a step of 1e-20 along the imaginary axis gives derivatives exact to rounding.

Letters of the arrays: B rows, R runs, P parameters, A axes.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEAST_EXPONENT, LARGEST_EXPONENT = 1e-3, 4.0
LEAST_REPEATED = 0.02
"""Of the exponents of repeated data: the best size for U tokens is a power with their quotient."""
LARGEST_LOG = 50.0
"""Where a search leaves what a loss can be: beyond it a term stays as it is."""
STEP = 1e-20


class GeneralForm(ABC):
    """One form; `constants` are its natural parameters in order, `exponents` those that are compared and spanned."""

    constants: tuple[str, ...]
    exponents: tuple[str, ...]
    text: str
    theta_names: tuple[str, ...]

    @abstractmethod
    def log_loss(self, theta_BP: Any, log_x_RA: Array, centre_A: Array) -> Any:
        """log L of every run: [B, R], complex where `theta` is."""

    @abstractmethod
    def natural(self, theta_BP: Array, centre_A: Array) -> Array:
        """The constants, in the units of x: [..., P]."""

    @abstractmethod
    def theta_of(self, natural_BP: Array, centre_A: Array) -> Array:
        """The inverse of `natural`."""

    @abstractmethod
    def bounds(self, loss_R: Array) -> tuple[Array, Array]:
        """Lowest and highest theta of a search."""

    @abstractmethod
    def starts(self, loss_R: Array) -> Array:
        """Where a search begins: theta [G, P]."""

    def jacobian(self, theta_BP: Array, log_x_RA: Array, centre_A: Array) -> Array:
        """d log L / d theta: [B, P, R], by complex steps."""
        found = []
        for place in range(theta_BP.shape[1]):
            shifted = theta_BP.astype(np.complex128)
            shifted[:, place] += 1j * STEP
            found.append(self.log_loss(shifted, log_x_RA, centre_A).imag / STEP)
        return np.stack(found, axis=1)

    def losses(self, natural: Array, x_RA: Array) -> Array:
        """L from the constants: [..., R]."""
        log_x_RA = np.log(x_RA)
        centre_A = log_x_RA.mean(axis=0) if len(log_x_RA) else np.zeros(log_x_RA.shape[1])
        rows_BP = natural.reshape(-1, natural.shape[-1])
        log_BR = self.log_loss(self.theta_of(rows_BP, centre_A), log_x_RA, centre_A)
        return np.asarray(np.exp(log_BR).reshape(*natural.shape[:-1], len(x_RA)), dtype=np.float64)


def _grid(*lines: Sequence[float]) -> Array:
    return np.array(list(itertools.product(*lines)))


@dataclass(frozen=True)
class Coupled(GeneralForm):
    """L = E + (A N^-alpha + B D^-beta)^k: additive at k = 1, which decides nothing about N*(C).

    theta = [log E, log M, logit w, log alpha, log beta, log k] with M the whole second term and w the share of N inside
    its bracket, both at the centre of the runs.
    """

    constants = ("E", "A", "alpha", "B", "beta", "k")
    exponents = ("alpha", "beta", "k")
    text = "L = E + (A N^-alpha + B D^-beta)^k"
    theta_names = ("E", "A and B", "A / B", "alpha", "beta", "k")

    def log_loss(self, theta_BP: Any, log_x_RA: Array, centre_A: Array) -> Any:
        e, m, w, alpha, beta, k = (theta_BP[:, [place]] for place in range(6))
        u_R, v_R = (log_x_RA - centre_A).T
        share = 1 / (1 + np.exp(-w))
        bracket = share * np.exp(-np.exp(alpha) * u_R) + (1 - share) * np.exp(-np.exp(beta) * v_R)
        return np.log(np.exp(e) + np.exp(m + np.exp(k) * np.log(bracket)))

    def natural(self, theta_BP: Array, centre_A: Array) -> Array:
        e, m, w, alpha, beta, k = (theta_BP[..., place] for place in range(6))
        alpha, beta, k = np.exp(alpha), np.exp(beta), np.exp(k)
        log_share, log_rest = -np.logaddexp(0, -w), -np.logaddexp(0, w)
        log_a = m / k + log_share + alpha * centre_A[0]
        log_b = m / k + log_rest + beta * centre_A[1]
        return np.stack([np.exp(e), np.exp(log_a), alpha, np.exp(log_b), beta, k], axis=-1)

    def theta_of(self, natural_BP: Array, centre_A: Array) -> Array:
        e, a, alpha, b, beta, k = (natural_BP[..., place] for place in range(6))
        log_n, log_d = np.log(a) - alpha * centre_A[0], np.log(b) - beta * centre_A[1]
        level = k * np.logaddexp(log_n, log_d)
        return np.stack([np.log(e), level, log_n - log_d, np.log(alpha), np.log(beta), np.log(k)], axis=-1)

    def bounds(self, loss_R: Array) -> tuple[Array, Array]:
        least, most = np.log(loss_R.min()), np.log(loss_R.max())
        low = [least + np.log(1e-3), least + np.log(1e-8), -18.0, *[np.log(LEAST_EXPONENT)] * 2, np.log(0.05)]
        return np.array(low), np.array([least, most, 18.0, *[np.log(LARGEST_EXPONENT)] * 2, np.log(20.0)])

    def starts(self, loss_R: Array) -> Array:
        level = loss_R.mean() - 0.7 * loss_R.min()
        shares, exponents = _grid((0.3, 0.85)), _grid((0.2, 0.5), (0.2, 0.5), (0.4, 1.0, 2.0))
        return np.array(
            [
                [
                    np.log(share * loss_R.min()),
                    np.log(max(loss_R.mean() - share * loss_R.min(), 0.05 * level)),
                    0.0,
                    *np.log(row),
                ]
                for (share,) in shares.tolist()
                for row in exponents
            ]
        )


def _limited(log: Any) -> Any:
    return np.where(np.abs(log.real) > LARGEST_LOG, np.sign(log.real) * LARGEST_LOG, log)


def _stretched(log_x: Any, power: Any) -> Any:
    """(x^power - 1) / power, which goes over into log x at power 0, written without a division by a small power."""
    product = power * log_x
    small = np.abs(product) < 1e-4
    safe = np.where(np.abs(power) < 1e-12, 1.0, power)
    series = log_x * (1 + product / 2 * (1 + product / 3 * (1 + product / 4)))
    return np.where(small, series, (np.exp(np.where(small, 0.0, product)) - 1) / safe)


@dataclass(frozen=True)
class Farseer(GeneralForm):
    """L = E exp(s N^-q) + exp(b N^p + c) D^-exp(a N^r + t): level, size and exponent of what data buys all move with N.

    theta = [u0, u1, log q, v0, v1, p, w0, w1, r], each triple a value, a slope and a bend over centred log N; v0 and v1
    are those of the second term at the centre of log D, to first order (D itself may not be centred: with an exponent
    that depends on N, another unit of D is another form).
    """

    constants = ("E", "s", "q", "c", "b", "p", "t", "a", "r")
    exponents = ("q", "p", "r")
    text = "L = E exp(s N^-q) + exp(b N^p + c) D^-exp(a N^r + t)"
    theta_names = ("E", "s", "q", "c", "b", "p", "t", "a", "r")

    def log_loss(self, theta_BP: Any, log_x_RA: Array, centre_A: Array) -> Any:
        u0, u1, q, v0, v1, p, w0, w1, r = (theta_BP[:, [place]] for place in range(9))
        n_R, d_R = log_x_RA[:, 0] - centre_A[0], log_x_RA[:, 1]
        level = u0 + u1 * _stretched(n_R, -np.exp(q))
        power = np.exp(_limited(w0 + w1 * _stretched(n_R, r)))
        lift = np.exp(w0) * centre_A[1]
        second = v0 + lift + (v1 + lift * w1) * _stretched(n_R, p) - power * d_R
        return np.log(np.exp(_limited(level)) + np.exp(_limited(second)))

    def natural(self, theta_BP: Array, centre_A: Array) -> Array:
        u0, u1, q, v0, v1, p, w0, w1, r = (theta_BP[..., place] for place in range(9))
        q = np.exp(q)
        lift = np.exp(w0) * centre_A[1]
        b1 = v1 + lift * w1
        log_n = centre_A[0]
        columns = [
            np.exp(u0 + u1 / q),  # the level at infinite N
            -u1 / q * np.exp(q * log_n),
            q,
            v0 + lift - b1 / p,
            b1 / p * np.exp(-p * log_n),
            p,
            w0 - w1 / r,
            w1 / r * np.exp(-r * log_n),
            r,
        ]
        return np.stack(columns, axis=-1)

    def theta_of(self, natural_BP: Array, centre_A: Array) -> Array:
        e, s, q, c, b, p, t, a, r = (natural_BP[..., place] for place in range(9))
        log_n = centre_A[0]
        u1 = -s * q * np.exp(-q * log_n)
        b1, w1 = b * p * np.exp(p * log_n), a * r * np.exp(r * log_n)
        w0 = t + w1 / r
        lift = np.exp(w0) * centre_A[1]
        columns = [np.log(e) - u1 / q, u1, np.log(q), c + b1 / p - lift, b1 - lift * w1, p, w0, w1, r]
        return np.stack(columns, axis=-1)

    def bounds(self, loss_R: Array) -> tuple[Array, Array]:
        least, most = float(np.log(loss_R.min())), float(np.log(loss_R.max()))
        low = [least - 5.0, -2.0, np.log(0.01), least - 12.0, -3.0, -1.5, np.log(0.01), -1.0, -1.5]
        high = [most, 0.5, np.log(2.0), most + 3.0, 3.0, 1.5, np.log(3.0), 1.0, 1.5]
        return np.array(low), np.array(high)

    def starts(self, loss_R: Array) -> Array:
        level, rest = np.log(loss_R.min()), np.log(0.3 * loss_R.mean())
        lines = ((-0.05, -0.15), (0.15, 0.4), (-0.1, 0.1), (0.25, 0.45), (-0.05, 0.05))
        return np.array(
            [
                [level - 0.1, u1, np.log(q), rest, v1, 0.05, np.log(w0), w1, 0.1]
                for u1, q, v1, w0, w1 in itertools.product(*lines)
            ]
        )


@dataclass(frozen=True)
class Repeated(GeneralForm):
    """Chinchilla's form in effective data, and with `parameters` in effective parameters too.

    D' = U + U r (1 - exp(-(D / U - 1) / r)) for D > U, else D: an epoch is worth ever less, and all repetitions
    together r epochs of fresh data. N' is the same of N over the size that is best for U tokens once, N_U =
    (alpha A / (beta B) U^beta) ^ (1 / alpha).

    theta = [log E, log A', log B', alpha, beta, log r (, log rn)], A' and B' terms at the centre.
    """

    parameters: bool = False

    @property
    def constants(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("E", "A", "alpha", "B", "beta", "r", *(("rn",) if self.parameters else ()))

    @property
    def theta_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("E", "A", "B", "alpha", "beta", "r", *(("rn",) if self.parameters else ()))

    exponents = ("alpha", "beta")

    @property
    def text(self) -> str:  # type: ignore[override]
        return f"L = E + A N{chr(39) if self.parameters else ''}^-alpha + B D'^-beta"

    def log_loss(self, theta_BP: Any, log_x_RA: Array, centre_A: Array) -> Any:
        e, a, b, alpha, beta, r = (theta_BP[:, [place]] for place in range(6))
        log_n, log_d, log_u = (log_x_RA[:, place] for place in range(3))
        used_d = log_u + _effective(np.maximum(np.exp(log_d - log_u) - 1, 0.0), np.exp(r))
        data = np.where(log_d > log_u, used_d, log_d)
        size: Any = log_n
        if self.parameters:
            # alpha A N^-alpha = beta B U^-beta, with A and B as terms at the centre.
            best = centre_A[0] + (np.log(alpha / beta) + a - b + beta * (log_u - centre_A[1])) / alpha
            above = log_n - best
            more = np.exp(_limited(np.where(above.real > 0, above, 0.0))) - 1
            size = np.where(above.real > 0, best + _effective(more, np.exp(theta_BP[:, [6]])), log_n)
        first, second = a - alpha * (size - centre_A[0]), b - beta * (data - centre_A[1])
        return np.log(np.exp(e) + np.exp(first) + np.exp(second))

    def natural(self, theta_BP: Array, centre_A: Array) -> Array:
        e, a, b, alpha, beta, r = (theta_BP[..., place] for place in range(6))
        found = [np.exp(e), np.exp(a + alpha * centre_A[0]), alpha, np.exp(b + beta * centre_A[1]), beta, np.exp(r)]
        return np.stack([*found, *([np.exp(theta_BP[..., 6])] if self.parameters else [])], axis=-1)

    def theta_of(self, natural_BP: Array, centre_A: Array) -> Array:
        e, a, alpha, b, beta, r = (natural_BP[..., place] for place in range(6))
        found = [np.log(e), np.log(a) - alpha * centre_A[0], np.log(b) - beta * centre_A[1], alpha, beta, np.log(r)]
        return np.stack([*found, *([np.log(natural_BP[..., 6])] if self.parameters else [])], axis=-1)

    def bounds(self, loss_R: Array) -> tuple[Array, Array]:
        least, most = np.log(loss_R.min()), np.log(loss_R.max())
        more = int(self.parameters)
        low = [least + np.log(1e-3), *[least + np.log(1e-8)] * 2, *[LEAST_REPEATED] * 2, *[np.log(0.05)] * (1 + more)]
        high = [least, *[most + np.log(10)] * 2, *[LARGEST_EXPONENT] * 2, *[np.log(1e4)] * (1 + more)]
        return np.array(low), np.array(high)

    def starts(self, loss_R: Array) -> Array:
        rows = []
        more = [(5.0,)] if self.parameters else []
        for share, alpha, beta, r, *others in _grid((0.3, 0.8), (0.2, 0.5), (0.2, 0.5), (3.0, 15.0), *more).tolist():
            rest = np.log((loss_R.mean() - share * loss_R.min()) / 2)
            rows.append([np.log(share * loss_R.min()), rest, rest, alpha, beta, np.log(r), *np.log(others)])
        return np.array(rows)


def _effective(repeats: Any, half: Any) -> Any:
    """log(1 + r (1 - exp(-repeats / r)))."""
    return np.log(1 + half * (1 - np.exp(-repeats / half)))


GENERAL_FORMS: dict[str, GeneralForm] = {
    "chinchilla_coupled": Coupled(),
    "farseer": Farseer(),
    "repeated_data": Repeated(),
    "repeated_data_parameters": Repeated(parameters=True),
}
