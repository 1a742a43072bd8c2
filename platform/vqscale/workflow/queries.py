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
from vqscale.laws.decisions.parabolas import ParabolaResult
from vqscale.laws.decisions.query import LossResult, OptimumResult, at_fixed_axes, query_loss, query_optimum
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.io.schema import IsoflopParabolas, Where
from vqscale.planning.budget import parse_budget
from vqscale.results import Target, locate
from vqscale.study.spec import Study
from vqscale.workflow.fit_options import price_of
from vqscale.workflow.parabola_answers import answering_parabolas, ask_parabolas, beside_parabolas
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
    parabolas: list[ParabolaResult] = field(default_factory=list)
    """Answers of isoFLOP parabolas, of the subsets whose law in N and D is refused."""


def predict_target(
    target: str | Study, question: Question, selection: Selection, *, fits: str | None = None, beyond: bool = False
) -> Predicted:
    """Ask the fits of `target` one question: one of the keys of `ASKED`, or params and tokens together.

    Where a law refuses, the next one that knows what is asked answers for its subset; refusals are among the outcomes.
    `fits`: the folder with fits.json; default: the target's. `beyond`: also more than a hundred times outside the runs.
    Raises FitError for another question, for fits that are
    not there, and where every fit refuses.
    """
    place = locate(target, fits)
    stored = read_fits(place.folder, place.fit_command)
    name = target if isinstance(target, str) else target.study
    table = fitted_table(place)
    ask = partial(_ask, table=table, place=place, beyond=beyond)
    selection = replace(selection, group=_by_own_names(selection.group, stored))
    instead = _answering_parabolas(stored, question, selection, every=place.study is None)
    if not stored.fits and not instead:
        raise FitError(f"{name}: no law was fitted, so that nothing can be predicted. {_first_refusal(stored)}")
    check_question(question, stored.fits, selection, _example(name, fits, stored.fits, ask))
    try:
        chains = answering_chains(stored.fits, selection, question=question, every=place.study is None)
    except FitError:
        if not instead:
            raise
        chains = []
    outcomes = [
        (fit, _with_parabolas(outcome, fit, stored))
        for chain in chains
        for fit, outcome in _first_answer(chain, question, selection.fixed, ask)
    ]
    answers, unanswered = ask_parabolas(instead, float(question["compute"]), beyond=beyond) if instead else ([], [])
    notes = [] if answers else _without_n_and_d(stored, outcomes, selection)
    if not answers and all(isinstance(outcome, str) for _, outcome in outcomes):
        reasons = dict.fromkeys([*(f"{fit.law}, {fit.label}: {why}" for fit, why in outcomes), *unanswered])
        example = _example(name, fits, stored.fits, ask)
        raise FitError(" ".join([f"{name}: nothing can be predicted. {'; '.join(reasons)}.", *notes, example]).strip())
    return Predicted(table=table, outcomes=outcomes, notes=[*notes, *unanswered], parabolas=answers)


def _answering_parabolas(
    stored: StudyFits, question: Question, selection: Selection, *, every: bool
) -> list[IsoflopParabolas]:
    """Parabolas of the subsets whose law in N and D is refused, where the best division of a budget is asked for."""
    if set(question) != {"compute"} or not (selection.law is None or _in_n_and_d(selection.law)):
        return []
    return answering_parabolas(stored, selection.agrees, lambda where: _group_of(where, every=every))


def _in_n_and_d(law: str) -> bool:
    return law in LAWS and LAWS[law].in_size_and_tokens


def _group_of(where: Where, *, every: bool) -> tuple[Any, ...]:
    """Subsets of one group: of those the one with most runs answers."""
    others = [item for item in where.items() if every or item[0] not in _OWN_SPLIT]
    return where.get("arch"), where.get("head"), repr(others)


def _with_parabolas(outcome: Outcome, fit: Fit, stored: StudyFits) -> Outcome:
    return beside_parabolas(outcome, fit, stored) if isinstance(outcome, OptimumResult) else outcome


def _by_own_names(group: Mapping[str, str], stored: StudyFits) -> dict[str, str]:
    """The groups by the platform's names of their columns, which a table from elsewhere may call otherwise."""
    own = {source: name for name, source in stored.reading.columns.items()} if stored.reading else {}
    return {own.get(column, column): value for column, value in group.items()}


def answering_chains(
    fits: Sequence[Fit], selection: Selection, *, question: Question | None = None, every: bool = False
) -> list[list[Fit]]:
    """Of every architecture the fit with most runs among those that match, and the others of its subset after it.

    Laws in N and D go first, then those that know what the question gives: they are asked where the first refuses.
    `every`: of every subset, not only of every architecture. Raises FitError where no fit matches.
    """
    pool = [fit for fit in _answering(fits, question or {}, selection) if selection.agrees(fit.where)]
    groups: dict[Any, list[Fit]] = {}
    for fit in pool:
        groups.setdefault(_group_of(fit.where, every=every), []).append(fit)
    if not groups:
        known = "; ".join(f"{fit.law} of {fit.label}" for fit in fits) or "none"
        of = f"of law {selection.law} and " if selection.law else ""
        raise FitError(f"no fit is {of}what --arch, --context, --codebook and --group say. There are: {known}.")
    leading = {fit.id for fit in leading_fits(fits)}
    return [_chain(sorted(group, key=lambda fit: _order(fit, leading))) for group in groups.values()]


def _order(fit: Fit, leading: set[str]) -> tuple[bool, bool, bool, int]:
    divides = {"N", "D"} <= set(fit.letters)
    return not divides, len(fit.letters) > 2, divides and fit.id not in leading, -fit.n_runs


def _chain(group: Sequence[Fit]) -> list[Fit]:
    """The first fit, and of every other law that of the same subset."""
    own = [fit for fit in group if group[0].where.items() <= fit.where.items()]
    return [fit for place, fit in enumerate(own) if fit.law not in {other.law for other in own[:place]}]


def _answering(fits: Sequence[Fit], question: Question, selection: Selection) -> list[Fit]:
    """The fits that may answer: laws in N and D, and those whose letters the question gives."""
    if selection.law:
        return [fit for fit in fits if fit.law == selection.law]
    given = {_LETTERS[name] for name in question if name in _LETTERS} | set(selection.fixed)
    knowing = [fit for fit in fits if given and set(fit.letters) <= given]
    if not question:
        return knowing or list(fits)
    dividing = [fit for fit in fits if {"N", "D"} <= set(fit.letters) <= {"N", "D", *selection.fixed}]
    # Laws in N or D alone split the table by the other: each of their subsets would answer beside the law in both.
    return [*dividing, *(fit for fit in knowing if "compute" in question or not dividing)] or list(fits)


def _first_answer(
    chain: Sequence[Fit], question: Question, fixed: dict[str, float], ask: Callable[..., Outcome]
) -> list[tuple[Fit, Outcome]]:
    """The first answer of a chain, after the refusals before it."""
    found: list[tuple[Fit, Outcome]] = []
    for fit in chain:
        found.append((fit, ask(fit, question, fixed)))
        if not isinstance(found[-1][1], str):
            break
    return found


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


def _without_n_and_d(stored: StudyFits, outcomes: Sequence[tuple[Fit, Outcome]], selection: Selection) -> list[str]:
    """Why no law in N and D answers for a subset, where none was fitted to it and no other was named."""
    known = {fit.label for fit, _ in outcomes if {"N", "D"} <= set(fit.letters)}
    refused = [one for one in stored.refusals if one.law in LAWS and LAWS[one.law].in_size_and_tokens]
    found = []
    for fit, _ in outcomes:
        own = [one for one in refused if one.label == fit.label or not one.where] or ([] if known else refused)
        if own and fit.label not in known and not selection.law:
            found.append(
                f"No law in N and D was fitted, so that no best size is known: {own[0].law}, {own[0].label}:"
                f" {own[0].reason}."
            )
    return list(dict.fromkeys(found))


def _ask(
    fit: Fit, question: Question, fixed: dict[str, float], table: pd.DataFrame, place: Target, beyond: bool
) -> Outcome:
    try:
        if not {"N", "D"} <= set(fit.letters) or len(question) == 2:
            x = {_LETTERS[name]: float(value) for name, value in question.items() if name in _LETTERS}
            _require_all_used(fit, x)
            return query_loss(fit, x | fixed, beyond=beyond)
        ((name, value),) = question.items()
        amount = _money(str(value), place) if name == "money" else float(value)
        price = price_of(place.study) if place.study else None
        return query_optimum(at_fixed_axes(fit, fixed), ASKED[name], amount, table, price, beyond=beyond)
    except FitError as error:
        return str(error)


def _require_all_used(fit: Fit, x: Mapping[str, float]) -> None:
    """Raises FitError for a value that the law has no letter for: its loss would be that of other runs."""
    for letter in x:
        if letter not in fit.letters and len(x) > 1:
            raise FitError(
                f"{fit.form} has no {letter}: it was fitted to runs of {fit.label} and says nothing of others"
            )


def _money(text: str, place: Target) -> float:
    currency = place.study.resources.currency if place.study else "USD"
    limit = parse_budget(text, currency, "--money")
    if limit.unit != "money":
        raise FitError(f"--money {text}: write an amount in the study's currency, such as 50{currency.lower()}")
    return limit.amount
