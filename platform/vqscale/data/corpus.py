"""Opening a corpus: verified shards, memory-mapped, read as one long row of tokens a split."""

import contextlib
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqscale import storage
from vqscale.data.home import home_folder
from vqscale.data.shards import (
    REMEDY,
    TOKENIZER,
    Manifest,
    Shard,
    SplitName,
    SplitRecord,
    file_sha256,
    map_shard,
    read_manifest,
)
from vqscale.data.tokenize import Tokenizer, load_tokenizer
from vqscale.errors import CorpusError, StorageError
from vqscale.study.fingerprint import fingerprint


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
        # Without the last start, which is the end of all: a read of nothing there belongs to the last shard.
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
        """Bytes of text a training token stands for on average, ends of documents included: nats to bits per byte."""
        train = self.manifest.splits["train"]
        return train.bytes / train.tokens

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.manifest.tokenizer, self._tokenizer_json)

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text that each id stands for, [vocab_size]; 0 for the specials."""
        return self.tokenizer.token_bytes

    def split(self, name: SplitName) -> TokenSplit:
        return self._splits[name]


def open_corpus(uri: str, *, cache: str | None = None, verify: bool = True) -> Corpus:
    """Open the corpus at `uri`; every shard must have the sha256 that the manifest says (CorpusError otherwise).

    Shards of a remote corpus are copied whole into `cache` (default: the user's home, see `home_folder`) and read
    there. A shard that was verified once and has not been touched since is not hashed again, in any process; the marks
    for that lie in the cache. `verify=False` trusts local files; downloads are verified all the same.
    """
    uri = storage.absolute(uri)
    manifest = read_manifest(uri)
    home = home_folder(cache)
    local = storage.is_local(uri)
    folder = Path(uri) if local else home / "shards" / manifest.fingerprint
    for record in manifest.splits.values():
        for shard in record.shards:
            if not local:
                _fetch(storage.join(uri, shard.name), folder / shard.name)
            if verify or not local:
                _verify(folder / shard.name, shard, home, is_copy=not local)
    return Corpus(uri, manifest, folder, _tokenizer_json(uri, manifest))


def _tokenizer_json(uri: str, manifest: Manifest) -> str | None:
    if manifest.tokenizer_sha256 is None:
        return None
    place = storage.join(uri, TOKENIZER)
    try:
        content = storage.read_bytes(place)
    except OSError as error:
        raise CorpusError(f"corpus: {place} cannot be read ({error}). {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != manifest.tokenizer_sha256:
        raise CorpusError(f"corpus: {place} is damaged: its sha256 is not the manifest's. {REMEDY}")
    return content.decode("utf-8")


def _fetch(place: str, copy: Path) -> None:
    """Copy a shard unless it is there already."""
    if copy.exists():
        return
    try:
        storage.download(place, str(copy))
    except FileNotFoundError as error:
        raise CorpusError(f"corpus: {place} is missing, though the manifest names it. {REMEDY}") from error
    except OSError as error:
        raise CorpusError(f"corpus: {place} cannot be copied to {copy} ({error.strerror or error}).") from error


def _verify(path: Path, shard: Shard, home: Path, *, is_copy: bool) -> None:
    """Hash the shard unless a mark says that exactly this file was found right before."""
    try:
        info = path.stat()
    except FileNotFoundError as error:
        raise CorpusError(f"corpus: {path} is missing, though the manifest names it. {REMEDY}") from error
    seen = [shard.sha256, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    mark = home / "verified" / f"{fingerprint(str(path))[:32]}.json"
    if _marked(mark) == seen:
        return
    if file_sha256(path) != shard.sha256:
        if is_copy:
            path.unlink()  # the next attempt fetches it again
        raise CorpusError(f"corpus: shard {path} is damaged: its sha256 is not the manifest's. {REMEDY}")
    with contextlib.suppress(OSError, StorageError):  # a mark only saves time: a home without write access does no harm
        storage.write_json(str(mark), seen)


def _marked(mark: Path) -> object:
    try:
        return json.loads(mark.read_bytes())
    except (OSError, ValueError):
        return None


def _mapped(path: Path, shard: Shard) -> npt.NDArray[Any]:
    try:
        view = map_shard(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorpusError(f"corpus: shard {path} is not readable ({error}). {REMEDY}") from error
    if len(view) != shard.tokens:
        raise CorpusError(f"corpus: shard {path} has {len(view)} tokens, the manifest says {shard.tokens}. {REMEDY}")
    return view
