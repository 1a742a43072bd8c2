"""Fits as LaTeX tables (booktabs): one table a law, one of the optima. A comment names what every row rests on."""

import math
import re
from collections.abc import Iterable, Sequence

from vqscale.laws.export import provenance
from vqscale.laws.record import Estimate, Fit, Frontier, Interval, StudyFits

SYMBOLS = {"alpha": r"\alpha", "beta": r"\beta", "gamma": r"\gamma", "delta": r"\delta"}
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
HEAD = "% Made by `vqscale export`. Needs \\usepackage{booktabs}.\n"


def to_latex(fits: StudyFits) -> str:
    """Tables of all fits, ready for \\input; intervals are 90 %."""
    laws = dict.fromkeys(fit.law for fit in fits.fits)
    tables = [_constants([fit for fit in fits.fits if fit.law == law]) for law in laws]
    tables += [_optima(fit, frontier) for fit in fits.fits for frontier in fit.frontiers if frontier.optima]
    return HEAD + "\n" + "\n".join(tables)


def escape(text: str) -> str:
    """Text in which LaTeX sees no command."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _constants(fits: Sequence[Fit]) -> str:
    """One law: a row a subset, a constant with its interval a column."""
    names = list(fits[0].parameters | fits[0].derived)
    header = ["runs of", "$n$", *(f"${_symbol(name)}$" for name in names), "held out"]
    rows = []
    for fit in fits:
        values = fit.parameters | fit.derived
        cells = [_cell(values[name], fit.intervals.get(name)) for name in names]
        error = fit.holdout.mean_relative_error
        held = "none" if error is None else f"{100 * error:.2f}\\,\\%"
        rows.append((provenance(fit), [escape(fit.label), str(fit.n_runs), *cells, held]))
    title = f"{_formula(fits[0])}, in {escape(fits[0].unit)}; 90\\,\\% intervals over runs."
    return _table(title, f"tab:{fits[0].law}".replace("_", "-"), header, rows)


def _optima(fit: Fit, frontier: Frontier) -> str:
    """One fit: a row a budget."""
    header = ["$C$", "$N^*$", "$D^*$", "$D^*/N^*$", "$L^*$", "$N$ within 1\\,\\%"]
    rows = []
    for one in frontier.optima:
        estimates = (one.parameters, one.tokens, one.tokens_per_parameter, one.loss)
        span = f"{_number(one.parameters_low)} to {_number(one.parameters_high)}"
        rows.append((provenance(fit), [_number(one.flops), *(_estimate(each) for each in estimates), span]))
    title = f"Optima of {escape(fit.label)} ({escape(fit.law)}), $C$ counted {_cost(frontier)}; 90\\,\\% intervals."
    return _table(title, f"tab:optima-{fit.id}-{frontier.cost}", header, rows)


def _cost(frontier: Frontier) -> str:
    return "exactly" if frontier.cost == "exact" else "as $6ND$"


def _table(title: str, label: str, header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """`rows`: what a row rests on, and its cells."""
    lines = ["\\begin{table}", "\\centering", "\\small", f"\\caption{{{title}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", "\\toprule", _row(header), "\\midrule"]
    for rests_on, cells in rows:
        lines += [f"% {rests_on}", _row(cells)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _estimate(estimate: Estimate) -> str:
    return _cell(estimate.value, estimate.interval)


def _cell(value: float, interval: Interval | None) -> str:
    """A number and its 90 % interval."""
    return _number(value) + (f" [{_number(interval.low90)}, {_number(interval.high90)}]" if interval else "")


def _number(value: float) -> str:
    """Four significant digits; powers of ten where people would lose count of zeros."""
    if not math.isfinite(value):
        return f"${'-' if value < 0 else ''}\\infty$"
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"${value:.4g}$"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"


def _formula(fit: Fit) -> str:
    """The law as its terms say it."""
    terms = ["E"]
    for term in fit.terms:
        powers = "".join(f" {letter}^{{-{_symbol(power)}}}" for letter, power in term.powers.items())
        terms.append(_symbol(term.coefficient) + powers)
    return f"$L = {' + '.join(terms)}$"


def _symbol(name: str) -> str:
    """A constant's name as mathematics: `alpha`, `A`, `beta_2`."""
    stem, *index = re.split(r"_", name, maxsplit=1)
    shown = SYMBOLS.get(stem, stem if len(stem) == 1 else rf"\mathrm{{{escape(stem)}}}")
    return f"{shown}_{{{escape(index[0])}}}" if index else shown
