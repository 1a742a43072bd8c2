"""A throughput study: which training steps are timed, how often, and what the device costs. It trains nothing."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from vqscale import storage
from vqscale.errors import StudyError
from vqscale.study import checks
from vqscale.study.frozen import Frozen
from vqscale.study.model import HEADED, QUANTISED, Arch, Head
from vqscale.study.spec import (
    Currency,
    PlainText,
    StorageAddress,
    Study,
    StudyName,
    Tracking,
    explain,
    integers,
    parse_study,
)
from vqscale.study.trial import Precision
from vqscale.study.yaml_file import read_mapping

Device = Literal["cpu", "cuda"]


class CellSettings(Frozen):
    """One cell as the file writes it: a model at one context length, in one precision, on one device."""

    arch: Arch
    preset: str
    context: int = Field(gt=0)
    """Context length T: tokens of a training sequence."""
    tokens_per_step: int | None = Field(default=None, gt=0)
    """Tokens of one update: at every T as many whole sequences as fit, but at least one."""
    batch: int | None = Field(default=None, gt=0)
    """Sequences of one update at every T, in place of `tokens_per_step`."""
    head: Head = "shga"
    """Head type of `transformer_vq` and `transformer_full`."""
    precision: Precision = "fp32"
    device: Literal["auto"] | Device = "auto"
    backend: Literal["auto", "naive", "blockwise", "triton"] = "auto"
    """Implementation of VQ attention; the table holds the one that ran."""
    codebook_size: int | None = Field(default=None, gt=0)
    """Of `transformer_vq` and `longvq`; None: the preset's."""
    block_length: int | None = Field(default=None, gt=0)
    """Of `transformer_vq` and `longvq`; None: the preset's."""

    @model_validator(mode="after")
    def _one_way_to_fill_a_step(self) -> "CellSettings":
        if (self.tokens_per_step is None) == (self.batch is None):
            raise ValueError("a step is filled by tokens_per_step or by batch: write one of them, such as batch: 1")
        return self

    @property
    def effective(self) -> "CellSettings":
        """The cell without settings that its architecture does not have: a file that compares architectures writes the
        codebook once, for all."""
        unused: dict[str, Any] = {}
        if self.arch not in QUANTISED:
            unused |= {"codebook_size": None, "block_length": None, "backend": "auto"}
        if self.arch not in HEADED:
            unused |= {"head": "shga"}
        return self.model_copy(update=unused)

    @property
    def sequences(self) -> int:
        """Sequences of one update."""
        return self.batch or max(1, (self.tokens_per_step or 0) // self.context)

    @property
    def batching(self) -> str:
        """How a step is filled, as text: cells of one curve over T agree in it."""
        return f"batch {self.batch}" if self.batch else f"{self.tokens_per_step} tokens per step"


KEYS = frozenset(CellSettings.model_fields)
_FILLS = frozenset({"tokens_per_step", "batch"})


class ThroughputStudy(Frozen):
    """Cells to time, as grids over the fields of `CellSettings`."""

    kind: Literal["throughput"]
    study: StudyName
    question: PlainText = ""
    cell: dict[str, Any] = Field(default_factory=dict)
    """Settings that all cells share."""
    sweep: list[dict[str, list[Any]]] = Field(default=[{}], min_length=1)
    repeats: int = Field(default=5, gt=0)
    """Timed repeats of a cell, spread over the processes (each makes equally many, rounded up)."""
    processes: int = Field(default=3, gt=0)
    """Processes one after another that each measure all cells; no more than `repeats`. What differs between them enters
    the intervals."""
    seconds_per_repeat: float = Field(default=0.25, gt=0)
    """A repeat holds as many updates as take this long, at least one."""
    seconds_per_cell: float = Field(default=60.0, gt=0)
    """A cell gets no further repeat once its repeats have taken this long; a cell whose single update takes longer is
    skipped."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None: PyTorch's default."""
    vocab_size: int | None = Field(default=None, gt=0)
    """None: the vocabulary of bytes."""
    price_per_device_hour: float | None = Field(default=None, gt=0)
    currency: Currency = "USD"
    watts: float | None = Field(default=None, gt=0)
    """Power of the device, from which energy is estimated where none is measured; the table marks it as stated."""
    storage: StorageAddress = "./runs"
    tracking: Tracking = Tracking()

    @field_validator("cell")
    @classmethod
    def _cell_keys_are_known(cls, cell: dict[str, Any]) -> dict[str, Any]:
        for key in cell:
            _require_known(key)
        return cell

    @field_validator("sweep")
    @classmethod
    def _axes_are_known(cls, sweep: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        checks.different(sweep, "two grids are equal")
        for axes in sweep:
            checks.grid(axes)
            for axis, values in axes.items():
                _require_known(axis)
                if not values:
                    raise ValueError(f"axis {axis!r} has no values: an empty sweep measures nothing")
        return sweep

    @property
    def process_count(self) -> int:
        return min(self.processes, self.repeats)

    @property
    def repeats_per_process(self) -> int:
        return -(-self.repeats // self.process_count)

    @property
    def folder(self) -> str:
        """Where the study lives: an absolute path or a URI."""
        return storage.join(storage.absolute(self.storage), self.study)

    def cells(self, *, source: str = "study") -> list[CellSettings]:
        """Every cell once, in the order of the file. Raises StudyError that names the cell, the key and the rule."""
        found: dict[CellSettings, None] = {}
        for values, axes in _grids(self):
            try:
                found.setdefault(CellSettings(**values).effective)
            except ValidationError as error:
                where = ", ".join(f"{axis} = {value}" for axis, value in axes.items())
                tail = f" (in the cell {where})" if where else ""
                raise StudyError(explain(error, source, prefix="cell") + tail) from error
        return list(found)


def _require_known(key: str) -> None:
    if key not in KEYS:
        raise ValueError(f"unknown key {key!r}; known: {', '.join(sorted(KEYS))}")


def _grids(study: ThroughputStudy) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The settings of every cell, and those of them that the sweep set. An axis `batch` removes the shared
    `tokens_per_step`, and the other way round."""
    for axes in study.sweep:
        base = {key: value for key, value in study.cell.items() if not (key in _FILLS and _FILLS & set(axes))}
        for values in itertools.product(*axes.values()):
            own = dict(zip(axes, values, strict=True))
            yield base | own, own


def parse_throughput(value: dict[str, Any], *, source: str) -> ThroughputStudy:
    """Validate a throughput study given as plain values; `source` names it in messages."""
    try:
        study = ThroughputStudy.model_validate(integers(value))
    except ValidationError as error:
        raise StudyError(explain(error, source)) from error
    study.cells(source=source)
    return study


def load_any(path: str) -> Study | ThroughputStudy:
    """The study in a file, of the kind that the file names. Raises StudyError."""
    values = read_mapping(path)
    if values.get("kind") == "throughput":
        return parse_throughput(values, source=path)
    if values.get("kind", "training") != "training":
        raise StudyError(
            f"{path}: kind: {values['kind']!r} is unknown. Write kind: throughput for a study that is timed, or kind:"
            " training (or no kind) for one that trains."
        )
    return parse_study(values, source=path)
