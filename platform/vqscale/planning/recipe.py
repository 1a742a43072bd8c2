"""A study's recipe applied: what it sets in a grid point, and notes on it for the user before training."""

import math
from collections.abc import Iterable
from typing import Any

from vqscale.costing.counts import flops_per_token, parameters_non_embedding
from vqscale.errors import StudyError
from vqscale.formatting import short_count
from vqscale.study.model import ModelConfig
from vqscale.study.recipe import Recipe, RecipeLaw, RecipeLetter, RecipePoint, RecipeRule
from vqscale.study.trial import Trial

SAME_RATE = 0.01
"""Relative distance within which a trial's rate is that of the recipe."""
OWN_AXIS = "or set train.lr of these grid points by an axis of sweep or design"


def with_recipe(
    recipe: Recipe, train: dict[str, Any], model: ModelConfig, *, tokens: float | None = None
) -> dict[str, Any]:
    """`train` with the learning rate, and the batch where the recipe tuned it; values that an axis has set are kept.

    `tokens`: training tokens that a design asks for, before they are rounded to whole updates; None: those of `train`.
    Raises StudyError for a size or an architecture that the recipe has no value for.
    """
    if "lr" in train and "batch_tokens" in train:
        return train
    rule, n = recipe.rule(model), parameters_non_embedding(model)
    decided: dict[str, Any] = {}
    if "lr" not in train:
        known = _known(recipe, rule, model, n)
        decided["lr"] = known.learning_rate(_point(known, train, model, tokens))
    if "batch_tokens" not in train and rule is not None and rule.batch_tokens is not None:
        context = train.get("context")
        if not isinstance(context, int):
            raise StudyError(
                f"train.context: {context!r} is no whole number, and the recipe's batch is a multiple of it"
            )
        known = _known(recipe, rule, model, n)
        unit = context * train.get("accumulation", 1)
        decided["batch_tokens"] = known.batch(_point(known, train, model, tokens), unit)
    return train | decided


def _point(rule: RecipeRule, train: dict[str, Any], model: ModelConfig, tokens: float | None) -> RecipePoint:
    """N, and D and C where the rule needs them. Raises StudyError where the study does not say them."""
    point = {"N": float(parameters_non_embedding(model))}
    if not rule.letters & {"D", "C"}:
        return point
    for key in ("context", *(("tokens",) if tokens is None else ())):
        if not isinstance(train.get(key), int) or train[key] < 1:
            raise StudyError(
                f"train.{key}: {train.get(key)!r} is no positive whole number, and the recipe's law for {rule.name} is"
                f" one of {' and '.join(sorted(rule.letters))}"
            )
    point["D"] = float(train["tokens"] if tokens is None else tokens)
    segment = train.get("segment")
    if segment is not None and (not isinstance(segment, int) or segment < 1 or train["context"] % segment):
        raise StudyError(f"train.segment: {segment!r} is no divisor of train.context {train['context']}")
    point["C"] = sum(flops_per_token(model, train["context"], segment).values()) * point["D"]
    return point


def _trial_point(trial: Trial) -> RecipePoint:
    train = trial.train
    per_token = sum(flops_per_token(trial.model, train.context, train.segment).values())
    n = parameters_non_embedding(trial.model)
    return {"N": float(n), "D": float(train.tokens), "C": per_token * train.tokens}


def recipe_notes(recipe: Recipe, trials: Iterable[Trial]) -> list[str]:
    """How the rates of `trials` were derived, and where they are outside the range that was tuned."""
    used: dict[str, tuple[RecipeRule, list[Trial]]] = {}
    trials = list(trials)
    for trial in trials:
        rule = recipe.rule(trial.model)
        if rule is None or rule.refusal(parameters_non_embedding(trial.model)) is not None:
            continue
        # A design's tokens were rounded to whole updates after the rate was set.
        if math.isclose(trial.train.lr, rule.learning_rate(_trial_point(trial)), rel_tol=SAME_RATE):
            used.setdefault(rule.name, (rule, []))[1].append(trial)
    notes = [note for rule, own in used.values() for note in _rule_notes(recipe, rule, own)]
    other_corpora = {trial.corpus_fingerprint for trial in trials} - {recipe.corpus_fingerprint}
    if used and other_corpora:
        notes.append(f"recipe: it was tuned by {recipe.study} on another corpus than that of these trials.")
    return notes


def _known(recipe: Recipe, rule: RecipeRule | None, model: ModelConfig, n: int) -> RecipeRule:
    """The rule, if it has a value for the size. Raises StudyError with the reason and the remedy otherwise."""
    if rule is None:
        head = f" with head {model.head}" if model.head else ""
        known = ", ".join(one.name for one in recipe.rules)
        raise StudyError(
            f"recipe: has no rule for model.arch {model.arch}{head}, only for {known}. Tune it, {OWN_AXIS}."
        )
    if reason := rule.refusal(n):
        raise StudyError(f"recipe: gives no train.lr for {rule.name} at N = {n}: {reason} Or leave it out, {OWN_AXIS}.")
    return rule


def _rule_notes(recipe: Recipe, rule: RecipeRule, trials: list[Trial]) -> list[str]:
    """One sentence on the rule, and one for every way in which trials are outside the range that was tuned."""
    assert rule.lr is not None
    tuned, law = rule.tuned, rule.lr
    runs = sum(one.runs for one in tuned)
    known = [one.tokens_per_parameter for one in tuned if one.tokens_per_parameter is not None]
    multiples = f" at D/N {_range(known)}" if known else ""
    head = f"recipe of {recipe.study}, {rule.name}"
    where = f"{law.sizes} sizes" if law.points == law.sizes else f"{law.points} points at {law.sizes} sizes"
    notes = [f"{head}: lr = {formula(law)}, from {where} ({runs} runs{multiples})."]
    if rule.batch_tokens is not None:
        notes.append(f"{head}: batch = {formula(rule.batch_tokens)} tokens, rounded to whole sequences.")
    points = [_trial_point(trial) for trial in trials]
    for letter in law.letters:
        values = sorted({point[letter] for point in points})
        notes += [_extrapolated(head, letter, law, value) for value in dict.fromkeys((values[0], values[-1]))]
    notes = [note for note in notes if note]
    batches = sorted({trial.train.batch_tokens for trial in trials})
    tuned_at = {one.batch_tokens for one in tuned if one.batch_tokens is not None}
    if rule.batch_tokens is None and tuned_at and (others := set(batches) - tuned_at):
        tried = ", ".join(map(str, sorted(tuned_at)))
        shown = ", ".join(map(str, sorted(others)))
        notes.append(f"{head}: tuned at batch_tokens {tried}, used at {shown}: the best rate changes with the batch.")
    return notes


def _extrapolated(head: str, letter: RecipeLetter, law: RecipeLaw, value: float) -> str:
    """A sentence where a value lies outside the tuned range; empty within it."""
    power = law.powers[letter]
    times = power.beyond(value)
    if times <= 1:
        return ""
    what = {"N": "size", "D": "token budget", "C": "compute"}[letter]
    end = f"above the largest {what} tuned ({short_count(power.largest)})"
    if value < power.smallest:
        end = f"below the smallest {what} tuned ({short_count(power.smallest)})"
    return f"{head}: {letter} = {short_count(value)} is {times:.3g} times {end}: its lr is extrapolated."


def formula(law: RecipeLaw) -> str:
    """A law as text, with the intervals of its exponents where there are any."""
    parts = [f"{law.reference:.4g}"]
    limits = []
    for letter, power in law.powers.items():
        parts.append(f"({letter} / {short_count(power.reference)})^{power.exponent:.3f}")
        if power.low90 is not None:
            of = "" if len(law.powers) == 1 else f" of {letter}"
            limits.append(f"exponent{of} {power.low90:.2f} to {power.high90:.2f}")
    return " ".join(parts) + (f" ({', '.join(limits)}, 90 %)" if limits else "")


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
