"""Records of a fit: every number with its interval, its settings and the identity of its data.

Files of earlier versions are read: renamed keys are accepted under their old names, and old names of units translated.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from vqscale.results.foreign.reading import TableReading
from vqscale.study.frozen import Frozen

LOSS_UNITS = {"loss": "nats per token", "bpb": "bits per byte"}
"""Unit of a column of losses."""
_OLD_UNITS = {"nats a token": "nats per token", "bits a byte": "bits per byte"}


def _current_unit(unit: object) -> object:
    return _OLD_UNITS.get(unit, unit) if isinstance(unit, str) else unit


LossUnit = Annotated[str, BeforeValidator(_current_unit)]
"""Name of a loss's unit; the names of earlier versions become the present ones."""

Description = Annotated[str, Field(validation_alias=AliasChoices("description", "words"))]
"""A text that files of earlier versions hold under `words`."""

Where = dict[str, str | int | float | None]
"""The subset of the table that was fitted: column -> value."""


RefusalKind = Literal["too few runs", "not supported", "not possible"]
"""not supported: enough runs, but they contradict the form. not possible: the table lacks what the law needs."""

BudgetKind = Literal["compute", "time", "money"]


class Interval(Frozen):
    """Percentile intervals over the bootstrap's refits."""

    low90: float
    high90: float
    low95: float
    high95: float


class Span(Frozen):
    """The values between which a constant fits equally well."""

    low: float
    high: float


class RunPoint(Frozen):
    """One run and the law's value for it."""

    name: str
    x: list[float]
    """One value per axis of the law."""
    flops: float | None = None
    """Training FLOPs of the run; None where the table has none."""
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


class Estimate(Frozen):
    """A derived quantity with its interval; without a bootstrap there is none."""

    value: float
    interval: Interval | None = None


class Term(Frozen):
    """One term of a law: coefficient times the product of letter^-exponent."""

    coefficient: str
    powers: dict[str, str]
    """Letter of an axis -> name of its exponent; two terms may share an exponent."""


class CrossCheck(Frozen):
    """The same objective minimised a second way: scaled log-sum-exp, analytic gradient, many starts."""

    solver: str
    starts: int
    starts_agreeing: int
    objective: float
    relative_difference: float
    """(this objective - the search's) / the search's. The fit keeps the lower of the two; above 1e-6 it warns."""


class Method(Frozen):
    """How the constants were found, complete enough to find them again."""

    solver: str
    objective: str
    """Description: residual and loss function."""
    residual: Literal["log", "raw"]
    delta: float | None
    """Threshold of the Huber loss; None: least squares."""
    reduction: Literal["sum"] = "sum"
    starts: int
    starts_agreeing: int
    tolerance: float
    decrease_in_reach: float
    """What one more Newton step would gain, as a share of the objective."""
    condition: float
    cross_check: CrossCheck | None


class HoldOutWindow(Frozen):
    """A step of the expanding window: fitted up to one budget, used to predict the larger ones."""

    fitted_to: float
    """Largest value of the order among the fitted runs."""
    fitted_runs: int
    predicted_runs: int
    mean_relative_error: float | None
    """None where the fit was refused."""
    baselines: dict[str, float | None]
    exponents: dict[str, float]
    reason: str | None
    """Why there is no prediction."""


class HoldOut(Frozen):
    """The law fitted to the smaller runs only and used to predict the larger ones."""

    description: str
    """Which runs are held out, or why none could be."""
    fitted_runs: int
    points: list[RunPoint]
    """The held-out runs with the predictions for them; empty where none could be held out."""
    mean_relative_error: float | None
    """Mean of |predicted - measured| / measured."""
    r2: float | None
    """1 - residual over total sum of squares of the held-out losses; absent below two held-out runs."""
    baselines: dict[str, float | None] = Field(default_factory=dict)
    """Mean relative error of `last value` and `power law` on the same runs; None where it cannot be had."""
    windows: list[HoldOutWindow] = Field(default_factory=list)


class Influence(Frozen):
    """Effect of leaving one run out. Without changes: without this run the law is not identified."""

    name: str
    changes: dict[str, float]
    """Relative change of every exponent and derived value."""


class Variant(Frozen):
    """The same law under another convention, another objective, or without some runs: the sensitivity of the fit."""

    kind: Literal["convention", "objective", "runs"]
    description: Description
    """What differs from the fit."""
    n_runs: int
    parameters: dict[str, float]
    derived: dict[str, float]
    reason: str | None
    """Why this variant has no values; None where it has."""


class Convention(Frozen):
    """What counts as N and as C: a setting of the analysis."""

    parameters: Literal["non_embedding", "total", "non_embedding_codebooks", "total_codebooks"] = "non_embedding"
    flops: Literal["exact", "6nd"] = "exact"


class Optimum(Frozen):
    """The best division of one budget."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    loss: Estimate
    tokens_per_parameter: Estimate
    parameters_low: float
    parameters_high: float
    """Sizes between which the loss at this budget is within 1 % of the optimal one."""
    beyond: float
    """Budget over the largest budget that was fitted; above 1 it is an extrapolation."""
    outside: float = 1.0
    """Factor by which N* lies outside the sizes tried near this budget, or near the nearest one fitted."""
    supported: bool = True
    """Whether a size tried near this budget, or near the nearest one fitted, has a loss within 1 % of the best there or
    lies in the interval of N*."""
    extrapolation: list[str] = Field(default_factory=list)
    """What of N, D and C lies outside the runs, and by how much, a sentence each; empty where nothing does."""


class Frontier(Frozen):
    """N*(C), D*(C) and L*(C) of a law in N and D, for one count of C."""

    cost: Literal["exact", "6nd"]
    description: Description
    """Source of the FLOPs per token."""
    a: Estimate
    """d log N* / d log C between the smallest and the largest fitted budget."""
    b: Estimate
    optima: list[Optimum]
    refused: dict[str, str] = Field(default_factory=dict)
    """Budget (exact, as text) -> why no optimum is given for it."""


class IsoflopRow(Frozen):
    """One budget's runs and the parabola through them in log N."""

    budget: float
    points: list[RunPoint]
    """x: N, D. `predicted` is the parabola's."""
    parameters: float | None
    """N at the vertex; None where it is refused."""
    vertex: Estimate | None = None
    """The same with its interval, which knows of scatter only; without one where that leaves the vertex unbounded."""
    tokens: float | None
    loss: float | None
    reason: str | None
    """Why the row has no optimum: concave, flat, outside the runs."""
    warnings: list[str] = Field(default_factory=list)
    """Of an optimum that rests on few sizes, or lies near one end of them."""


class ParabolaLine(Frozen):
    """The line through the vertices: log N* and log D* over log C."""

    flops: float
    """C to which the levels belong: the middle of the budgets, in logarithms."""
    low: float
    high: float
    """Smallest and largest budget with an optimum."""
    log_parameters: float
    """log N* at `flops`."""
    a: float
    log_tokens: float
    b: float
    covariance_parameters: list[list[float]] | None
    """Of log N* at `flops` and a; None where the runs leave nothing to judge their scatter by."""
    covariance_tokens: list[list[float]] | None
    freedom: int
    """Degrees of freedom of the covariances."""


class ParabolaOptimum(Frozen):
    """The best division of one budget by the line through the vertices: no law says it."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    tokens_per_parameter: Estimate
    loss: float | None
    """Interpolated between the vertices; None beyond them."""
    beyond: float
    """Factor by which the budget lies beyond those with a vertex; 1 within them."""


class BudgetCheck(Frozen):
    """N* at one budget by the law and by the parabola."""

    flops: float
    law: Estimate | None
    """None where the law has no finite optimum."""
    parabola: Estimate
    apart: bool
    """Whether their 90 % intervals miss each other."""


class ParabolaCheck(Frozen):
    """A law in N and D beside the isoFLOP parabolas of its runs."""

    budgets: list[BudgetCheck]
    """Those with a vertex."""
    a_law: Estimate
    a_parabolas: Estimate | None
    a_apart: bool
    text: str | None
    """The disagreement in a sentence; None where there is no more than chance brings."""


class IsoflopParabolas(Frozen):
    """IsoFLOP parabolas of one subset: a diagnostic, biased off centre. Optima are taken from the surface fit."""

    where: Where
    label: str
    rows: list[IsoflopRow]
    a: Estimate | None
    """Slope of log N* over log C through the rows that have an optimum; None below two of them."""
    b: Estimate | None
    reason: str | None
    line: ParabolaLine | None = None
    """The line of those slopes; None where there is none, and in files of earlier versions."""
    in_place_of: str | None = None
    """Why no law in N and D was fitted to these runs, so that the optima are the answer; None where one was."""
    metric: str = "loss"
    """Column of the losses."""
    optima: list[ParabolaOptimum] = Field(default_factory=list)
    """By the line, at the budgets of the vertices and beyond them; only where they answer in place of a law."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Budget (exact, as text) -> why no optimum is given for it."""


class ComparedPoint(Frozen):
    """Two architectures at one budget of compute, time or money."""

    kind: BudgetKind
    budget: float
    """FLOPs, seconds, or currency."""
    unit: str
    loss: Estimate
    base_loss: Estimate
    difference: Estimate
    """loss - base_loss: negative where the first is better."""
    multiplier: Estimate | None
    """How many times the budget `label` needs for the loss that `base` has at it; None where it never reaches it."""
    reason: str | None
    """Why there is no multiplier."""
    beyond: float
    """Budget over the largest one that both trained; above 1 it is an extrapolation for at least one of them."""


class Comparison(Frozen):
    """One architecture against a baseline, at the same context length and convention."""

    where: Where
    base: Where
    label: str
    base_label: str
    points: list[ComparedPoint]
    reason: str | None
    """Why nothing can be compared; None where it can."""
    skipped: dict[str, str] = Field(default_factory=dict)
    """compute, time or money -> why there is no comparison at equal ones."""


class Candidate(Frozen):
    """One form in a model selection."""

    law: str
    form: str
    limits: str
    """Value of the form for S and T to infinity."""
    n_runs: int
    held_out_error: float | None
    reason: str | None
    """Why it could not be judged or was refused."""


class ModelSelection(Frozen):
    """Forms compared on the same runs by held-out error, never by how well they fit."""

    where: Where
    label: str
    candidates: list[Candidate]
    chosen: str | None
    """The selected law; None where none could be judged."""
    description: Description
    """How the forms were judged, and by how much the selected one is better."""


class Fit(Frozen):
    """One law fitted to one subset of a table. Only converged fits are recorded; the others are refusals."""

    id: str
    """Hash of law, subset, data and settings."""
    law: str
    form: str
    terms: list[Term]
    where: Where
    label: str
    """`where` as text, without what is the same in the whole table."""
    axes: list[str]
    letters: list[str]
    convention: Convention
    metric: str
    """Column that was fitted."""
    unit: LossUnit
    parameters: dict[str, float]
    derived: dict[str, float]
    """chinchilla: a and b of N*(C) ~ C^a and D*(C) ~ C^b for C proportional to N D."""
    intervals: dict[str, Interval]
    """For parameters and derived values; empty without a bootstrap."""
    status: str
    objective: float
    method: Method
    n_runs: int
    points: list[RunPoint]
    curves: list[Curve]
    influences: list[Influence] = Field(default_factory=list)
    """Of every run, the largest first; empty where they were not requested."""
    variants: list[Variant] = Field(default_factory=list)
    frontiers: list[Frontier] = Field(default_factory=list)
    """Of laws in N and D: by exact FLOPs and by 6ND."""
    parabolas: ParabolaCheck | None = None
    """Of laws in N and D, where budgets have parabolas: N* by both, and whether they disagree."""
    marks: list[str] = Field(default_factory=list)
    """Reasons not to decide by this fit, a sentence each, from the numbers of this record; empty where there is none.
    Whatever shows a number of the fit shows them."""
    exponent_spans: dict[str, Span] = Field(default_factory=dict)
    """Exponent -> values whose objective is within 1 % of the best, with everything else fitted again."""
    freedom: int | None = None
    """Degrees of freedom: points of runs less the free constants; None in files of earlier versions."""
    units: int | None = None
    """Runs of their own, which the bootstrap draws with all their rows; None in files of earlier versions."""
    r2_fit: float | None
    """None where the runs are fewer than two for each constant, or their losses do not vary."""
    r2_holdout: float | None
    holdout: HoldOut
    resampled: str = ""
    """What the bootstrap draws, with replacement, as often as there are of it; empty in files of earlier versions."""
    bootstrap: int
    bootstrap_seed: int
    bootstrap_on_bound: int
    """Refits that ended on a bound of the search."""
    draws: list[list[float]] = Field(default_factory=list)
    """Natural parameters of up to 200 refits, in the order of `parameters`: intervals of anything else follow."""
    selection: str
    """Which runs of the subset were fitted."""
    warnings: list[str]
    data_hash: str
    """sha256 of the fitted columns of the whole table."""
    versions: dict[str, str]


class Refusal(Frozen):
    """A law that the runs of one subset do not identify, and why."""

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
    isoflops: list[IsoflopParabolas] = Field(default_factory=list)
    comparisons: list[Comparison] = Field(default_factory=list)
    selections: list[ModelSelection] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """What was made of the rows of the table before any law was fitted."""
    reading: TableReading | None = None
    """What was made of a table from elsewhere; None for a table of the platform's own."""
