"""Numbers as people and programs write them: `20,157,316`, `20.2M`, `1_000`, `3,69`, `1.3x10^22`, NaN, Infinity, null.

A cell that is no number is never guessed at: it comes back as absent, with the reason.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat", "-", "--", "?", "missing"})
"""Texts, in lower case, that say that there is no value."""
INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "∞", "-∞"})
UNITS = {
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "mm", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "mrd", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
"""What may follow a count, in lower case. `m` is a million here, as in pythia-70m."""
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
"""Of FLOPs."""
MLFLOW_INFINITY = 1.79e308
"""MLflow stores an infinite metric as the largest number of its database."""
LONGEST = 40
"""Characters of a cell that a message quotes."""
PETAFLOP_DAY = 1e15 * 86_400
_COUNTED = r"(?:non[- ]?embedding )?(?:params?|parameters?|tokens?|toks?)"
_BODY = re.compile(
    r"([+-]?)([\d.,_' ]*\d[.,]?)(?:e([+-]?\d+)|\s?(?:x|\*)\s?10(?:\^|\*\*)([+-]?\d+))?\s*([a-z].*)?", re.ASCII
)
_POWER = re.compile(r"([+-]?)10(?:\^|\*\*)([+-]?\d+)\s*([a-z].*)?", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(?:([,._' ])\d{3})(?:\1\d{3})*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"0,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|\d{1,3}(?:\.\d{3})+,\d*|\d{1,3}(?:\.\d{3}){2,}")
"""A body that only a table with decimal commas has."""
_DECIMAL_POINT = re.compile(
    r"0?\.\d+|\d+\.(?:\d{1,2}|\d{4,})|\d{4,}\.\d+|\d{1,3}(?:,\d{3})+\.\d*|\d{1,3}(?:,\d{3}){2,}"
)
_SPACES = str.maketrans(
    {**dict.fromkeys("\u00a0\u202f\u2009", " "), "\u2212": "-", "\u00d7": "x", "\u00b7": "*", "\u2019": "'"}
)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of cells as numbers [R], NaN where a cell holds none, and then why: `missing` or what it says."""

    values: Array
    problems: list[str | None]


def parse_numbers(cells: Sequence[Any], *, counts: bool, mark: str = ".") -> Numbers:
    """`counts`: of parameters, tokens or FLOPs, which may carry a unit (20.2M). `mark`: the decimal mark.

    A loss of thousands is none: commas in a column of other numbers, none of which has a point, are decimal marks.
    """
    if not counts and (marks := {mark for cell in cells if isinstance(cell, str) for mark in ",." if mark in cell}):
        mark = "," if marks == {","} else mark
    known: dict[Any, tuple[float, str | None]] = {}
    parsed = []
    for cell in cells:
        key = (type(cell), cell) if isinstance(cell, str | int | float) else None
        if key is None or key not in known:
            known[key] = parse_number(cell, counts=counts, mark=mark)
        parsed.append(known[key])
    return Numbers(
        values=np.array([value for value, _ in parsed], dtype=np.float64), problems=[problem for _, problem in parsed]
    )


def parse_number(cell: Any, *, counts: bool, mark: str = ".") -> tuple[float, str | None]:
    """The positive, finite number of a cell; or NaN, and what is wrong with it."""
    if cell is None:
        return math.nan, "is empty"
    if isinstance(cell, str):
        return _from_text(cell, counts=counts, mark=mark)
    if isinstance(cell, bool | np.bool_) or not hasattr(cell, "__float__"):
        return math.nan, f"is {shortened(cell)}, not a number"
    value = float(cell)
    if math.isnan(value):
        return math.nan, "is NaN"
    return _positive(value, f"{value:g}")


def decimal_mark(columns: Sequence[Sequence[Any]], *, separator: str) -> tuple[str, bool]:
    """`,` or `.`, for a whole table, by the cells that can be read in one way only; and whether it had to be guessed.

    Where every comma could be either (`1,234`), a table separated by `;` has decimal commas, any other thousands.
    """
    comma = point = unclear = 0
    for cell in (cell for cells in columns for cell in cells if isinstance(cell, str) and ("," in cell or "." in cell)):
        found = re.fullmatch(r"[+-]?([\d.,]+)(?:[eE][+-]?\d+)?\s*[A-Za-z]*", cell.strip())
        body = found[1] if found else ""
        comma += bool(_DECIMAL_COMMA.fullmatch(body))
        point += bool(_DECIMAL_POINT.fullmatch(body))
        unclear += bool(re.fullmatch(r"\d{1,3},\d{3}", body))
    mark = "," if comma > point or (comma == point and separator == ";") else "."
    return mark, not unclear or comma != point


def shortened(value: Any, limit: int = LONGEST) -> str:
    """A cell as a message quotes it."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _from_text(cell: str, *, counts: bool, mark: str) -> tuple[float, str | None]:
    text = cell.translate(_SPACES).strip()
    plain = text.lower()
    if plain in MISSING:
        return math.nan, f"is {text}" if text else "is empty"
    if plain in INFINITE:
        return math.nan, f"is {text}"
    if not counts:
        plain = re.split(r"\s*(?:±|\+/?-)\s*", plain)[0] or plain  # the uncertainty of a measured value
    value, problem = _finite(plain, counts=counts, mark=mark)
    return (math.nan, f"is {shortened(cell)}, {problem}") if problem else _positive(value, text)


def _finite(text: str, *, counts: bool, mark: str) -> tuple[float, str]:
    """The number of a text in lower case; or NaN and why it is none."""
    if text.endswith("%"):
        return math.nan, "a percentage"
    power = _POWER.fullmatch(text)
    found = _BODY.fullmatch(text)
    digits: str | None
    if power:
        sign, digits, exponent, unit = power[1], "1", power[2], power[3]
    elif found:
        sign, digits, exponent, unit = found[1], _digits(found[2], mark), found[3] or found[4] or "0", found[5]
    else:
        return math.nan, "not a number"
    factor = _factor(unit or "", counts=counts)
    if digits is None or factor is None:
        return math.nan, _why(unit, digits, counts=counts)
    return float(f"{sign}{digits}e{exponent}") * factor, ""


def _why(unit: str | None, digits: str | None, *, counts: bool) -> str:
    if digits is not None and unit and re.fullmatch(r"[kmgtp]i?b|bytes?|mib", unit):
        return "a size in bytes, not a count"
    if digits is not None and unit and not counts:
        return "a number with a unit where a plain one is due"
    return "not a number"


def _digits(body: str, mark: str) -> str | None:
    """Digits with a decimal point, without the marks between thousands; None where the marks fit no number."""
    other = "," if mark == "." else "."
    for decimal, thousands in ((mark, other), (other, mark)):  # 3,69 has a decimal comma in any table
        whole, _, fraction = body.partition(decimal)
        grouped = _GROUPED.fullmatch(whole)
        if (not whole or whole.isdigit() or (grouped and grouped[1] in (thousands, "_", "'", " "))) and (
            not fraction or fraction.isdigit()
        ):
            return f"{re.sub(r'[^0-9]', '', whole) or '0'}.{fraction or '0'}"
    return None


def _factor(unit: str, *, counts: bool) -> float | None:
    if not unit:
        return 1.0
    if not counts:
        return 1.0 if re.fullmatch(r"nats?(?:\s?(?:/|per)\s?token)?", unit) else None
    if flops := re.fullmatch(r"([kmgtpezy]?)flops?", unit):
        return PREFIXES[flops[1]]
    if re.fullmatch(r"(?:pf|petaflops?(?:/s)?|pflops?(?:/s)?)[- ]?days?", unit):
        return PETAFLOP_DAY
    named = re.sub(rf"\s*{_COUNTED}$", "", unit).strip()
    return UNITS.get(named) if named else 1.0


def _positive(value: float, text: str) -> tuple[float, str | None]:
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if math.isinf(value):
        return math.nan, f"is {text}"
    if value >= MLFLOW_INFINITY:
        return math.nan, f"is {text}, which MLflow keeps for infinity"
    if value <= 0:
        return math.nan, f"is {text}, not a positive number"
    return value, None
