"""What a fit leaves behind: every number with its interval, its settings and the identity of its data."""

from typing import Literal

from pydantic import Field

from vqscale.study.frozen import Frozen

Where = dict[str, str | int | float | None]
"""The subset of the table that was fitted: column -> value."""


RefusalKind = Literal["too few runs", "not supported", "not possible"]
"""not supported: enough runs, but they contradict the form. not possible: the table lacks what the law needs."""


class Interval(Frozen):
    """Percentile intervals over the bootstrap's refits."""

    low90: float
    high90: float
    low95: float
    high95: float


class Point(Frozen):
    """One run beside what the law says of it."""

    name: str
    x: list[float]
    """One value an axis of the law."""
    measured: float
    predicted: float
    residual: float
    """log(predicted) - log(measured)."""


class CurvePoint(Frozen):
    x: float
    loss: float
    low90: float | None
    high90: float | None


class Curve(Frozen):
    """The fitted law along its first axis. Its last decade lies beyond the largest run: extrapolation."""

    fixed: dict[str, float]
    """Values of the law's other axes."""
    points: list[CurvePoint]


class HoldOut(Frozen):
    """The law fitted to the smaller runs only, asked for the larger ones."""

    description: str
    """How the held-out runs were chosen, or why none could be."""
    fitted_runs: int
    points: list[Point]
    """The held-out runs with the predictions for them; empty where none could be held out."""
    mean_relative_error: float | None
    """Mean of |predicted - measured| / measured."""
    r2: float | None
    """1 - residual over total sum of squares of the held-out losses; absent below two held-out runs."""


class Fit(Frozen):
    """One law fitted to one subset of a table. Only fits that stand are recorded; the others are refusals."""

    id: str
    """Hash of law, subset, data and settings."""
    law: str
    form: str
    where: Where
    label: str
    """`where` in words, without what is the same in the whole table."""
    axes: list[str]
    letters: list[str]
    metric: str
    """Column that was fitted."""
    unit: str
    parameters: dict[str, float]
    derived: dict[str, float]
    """chinchilla: a and b of N*(C) ~ C^a and D*(C) ~ C^b for C proportional to N D."""
    intervals: dict[str, Interval]
    """For parameters and derived values; empty without a bootstrap."""
    status: str
    objective: float
    delta: float
    reduction: str
    starts: int
    starts_agreeing: int
    condition: float
    n_runs: int
    points: list[Point]
    curves: list[Curve]
    r2_fit: float
    r2_holdout: float | None
    holdout: HoldOut
    bootstrap: int
    bootstrap_seed: int
    bootstrap_on_bound: int
    """Refits that ended on a bound of the search."""
    selection: str
    """Which runs of the subset were fitted."""
    warnings: list[str]
    data_hash: str
    """sha256 of the fitted columns of the whole table."""
    versions: dict[str, str]


class Refusal(Frozen):
    """A law that the data of one subset cannot support, and why."""

    law: str
    where: Where
    label: str
    n_runs: int
    kind: RefusalKind
    reason: str


class Exclusion(Frozen):
    """A run that entered no fit of a law, and why."""

    name: str
    law: str | None
    """None: no law used it."""
    reason: str


class StudyFits(Frozen):
    fits: list[Fit] = Field(default_factory=list)
    refusals: list[Refusal] = Field(default_factory=list)
    excluded: list[Exclusion] = Field(default_factory=list)
