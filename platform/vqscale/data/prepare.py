"""From a source of text to a corpus: split, tokenise, write, and only then make it appear."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from vqscale import storage
from vqscale.data.home import home_folder, locked
from vqscale.data.shards import (
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    Manifest,
    SourceRecord,
    SplitName,
    SplitRecord,
    digest,
    read_manifest,
)
from vqscale.data.sources import FileSource, Format, Piece, Source, SplitRule
from vqscale.data.splits import Segment, segments
from vqscale.data.tokenize import EOS, BpeTokenizer, ByteTokenizer, Tokenizer, TokenizerName, dtype_name, train_bpe
from vqscale.data.writer import SplitWriter, Workplace
from vqscale.errors import CorpusError, StorageError, UserError
from vqscale.study.frozen import Frozen

COMMIT_BYTES = 64 << 20
"""Text between two commits: what an interruption costs at most."""

Stage = Literal["complete", "measure", "train tokenizer", "write"]
Progress = Callable[[Stage, int, int | None], None]
"""Called with a stage, the bytes of the source read in it, and their total if it is known."""


class Recipe(Frozen):
    """How text becomes a corpus."""

    tokenizer: TokenizerName = "bytes"
    vocab_size: int | None = Field(default=None, gt=0)
    """Ids of a bpe tokenizer; the bytes tokenizer always has 259."""
    tokenizer_bytes: int = Field(default=1_000_000_000, gt=0)
    """Text of the train split that bpe learns from, at most (Transformer-VQ: 1e9 characters of PG-19)."""
    split: SplitRule = "document-hash"
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    shard_tokens: int = Field(default=2**25, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            raise ValueError(
                f"vocab_size {self.vocab_size} does not fit tokenizer {self.tokenizer}: bpe needs it, bytes has 259"
            )
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"fractions {self.fractions} must be three positive shares that sum to 1")
        return self


def prepare(
    source: str | Source,
    out: str,
    *,
    tokenizer: TokenizerName = "bytes",
    vocab_size: int | None = None,
    split: SplitRule | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    text_column: str = "text",
    format: Format = "auto",
    encoding: str = "utf-8",
    shard_tokens: int = 2**25,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Prepare the corpus `out` (a local folder or any fsspec URI) from `source` and return its manifest.

    `source` is a file, a folder, a glob or an archive at any fsspec URI, or a `Source` such as `vqscale.data.corpora`
    makes. The same call after an interruption goes on where that stopped; on a corpus that is complete it changes
    nothing. `split=None`: as the source says (for files: document-hash). `text_column`, `format` and `encoding` are
    about files only. Local disk holds the whole corpus while it is made, memory a few pieces of it.
    Raises CorpusError for a source that cannot be used, StorageError for an `out` that cannot.
    """
    if isinstance(source, str):
        source = FileSource(uri=source, format=format, text_column=text_column, encoding=encoding)
    recipe = _recipe(tokenizer, vocab_size, split or source.split_rule, fractions, shard_tokens)
    out = storage.absolute(out)
    report = progress or (lambda stage, done, total: None)
    request = digest({"format": FORMAT, "source": source.identity(), "recipe": recipe.model_dump()})
    existing = _existing(out, request, overwrite)
    if existing is None:
        folder = _work_folder(out)
        with locked(folder):
            existing = _existing(out, request, overwrite=False) if not overwrite else None  # made while we waited
            if existing is None:
                return _make(Workplace(folder), source, recipe, request, out, report)
    report("complete", 0, None)
    return existing


def _recipe(
    tokenizer: TokenizerName,
    vocab_size: int | None,
    split: SplitRule,
    fractions: tuple[float, float, float],
    shard_tokens: int,
) -> Recipe:
    try:
        return Recipe(
            tokenizer=tokenizer, vocab_size=vocab_size, split=split, fractions=fractions, shard_tokens=shard_tokens
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorpusError(f"{place + ': ' if place else ''}{first['msg']}") from error


def _existing(out: str, request: str, overwrite: bool) -> Manifest | None:
    """The corpus that is already there, if it is the one asked for. Raises CorpusError if something else is."""
    if storage.exists(storage.join(out, MANIFEST)):
        if overwrite:
            return None
        manifest = read_manifest(out)
        if manifest.request == request:
            return manifest
        raise CorpusError(
            f"out: {out} holds another corpus already. Choose another place or replace it with --overwrite."
        )
    strangers = [name for name in storage.listdir(out) if name != TOKENIZER and not name.endswith(".arrow")]
    if strangers:
        raise CorpusError(f"out: {out} holds files that are no corpus ({strangers[0]}, ...). Choose an empty place.")
    return None


def _work_folder(out: str) -> Path:
    """Beside a local target, so that the corpus moves there in one rename; in the user's home for a remote one."""
    if storage.is_local(out):
        return Path(out).parent / f".prepare-{Path(out).name}"
    return home_folder() / "prepare" / digest(out)[:16]


def _make(place: Workplace, source: Source, recipe: Recipe, request: str, out: str, report: Progress) -> Manifest:
    try:
        manifest = _Preparation(place, source, recipe, request, report).run()
        _publish(place.corpus, out)
    except UserError:
        shutil.rmtree(place.folder, ignore_errors=True)  # the same call would fail again: leave nothing behind
        raise
    shutil.rmtree(place.folder)
    return manifest


class _Preparation:
    """One run, from the recorded state to a complete `corpus` folder in the workplace."""

    def __init__(self, place: Workplace, source: Source, recipe: Recipe, request: str, report: Progress) -> None:
        self._place, self._source, self._recipe, self._report = place, source, recipe, report
        self._size: int | None = sum(file.size for file in source.files()) or None
        self._state = place.resume(request)

    def run(self) -> Manifest:
        if self._recipe.split == "contiguous" and self._state.total_text is None:
            total = sum(len(piece.data) for piece in self._watched("measure"))
            self._state = self._state.model_copy(update={"total_text": total})
            self._place.record(self._state)
        tokenizer = self._tokenizer()
        self._write(tokenizer)
        return self._manifest(tokenizer)

    def _watched(self, stage: Stage) -> Iterator[Piece]:
        for piece in self._source.pieces():
            self._report(stage, piece.read, self._size)
            yield piece

    def _segments(self, stage: Stage) -> Iterator[Segment]:
        recipe = self._recipe
        return segments(
            self._watched(stage),
            recipe.split,
            recipe.fractions,
            self._state.total_text,
            whole_characters=recipe.tokenizer == "bpe",
        )

    def _tokenizer(self) -> Tokenizer:
        if self._recipe.vocab_size is None:
            return ByteTokenizer()
        path = self._place.corpus / TOKENIZER
        if not path.exists():
            storage.write_text(str(path), train_bpe(self._training_texts(), self._recipe.vocab_size).serialised)
        return BpeTokenizer(path.read_text("utf-8"))

    def _training_texts(self) -> Iterator[str]:
        left = self._recipe.tokenizer_bytes
        for segment in self._segments("train tokenizer"):
            if segment.split == "train":
                yield decode_text(segment.data)
                left -= len(segment.data)
            if left <= 0:
                return

    def _write(self, tokenizer: Tokenizer) -> None:
        dtype, token_bytes = dtype_name(tokenizer.vocab_size), tokenizer.token_bytes
        end_of_document = np.array([EOS], dtype=dtype)
        state, recipe = self._state, self._recipe
        writers = {
            name: SplitWriter(self._place, name, split, dtype, recipe.shard_tokens, token_bytes)
            for name, split in state.splits.items()
        }
        empty, count, uncommitted = state.empty_documents, 0, 0
        try:
            for count, segment in enumerate(self._segments("write"), start=1):
                if count <= state.segments:
                    continue  # in the shards since before the interruption
                if not segment.data and segment.first and segment.last:
                    empty += 1
                    continue
                writer = writers[segment.split]
                writer.append(tokenizer.encode(segment.data))
                if segment.last:
                    writer.append(end_of_document)
                if self._source.counts_words:
                    writer.words += len(segment.data.split())
                    writer.lines += segment.data.count(b"\n")
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

    def _commit(self, writers: dict[SplitName, SplitWriter], segments_done: int, empty: int) -> None:
        splits = {name: writer.commit() for name, writer in writers.items()}
        update = {"segments": segments_done, "empty_documents": empty, "splits": splits}
        self._state = self._state.model_copy(update=update)
        self._place.record(self._state)
        for writer in writers.values():
            writer.discard_raw()

    def _manifest(self, tokenizer: Tokenizer) -> Manifest:
        state, recipe, counted = self._state, self._recipe, self._source.counts_words
        missing = [name for name in SPLITS if not state.splits[name].shards]
        if missing:
            raise CorpusError(_empty_split(self._source, recipe, missing, len(missing) == len(SPLITS)))
        path = self._place.corpus / TOKENIZER
        draft = Manifest(
            format=FORMAT,
            tokenizer=recipe.tokenizer,
            tokenizer_sha256=digest(path.read_text("utf-8")) if path.exists() else None,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype_name(tokenizer.vocab_size),
            splits={
                name: SplitRecord(
                    shards=split.shards, words=split.words if counted else None, lines=split.lines if counted else None
                )
                for name, split in state.splits.items()
            },
            source=SourceRecord(
                description=self._source.describe(),
                files=len(self._source.files()),
                bytes=self._size,
                split_by=recipe.split,
                empty_documents=state.empty_documents,
            ),
            request=state.request,
            fingerprint="",
        )
        manifest = draft.model_copy(update={"fingerprint": draft.content_fingerprint()})
        storage.write_text(str(self._place.corpus / MANIFEST), manifest.model_dump_json(indent=2) + "\n")
        return manifest


def decode_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"tokenizer: bpe works on UTF-8 text, but the source holds other bytes ({error.reason}). Use tokenizer bytes."
        ) from error


def _empty_split(source: Source, recipe: Recipe, missing: list[str], everything: bool) -> str:
    if everything:
        return f"source: {source.describe()} holds no text. Check the path."
    remedy = {
        "document-hash": "The source has too few documents for a split by document: use --split contiguous or more documents.",
        "contiguous": "The source is too short for these fractions: use more text.",
        "own": "Its files of that split are missing or empty: fetch them, or use --split document-hash.",
    }[recipe.split]
    return f"split: {', '.join(missing)} of {source.describe()} would be empty (split by {recipe.split}). {remedy}"


def _publish(corpus: Path, out: str) -> None:
    """Make the corpus appear at `out`: one rename on a local disk; elsewhere the manifest goes last."""
    if not storage.is_local(out):
        storage.remove(storage.join(out, MANIFEST))
        for path in sorted(corpus.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
            storage.upload(str(path), storage.join(out, path.name))
        return
    try:
        if Path(out).exists():
            shutil.rmtree(out)
        corpus.rename(out)
    except OSError as error:
        raise StorageError(f"out: {out} cannot be written ({error.strerror}). Choose a place you can write.") from error
