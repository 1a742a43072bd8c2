"""A corpus on disk: Arrow IPC files of token ids and the manifest that makes them a corpus.

A shard is one Arrow IPC *file* with one record batch of one flat, uncompressed column `tokens` (uint16 or uint32). It
is memory-mapped and read without a copy. The manifest is written last; without it there is no corpus.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from vqscale import storage
from vqscale.data.tokenize import EOS, TokenizerName
from vqscale.data.verify import file_sha256
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen

FORMAT: Final = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
_CHUNK = 1 << 20

SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, SplitName, SplitName]] = ("train", "validation", "test")


class Shard(Frozen):
    """One Arrow file. `sha256` is that of the file, `tokens_sha256` that of its ids as little-endian integers."""

    name: str = Field(pattern=r"^[a-z]+-\d{5,}\.arrow$")
    tokens: int = Field(gt=0)
    bytes: int = Field(ge=0)
    documents: int = Field(ge=0)
    sha256: str
    tokens_sha256: str


class SplitRecord(Frozen):
    """The shards of one split; words and lines are counted for corpora whose results are reported per word."""

    shards: tuple[Shard, ...]
    words: int | None = None
    lines: int | None = None

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)


class LeftOutRecord(Frozen):
    """What of a source is not in the corpus, or not as it was."""

    without_text: int = 0
    """Records that lack the text's column, or have null there."""
    unreadable: int = 0
    """Damaged records or files, left out as the options allow."""
    bytes_skipped: int = 0
    """Bytes that are not in the encoding, left out."""
    bytes_replaced: int = 0
    """Bytes that are not in the encoding, in whose place U+FFFD was put."""
    first: tuple[str, ...] = ()
    """Place and reason of the first of these records."""

    @property
    def records(self) -> int:
        return self.without_text + self.unreadable


class SourceRecord(Frozen):
    """Where the text came from, for information; it does not enter the fingerprint."""

    description: str
    files: int
    bytes: int | None
    split_by: str
    empty_documents: int
    """Documents without any text, which were skipped."""
    formats: dict[str, int] = Field(default_factory=dict)
    """Files by format; `archive` holds files of its own."""
    left_out: LeftOutRecord = LeftOutRecord()
    split_times: tuple[str, ...] = ()
    """Splits by time: the source's first time, the beginnings of validation and test, and its last time."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know of the source."""


class Manifest(Frozen):
    """Everything about a corpus. `request` is the digest of what was asked for (source files and options)."""

    format: Literal[1]
    tokenizer: TokenizerName
    tokenizer_sha256: str | None
    vocab_size: int = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    splits: dict[SplitName, SplitRecord]
    source: SourceRecord
    request: str
    fingerprint: str

    def content_fingerprint(self) -> str:
        """Identity of the content: tokenizer and ids, independent of the corpus's address and origin."""
        return fingerprint(
            {
                "format": self.format,
                "tokenizer": [self.tokenizer, self.tokenizer_sha256, self.vocab_size],
                "splits": {
                    name: [[shard.tokens, shard.tokens_sha256] for shard in record.shards]
                    for name, record in self.splits.items()
                },
            }
        )


def write_shard(raw: Path, target: Path, dtype: np.dtype[Any], token_bytes: npt.NDArray[np.int64]) -> Shard:
    """Turn a file of raw ids into the Arrow file `target`, atomically and in constant memory."""
    import pyarrow as pa

    tokens = np.memmap(raw, dtype=dtype, mode="r")
    column = pa.Array.from_buffers(pa.from_numpy_dtype(dtype), len(tokens), [None, pa.py_buffer(tokens)])
    batch = pa.record_batch([column], names=["tokens"])
    with (
        storage.atomic_path(str(target)) as draft,
        pa.OSFile(draft, "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    content, text, documents = hashlib.sha256(), 0, 0
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        content.update(np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<")).data)
        text += int(token_bytes[chunk].sum())
        documents += int(np.count_nonzero(chunk == EOS))
    return Shard(
        name=target.name,
        tokens=len(tokens),
        bytes=text,
        documents=documents,
        sha256=file_sha256(target),
        tokens_sha256=content.hexdigest(),
    )


def map_shard(path: Path) -> npt.NDArray[Any]:
    """The ids of a shard as a read-only view of the file; OSError or pyarrow's ArrowInvalid if it is no Arrow file."""
    import pyarrow as pa

    column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
    view: npt.NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return view
