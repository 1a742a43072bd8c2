"""A study's recipe applied: what it sets in a grid point, and notes on it for the user before training."""

from collections.abc import Iterable
from typing import Any

from vqscale.costing.counts import parameters_non_embedding
from vqscale.errors import StudyError
from vqscale.formatting import short_count
from vqscale.study.model import ModelConfig
from vqscale.study.recipe import Recipe, RecipeLaw, RecipeRule
from vqscale.study.trial import Trial

OWN_AXIS = "or set train.lr of these grid points by an axis of sweep or design"


def with_recipe(recipe: Recipe, train: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """`train` with the learning rate, and the batch where the recipe tuned it; values that an axis has set are kept.

    Raises StudyError for a size or an architecture that the recipe has no value for.
    """
    if "lr" in train and "batch_tokens" in train:
        return train
    rule, n = recipe.rule(model), parameters_non_embedding(model)
    decided: dict[str, Any] = {}
    if "lr" not in train:
        decided["lr"] = _known(recipe, rule, model, n).learning_rate(n)
    if "batch_tokens" not in train and rule is not None and rule.batch_tokens is not None:
        context = train.get("context")
        if not isinstance(context, int):
            raise StudyError(
                f"train.context: {context!r} is no whole number, and the recipe's batch is a multiple of it"
            )
        decided["batch_tokens"] = _known(recipe, rule, model, n).batch(n, context * train.get("accumulation", 1))
    return train | decided


def recipe_notes(recipe: Recipe, trials: Iterable[Trial]) -> list[str]:
    """How the rates of `trials` were derived, and where they are outside the range that was tuned."""
    used: dict[str, tuple[RecipeRule, list[Trial]]] = {}
    trials = list(trials)
    for trial in trials:
        rule = recipe.rule(trial.model)
        if rule is None or rule.refusal(parameters_non_embedding(trial.model)) is not None:
            continue
        if trial.train.lr == rule.learning_rate(parameters_non_embedding(trial.model)):
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
    multiples = _range([one.tokens_per_parameter for one in tuned])
    head = f"recipe of {recipe.study}, {rule.name}"
    notes = [f"{head}: lr = {formula(law)}, from {law.sizes} sizes ({runs} runs at D/N {multiples})."]
    if rule.batch_tokens is not None:
        notes.append(f"{head}: batch = {formula(rule.batch_tokens)} tokens, rounded to whole sequences.")
    sizes = sorted({parameters_non_embedding(trial.model) for trial in trials})
    for n in [n for n in (sizes[0], sizes[-1]) if law.beyond(n) > 1]:
        end = f"above the largest size tuned ({short_count(law.largest)})"
        if n < law.smallest:
            end = f"below the smallest size tuned ({short_count(law.smallest)})"
        notes.append(f"{head}: N = {short_count(n)} is {law.beyond(n):.3g} times {end}: its lr is extrapolated.")
    batches = sorted({trial.train.batch_tokens for trial in trials})
    if rule.batch_tokens is None and (others := set(batches) - {one.batch_tokens for one in tuned}):
        known = ", ".join(map(str, sorted({one.batch_tokens for one in tuned})))
        shown = ", ".join(map(str, sorted(others)))
        notes.append(f"{head}: tuned at batch_tokens {known}, used at {shown}: the best rate changes with the batch.")
    return notes


def formula(law: RecipeLaw) -> str:
    """A law as text, with the interval of its exponent where there is one."""
    text = f"{law.reference:.4g} (N / {short_count(law.reference_n)})^{law.exponent:.3f}"
    return text if law.low90 is None else f"{text} (exponent {law.low90:.2f} to {law.high90:.2f}, 90 %)"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
