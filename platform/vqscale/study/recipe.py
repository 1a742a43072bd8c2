"""A recipe: learning rate, and the batch where it was tuned, as power laws of the size, with their reference runs.

value(N) = reference (N / reference_n)^exponent, N parameters without embeddings. Laws are fitted, not derived as in
muP, because depth and training tokens change with the size here and the architectures differ.
`vqscale.laws.recipe_law` fits them.
"""

from typing import Literal

from pydantic import Field, model_validator

from vqscale.study.frozen import Frozen
from vqscale.study.model import Arch, Head, ModelConfig

RATE_DIGITS = 4
"""Significant digits of a resolved learning rate. Powers differ in the last bit between machines; the trial's
fingerprint, which the resolved number enters, must not."""


class RecipeLaw(Frozen):
    """A straight line in log value over log N."""

    reference: float = Field(gt=0)
    """The value at `reference_n`."""
    reference_n: float = Field(gt=0)
    """Geometric mean of the fitted sizes."""
    exponent: float
    low90: float | None
    """90 % interval of the exponent (Student's t with n - 2 degrees of freedom); None with two sizes."""
    high90: float | None
    residual: float | None
    """Root mean square, over n - 2, of log(best value) - log(line); None with two sizes."""
    smallest: int = Field(gt=0)
    """N of the smallest size that was fitted."""
    largest: int = Field(gt=0)
    sizes: int = Field(ge=2)
    """Sizes that were fitted."""

    def at(self, n: float) -> float:
        return float(self.reference * (n / self.reference_n) ** self.exponent)

    def beyond(self, n: float) -> float:
        """The factor by which `n` is outside the range of fitted sizes; 1 within it."""
        return max(n / self.largest, self.smallest / n, 1.0)


class RecipeReference(Frozen):
    """The runs of one size and batch that differ in the learning rate."""

    parameters: int = Field(gt=0)
    """N without embeddings."""
    preset: str | None
    tokens: int = Field(gt=0)
    """Training tokens of the runs that tuned the rate."""
    tokens_per_parameter: float = Field(gt=0)
    batch_tokens: int = Field(gt=0)
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


class RecipeRule(Frozen):
    """The laws of one architecture, or the reason why there are none."""

    arch: Arch
    head: Head | None
    """None: for any head."""
    lr: RecipeLaw | None
    batch_tokens: RecipeLaw | None
    """None: the batch was not tuned, and the study's own applies."""
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
        return self.arch if self.head is None else f"{self.arch} ({self.head})"

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

    def learning_rate(self, n: int) -> float:
        assert self.lr is not None, f"{self.name} has no law: {self.refused}"
        return float(f"{self.lr.at(n):.{RATE_DIGITS}g}")

    def batch(self, n: int, unit: int) -> int | None:
        """Tokens per update: the multiple of `unit` nearest to the law; None where the batch was not tuned."""
        return None if self.batch_tokens is None else max(1, round(self.batch_tokens.at(n) / unit)) * unit


class Recipe(Frozen):
    """The learning rate of every size of a study, and the runs that it was fitted to."""

    version: Literal[1] = 1
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
