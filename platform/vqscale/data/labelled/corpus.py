"""Labelled examples read from verified, memory-mapped shards."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vqscale.data.labelled.format import AnyArray, Example, LabelledManifest, LabelledShard, LabelledSplitRecord, Layout
from vqscale.data.shards import SplitName
from vqscale.data.verify import REMEDY
from vqscale.errors import CorpusError


class _Rows:
    """A column of lists, as views of the file."""

    def __init__(self, column: Any) -> None:
        self.offsets: npt.NDArray[np.int64] = column.offsets.to_numpy(zero_copy_only=True)
        self._values: AnyArray = column.values.to_numpy(zero_copy_only=True)

    def __getitem__(self, row: int) -> AnyArray:
        return self._values[self.offsets[row] : self.offsets[row + 1]]


class _ShardView:
    """The columns of one shard."""

    def __init__(self, path: Path, shard: LabelledShard, layout: Layout) -> None:
        import pyarrow as pa

        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            self.lists = {name: _Rows(batch.column(name)) for name in layout.list_columns}
            self.label = batch.column("label").to_numpy() if layout.labels == "sequence" else None
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise CorpusError(f"corpus: shard {path} is not readable ({error}). {REMEDY}") from error
        if batch.num_rows != shard.examples:
            raise CorpusError(
                f"corpus: shard {path} has {batch.num_rows} examples, the manifest says {shard.examples}. {REMEDY}"
            )

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        rows = [np.diff(rows.offsets) for name, rows in self.lists.items() if name.startswith("tokens")]
        longest: npt.NDArray[np.int64] = np.maximum.reduce(rows)
        return longest

    def example(self, row: int) -> Example:
        cells = {name: rows[row] for name, rows in self.lists.items()}
        return Example(
            tokens=tuple(cells[name] for name in ("tokens", "tokens_2") if name in cells),
            label=None if self.label is None else int(self.label[row]),
            positions=cells.get("positions"),
            labels=cells.get("labels"),
            distances=cells.get("distances"),
        )


class LabelledSplit:
    """The examples of one split in order; shards are mapped at their first use."""

    def __init__(self, name: SplitName, record: LabelledSplitRecord, folder: Path, corpus: "LabelledCorpus") -> None:
        self.name = name
        self.record = record
        self.corpus = corpus
        self._folder = folder
        self._views: list[_ShardView | None] = [None] * len(record.shards)
        self._starts = np.cumsum([0, *(shard.examples for shard in record.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example (of the longer of two sequences)."""
        return np.concatenate([self._view(index).lengths for index in range(len(self._views))])

    def example(self, index: int) -> Example:
        """Example number `index`, as read-only views of the file; IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {self.name}, which has {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._view(shard).example(index - int(self._starts[shard]))

    def _view(self, index: int) -> _ShardView:
        view = self._views[index]
        if view is None:
            shard = self.record.shards[index]
            view = self._views[index] = _ShardView(self._folder / shard.name, shard, self.corpus.manifest.layout)
        return view


class LabelledCorpus:
    """A verified corpus of labelled examples. Values are read from the manifest; examples through `split(name)`."""

    def __init__(self, uri: str, manifest: LabelledManifest, folder: Path) -> None:
        self.uri = uri
        self.manifest = manifest
        self._splits = {name: LabelledSplit(name, record, folder, self) for name, record in manifest.splits.items()}

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.layout.classes

    @property
    def sequences(self) -> Literal[1, 2]:
        return self.manifest.layout.sequences

    @property
    def labels(self) -> Literal["sequence", "token"]:
        return self.manifest.layout.labels

    @property
    def real_inputs(self) -> bool:
        return self.manifest.layout.real_inputs

    def split(self, name: SplitName) -> LabelledSplit:
        return self._splits[name]
