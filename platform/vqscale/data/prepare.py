"""From a source of text to a corpus: split, tokenise, write, and publish the finished corpus."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator, model_validator

from vqscale import storage
from vqscale.data.archives import is_archive
from vqscale.data.decoding import Errors
from vqscale.data.examine import examine
from vqscale.data.files import SourceFile
from vqscale.data.loaders import named_source
from vqscale.data.options import checked, require_share
from vqscale.data.publish import PreparationStage, ProgressCallback, no_progress, publish
from vqscale.data.shards import (
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    LeftOutRecord,
    Manifest,
    SourceRecord,
    SplitName,
    SplitRecord,
)
from vqscale.data.sources import FileSource, Format, LeftOut, Piece, Source, SplitRule
from vqscale.data.splits import SplitSegment, measure_times, split_segments
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
from vqscale.masking import masked
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
    time_column: str | None = None,
    format: Format = "auto",
    encoding: str = "utf-8",
    errors: Errors = "strict",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_skipped: float = 0.5,
    partial: bool = False,
    shard_tokens: int = 2**25,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Prepare the corpus `out` (a local folder or any fsspec URI) from `source` and return its manifest.

    `source` is a file, a folder, a glob or an archive at any fsspec URI (any text, or the raw data files of the corpus
    that `loader` names), or a `Source` of your own. `text_column` to `exclude` apply to files without a loader.
    `split=None`: the source's own rule, document-hash for files.

    Records without a text are left out and counted, with `errors="skip"` also those that cannot be read; more than the
    share `max_skipped` of all is an error. `partial`: the raw data files of a named corpus need not be all of it.

    The same call after an interruption resumes there; on a complete corpus it changes nothing. While it is prepared,
    the whole corpus is on local disk and a few pieces of it in memory. Raises CorpusError for a source that
    cannot be used and StorageError for an `out` that cannot.
    """
    place = source if isinstance(source, str) else source.describe()
    files = FileSource(
        uri=place,
        format=format,
        text_column=text_column,
        time_column=time_column,
        encoding=encoding,
        errors=errors,
        include=tuple(include),
        exclude=tuple(exclude),
        apart=storage.absolute(out),
    )
    source = _source(source, loader, files, partial)
    options = checked(
        PreparationOptions,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        split=split or source.split_rule,
        fractions=fractions,
        shard_tokens=shard_tokens,
    )
    require_share("max_skipped", max_skipped)
    if time_column is not None and options.split != "time":
        raise CorpusError(f"time_column: {time_column!r} is read only for --split time. Leave it out, or set that.")
    out = storage.absolute(out)
    report = progress or no_progress
    request = fingerprint({"format": FORMAT, "source": source.identity(), "recipe": options})

    def make(folder: Path) -> Manifest:
        return _Preparation(WorkFolder(folder), source, options, max_skipped, request, report).run()

    return publish(out, request, Manifest, overwrite, report, make, lambda folder: WorkFolder(folder).is_worth_keeping)


_OF_FILES = ("format", "text_column", "time_column", "encoding", "errors", "include", "exclude")


def _source(source: str | Source, loader: str | None, files: FileSource, partial: bool) -> Source:
    """`source`, `loader` applied to it, or `files`; options of `files` that would be ignored are refused."""
    if partial and loader is None:
        raise CorpusError("partial: only named corpora have a known size. Leave it out.")
    if isinstance(source, str) and loader is None:
        return files
    for option in _OF_FILES:
        value = getattr(files, option)
        if value != getattr(FileSource, option):
            raise CorpusError(f"{option}: {value!r} is for files, but this source has its own format. Leave it out.")
    if not isinstance(source, str):
        return source
    return named_source(loader or "", source, partial)


@dataclass
class _Pass:
    """What one reading of the source met beside its documents."""

    documents: int = 0
    text: int = 0
    empty: int = 0
    without_text: int = 0
    unreadable: int = 0
    bad_bytes: int = 0
    first: list[str] = field(default_factory=list)

    def leave_out(self, found: LeftOut) -> None:
        if found.unreadable:
            self.unreadable += 1
        else:
            self.without_text += 1
        if len(self.first) < _NAMED_RECORDS:
            self.first.append(found.reason)

    def require_enough(self, source: Source, most: float) -> None:
        """CorpusError if more than the share `most` of all records, or of all bytes, were no text."""
        left_out = self.without_text + self.unreadable
        records = left_out + self.documents + self.empty
        if left_out > most * records:
            raise CorpusError(
                f"max_skipped: {left_out:,} of {records:,} records of {source.describe()} have no text that can be "
                f"read; the first: {self.first[0]}. Correct the column or the source, or allow more than "
                f"{most:g} of them with --max-skipped."
            )
        substituted = 0 if _skips(source) else len("\ufffd".encode()) * self.bad_bytes
        if self.bad_bytes > most * (self.text - substituted + self.bad_bytes):
            raise CorpusError(
                f"max_skipped: {self.bad_bytes:,} bytes of {source.describe()} are not in its encoding, more than "
                f"{most:g} of all. Name the right one with --encoding."
            )


_MIXED_ZONES = (
    "Some times have a zone and others have none. Those were taken as UTC: if they are not, the splits overlap by the "
    "difference."
)


def _skips(source: Source) -> bool:
    """Whether bytes that are no text are left out, rather than replaced."""
    return isinstance(source, FileSource) and source.errors == "skip"


_NAMED_RECORDS = 20
"""Records left out that the manifest names."""


class _Preparation:
    """One preparation, from the recorded state to a complete `corpus` folder in the working folder."""

    def __init__(
        self,
        place: WorkFolder,
        source: Source,
        options: PreparationOptions,
        max_skipped: float,
        request: str,
        report: ProgressCallback,
    ) -> None:
        self._place, self._source, self._options, self._report = place, source, options, report
        self._max_skipped = max_skipped
        self._files = source.files()
        self._size = sum(file.size for file in self._files) or None
        self._state = place.resume(request)
        self._met = _Pass()

    def run(self) -> Manifest:
        if isinstance(self._source, FileSource):
            self._examine(self._source)
        self._measure()
        tokenizer = self._tokenizer()
        self._write(tokenizer)
        return self._manifest(tokenizer)

    def _examine(self, source: FileSource) -> None:
        def report(done: int) -> None:
            self._report("examine", done, self._size)

        by_time = self._options.split == "time"
        examine(source, self._files, report, by_time=by_time, most=self._max_skipped)

    def _measure(self) -> None:
        """Read the source once for splits that depend on the whole of it."""
        if self._options.split == "contiguous" and self._state.total_text is None:
            total = sum(len(piece.data) for piece in self._watched("measure"))
            self._state = self._state.model_copy(update={"total_text": total})
            self._place.record(self._state)
        if self._options.split == "time" and self._state.times is None:
            times = measure_times(self._watched("measure"), self._options.fractions)
            self._state = self._state.model_copy(update={"times": times})
            self._place.record(self._state)

    def _watched(self, stage: PreparationStage) -> Iterator[Piece]:
        """The pieces of all documents that have a text; what else there is, is counted."""
        met, first = _Pass(), True
        for piece in self._source.pieces():
            self._report(stage, piece.read, self._size)
            met.bad_bytes += piece.bad_bytes
            met.text += len(piece.data)
            if piece.left_out is not None:
                met.leave_out(piece.left_out)
            elif first and piece.last and not piece.data:
                met.empty += 1
            else:
                met.documents += piece.last
                yield piece
                first = piece.last
        met.require_enough(self._source, self._max_skipped)
        self._met = met

    def _segments(self, stage: PreparationStage) -> Iterator[SplitSegment]:
        options = self._options
        return split_segments(
            self._watched(stage),
            options.split,
            options.fractions,
            self._state.total_text,
            self._state.times,
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
        done, count, uncommitted = self._state.segments, 0, 0
        try:
            for count, segment in enumerate(self._segments("write"), start=1):
                if count <= done:
                    continue  # written before the interruption
                writer = writers[segment.split]
                self._append(writer, segment, tokenizer)
                uncommitted += len(segment.data)
                if uncommitted >= COMMIT_BYTES or writer.has_full_shard:
                    self._commit(writers, count)
                    uncommitted = 0
            for writer in writers.values():
                writer.end()
            self._commit(writers, count)
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

    def _commit(self, writers: dict[SplitName, SplitWriter], segments_done: int) -> None:
        splits = {name: writer.commit() for name, writer in writers.items()}
        update = {"segments": segments_done, "splits": splits}
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
            source=self._source_record(),
            request=self._state.request,
            fingerprint="",
        )
        manifest = draft.model_copy(update={"fingerprint": draft.content_fingerprint()})
        storage.write_text(str(self._place.corpus / MANIFEST), manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _source_record(self) -> SourceRecord:
        met, source, times = self._met, self._source, self._state.times
        skips = _skips(source)
        return SourceRecord(
            description=masked(source.describe()),
            files=len(self._files),
            bytes=self._size,
            split_by=self._options.split,
            empty_documents=met.empty,
            formats=_formats(source, self._files),
            left_out=LeftOutRecord(
                without_text=met.without_text,
                unreadable=met.unreadable,
                bytes_skipped=met.bad_bytes if skips else 0,
                bytes_replaced=0 if skips else met.bad_bytes,
                first=tuple(met.first),
            ),
            split_times=() if times is None else times.shown(),
            notes=(_MIXED_ZONES,) if times is not None and times.mixes_zones else (),
        )

    def _split_record(self, name: SplitName) -> SplitRecord:
        split = self._state.splits[name]
        if not self._source.counts_words:
            return SplitRecord(shards=split.shards)
        return SplitRecord(shards=split.shards, words=split.words, lines=split.lines)


def _formats(source: Source, files: list[SourceFile]) -> dict[str, int]:
    if not isinstance(source, FileSource):
        return {}
    return dict(Counter("archive" if is_archive(file.path) else source.format_of(file.inner) for file in files))


_MORE_TEXT = {
    "time": "Its text has too few different times: use --split document-hash or contiguous.",
    "document-hash": "It has too few documents for a split by document: use --split contiguous or more documents.",
    "contiguous": "It is too short for these fractions: use more text.",
    "own": "Its files of that split are missing or empty: download them, or use --split document-hash.",
}


def _empty_split(source: Source, rule: SplitRule, missing: list[SplitName]) -> str:
    if len(missing) == len(SPLITS):
        return f"source: {source.describe()} holds no text. Check the path."
    return f"split: {', '.join(missing)} of {source.describe()} would be empty (split by {rule}). {_MORE_TEXT[rule]}"
