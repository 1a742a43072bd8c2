"""From a source of labelled examples to a corpus: written shard by shard, published when it is complete."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from vqscale import storage
from vqscale.data.labelled.format import (
    Example,
    LabelledManifest,
    LabelledShard,
    LabelledSplitRecord,
    Layout,
    write_labelled_shard,
)
from vqscale.data.labelled.source import LabelledSource, Unreadable
from vqscale.data.options import require_share
from vqscale.data.publish import ProgressCallback, no_progress, publish
from vqscale.data.shards import FORMAT, MANIFEST, SPLITS, LeftOutRecord, SourceRecord, SplitName
from vqscale.errors import CorpusError
from vqscale.study.fingerprint import fingerprint

SHARD_EXAMPLES = 2**17
"""Most examples of one shard, which bounds what is held in memory beside its tokens."""


def prepare_labelled(
    source: LabelledSource,
    out: str,
    *,
    shard_tokens: int = 2**25,
    overwrite: bool = False,
    max_skipped: float = 0.1,
    progress: ProgressCallback | None = None,
) -> LabelledManifest:
    """Prepare the corpus `out` (a local folder or any fsspec URI) from `source` and return its manifest.

    Examples that cannot be read are left out, named and counted; more than one, and more than the share `max_skipped`,
    are an error. The same call on a complete corpus changes nothing; after an interruption it starts again. One shard
    of each split is held in memory. Raises CorpusError for a source that cannot be used and StorageError for an `out`
    that cannot.
    """
    if shard_tokens < 1:
        raise CorpusError(f"shard_tokens: {shard_tokens} is no number of tokens. Use 1 or more.")
    require_share("max_skipped", max_skipped)
    report = progress or no_progress
    request = fingerprint({"format": FORMAT, "source": source.identity(), "shard_tokens": shard_tokens})

    def make(folder: Path) -> LabelledManifest:
        corpus = folder / "corpus"
        shutil.rmtree(corpus, ignore_errors=True)
        corpus.mkdir()
        return _write(source, corpus, shard_tokens, max_skipped, request, report)

    return publish(storage.absolute(out), request, LabelledManifest, overwrite, report, make)


def _write(
    source: LabelledSource, folder: Path, limit: int, max_skipped: float, request: str, report: ProgressCallback
) -> LabelledManifest:
    layout = source.layout()
    files, total = source.extent()
    writers = {name: _SplitWriter(folder, name, layout, limit) for name in SPLITS}
    examples = empty = 0
    unreadable: list[str] = []
    for found in source.walk():
        report("write", found.read, total)
        if isinstance(found, Unreadable):
            unreadable.append(f"{found.place}: {found.reason}")
        elif all(len(tokens) for tokens in found.example.tokens):
            writers[found.split].append(found.example)
            examples += 1
        else:
            empty += 1
    _require_readable(source, unreadable, examples + empty, max_skipped)
    splits = {name: writer.finish(source) for name, writer in writers.items()}
    _require_classes(source, layout, splits["train"])
    draft = LabelledManifest(
        format=FORMAT,
        task="classification",
        layout=layout,
        splits=splits,
        source=SourceRecord(
            description=source.describe(),
            files=files,
            bytes=total,
            split_by="own",
            empty_documents=empty,
            left_out=LeftOutRecord(unreadable=len(unreadable), first=tuple(unreadable[:_NAMED])),
        ),
        request=request,
        fingerprint="",
    )
    manifest = draft.model_copy(update={"fingerprint": draft.content_fingerprint()})
    storage.write_text(str(folder / MANIFEST), manifest.model_dump_json(indent=2) + "\n")
    return manifest


_NAMED = 20
"""Unreadable examples that the manifest names."""


def _require_readable(source: LabelledSource, unreadable: list[str], read: int, most: float) -> None:
    if len(unreadable) > max(1, most * (read + len(unreadable))):
        raise CorpusError(
            f"max_skipped: {len(unreadable):,} of {read + len(unreadable):,} examples of {source.describe()} cannot be "
            f"read; the first: {unreadable[0]}. Download them again, or allow more than {most:g} of all with "
            "--max-skipped."
        )


def _require_classes(source: LabelledSource, layout: Layout, train: LabelledSplitRecord) -> None:
    """A classifier needs two classes to learn; a corpus with one is labelled wrongly."""
    present = [name for name, count in zip(layout.classes, train.class_counts, strict=True) if count]
    if len(present) < 2:
        raise CorpusError(
            f"classes: all training examples of {source.describe()} are of the class {present[0]!r}. "
            "Check the labels; text without labels is prepared without --as."
        )


class _SplitWriter:
    """Collects the examples of one split and writes them shard by shard."""

    def __init__(self, folder: Path, split: SplitName, layout: Layout, limit: int) -> None:
        self._folder, self._split, self._layout, self._limit = folder, split, layout, limit
        self._held: list[Example] = []
        self._tokens = 0
        self._shards: list[LabelledShard] = []
        self._lengths: Counter[int] = Counter()
        self._classes: Counter[int] = Counter()

    def append(self, example: Example) -> None:
        self._count(example)
        self._held.append(example)
        self._tokens += sum(len(tokens) for tokens in example.tokens)
        if self._tokens >= self._limit or len(self._held) >= SHARD_EXAMPLES:
            self._end_shard()

    def _count(self, example: Example) -> None:
        layout = self._layout
        assert len(example.tokens) == layout.sequences
        assert all(tokens.min() >= 0 and tokens.max() < layout.vocabulary.size for tokens in example.tokens)
        self._lengths[max(len(tokens) for tokens in example.tokens)] += 1
        if layout.labels == "sequence":
            labels = [example.label]
        else:
            assert example.labels is not None
            assert example.positions is not None
            assert len(example.labels) == len(example.positions)
            labels = example.labels.tolist()
        for label in labels:
            assert label is not None
            assert 0 <= label < len(layout.classes)
            self._classes[label] += 1

    def _end_shard(self) -> None:
        target = self._folder / f"{self._split}-{len(self._shards):05d}.arrow"
        self._shards.append(write_labelled_shard(self._held, self._layout, target))
        self._held, self._tokens = [], 0

    def finish(self, source: LabelledSource) -> LabelledSplitRecord:
        """Write the last shard; CorpusError if the split is empty."""
        if self._held:
            self._end_shard()
        if not self._shards:
            raise CorpusError(
                f"split: {self._split} of {source.describe()} would be empty. "
                "Check the path, and that the source has examples of this split."
            )
        counts = tuple(self._classes[label] for label in range(len(self._layout.classes)))
        return LabelledSplitRecord(shards=tuple(self._shards), class_counts=counts, lengths=_quantiles(self._lengths))


def _quantiles(lengths: Counter[int]) -> tuple[int, int, int, int, int]:
    """Minimum, 5 %, median, 95 %, maximum; each is a length that occurs."""
    values = np.array(sorted(lengths))
    reached = np.cumsum([lengths[int(value)] for value in values]) / lengths.total()
    picked = [int(values[np.searchsorted(reached, share)]) for share in (0.05, 0.5, 0.95)]
    return int(values[0]), picked[0], picked[1], picked[2], int(values[-1])
