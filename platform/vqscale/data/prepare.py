"""From a source of text to a corpus: split, tokenise, write, and publish the finished corpus."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator, model_validator

from vqscale import storage
from vqscale.data.loaders import named_source
from vqscale.data.options import checked
from vqscale.data.publish import PreparationStage, ProgressCallback, no_progress, publish
from vqscale.data.shards import FORMAT, MANIFEST, SPLITS, TOKENIZER, Manifest, SourceRecord, SplitName, SplitRecord
from vqscale.data.sources import FileSource, Format, Piece, Source, SplitRule
from vqscale.data.splits import SplitSegment, split_segments
from vqscale.data.tokenize import (
    EOS,
    BpeTokenizer,
    ByteTokenizer,
    Tokenizer,
    TokenizerName,
    decode_text,
    dtype_name,
    train_bpe,
)
from vqscale.data.verify import file_sha256
from vqscale.data.writer import SplitWriter, WorkFolder
from vqscale.errors import CorpusError
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen

COMMIT_BYTES = 64 << 20
"""Bytes of text between two commits: an interruption costs at most the work on these."""

TOKENIZER_BYTES = 1_000_000_000
"""Most bytes of the train split that bpe learns from (Transformer-VQ: 1e9 characters of PG-19)."""


class PreparationOptions(Frozen):
    """How text is turned into a corpus."""

    tokenizer: TokenizerName
    vocab_size: int | None
    """Ids of a bpe tokenizer; the bytes tokenizer always has 259."""
    split: SplitRule
    fractions: tuple[float, float, float]
    shard_tokens: int = Field(gt=0)

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"{fractions} must be three positive shares that sum to 1")
        return fractions

    @model_validator(mode="after")
    def _vocabulary(self) -> "PreparationOptions":
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            raise ValueError(
                f"vocab_size {self.vocab_size} does not fit tokenizer {self.tokenizer}: bpe needs one, bytes has 259"
            )
        return self


def prepare(
    source: str | Source,
    out: str,
    *,
    loader: str | None = None,
    tokenizer: TokenizerName = "bytes",
    vocab_size: int | None = None,
    split: SplitRule | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    text_column: str = "text",
    format: Format = "auto",
    encoding: str = "utf-8",
    shard_tokens: int = 2**25,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Prepare the corpus `out` (a local folder or any fsspec URI) from `source` and return its manifest.

    `source` is a file, a folder, a glob or an archive at any fsspec URI (any text, or the raw data files of the corpus
    that `loader` names), or a `Source` of your own. `text_column`, `format` and `encoding` apply to files
    without a loader. `split=None`: the source's own rule, document-hash for files.

    The same call after an interruption resumes there; on a complete corpus it changes nothing. While it is prepared,
    the whole corpus is on local disk and a few pieces of it in memory. Raises CorpusError for a source that
    cannot be used and StorageError for an `out` that cannot.
    """
    place = source if isinstance(source, str) else source.describe()
    files = FileSource(uri=place, format=format, text_column=text_column, encoding=encoding)
    source = _source(source, loader, files)
    options = checked(
        PreparationOptions,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        split=split or source.split_rule,
        fractions=fractions,
        shard_tokens=shard_tokens,
    )
    out = storage.absolute(out)
    report = progress or no_progress
    request = fingerprint({"format": FORMAT, "source": source.identity(), "recipe": options})

    def make(folder: Path) -> Manifest:
        return _Preparation(WorkFolder(folder), source, options, request, report).run()

    return publish(out, request, Manifest, overwrite, report, make)


def _source(source: str | Source, loader: str | None, files: FileSource) -> Source:
    """`source`, `loader` applied to it, or `files`; options of `files` that would be ignored are refused."""
    if isinstance(source, str) and loader is None:
        return files
    for field in ("format", "text_column", "encoding"):
        value = getattr(files, field)
        if value != getattr(FileSource, field):
            raise CorpusError(f"{field}: {value!r} is for files, but this source has its own format. Leave it out.")
    if not isinstance(source, str):
        return source
    return named_source(loader or "", source)


class _Preparation:
    """One preparation, from the recorded state to a complete `corpus` folder in the working folder."""

    def __init__(
        self, place: WorkFolder, source: Source, options: PreparationOptions, request: str, report: ProgressCallback
    ) -> None:
        self._place, self._source, self._options, self._report = place, source, options, report
        self._files = source.files()
        self._size = sum(file.size for file in self._files) or None
        self._state = place.resume(request)

    def run(self) -> Manifest:
        if self._options.split == "contiguous" and self._state.total_text is None:
            total = sum(len(piece.data) for piece in self._watched("measure"))
            self._state = self._state.model_copy(update={"total_text": total})
            self._place.record(self._state)
        tokenizer = self._tokenizer()
        self._write(tokenizer)
        return self._manifest(tokenizer)

    def _watched(self, stage: PreparationStage) -> Iterator[Piece]:
        for piece in self._source.pieces():
            self._report(stage, piece.read, self._size)
            yield piece

    def _segments(self, stage: PreparationStage) -> Iterator[SplitSegment]:
        options = self._options
        return split_segments(
            self._watched(stage),
            options.split,
            options.fractions,
            self._state.total_text,
            whole_characters=options.tokenizer == "bpe",
        )

    def _tokenizer(self) -> Tokenizer:
        if self._options.vocab_size is None:
            return ByteTokenizer()
        path = self._place.corpus / TOKENIZER
        if not path.exists():
            storage.write_text(str(path), train_bpe(self._training_texts(), self._options.vocab_size).serialised)
        return BpeTokenizer(path.read_text("utf-8"))

    def _training_texts(self) -> Iterator[str]:
        left = TOKENIZER_BYTES
        for segment in self._segments("train tokenizer"):
            if segment.split == "train":
                yield decode_text(segment.data)
                left -= len(segment.data)
            if left <= 0:
                return

    def _write(self, tokenizer: Tokenizer) -> None:
        limit, splits = self._options.shard_tokens, self._state.splits
        writers = {name: SplitWriter(self._place, name, splits[name], tokenizer, limit) for name in SPLITS}
        empty, done, count, uncommitted = self._state.empty_documents, self._state.segments, 0, 0
        try:
            for count, segment in enumerate(self._segments("write"), start=1):
                if count <= done:
                    continue  # written before the interruption
                if not segment.data and segment.first:
                    empty += 1
                    continue
                writer = writers[segment.split]
                self._append(writer, segment, tokenizer)
                uncommitted += len(segment.data)
                if uncommitted >= COMMIT_BYTES or writer.has_full_shard:
                    self._commit(writers, count, empty)
                    uncommitted = 0
            for writer in writers.values():
                writer.end()
            self._commit(writers, count, empty)
        finally:
            for writer in writers.values():
                writer.close()

    def _append(self, writer: SplitWriter, segment: SplitSegment, tokenizer: Tokenizer) -> None:
        writer.append(tokenizer.encode(segment.data))
        if segment.last:
            writer.append(np.array([EOS]))
        if self._source.counts_words:
            writer.words += len(segment.data.split())
            writer.lines += segment.data.count(b"\n")

    def _commit(self, writers: dict[SplitName, SplitWriter], segments_done: int, empty: int) -> None:
        splits = {name: writer.commit() for name, writer in writers.items()}
        update = {"segments": segments_done, "empty_documents": empty, "splits": splits}
        self._state = self._state.model_copy(update=update)
        self._place.record(self._state)
        for writer in writers.values():
            writer.discard_raw()

    def _manifest(self, tokenizer: Tokenizer) -> Manifest:
        missing = [name for name in SPLITS if not self._state.splits[name].shards]
        if missing:
            raise CorpusError(_empty_split(self._source, self._options.split, missing))
        model = self._place.corpus / TOKENIZER
        draft = Manifest(
            format=FORMAT,
            tokenizer=self._options.tokenizer,
            tokenizer_sha256=file_sha256(model) if model.exists() else None,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype_name(tokenizer.vocab_size),
            splits={name: self._split_record(name) for name in SPLITS},
            source=SourceRecord(
                description=self._source.describe(),
                files=len(self._files),
                bytes=self._size,
                split_by=self._options.split,
                empty_documents=self._state.empty_documents,
            ),
            request=self._state.request,
            fingerprint="",
        )
        manifest = draft.model_copy(update={"fingerprint": draft.content_fingerprint()})
        storage.write_text(str(self._place.corpus / MANIFEST), manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _split_record(self, name: SplitName) -> SplitRecord:
        split = self._state.splits[name]
        if not self._source.counts_words:
            return SplitRecord(shards=split.shards)
        return SplitRecord(shards=split.shards, words=split.words, lines=split.lines)


_MORE_TEXT = {
    "document-hash": "It has too few documents for a split by document: use --split contiguous or more documents.",
    "contiguous": "It is too short for these fractions: use more text.",
    "own": "Its files of that split are missing or empty: download them, or use --split document-hash.",
}


def _empty_split(source: Source, rule: SplitRule, missing: list[SplitName]) -> str:
    if len(missing) == len(SPLITS):
        return f"source: {source.describe()} holds no text. Check the path."
    return f"split: {', '.join(missing)} of {source.describe()} would be empty (split by {rule}). {_MORE_TEXT[rule]}"
