"""Opening a corpus: verified shards, memory-mapped; every split is read as one long row of tokens."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vqscale import storage
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.manifests import all_shards, read_manifest
from vqscale.data.shards import TOKENIZER, Manifest, Shard, SplitName, SplitRecord, map_shard
from vqscale.data.tokenize import Tokenizer, load_tokenizer
from vqscale.data.verify import REMEDY, local_shards
from vqscale.errors import CorpusError, MissingFileError


class TokenSplit:
    """The tokens of one split in order; shards are mapped at their first use."""

    def __init__(self, name: SplitName, record: SplitRecord, shards: list[Path], corpus: "Corpus") -> None:
        self.name = name
        self.record = record
        self.corpus = corpus
        self._paths = shards
        self._views: list[npt.NDArray[Any] | None] = [None] * len(shards)
        self._starts = np.cumsum([0, *(shard.tokens for shard in record.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def documents(self) -> int:
        return self.record.documents

    def read(self, start: int, length: int) -> npt.NDArray[Any]:
        """Tokens [start, start + length): a read-only view inside a shard, a copy across shards; IndexError outside."""
        stop = start + length
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}..{stop} of {self.name}, which has {len(self)}")
        # The last start is the end of the split; without it, an empty read there belongs to the last shard.
        first, last = np.searchsorted(self._starts[:-1], [start, max(start, stop - 1)], side="right") - 1
        parts = []
        for index in range(int(first), int(last) + 1):
            origin = int(self._starts[index])
            parts.append(self._view(index)[max(0, start - origin) : max(0, stop - origin)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _view(self, index: int) -> npt.NDArray[Any]:
        view = self._views[index]
        if view is None:
            view = self._views[index] = _mapped(self._paths[index], self.record.shards[index])
        return view


class Corpus:
    """A verified corpus. Values are read from the manifest; tokens through `split(name)`."""

    def __init__(self, uri: str, manifest: Manifest, folder: Path, tokenizer_json: str | None) -> None:
        self.uri = uri
        self.manifest = manifest
        self._tokenizer_json = tokenizer_json
        self._splits = {
            name: TokenSplit(name, record, [folder / shard.name for shard in record.shards], self)
            for name, record in manifest.splits.items()
        }

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text per training token, ends of documents included: from nats per token to bits per byte."""
        train = self.manifest.splits["train"]
        return train.bytes / train.tokens

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.manifest.tokenizer, self._tokenizer_json)

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text of each id, [vocab_size]; 0 for the special ids."""
        return self.tokenizer.token_bytes

    def split(self, name: SplitName) -> TokenSplit:
        return self._splits[name]


def open_corpus(uri: str, *, cache: str | None = None, verify: bool = True) -> Corpus | LabelledCorpus:
    """Open the corpus at `uri`, of text or of labelled examples as its manifest says.

    Every shard must have the sha256 of the manifest (CorpusError otherwise). `local_shards` describes where shards are
    read from, what `cache` holds and what `verify=False` skips.
    """
    uri = storage.absolute(uri)
    manifest = read_manifest(uri)
    folder = local_shards(uri, manifest.fingerprint, all_shards(manifest), cache, verify)
    if isinstance(manifest, LabelledManifest):
        return LabelledCorpus(uri, manifest, folder)
    return Corpus(uri, manifest, folder, _tokenizer_json(uri, manifest))


def open_text(uri: str, *, cache: str | None = None, verify: bool = True) -> Corpus:
    """Open a corpus of text; CorpusError for one of labelled examples."""
    corpus = open_corpus(uri, cache=cache, verify=verify)
    if isinstance(corpus, LabelledCorpus):
        raise CorpusError(f"corpus: {corpus.uri} holds labelled examples, not text. Name a corpus of text.")
    return corpus


def open_tokenizer(uri: str) -> Tokenizer:
    """The tokenizer of a corpus of text, from its manifest and its tokenizer's file; no shard is read.

    Raises CorpusError where either is missing or damaged, and for a labelled corpus.
    """
    manifest = read_manifest(uri)
    if not isinstance(manifest, Manifest):
        raise CorpusError(f"{uri}: holds labelled examples; it has no tokenizer")
    return load_tokenizer(manifest.tokenizer, _tokenizer_json(uri, manifest))


def _tokenizer_json(uri: str, manifest: Manifest) -> str | None:
    if manifest.tokenizer_sha256 is None:
        return None
    place = storage.join(uri, TOKENIZER)
    try:
        content = storage.read_bytes(place)
    except MissingFileError as error:
        raise CorpusError(f"corpus: {place} is missing, though the manifest names it. {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != manifest.tokenizer_sha256:
        raise CorpusError(f"corpus: {place} is damaged: its sha256 differs from the manifest's. {REMEDY}")
    return content.decode("utf-8")


def _mapped(path: Path, shard: Shard) -> npt.NDArray[Any]:
    import pyarrow as pa

    try:
        view = map_shard(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorpusError(f"corpus: shard {path} is not readable ({error}). {REMEDY}") from error
    if len(view) != shard.tokens:
        raise CorpusError(f"corpus: shard {path} has {len(view)} tokens, the manifest says {shard.tokens}. {REMEDY}")
    return view
