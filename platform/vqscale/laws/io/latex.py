"""Fits as LaTeX tables (booktabs): one table per law, one of the optima. A comment gives the provenance of rows."""

import math
import re
from collections.abc import Callable, Iterable, Sequence

from vqscale.formatting import short_count
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import Estimate, Fit, Frontier, StudyFits

_GREEK = {"alpha": r"\alpha", "beta": r"\beta", "gamma": r"\gamma", "delta": r"\delta"}
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": "$^2$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_RowGroup = tuple[str, Sequence[Sequence[str]]]
"""Provenance of rows, and the rows."""
_HEAD = "% Made by `vqscale export`. Needs \\usepackage{booktabs}.\n"


def to_latex(fits: StudyFits) -> str:
    """Tables of all fits, ready for \\input"""
    laws = dict.fromkeys(fit.law for fit in fits.fits)
    tables = [_constants([fit for fit in fits.fits if fit.law == law]) for law in laws]
    tables += [_optima(fit, frontier) for fit in fits.fits for frontier in fit.frontiers if frontier.optima]
    return _HEAD + "\n" + "\n".join(tables)


def escape(text: str) -> str:
    """Text in which LaTeX sees no command."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _constants(fits: Sequence[Fit]) -> str:
    """One law: a row per constant, subset after subset."""
    header = ["runs of", "constant", "value", "90\\,\\%", "95\\,\\%"]
    return _table(_title(fits[0]), f"tab:{fits[0].law}".replace("_", "-"), "llrrr", header, [
        (fit_provenance(fit), _constant_rows(fit)) for fit in fits
    ], _marks(fits))  # fmt: skip


def _marks(fits: Sequence[Fit]) -> list[str]:
    """Lines below a table: why not to decide by the fits that a dagger marks."""
    return [
        f"\\par\\smallskip{{\\footnotesize $\\dagger$ {escape(fit.label)}: {escape('; '.join(fit.marks))}.\\par}}"
        for fit in fits
        if fit.marks
    ]


def _title(fit: Fit) -> str:
    return f"{_formula(fit)}, in {escape(fit.unit)}, with intervals over runs."


def _constant_rows(fit: Fit) -> list[list[str]]:
    error = fit.holdout.mean_relative_error
    held = "no hold-out" if error is None else f"held-out error {100 * error:.2f}\\,\\%"
    beside = [escape(fit.label) + ("$^\\dagger$" if fit.marks else ""), f"{fit.n_runs} runs", held]
    rows = []
    for index, (name, value) in enumerate((fit.parameters | fit.derived).items()):
        found = fit.intervals.get(name)
        limits = [(found.low90, found.high90), (found.low95, found.high95)] if found else []
        spans = [f"{_number(low)} to {_number(high)}" for low, high in limits] or ["", ""]
        rows.append([beside[index] if index < len(beside) else "", f"${_symbol(name)}$", _number(value), *spans])
    return rows


def _optima(fit: Fit, frontier: Frontier) -> str:
    """One fit: a row per budget."""
    header = ["$C$", "$N^*$", "$D^*$", "$D^*/N^*$", "$L^*$", "$N$ within 1\\,\\%"]
    rows = []
    for one in frontier.optima:
        counts = [_estimate(each, _short) for each in (one.parameters, one.tokens, one.tokens_per_parameter)]
        span = f"{_short(one.parameters_low)} to {_short(one.parameters_high)}"
        rows.append([_number(one.flops), *counts, _estimate(one.loss, _number), span])
    title = f"Optima of {escape(fit.label)} ({escape(fit.law)}), $C$ counted {_cost(frontier)}; 90\\,\\% intervals."
    return _table(
        title, f"tab:optima-{fit.id}-{frontier.cost}", "lrrrrr", header, [(fit_provenance(fit), rows)], _marks([fit])
    )


def _cost(frontier: Frontier) -> str:
    return "exactly" if frontier.cost == "exact" else "as $6ND$"


def _table(
    title: str, label: str, columns: str, header: Sequence[str], groups: Iterable[_RowGroup], notes: Sequence[str]
) -> str:
    """Each group of rows below a rule and a comment with its provenance, `notes` below the last."""
    lines = ["\\begin{table}", "\\centering", "\\small", f"\\caption{{{title}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _row(header)]
    for origin, rows in groups:
        lines += ["\\midrule", f"% {origin}", *(_row(cells) for cells in rows)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *notes, "\\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _estimate(estimate: Estimate, show: Callable[[float], str]) -> str:
    """A number and its 90 % interval."""
    limits = estimate.interval
    return show(estimate.value) + (f" [{show(limits.low90)}, {show(limits.high90)}]" if limits else "")


def _short(value: float) -> str:
    """A count in three digits: 95.2M."""
    return f"{value:.3g}" if value < 1e3 else short_count(value)


def _number(value: float) -> str:
    """Four significant digits; powers of ten where a row of zeros would be hard to count."""
    if not math.isfinite(value):
        return f"${'-' if value < 0 else ''}\\infty$"
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"${value:.4g}$"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"


def _formula(fit: Fit) -> str:
    """The law, written from its terms."""
    if not fit.terms:
        return rf"\texttt{{{escape(fit.form)}}}"
    terms = ["E"]
    for term in fit.terms:
        powers = "".join(f" {letter}^{{-{_symbol(power)}}}" for letter, power in term.powers.items())
        terms.append(_symbol(term.coefficient) + powers)
    return f"$L = {' + '.join(terms)}$"


def _symbol(name: str) -> str:
    """A constant's name as mathematics: `alpha`, `A`, `beta_2`."""
    stem, *index = re.split(r"_", name, maxsplit=1)
    shown = _GREEK.get(stem, stem if len(stem) == 1 else rf"\mathrm{{{escape(stem)}}}")
    return f"{shown}_{{{escape(index[0])}}}" if index else shown
