"""The working folder of a preparation: open shards, finished shards, and a record of its progress.

Ids are appended to one raw file per shard. A commit turns full raw files into Arrow shards, syncs the open ones and
then records their lengths: after a kill at any moment the recorded part is complete, and the rest is truncated.
"""

import os
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from vqscale import storage
from vqscale.data.shards import SPLITS, TOKENIZER, Shard, SplitName, write_shard
from vqscale.data.times import TimeCuts
from vqscale.data.tokenize import Tokenizer, dtype_name
from vqscale.study.frozen import Frozen


class SplitState(Frozen):
    """Finished shards, and the length of the open one's raw file."""

    shards: tuple[Shard, ...] = ()
    open_bytes: int = 0
    words: int = 0
    lines: int = 0


class PreparationState(Frozen):
    """Progress of a preparation: the first `segments` segments of the source are in shards or in recorded lengths."""

    request: str
    total_text: int | None = None
    times: TimeCuts | None = None
    segments: int = 0
    splits: dict[SplitName, SplitState]


class WorkFolder:
    """`folder/state.json`, `folder/corpus/` (the future corpus) and `folder/open/` (raw ids)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpus"
        self.open = folder / "open"
        self._state = folder / "state.json"

    def resume(self, request: str) -> PreparationState:
        """The recorded state if it belongs to `request` and its files exist; otherwise an empty one, with no files."""
        state = self._recorded()
        if state is None or state.request != request or not self._holds(state):
            self.clear()
            state = PreparationState(request=request, splits={name: SplitState() for name in SPLITS})
            self.record(state)
        self.corpus.mkdir(exist_ok=True)
        self.open.mkdir(exist_ok=True)
        return state

    def _recorded(self) -> PreparationState | None:
        try:
            return PreparationState.model_validate_json(self._state.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @property
    def is_worth_keeping(self) -> bool:
        """Whether a repeated preparation would find work done here: committed text, or a trained tokenizer."""
        state = self._recorded()
        return (self.corpus / TOKENIZER).exists() or (state is not None and state.segments > 0)

    def _holds(self, state: PreparationState) -> bool:
        return all(self._holds_split(name, split) for name, split in state.splits.items())

    def _holds_split(self, name: SplitName, split: SplitState) -> bool:
        finished = all((self.corpus / shard.name).exists() for shard in split.shards)
        raw = self.raw(name, len(split.shards))
        return finished and (split.open_bytes == 0 or (raw.exists() and raw.stat().st_size >= split.open_bytes))

    def raw(self, split: SplitName, index: int) -> Path:
        return self.open / f"{split}-{index:05d}"

    def record(self, state: PreparationState) -> None:
        storage.write_text(str(self._state), state.model_dump_json())

    def clear(self) -> None:
        """Remove everything but the lock."""
        self._state.unlink(missing_ok=True)
        shutil.rmtree(self.corpus, ignore_errors=True)
        shutil.rmtree(self.open, ignore_errors=True)


class SplitWriter:
    """Appends ids to the shards of one split; every shard but the last holds exactly `shard_tokens`."""

    def __init__(
        self, place: WorkFolder, split: SplitName, state: SplitState, tokenizer: Tokenizer, shard_tokens: int
    ) -> None:
        self._place, self._split, self._limit = place, split, shard_tokens
        self._dtype, self._token_bytes = np.dtype(dtype_name(tokenizer.vocab_size)), tokenizer.token_bytes
        self._shards = list(state.shards)
        self._index = len(state.shards)  # of the raw file being appended to
        self._tokens = state.open_bytes // self._dtype.itemsize
        self.words, self.lines = state.words, state.lines
        self._file = self._open(state.open_bytes)

    def _open(self, length: int) -> IO[bytes]:
        file = self._place.raw(self._split, self._index).open("ab")
        file.truncate(length)
        self._safe = length  # bytes that survive a power failure
        return file

    @property
    def has_full_shard(self) -> bool:
        return self._index > len(self._shards)

    def append(self, ids: npt.NDArray[Any]) -> None:
        while len(ids):
            part = ids[: self._limit - self._tokens]
            self._file.write(part.astype(self._dtype, copy=False).data)
            self._tokens += len(part)
            ids = ids[len(part) :]
            if self._tokens == self._limit:
                self._next_file()

    def _next_file(self) -> None:
        self.close()
        self._index += 1
        self._tokens = 0
        self._file = self._open(0)

    def end(self) -> None:
        """Close the last shard, full or not; nothing may be appended afterwards."""
        if self._tokens:
            self._next_file()

    def commit(self) -> SplitState:
        """Turn full raw files into shards and sync the open one; `discard_raw` follows once the state is recorded."""
        for index in range(len(self._shards), self._index):
            target = self._place.corpus / f"{self._split}-{index:05d}.arrow"
            self._shards.append(
                write_shard(self._place.raw(self._split, index), target, self._dtype, self._token_bytes)
            )
        if self._file.tell() > self._safe:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._safe = self._file.tell()
        length = self._tokens * self._dtype.itemsize
        return SplitState(shards=tuple(self._shards), open_bytes=length, words=self.words, lines=self.lines)

    def discard_raw(self) -> None:
        """Remove the raw files of finished shards."""
        for path in self._place.open.glob(f"{self._split}-*"):
            if path != self._place.raw(self._split, self._index):
                path.unlink()

    def close(self) -> None:
        self._file.close()
