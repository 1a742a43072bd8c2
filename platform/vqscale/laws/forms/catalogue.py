"""Functional forms: L = E + sum over terms of (coefficient * product over axes of x^-exponent), and `general` ones.

Nearly every law of the platform is such a sum. Two terms may share an exponent. A form says what it claims when the
codebook or the context grows without bound, and why it might be true; which one holds is judged by held-out error
(`vqscale.laws.validation.model_selection`), never by how well it fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqscale.errors import FitError
from vqscale.laws.forms.general import GENERAL_FORMS, GeneralForm
from vqscale.laws.io.schema import Fit, Term

Array = NDArray[np.float64]

COMMON_SPLIT = (
    "corpus_fingerprint",
    "evaluation_text",
    "arch",
    "variant",
    "head",
    "block_length",
    "segment",
    "precision",
    "schedule",
    "decay",
)
"""What must agree between two runs before their losses lie on one curve, whatever the law."""
MODEL_COLUMNS = ("preset", "d_model", "n_layer")
N_COLUMN = "parameters_non_embedding"
RUNS_PER_PARAMETER = 2
"""Runs per free parameter below which intervals are rough: the fit warns, and no architectures are compared by it."""
SEGMENT_SHARE = "segment_share"
"""segment / context, in place of `segment` where the context is an axis of the law."""


class Formula(Protocol):
    """What can be evaluated: a law, or a fit of one."""

    @property
    def letters(self) -> Sequence[str]: ...
    @property
    def terms(self) -> Sequence[Term]: ...


def parameter_names(terms: Sequence[Term]) -> tuple[str, ...]:
    """E, then every coefficient followed by those of its exponents that no earlier term has named."""
    return tuple(dict.fromkeys(["E", *(name for term in terms for name in (term.coefficient, *term.powers.values()))]))


def exponent_names(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for term in terms for name in term.powers.values()))


@dataclass(frozen=True, kw_only=True)
class Law:
    """One functional form over named columns of a table.

    `split_by` names the columns that split a table into subsets, each fitted on its own; every other column may vary
    freely among the runs of one fit.
    """

    name: str
    axes: tuple[str, ...]
    """Columns that hold x."""
    letters: tuple[str, ...]
    terms: tuple[Term, ...]
    split_by: tuple[str, ...]
    limits: str
    """Value of the form where an axis grows without bound."""
    why: str
    """Why the form might hold, with its source."""
    floor: bool = True
    """Whether there is an E, the irreducible loss; without one the loss has no lower end."""
    frontier: bool = False
    """Only runs that no cheaper run beats are fitted."""
    on_request: bool = False
    """Fitted only where it is named: a refinement of another law, or one of several candidates."""
    general: GeneralForm | None = None
    """The form where it is no sum of terms, of which there are none then."""

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names, in the order in which `evaluate_law` takes the values; E is among them, as 0, without a floor too."""
        return parameter_names(self.terms) if self.general is None else self.general.constants

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        return exponent_names(self.terms) if self.general is None else self.general.exponents

    @cached_property
    def form(self) -> str:
        if self.general is not None:
            return self.general.text
        return "L = " + " + ".join([*(["E"] if self.floor else []), *(_term_text(term) for term in self.terms)])

    @property
    def free_parameters(self) -> int:
        return len(self.parameters) - int(not self.floor)

    @property
    def minimum_runs(self) -> int:
        """One more than there are parameters: with as many, any data would fit exactly."""
        return self.free_parameters + 1

    @property
    def in_size_and_tokens(self) -> bool:
        """Whether a budget can be divided: the law knows both N and D."""
        return {"N", "D"} <= set(self.letters)


def _term_text(term: Term) -> str:
    return " ".join([term.coefficient, *(f"{letter}^-{name}" for letter, name in term.powers.items())])


def _terms(**powers: dict[str, str]) -> tuple[Term, ...]:
    return tuple(Term(coefficient=coefficient, powers=letters) for coefficient, letters in powers.items())


_COLUMNS = {
    "N": N_COLUMN,
    "D": "tokens",
    "C": "flops",
    "S": "codebook_size",
    "T": "context",
    "U": "unique_tokens",
}
_A = {"N": "alpha"}
_B = {"D": "beta"}


def _law(
    name: str,
    terms: tuple[Term, ...],
    *,
    split_by: tuple[str, ...],
    limits: str,
    why: str,
    floor: bool = True,
    frontier: bool = False,
    on_request: bool = False,
) -> Law:
    letters = tuple(dict.fromkeys(letter for term in terms for letter in term.powers))
    common: tuple[str, ...] = COMMON_SPLIT
    if "T" in letters:
        common = tuple(SEGMENT_SHARE if column == "segment" else column for column in COMMON_SPLIT)
    axes = tuple(_COLUMNS[letter] for letter in letters)
    return Law(
        name=name,
        axes=axes,
        letters=letters,
        terms=terms,
        split_by=(*common, *split_by),
        limits=limits,
        why=why,
        floor=floor,
        frontier=frontier,
        on_request=on_request,
    )


def _general(name: str, letters: tuple[str, ...], *, limits: str, why: str) -> Law:
    return Law(
        name=name,
        axes=tuple(_COLUMNS[letter] for letter in letters),
        letters=letters,
        terms=(),
        split_by=(*COMMON_SPLIT, "codebook_size", "context"),
        limits=limits,
        why=why,
        on_request=True,
        general=GENERAL_FORMS[name],
    )


_NAMED = (
    _law(
        "power_n",
        _terms(A=_A),
        split_by=("codebook_size", "context", "tokens"),
        limits="N to infinity: E, the loss of an unlimited model on this many tokens.",
        why="Kaplan et al. 2020 (arXiv 2001.08361), with a floor.",
    ),
    _law(
        "power_d",
        _terms(A={"D": "alpha"}),
        split_by=("codebook_size", "context", *MODEL_COLUMNS),
        limits="D to infinity: E, the loss of this model on unlimited data.",
        why="Kaplan et al. 2020 (arXiv 2001.08361), with a floor.",
    ),
    _law(
        "power_c",
        _terms(A={"C": "alpha"}),
        split_by=("codebook_size", "context"),
        limits="C to infinity: E, the loss of unlimited compute.",
        why="What the Chinchilla form gives along the best division of C: exactly so for C proportional to N D, with "
        "exponent alpha beta / (alpha + beta).",
        frontier=True,
    ),
    _law(
        "codebook",
        _terms(A={"S": "alpha"}),
        split_by=("context", "tokens", *MODEL_COLUMNS),
        limits="S to infinity: E, this model with un-quantised keys.",
        why="The error of the best S codes in d dimensions falls as S^(-2/d) (Zador 1982); the loss follows the error.",
    ),
    _law(
        "chinchilla",
        _terms(A=_A, B=_B),
        split_by=("codebook_size", "context"),
        limits="N and D to infinity: E. One of them: E and the term of the other.",
        why="Hoffmann et al. 2022 (arXiv 2203.15556), equation 2: what a finite model and finite data cost adds up.",
    ),
    _law(
        "chinchilla_tied",
        _terms(A=_A, B={"D": "alpha"}),
        split_by=("codebook_size", "context"),
        on_request=True,
        limits="As chinchilla. N*(C) and D*(C) both grow as the square root of C for C proportional to N D.",
        why="Gadre et al. 2024 (arXiv 2403.08540): one exponent less, for few runs; D = M N turns it into their form.",
    ),
    _law(
        "chinchilla_no_floor",
        _terms(A=_A, B=_B),
        split_by=("codebook_size", "context"),
        floor=False,
        on_request=True,
        limits="N and D to infinity: 0. A form to read between the runs, not far beyond them.",
        why="Runs that show no levelling off do not determine E, and chinchilla is refused for them; over the range "
        "that they cover two powers may describe them as well.",
    ),
    _law(
        "codebook_additive",
        _terms(A=_A, B=_B, G={"S": "gamma"}),
        split_by=("context",),
        on_request=True,
        limits="S to infinity: the Chinchilla law of un-quantised keys. N and D to infinity: E + G S^-gamma; no size "
        "makes up for a coarse codebook.",
        why="Quantisation blurs the keys by an error that falls as a power of S (Zador 1982), and the blur costs every "
        "model the same.",
    ),
    _law(
        "codebook_capacity",
        _terms(A=_A, B=_B, G={"N": "alpha", "S": "gamma"}),
        split_by=("context",),
        on_request=True,
        limits="S to infinity: the Chinchilla law of un-quantised keys. N to infinity: the codebook costs nothing.",
        why="A N^-alpha (1 + g S^-gamma) with g = G / A: a coarse codebook makes a model act as a smaller one, so that "
        "size makes up for it.",
    ),
    _law(
        "context_additive",
        _terms(A=_A, B=_B, H={"T": "tau"}),
        split_by=("codebook_size",),
        on_request=True,
        limits="T to infinity: the Chinchilla law of unlimited context. N and D to infinity: E + H T^-tau; no size "
        "makes up for tokens that the model cannot see.",
        why="Loss falls with position t as a power; for an exponent tau < 1 so does its mean over 1..T.",
    ),
    _law(
        "context_capacity",
        _terms(A=_A, B=_B, H={"N": "alpha", "T": "tau"}),
        split_by=("codebook_size",),
        on_request=True,
        limits="T to infinity: the Chinchilla law of unlimited context. N to infinity: a short context costs nothing.",
        why="A N^-alpha (1 + h T^-tau) with h = H / A: a small model must read from the context what a large one "
        "keeps in its weights.",
    ),
    _law(
        "joint_additive",
        _terms(A=_A, B=_B, G={"S": "gamma"}, H={"T": "tau"}),
        split_by=(),
        on_request=True,
        limits="S to infinity: context_additive; T to infinity: codebook_additive; both: the Chinchilla law of "
        "un-quantised keys and unlimited context.",
        why="The smooth form of a bottleneck: usable context is the smaller of T and what S codes can tell apart, "
        "(min(T, k S^(gamma/tau)))^-tau, and the sum of both terms lies within a factor of two of it.",
    ),
    _law(
        "joint_capacity",
        _terms(A=_A, B=_B, G={"N": "alpha", "S": "gamma"}, H={"T": "tau"}),
        split_by=(),
        on_request=True,
        limits="S to infinity: context_additive; T to infinity: codebook_capacity. N to infinity: the codebook costs "
        "nothing, the missing context still does.",
        why="Coarse keys are a loss of capacity, which size makes up for; unseen tokens are missing information, which "
        "it cannot.",
    ),
    _general(
        "chinchilla_coupled",
        ("N", "D"),
        limits="N and D to infinity: E. N*(C) is that of the bracket, with a = beta / (alpha + beta).",
        why="Kaplan et al. 2020 (arXiv 2001.08361) couple both terms by an outer exponent, Chinchilla's law is k = 1; "
        "arXiv 2608.07222 (read in a summary only) finds k of .3 to .45 on two grids, .8 to .9 on two others.",
    ),
    _general(
        "farseer",
        ("N", "D"),
        limits="N to infinity: E, and what data costs there; D to infinity: E exp(s N^-q).",
        why="Li et al. 2025 (arXiv 2506.10972): L = E + U(N) + B(N) D^-A(N), with U, B and A exponentials of powers of "
        "N, nine constants. Abstract and secondary sources were read, not the paper: which letters and bounds it uses "
        "is not taken over, and E + U(N) is written as one exponential that ends at E.",
    ),
    _general(
        "repeated_data",
        ("N", "D", "U"),
        limits="D to infinity at U unique tokens: the loss of U (1 + r) fresh ones. U to infinity: Chinchilla's law.",
        why="Muennighoff et al. 2023 (arXiv 2305.16264), equation 5: an epoch of data seen before is worth less each "
        "time; D' = U + U r (1 - exp(-(D / U - 1) / r)).",
    ),
    _general(
        "repeated_data_parameters",
        ("N", "D", "U"),
        limits="As repeated_data, and N to infinity at U unique tokens: the loss of N_U (1 + rn) parameters.",
        why="Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6: parameters beyond the best size for U "
        "unique tokens are worth less in the same way.",
    ),
)
LAWS = {law.name: law for law in _NAMED}


def named_law(name: str, *, n_column: str = N_COLUMN, flops_column: str = "flops") -> Law:
    """The law called `name`, with N read from `n_column` and C from `flops_column`.

    Raises FitError for an unknown name.
    """
    if name not in LAWS:
        raise FitError(f"law: {name!r} is unknown. Choose from {', '.join(LAWS)}.")
    law = LAWS[name]
    columns = {N_COLUMN: n_column, "flops": flops_column}
    return replace(law, axes=tuple(columns.get(axis, axis) for axis in law.axes))


def general_form(formula: Formula) -> GeneralForm | None:
    """The form of a law, or of a fit of one, that is no sum of terms; None for a sum."""
    return GENERAL_FORMS.get(str(getattr(formula, "law", getattr(formula, "name", "")))) if not formula.terms else None


def exponents_of(fit: Fit) -> tuple[str, ...]:
    """Names of the exponents of a fitted law."""
    general = general_form(fit)
    return exponent_names(fit.terms) if general is None else general.exponents


def incidence(formula: Formula) -> Array:
    """[J, K, A]: 1 where term j has axis a to the power of exponent k, else 0."""
    exponents = exponent_names(formula.terms)
    found_JKA = np.zeros((len(formula.terms), len(exponents), len(formula.letters)))
    for term, row_KA in zip(formula.terms, found_JKA, strict=True):
        for letter, name in term.powers.items():
            row_KA[exponents.index(name), list(formula.letters).index(letter)] += 1
    return found_JKA


def evaluate_law(formula: Formula, parameters: ArrayLike, x_RA: Array) -> Array:
    """L of every run, in the unit that was fitted: [..., R].

    `parameters` [..., P]: values in the order of `parameter_names`; leading axes are kept, so that all refits of a
    bootstrap are evaluated at once. `x_RA`: one column per letter.
    """
    values = np.asarray(parameters, dtype=np.float64)
    if (general := general_form(formula)) is not None:
        return general.losses(values, x_RA)
    place = {name: index for index, name in enumerate(parameter_names(formula.terms))}
    log_x = dict(zip(formula.letters, np.log(x_RA).T, strict=True))
    # Powers of several axes as one exp of a sum of logarithms; row 0 of the values is E.
    total = np.broadcast_to(values[..., :1], (*values.shape[:-1], len(x_RA))).copy()
    for term in formula.terms:
        power = sum(values[..., [place[name]]] * log_x[letter] for letter, name in term.powers.items())
        total += values[..., [place[term.coefficient]]] * np.exp(-power)
    return total


def derived(law: Law, parameters: Array) -> dict[str, Array]:
    """Exponents of the best division of a budget, N* ~ C^a and D* ~ C^b for C proportional to N D.

    arXiv 2203.15556, equation 4. A further term in S or T alone moves no optimum, and one in N and S or T, with the
    exponent of N, only scales the term in N. `parameters`: [..., P].
    """
    if not law.in_size_and_tokens or "alpha" not in law.parameters:
        return {}
    if law.general is not None:
        alpha, beta = (parameters[..., law.parameters.index(name)] for name in ("alpha", "beta"))
        return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}
    place = law.parameters.index
    alpha, beta = parameters[..., place(_power(law, "N"))], parameters[..., place(_power(law, "D"))]
    return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}


def _power(law: Law, letter: str) -> str:
    return next(term.powers[letter] for term in law.terms if letter in term.powers)
