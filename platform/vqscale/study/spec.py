"""The study file (version 1) as frozen values: every key known, every value typed, messages in the file's own terms."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from vqscale import storage
from vqscale.address import Address
from vqscale.errors import StudyError
from vqscale.masking import masked
from vqscale.study import checks
from vqscale.study.deepspeed_keys import check_deepspeed_keys
from vqscale.study.design import (
    HOLD_OUT_MARGIN,
    Axes,
    CodebookDesign,
    ContextDesign,
    Design,
    IsoflopDesign,
    LadderDesign,
)
from vqscale.study.frozen import Frozen
from vqscale.study.recipe import Recipe
from vqscale.study.trial import Task, TrainConfig
from vqscale.study.yaml_file import read_mapping, shown

LawName = Literal[
    "power_n",
    "power_d",
    "power_c",
    "codebook",
    "chinchilla",
    "chinchilla_tied",
    "chinchilla_no_floor",
    "codebook_additive",
    "codebook_capacity",
    "context_additive",
    "context_capacity",
    "joint_additive",
    "joint_capacity",
    "chinchilla_coupled",
    "farseer",
    "repeated_data",
    "repeated_data_parameters",
]
SWEPT_SECTIONS = ("model", "train", "data")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
StudyName = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(checks.name)]
PlainText = Annotated[str, AfterValidator(checks.plain_text)]
StorageAddress = Annotated[str, AfterValidator(checks.storage_address)]
Currency = Annotated[str, Field(pattern=r"^\S{1,12}$"), AfterValidator(checks.plain_text)]
Positive = Annotated[int, Field(gt=0)]


class DataSpec(Frozen):
    corpus: PlainText = Field(pattern=r"\S")
    """A named corpus (`vqscale data list`) or the URI of a prepared one."""


TRAIN_KEYS = frozenset(TrainConfig.model_fields) - {"seed"} | {"seeds"}
"""Keys that a study may set in `train`: a study lists seeds, a trial has one."""
AXIS_KEYS = {"train": TRAIN_KEYS, "data": frozenset(DataSpec.model_fields)}
"""Keys of the sections that are the same for every architecture; those of `model` are checked with its architecture."""


class Resources(Frozen):
    workers: int = Field(default=1, gt=0)
    """Ray Train workers of one trial."""
    cpus_per_worker: int = Field(default=1, gt=0)
    gpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """auto: one where the cluster has GPUs, none elsewhere."""
    max_concurrent: int | None = Field(default=None, gt=0)
    """Trials at once; None: as many as the cluster holds."""
    memory_gib_per_worker: float | None = Field(default=None, gt=0)
    """Trials that are estimated to need more are dropped from a design and refused in a sweep; None: no limit."""
    flops_per_second: float | None = Field(default=None, ge=1)
    """FLOP/s that one worker is expected to reach in training, for estimates before any trial was measured."""
    price_per_device_hour: float | None = Field(default=None, gt=0)
    """Price of one worker's devices per hour: its GPU, or its CPUs."""
    currency: Currency = "USD"


class RunOptions(Frozen):
    """How a study is run. Nothing here changes a trial's identity or its outcome."""

    log_every: int = Field(default=10, gt=0)
    """Updates between two readings of the metrics."""
    checkpoint_every: int | None = Field(default=None, gt=0)
    """Updates between checkpoints; None: a tenth of the trial, but at least 100 updates apart."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """A checkpoint is also due when the last one is this old: what a lost machine costs at most, in seconds."""
    keep_checkpoints: int = Field(default=2, gt=0)
    max_retries: int = Field(default=2, ge=0)


class FitSpec(Frozen):
    laws: list[LawName] = Field(default=["power_n", "chinchilla"], min_length=1)
    bootstrap: int = Field(default=200, ge=0, le=100_000)

    @field_validator("laws")
    @classmethod
    def _laws_differ(cls, laws: list[LawName]) -> list[LawName]:
        return list(checks.distinct(laws))


class ThroughputSpec(Frozen):
    """What `vqscale throughput` measures when the study asks for it, after its trials."""

    contexts: list[Positive] = Field(min_length=1)
    preset: str = Field(min_length=1)
    repeats: int = Field(default=3, gt=0)
    tokens: int = Field(default=4096, gt=0)
    """Tokens of one measured update, at every context length (at least one sequence)."""
    block_length: int | None = Field(default=None, gt=0)
    codebook_size: int | None = Field(default=None, gt=0)

    @field_validator("contexts")
    @classmethod
    def _contexts_differ(cls, contexts: list[int]) -> list[int]:
        return list(checks.distinct(contexts))


class AutotuneSpec(Frozen):
    codebook_sizes: list[Positive] = Field(min_length=2)
    tolerance: float = Field(default=0.01, ge=0)
    """The smallest S is chosen whose held-out bits per byte are at most this much above the best."""
    tokens: int | None = Field(default=None, gt=0)
    """Training tokens of a tuning trial; None: the study's own."""

    @field_validator("codebook_sizes")
    @classmethod
    def _sizes_differ(cls, sizes: list[int]) -> list[int]:
        return list(checks.distinct(sizes))


class Tracking(Frozen):
    uri: Annotated[Address, AfterValidator(checks.tracking_address)] = Address("sqlite:///runs/mlflow.db")


class Study(Frozen):
    """One question and the trials that answer it."""

    kind: Literal["training"] = "training"
    """The other kind, `throughput`, is `vqscale.study.throughput_study.ThroughputStudy`."""
    study: StudyName
    question: PlainText = ""
    task: Task = "language"
    """language: predict a text; classification: name the class of labelled examples or tokens."""
    data: DataSpec
    model: dict[str, Any]
    """arch, head, preset and any dimension of `ModelConfig` that differs from the preset."""
    train: dict[str, Any]
    """`TrainConfig` by field, with `seeds` (a list) in place of `seed`."""
    recipe: Recipe | None = None
    """Sets `train.lr` by architecture and size, and the batch where it was tuned. A study file may give the path of a
    recipe file here."""
    design: list[Design] = Field(default_factory=list)
    """isoflop, ladder, context and codebook designs, beside or in place of the sweep."""
    sweep: list[Axes] = Field(default=[{}])
    """Grids of trials; the default is one trial, or none where there is a design."""
    resources: Resources = Resources()
    run: RunOptions = RunOptions()
    fit: FitSpec = FitSpec()
    throughput: ThroughputSpec | None = None
    autotune: AutotuneSpec | None = None
    storage: StorageAddress = "./runs"
    tracking: Tracking = Tracking()

    @model_validator(mode="before")
    @classmethod
    def _a_design_needs_no_sweep(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("design") and "sweep" not in values:
            return values | {"sweep": []}
        return values

    @field_validator("design")
    @classmethod
    def _axes_of_designs_are_known(cls, designs: list[Design]) -> list[Design]:
        for design in designs:
            _check_grid(design.axes)
        checks.different((design.model_dump() for design in designs), "two designs are equal")
        return designs

    @field_validator("sweep")
    @classmethod
    def _axes_are_known(cls, sweep: list[Axes], info: ValidationInfo) -> list[Axes]:
        if not sweep and not info.data.get("design"):
            raise ValueError("needs at least 1 item where the study has no design")
        for axes in sweep:
            _check_grid(axes)
        checks.different(sweep, "two grids are equal")
        return sweep

    @field_validator("train")
    @classmethod
    def _train_keys_are_known(cls, train: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(train) - TRAIN_KEYS):
            raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(sorted(TRAIN_KEYS))}")
        check_deepspeed_keys(train.get("deepspeed", {}))
        return train

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Study":
        if "seeds" in self.train:
            _check_seeds("train.seeds", self.train["seeds"])
        return self

    @model_validator(mode="after")
    def _only_the_recipe_sets_the_rate(self) -> "Study":
        if self.recipe is not None and "lr" in self.train:
            raise ValueError(
                f"train.lr: {self.train['lr']!r} is set beside recipe, which sets the learning rate. Remove one of the"
                " two, or set the rate of single grid points by an axis train.lr."
            )
        return self

    @property
    def folder(self) -> str:
        """The study's folder: an absolute path or a URI."""
        return storage.join(storage.absolute(self.storage), self.study)

    @property
    def budgets(self) -> list[float]:
        """Training FLOPs at which the designs compare runs, each once, ascending."""
        compared = [
            design for design in self.design if isinstance(design, IsoflopDesign | ContextDesign | CodebookDesign)
        ]
        return sorted({budget for design in compared for budget in design.budgets})

    @property
    def hold_out_from(self) -> float | None:
        """Training FLOPs from which runs are held out of fits: 0.97 of the smallest budget that an isoflop design
        holds out; None where none does. A ladder holds out sizes instead: see `hold_out_from_runs`."""
        limits = [design.hold_out_from for design in self.design if isinstance(design, IsoflopDesign)]
        return min((limit for limit in limits if limit is not None), default=None)

    def hold_out_from_runs(self, runs: Iterable[tuple[str | None, float, float]]) -> float | None:
        """As `hold_out_from`, with the ladders: no run of a size that a ladder holds out is fitted.

        `runs`: preset, D / N (N without embeddings) and training FLOPs of every run. A size is held out from
        the FLOPs of its cheapest run on, so that longer runs of smaller sizes that cost more are held out with it.
        """
        ladders = [design for design in self.design if isinstance(design, LadderDesign)]
        limits = [
            HOLD_OUT_MARGIN * flops
            for preset, multiple, flops in runs
            if any(ladder.holds_out(preset, multiple) for ladder in ladders)
        ]
        return min([*limits, *([] if self.hold_out_from is None else [self.hold_out_from])], default=None)


def _check_grid(axes: Axes) -> None:
    for axis, values in axes.items():
        _check_axis(axis, values)
    checks.grid(axes)


def _check_seeds(where: str, values: Any) -> None:
    try:
        checks.seeds(values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_axis(axis: str, values: list[Any]) -> None:
    """Raises ValueError for an axis that sets nothing, or that no trial could take."""
    section, _, key = axis.partition(".")
    if section not in SWEPT_SECTIONS or not key:
        raise ValueError(f"axis {axis!r}: an axis is model.KEY, train.KEY or data.KEY")
    known = AXIS_KEYS.get(section)
    if known is not None and key not in known:
        raise ValueError(f"axis {axis!r}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    if not values:
        raise ValueError(f"axis {axis!r} has no values: an empty sweep trains nothing")
    if axis == "train.deepspeed":
        for value in values:
            check_deepspeed_keys(value)
    if axis == "train.seeds" and not all(isinstance(value, list) for value in values):
        raise ValueError(
            f"axis {axis!r}: {values!r} is no list of lists. Every value of this axis is a list of seeds, such as"
            " [[0, 1], [2]]; for the same seeds in every trial write `seeds: [0, 1]` in the section train"
        )
    if axis == "train.seeds":
        for value in values:
            _check_seeds(f"axis {axis!r}", value)


def load_study(path: str) -> Study:
    """Read and validate the file of a study that trains.

    Raises StudyError that names the file, the key, the value and the rule.
    """
    values = read_mapping(path)
    if values.get("kind") == "throughput":
        raise StudyError(
            f"{path}: kind: throughput trains nothing. Use vqscale plan, run (or throughput), report or ui on it."
        )
    return parse_study(values, source=path)


def parse_study(value: dict[str, Any], *, source: str) -> Study:
    """Validate a study given as plain values.

    `source` names it in messages; the path of a recipe is relative to its folder. Raises StudyError.
    """
    if isinstance(value.get("recipe"), str):
        value = value | {"recipe": load_recipe(_beside(source, value["recipe"]))}
    try:
        return Study.model_validate(integers(value))
    except ValidationError as error:
        raise StudyError(explain(error, source)) from error


def load_recipe(path: str) -> Recipe:
    """The recipe in the file that `vqscale recipe` wrote to `path`, a local path or a URI. Raises StudyError."""
    values = read_mapping(path, what="recipe")
    try:
        return Recipe.model_validate(integers(values))
    except ValidationError as error:
        raise StudyError(explain(error, path)) from error


def _beside(source: str, path: str) -> str:
    """`path`, relative to the folder of the file `source` unless it is absolute or a URI."""
    if "://" in path or path.startswith("/"):
        return path
    folder, slash, _ = source.rpartition("/")
    return f"{folder}{slash}{path}"


def integers(value: Any) -> Any:
    """Integral floats as integers: `tokens: 1e6` means a million, and 1e6 is a float in YAML."""
    if isinstance(value, dict):
        return {key: integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) >= 1e3 else value


MOST_ISSUES = 20
"""Lines of one message; a file of another kind may have thousands of keys."""


def explain(error: ValidationError, source: str, prefix: str = "") -> str:
    """A validation error as lines `file: key: what is wrong (value)`."""
    lines, issues = [], error.errors()
    for issue in issues[:MOST_ISSUES]:
        key = ".".join([part for part in (prefix, *map(str, issue["loc"])) if part])
        message = issue["msg"].removeprefix("Value error, ")
        if issue["type"] == "extra_forbidden":
            message = "is not a known key"
        value = masked(issue["input"]) if isinstance(issue["input"], str) else issue["input"]
        tail = "" if isinstance(value, dict | list) or issue["type"] == "missing" else f" (got {shown(value)})"
        lines.append(f"{source}: {key}: {message}{tail}" if key else f"{source}: {message}{tail}")
    if len(issues) > MOST_ISSUES:
        lines.append(f"{source}: and {len(issues) - MOST_ISSUES:,} more")
    return "\n".join(lines)
