"""A recipe: learning rate, and the batch where it was tuned, as power laws of N, D or C, with their reference runs.

value = reference (N / its reference)^exponent (D / its reference)^exponent, N parameters without embeddings, D training
tokens, C training FLOPs; a law has one or two of them. lr ~ N^a D^b is the step law of Li et al. 2025 (arXiv
2503.04715), lr ~ C^a that of DeepSeek (arXiv 2401.02954). Laws are fitted, not derived as in muP, because depth and
training tokens change with the size here and the architectures differ. `vqscale.laws.recipe_law` fits them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from vqscale.study.frozen import Frozen
from vqscale.study.model import Head, ModelConfig

RATE_DIGITS = 4
"""Significant digits of a resolved learning rate. Powers differ in the last bit between machines; the trial's
fingerprint, which the resolved number enters, must not."""
RecipeLetter = Literal["N", "D", "C"]
RecipePoint = Mapping[str, float]
"""Letter -> value of one run."""


class RecipePower(Frozen):
    """The exponent of one quantity in a law, and where it was tuned."""

    exponent: float
    low90: float | None
    """90 % interval of the exponent (Student's t); None where the law passes through all points."""
    high90: float | None
    reference: float = Field(gt=0)
    """Geometric mean of the fitted points."""
    smallest: float = Field(gt=0)
    """Of the fitted points."""
    largest: float = Field(gt=0)

    def beyond(self, value: float) -> float:
        """The factor by which `value` is outside the range of fitted points; 1 within it."""
        return max(value / self.largest, self.smallest / value, 1.0)


class RecipeLaw(Frozen):
    """A line or plane in log value over log N, log D or log C."""

    reference: float = Field(gt=0)
    """The value where every quantity has its own reference."""
    powers: dict[RecipeLetter, RecipePower] = Field(min_length=1)
    residual: float | None
    """Root mean square, over the degrees of freedom, of log(best value) - log(law); None where none is left."""
    sizes: int = Field(ge=1)
    """Sizes that were fitted."""
    points: int = Field(ge=2)
    """Points that were fitted: sizes, or sizes at several token budgets."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        """A law of earlier versions, a power of N alone."""
        if not isinstance(values, dict) or "reference_n" not in values:
            return values
        kept = {name: values[name] for name in ("reference", "residual", "sizes") if name in values}
        own = ("exponent", "low90", "high90", "smallest", "largest")
        power = {name: values[name] for name in own if name in values} | {"reference": values["reference_n"]}
        return kept | {"points": values.get("sizes"), "powers": {"N": power}}

    @property
    def letters(self) -> list[RecipeLetter]:
        return list(self.powers)

    def at(self, point: RecipePoint) -> float:
        """The value at a point that has all letters of the law."""
        value = self.reference
        for letter, power in self.powers.items():
            value *= (point[letter] / power.reference) ** power.exponent
        return float(value)

    def beyond(self, point: RecipePoint) -> dict[RecipeLetter, float]:
        """Letter -> factor by which the point is outside the range of fitted points, where it is."""
        found = {letter: power.beyond(point[letter]) for letter, power in self.powers.items()}
        return {letter: factor for letter, factor in found.items() if factor > 1}


class RecipeReference(Frozen):
    """The runs of one size, token budget and batch that differ in the learning rate."""

    parameters: int = Field(gt=0)
    """N without embeddings."""
    preset: str | None
    tokens: int | None = Field(gt=0)
    """Training tokens of the runs that tuned the rate; None where the table names none."""
    tokens_per_parameter: float | None = Field(gt=0)
    flops: float | None = Field(default=None, gt=0)
    """Training FLOPs of these runs."""
    batch_tokens: int | None = Field(gt=0)
    """None where the table names none."""
    context: int | None
    rates: list[float] = Field(min_length=1)
    """Ascending."""
    losses: list[float | None]
    """One per rate: mean over the seeds that all rates have; None where a run diverged."""
    runs: int = Field(gt=0)
    trial_ids: list[str]
    best: float | None
    """The best rate: vertex of the parabola in log rate through the best one tried and its neighbours."""
    best_loss: float | None
    """The parabola at its vertex."""
    refused: str | None
    """Why the size is not used; None where it is."""

    @property
    def point(self) -> RecipePoint:
        """Where these runs were trained."""
        found = {"N": float(self.parameters), "D": self.tokens, "C": self.flops}
        return {letter: float(value) for letter, value in found.items() if value is not None}


class RecipeRule(Frozen):
    """The laws of one architecture, or the reason why there are none."""

    arch: str | None
    """None where the table names none: such a rule is for no model of a study."""
    head: Head | None
    """None: for any head."""
    lr: RecipeLaw | None
    batch_tokens: RecipeLaw | None
    """None: the batch was not tuned, and the study's own applies."""
    batch_refused: str | None = None
    """Why a batch that was tuned has no law."""
    refused: str | None
    """Why there is no law; None where there is one."""
    references: list[RecipeReference] = Field(min_length=1)

    @model_validator(mode="after")
    def _laws_or_a_reason(self) -> "RecipeRule":
        if (self.lr is None) == (self.refused is None):
            raise ValueError("a rule has either a law `lr` or the reason `refused` why there is none")
        if self.lr is None and self.batch_tokens is not None:
            raise ValueError("a rule without a law `lr` has none for `batch_tokens` either")
        return self

    @property
    def name(self) -> str:
        name = self.arch or "all runs"
        return name if self.head is None else f"{name} ({self.head})"

    @property
    def letters(self) -> set[RecipeLetter]:
        """The quantities that a value of the rule needs."""
        laws = [law for law in (self.lr, self.batch_tokens) if law is not None]
        return {letter for law in laws for letter in law.letters}

    @property
    def tuned(self) -> list[RecipeReference]:
        """The references that the laws were fitted to."""
        return [one for one in self.references if one.refused is None]

    def refusal(self, n: int) -> str | None:
        """Why there is no value for the size `n`; None where there is one."""
        if self.refused is not None:
            return self.refused
        own = [one for one in self.references if one.parameters == n]
        return own[0].refused if own and all(one.refused is not None for one in own) else None

    def learning_rate(self, point: RecipePoint) -> float:
        assert self.lr is not None, f"{self.name} has no law: {self.refused}"
        return float(f"{self.lr.at(point):.{RATE_DIGITS}g}")

    def batch(self, point: RecipePoint, unit: int) -> int | None:
        """Tokens per update: the multiple of `unit` nearest to the law; None where the batch was not tuned."""
        return None if self.batch_tokens is None else max(1, round(self.batch_tokens.at(point) / unit)) * unit


class Recipe(Frozen):
    """The learning rate of every size of a study, and the runs that it was fitted to."""

    version: Literal[1, 2] = 2
    """1: laws of N alone, in files of earlier versions."""
    study: str
    """The sweep that tuned it."""
    corpus_fingerprint: str | None
    """None where the table names no corpus."""
    metric: str
    """Column that was minimised."""
    table: str
    """sha256 of what was read of the table."""
    versions: dict[str, str]
    rules: list[RecipeRule] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_rule_per_model(self) -> "Recipe":
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} has two rules")
        return self

    def rule(self, model: ModelConfig) -> RecipeRule | None:
        """The rule for a model: that of its head, or else of any head; None where the recipe lacks its architecture."""
        found = [rule for rule in self.rules if rule.arch == model.arch and rule.head in (model.head, None)]
        return max(found, key=lambda rule: rule.head is not None, default=None)
