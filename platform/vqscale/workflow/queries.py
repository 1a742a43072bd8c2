"""What the fits of a study predict for a budget, a size, training tokens, a loss or a sum of money."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from vqscale.errors import FitError
from vqscale.laws import LAWS, Fit, StudyFits, read_fits
from vqscale.laws.decisions.optimum import Quantity
from vqscale.laws.decisions.query import LossResult, OptimumResult, at_fixed_axes, query_loss, query_optimum
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.io.schema import Where
from vqscale.planning.budget import parse_budget
from vqscale.results import Target, locate
from vqscale.study.spec import Study
from vqscale.workflow.fit_options import price_of
from vqscale.workflow.tables import fitted_table

ASKED: dict[str, Quantity] = {
    "compute": "compute", "params": "parameters", "tokens": "tokens", "loss": "loss", "money": "money"
}  # fmt: skip
"""Options, and what they ask of a law."""
_LETTERS = {"params": "N", "tokens": "D", "compute": "C"}
_OWN_SPLIT = {column for law in LAWS.values() for column in law.split_by}
"""Columns that laws split by: of a study's, the fit with most runs of every architecture answers."""
Question = dict[str, float | str]
"""Option and its value."""
Outcome = OptimumResult | LossResult | str
"""A string is the reason of a refusal."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which fits to ask; None leaves it open."""

    law: str | None = None
    arch: str | None = None
    context: int | None = None
    codebook: int | None = None
    group: Mapping[str, str] = field(default_factory=dict)
    """Column by which the table was split -> its value, as text."""

    @property
    def fixed(self) -> dict[str, float]:
        """Letters of joint laws whose value is given."""
        given = {"S": self.codebook, "T": self.context}
        return {letter: float(value) for letter, value in given.items() if value is not None}

    def agrees(self, where: Where) -> bool:
        """Whether the subset `where` is one of those named."""
        wanted = {"arch": self.arch, "context": self.context, "codebook_size": self.codebook}
        own = all(value is None or where.get(key, value) in (value, None) for key, value in wanted.items())
        return own and all(key in where and _is_called(where[key], text) for key, text in self.group.items())


def named_values(pairs: Sequence[str] | None) -> dict[str, str]:
    """COLUMN=VALUE pairs as a mapping. Raises FitError for what is no such pair."""
    found = {}
    for pair in pairs or ():
        column, equals, value = pair.partition("=")
        if not (column and equals):
            raise FitError(f"--group {pair}: write COLUMN=VALUE of a subset that was fitted, such as dataset=web")
        found[column.strip()] = value.strip()
    return found


def _is_called(value: str | int | float | None, text: str) -> bool:
    if isinstance(value, str) or value is None:
        return str(value) == text
    try:
        return float(text) == value
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What every architecture's fit predicts, or why it is refused."""

    table: pd.DataFrame
    outcomes: list[tuple[Fit, Outcome]]
    notes: list[str] = field(default_factory=list)
    """What the predictions do not say, and why."""


def predict_target(
    target: str | Study, question: Question, selection: Selection, *, fits: str | None = None
) -> Predicted:
    """Ask the fits of `target` one question: one of the keys of `ASKED`, or params and tokens together.

    `fits`: the folder with fits.json; default: the target's. Raises FitError for another question, for fits that are
    not there, and where every fit refuses.
    """
    place = locate(target, fits)
    stored = read_fits(place.folder, place.fit_command)
    name = target if isinstance(target, str) else target.study
    table = fitted_table(place)
    ask = partial(_ask, table=table, place=place)
    if not stored.fits:
        raise FitError(f"{name}: no law was fitted, so that nothing can be predicted. {_first_refusal(stored)}")
    selection = replace(selection, group=_by_own_names(selection.group, stored))
    check_question(question, stored.fits, selection, _example(name, fits, stored.fits, ask))
    asked = matching_fits(stored.fits, selection, question=question, every=place.study is None)
    outcomes = [(fit, ask(fit, question, selection.fixed)) for fit in asked]
    notes = _without_n_and_d(stored, asked, selection)
    if all(isinstance(outcome, str) for _, outcome in outcomes):
        reasons = dict.fromkeys(f"{fit.label}: {why}" for fit, why in outcomes)
        example = _example(name, fits, stored.fits, ask)
        raise FitError(" ".join([f"{name}: nothing can be predicted. {'; '.join(reasons)}.", *notes, example]).strip())
    return Predicted(table=table, outcomes=outcomes, notes=notes)


def _by_own_names(group: Mapping[str, str], stored: StudyFits) -> dict[str, str]:
    """The groups by the platform's names of their columns, which a table from elsewhere may call otherwise."""
    own = {source: name for name, source in stored.reading.columns.items()} if stored.reading else {}
    return {own.get(column, column): value for column, value in group.items()}


def matching_fits(
    fits: Sequence[Fit], selection: Selection, *, question: Question | None = None, every: bool = False
) -> list[Fit]:
    """Of every architecture the fit with most runs among those that match. Raises FitError where none does.

    Laws in N and D go first, otherwise those that know what the question gives. `every`: of every subset, not only of
    every architecture.
    """
    law = selection.law
    pool = [fit for fit in fits if fit.law == law] if law else _answering(fits, question or {}, selection)
    found: dict[Any, Fit] = {}
    for fit in pool:
        others = [item for item in fit.where.items() if every or item[0] not in _OWN_SPLIT]
        key = (fit.where.get("arch"), fit.where.get("head"), repr(others))
        if selection.agrees(fit.where) and (key not in found or fit.n_runs > found[key].n_runs):
            found[key] = fit
    if not found:
        known = "; ".join(f"{fit.law} of {fit.label}" for fit in fits) or "none"
        of = f"of law {law} and " if law else ""
        raise FitError(f"no fit is {of}what --arch, --context, --codebook and --group say. There are: {known}.")
    return list(found.values())


def _answering(fits: Sequence[Fit], question: Question, selection: Selection) -> list[Fit]:
    """Laws in N and D; without any, those whose letters the question gives."""
    given = {_LETTERS[name] for name in question if name in _LETTERS} | set(selection.fixed)
    if not question and given:
        return [fit for fit in fits if set(fit.letters) <= given] or list(fits)
    leading = leading_fits(fits)
    return leading or [fit for fit in fits if set(fit.letters) <= given] or list(fits)


def check_question(question: Question, fits: Sequence[Fit], selection: Selection, example: str) -> None:
    """Raises FitError for anything but one of the keys of `ASKED`, params and tokens, or all letters of some law."""
    given = set(selection.fixed)
    if not question and any(set(fit.letters) <= given for fit in fits):
        return
    if len(question) != 1 and set(question) != {"params", "tokens"}:
        asked = (
            f"{' '.join(f'--{name}' for name in question)}: is not one question" if question else "nothing was asked"
        )
        raise FitError(
            f"{asked}. Name one of --compute FLOPS, --params N, --tokens D, --loss L and --money"
            f" AMOUNT, or --params and --tokens together. {example}".strip()
        )


def _example(name: str, folder: str | None, fits: Sequence[Fit], ask: Callable[..., Outcome]) -> str:
    """A command that the fits answer; nothing where they answer none."""
    for fit in leading_fits(fits) or fits:
        values = {letter: max(point.x[place] for point in fit.points) for place, letter in enumerate(fit.letters)}
        values.setdefault("C", max((point.flops or 0.0 for point in fit.points), default=0.0))
        options = {option: f"{values[letter]:.3g}" for option, letter in _LETTERS.items() if values.get(letter)}
        for names in (["compute"], ["params"], ["tokens"], ["params", "tokens"]):
            question: Question = {option: float(options[option]) for option in names if option in options}
            if len(question) == len(names) and not isinstance(ask(fit, question, {}), str):
                asked = " ".join(f"--{option} {options[option]}" for option in names)
                where = f" --fits {shlex.quote(folder)}" if folder else ""
                return f"Such as: vqscale predict {shlex.quote(name)} {asked}{where}"
    return ""


def _first_refusal(stored: StudyFits) -> str:
    if not stored.refusals:
        return ""
    first = stored.refusals[0]
    return f"First reason: {first.law}, {first.label}: {first.reason}"


def _without_n_and_d(stored: StudyFits, asked: Sequence[Fit], selection: Selection) -> list[str]:
    """Why no law in N and D answers, where none does and none was chosen instead."""
    if selection.law or any({"N", "D"} <= set(fit.letters) for fit in asked):
        return []
    refused = [one for one in stored.refusals if one.law in LAWS and LAWS[one.law].in_size_and_tokens]
    if not refused:
        return []
    return [
        f"No law in N and D was fitted, so that no best size is known: {refused[0].law}, {refused[0].label}:"
        f" {refused[0].reason}."
    ]


def _ask(fit: Fit, question: Question, fixed: dict[str, float], table: pd.DataFrame, place: Target) -> Outcome:
    try:
        if not {"N", "D"} <= set(fit.letters) or len(question) == 2:
            x = {_LETTERS[name]: float(value) for name, value in question.items() if name in _LETTERS}
            return query_loss(fit, x | fixed)
        ((name, value),) = question.items()
        amount = _money(str(value), place) if name == "money" else float(value)
        return query_optimum(
            at_fixed_axes(fit, fixed), ASKED[name], amount, table, price_of(place.study) if place.study else None
        )
    except FitError as error:
        return str(error)


def _money(text: str, place: Target) -> float:
    currency = place.study.resources.currency if place.study else "USD"
    limit = parse_budget(text, currency, "--money")
    if limit.unit != "money":
        raise FitError(f"--money {text}: write an amount in the study's currency, such as 50{currency.lower()}")
    return limit.amount
