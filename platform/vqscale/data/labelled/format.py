"""Labelled examples on disk: Arrow IPC files with one row per example, and the manifest that makes them a corpus.

A shard is one Arrow IPC *file* with one record batch: `tokens` (and `tokens_2` where an example is two sequences), one
list per row; `label`, or the lists `positions` and `labels` (and `distances`) where single tokens are labelled. It is
memory-mapped and read without a copy. As with text, the manifest is written last.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vqscale import storage
from vqscale.data.shards import SourceRecord, SplitName
from vqscale.data.tokenize import BYTE_VOCAB, dtype_name
from vqscale.data.verify import file_sha256
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen

if TYPE_CHECKING:
    import pyarrow as pa

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """One or two token sequences with one label, or one sequence some of whose tokens have labels.

    `positions` ascend; `distances` says how many tokens before its position each label's answer is.
    """

    tokens: tuple[AnyArray, ...]
    label: int | None = None
    positions: AnyArray | None = None
    labels: AnyArray | None = None
    distances: AnyArray | None = None


class Vocabulary(Frozen):
    """The meaning of ids. `rule` describes it as text; `symbols` names every id where each has a name."""

    size: int = Field(gt=1, le=2**32)
    rule: str
    symbols: tuple[str, ...] | None = None


BYTES = Vocabulary(size=BYTE_VOCAB, rule="byte + 3")
PIXELS = Vocabulary(size=257, rule="8-bit value + 1")
SAMPLES = Vocabulary(size=2**16, rule="16-bit sample + 32768")


class Layout(Frozen):
    """The form that all examples of a corpus share."""

    classes: tuple[str, ...] = Field(min_length=2)
    labels: Literal["sequence", "token"]
    sequences: Literal[1, 2] = 1
    vocabulary: Vocabulary
    real_inputs: bool = False
    """Ids are samples of a signal, to be mapped linearly to [-1, 1], rather than symbols."""
    distances: bool = False
    """Every label has the distance back to its answer."""

    @model_validator(mode="after")
    def _possible(self) -> "Layout":
        if self.labels == "token" and self.sequences == 2:
            raise ValueError("labels: two sequences have one label; single tokens are labelled in one sequence only")
        if self.distances and self.labels != "token":
            raise ValueError("distances: only labelled tokens have one")
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(dtype_name(self.vocabulary.size))

    @property
    def list_columns(self) -> dict[str, np.dtype[Any]]:
        """Name and type of every column of lists."""
        columns = {"tokens": self.dtype}
        if self.sequences == 2:
            columns["tokens_2"] = self.dtype
        if self.labels == "token":
            columns |= {"positions": np.dtype("uint32"), "labels": np.dtype("int32")}
        if self.distances:
            columns["distances"] = np.dtype("uint32")
        return columns

    def cells(self, example: Example) -> dict[str, AnyArray | None]:
        """The lists of an example by column."""
        tokens = dict(zip(("tokens", "tokens_2"), example.tokens, strict=False))
        others = {"positions": example.positions, "labels": example.labels, "distances": example.distances}
        return {name: (tokens | others)[name] for name in self.list_columns}


class LabelledShard(Frozen):
    """One Arrow file. `sha256` is that of the file, `content_sha256` that of its values, for any Arrow version."""

    name: str = Field(pattern=r"^[a-z]+-\d{5,}\.arrow$")
    examples: int = Field(gt=0)
    tokens: int = Field(gt=0)
    sha256: str
    content_sha256: str


class LabelledSplitRecord(Frozen):
    """The shards of one split."""

    shards: tuple[LabelledShard, ...]
    class_counts: tuple[int, ...]
    """Number of labels per class: of examples, or of labelled tokens."""
    lengths: tuple[int, int, int, int, int]
    """Tokens of an example (of the longer of two sequences): minimum, 5 %, median, 95 %, maximum."""

    @property
    def examples(self) -> int:
        return sum(shard.examples for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)


class LabelledManifest(Frozen):
    """Everything about a corpus of labelled examples. `request` is the digest of what was asked for."""

    format: Literal[1]
    task: Literal["classification"]
    layout: Layout
    splits: dict[SplitName, LabelledSplitRecord]
    source: SourceRecord
    request: str
    fingerprint: str

    @property
    def vocab_size(self) -> int:
        return self.layout.vocabulary.size

    def content_fingerprint(self) -> str:
        """Identity of the content: the layout and all values, independent of the corpus's address and origin."""
        return fingerprint(
            {
                "format": self.format,
                "task": self.task,
                "layout": self.layout,
                "splits": {
                    name: [[shard.examples, shard.tokens, shard.content_sha256] for shard in record.shards]
                    for name, record in self.splits.items()
                },
            }
        )


def write_labelled_shard(examples: list[Example], layout: Layout, target: Path) -> LabelledShard:
    """Write `examples` to the Arrow file `target`, atomically."""
    import pyarrow as pa

    content = hashlib.sha256()
    columns: dict[str, pa.Array] = {}
    tokens = 0
    for name, dtype in layout.list_columns.items():
        rows = [_required(layout.cells(example)[name]) for example in examples]
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype="<i8")
        values = np.concatenate(rows).astype(dtype.newbyteorder("<"), copy=False)
        _digest(content, name, offsets, values)
        columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        tokens += len(values) if name.startswith("tokens") else 0
    if layout.labels == "sequence":
        labels = np.array([example.label for example in examples], dtype="<i4")
        _digest(content, "label", labels)
        columns["label"] = pa.array(labels)
    _write_batch(pa.record_batch(list(columns.values()), names=list(columns)), target)
    return LabelledShard(
        name=target.name,
        examples=len(examples),
        tokens=tokens,
        sha256=file_sha256(target),
        content_sha256=content.hexdigest(),
    )


def _required(cell: AnyArray | None) -> AnyArray:
    assert cell is not None, "an example lacks a column of its layout"
    return cell


def _digest(content: Any, name: str, *parts: AnyArray) -> None:
    content.update(name.encode())
    for part in parts:
        content.update(part.nbytes.to_bytes(8, "little"))
        content.update(np.ascontiguousarray(part).data)


def _write_batch(batch: "pa.RecordBatch", target: Path) -> None:
    import pyarrow as pa

    with (
        storage.atomic_path(str(target)) as draft,
        pa.OSFile(draft, "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
