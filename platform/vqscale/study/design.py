"""Designs: what a study trains beside its plain sweep. Budgets are exact numbers; a rounded name never identifies one.

A design says which grid points there are; `vqscale.planning.designs` solves their training tokens from exact FLOPs and
drops, with the reason, what cannot be trained.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from vqscale.study import checks
from vqscale.study.frozen import Frozen

Axes = dict[str, list[Any]]
TrainingFlops = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Training FLOPs of one run."""
TokenCount = Annotated[int, Field(gt=0)]

HOLD_OUT_MARGIN = 0.97
"""Runs from this share of the smallest held-out budget upwards are held out: training takes whole updates, so a run's
FLOPs are within half an update of its budget, on either side."""

WHOLE_UPDATES = 0.02
"""Largest relative distance of training tokens in whole updates (by default at least 30) from the number asked for."""


class _Design(Frozen):
    sizes: list[str] = Field(min_length=1)
    """Presets, or shapes such as d56x3."""
    minimum_steps: int = Field(default=30, gt=0)
    """A grid point with fewer updates is dropped: its schedule is mostly warm-up."""
    max_epochs: float | None = Field(default=None, gt=0)
    """A grid point that reads the training split more often is dropped; None: no limit."""
    axes: Axes = Field(default_factory=dict)
    """Further axes, as in `sweep`: every combination of their values gets the whole design."""

    owned: ClassVar[frozenset[str]] = frozenset({"model.preset", "train.tokens"})
    """Axes that the design itself sets."""

    @field_validator("sizes")
    @classmethod
    def _sizes_differ(cls, sizes: list[str]) -> list[str]:
        return list(checks.distinct(sizes))

    @model_validator(mode="after")
    def _axes_are_free(self) -> "_Design":
        if taken := sorted(self.owned & set(self.axes)):
            raise ValueError(f"axis {taken[0]!r} is set by the design itself: leave it out of axes")
        return self


class IsoflopDesign(_Design):
    """Equal-compute rows: at every budget the sizes around the expected optimum, each trained for the whole budget."""

    type: Literal["isoflop"]
    budgets: list[TrainingFlops] = Field(min_length=1)
    per_budget: int | None = Field(default=None, ge=3)
    """Sizes of one budget: those nearest, in log N, to the expected optimum; None: all."""
    tokens_per_parameter: float = Field(default=20.0, gt=0)
    """First guess of D / N at the optimum, N without embeddings."""
    recentre: bool = True
    """Expect the optimum where the budgets already trained put it, and train budgets in ascending order."""
    smallest_budget_seeds: list[int] | None = Field(default=None, min_length=1)
    """Seeds at the smallest budget, where noise is cheapest to measure; None: `train.seeds`, as at the others."""
    hold_out: int = Field(default=1, ge=0)
    """How many of the largest budgets are held out of the fit and predicted."""

    @field_validator("smallest_budget_seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int] | None) -> list[int] | None:
        return seeds if seeds is None else checks.seeds(seeds)

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, budgets: list[float]) -> list[float]:
        return list(checks.distinct(budgets))

    @model_validator(mode="after")
    def _some_budget_is_fitted(self) -> "IsoflopDesign":
        if self.hold_out >= len(self.budgets):
            raise ValueError(f"hold_out {self.hold_out} leaves no budget of {len(self.budgets)} to fit")
        return self

    @property
    def staged(self) -> bool:
        """Whether what is trained at a budget depends on the results of smaller ones."""
        return self.recentre and self.per_budget is not None

    @property
    def hold_out_from(self) -> float | None:
        """Training FLOPs from which runs are held out; None where none are."""
        return HOLD_OUT_MARGIN * sorted(self.budgets)[-self.hold_out] if self.hold_out else None


class LadderDesign(_Design):
    """Sizes x tokens per parameter; the largest rungs are held out."""

    type: Literal["ladder"]
    tokens_per_parameter: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Multiples D / N, N without embeddings."""
    hold_out: int = Field(default=1, ge=0)
    """How many of the last sizes are held out of the fit; sizes are listed in ascending order."""

    @field_validator("tokens_per_parameter")
    @classmethod
    def _multiples_differ(cls, multiples: list[float]) -> list[float]:
        return list(checks.distinct(multiples))

    @model_validator(mode="after")
    def _some_size_is_fitted(self) -> "LadderDesign":
        if self.hold_out >= len(self.sizes):
            raise ValueError(f"hold_out {self.hold_out} leaves no size of {len(self.sizes)} to fit")
        return self

    def holds_out(self, preset: str | None, multiple: float) -> bool:
        """Whether a run of this size and D / N belongs to the ladder and its size is held out."""
        near = any(abs(multiple / asked - 1) <= WHOLE_UPDATES for asked in self.tokens_per_parameter)
        return near and preset in self.sizes[len(self.sizes) - self.hold_out :]


class _Compared(_Design):
    """Models compared at equal compute (`budgets`) and at equal tokens (`tokens`)."""

    budgets: list[TrainingFlops] = Field(default_factory=list)
    tokens: list[TokenCount] = Field(default_factory=list)

    @field_validator("budgets", "tokens")
    @classmethod
    def _values_differ(cls, values: list[float]) -> list[float]:
        return list(checks.distinct(values))

    @model_validator(mode="after")
    def _something_is_equal(self) -> "_Compared":
        if not self.budgets and not self.tokens:
            raise ValueError("needs budgets (equal compute), tokens (equal tokens), or both")
        return self


class ContextDesign(_Compared):
    """Context lengths T at equal compute and at equal tokens."""

    type: Literal["context"]
    contexts: list[Annotated[int, Field(gt=0)]] = Field(min_length=2)
    owned: ClassVar[frozenset[str]] = _Design.owned | {"train.context"}

    @field_validator("contexts")
    @classmethod
    def _contexts_differ(cls, contexts: list[int]) -> list[int]:
        return list(checks.distinct(contexts))


class CodebookDesign(_Compared):
    """Codebook sizes S at equal compute (and, where asked, at equal tokens)."""

    type: Literal["codebook"]
    codebook_sizes: list[Annotated[int, Field(gt=0)]] = Field(min_length=2)
    owned: ClassVar[frozenset[str]] = _Design.owned | {"model.codebook_size"}

    @field_validator("codebook_sizes")
    @classmethod
    def _sizes_of_codebooks_differ(cls, sizes: list[int]) -> list[int]:
        return list(checks.distinct(sizes))


Design = Annotated[IsoflopDesign | LadderDesign | ContextDesign | CodebookDesign, Field(discriminator="type")]
