"""Opening a corpus: verified shards, memory-mapped, read as one long row of tokens a split."""

import contextlib
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
    TOKENIZER,
    Manifest,
    Shard,
    SplitName,
    SplitRecord,
    digest,
    file_sha256,
    map_shard,
    read_manifest,
)
from vqscale.data.tokenize import Tokenizer, load_tokenizer
from vqscale.errors import CorpusError


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
        """Tokens [start, start + length): a read-only view inside one shard, a copy across shards. IndexError outside."""
        stop = start + length
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}..{stop} of {self.name}, which has {len(self)}")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left")) - 1
        parts = [
            self._view(index)[max(0, start - int(self._starts[index])) : stop - int(self._starts[index])]
            for index in range(min(first, len(self._paths) - 1), max(first, last) + 1)
            if index < len(self._paths)
        ]
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
    for that lie in the cache. `verify=False` trusts the files; downloads are verified all the same.
    """
    uri = storage.absolute(uri)
    manifest = read_manifest(uri)
    home = home_folder(cache)
    local = storage.is_local(uri)
    folder = Path(uri) if local else home / "shards" / manifest.fingerprint
    for record in manifest.splits.values():
        for shard in record.shards:
            if not local:
                _fetch(uri, shard, folder)
            if verify or not local:
                _verify(folder / shard.name, shard, home)
    return Corpus(uri, manifest, folder, _tokenizer_json(uri, manifest))


def _tokenizer_json(uri: str, manifest: Manifest) -> str | None:
    if manifest.tokenizer_sha256 is None:
        return None
    place = storage.join(uri, TOKENIZER)
    try:
        text = storage.read_text(place)
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"corpus: {place} cannot be read ({error}). Prepare the corpus again.") from error
    if digest(text) != manifest.tokenizer_sha256:
        raise CorpusError(f"corpus: {place} is damaged: its sha256 is not the manifest's. Prepare the corpus again.")
    return text


def _fetch(uri: str, shard: Shard, folder: Path) -> None:
    if (folder / shard.name).exists():
        return
    try:
        storage.download(storage.join(uri, shard.name), str(folder / shard.name))
    except FileNotFoundError as error:
        raise CorpusError(_missing(storage.join(uri, shard.name))) from error


def _missing(place: str) -> str:
    return f"corpus: {place} is missing, though the manifest names it. Restore the file or prepare the corpus again."


def _verify(path: Path, shard: Shard, home: Path) -> None:
    """Hash the shard unless a mark says that exactly this file was found right before."""
    try:
        info = path.stat()
    except FileNotFoundError as error:
        raise CorpusError(_missing(str(path))) from error
    seen = [shard.sha256, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    mark = home / "verified" / f"{digest(str(path))[:32]}.json"
    if _marked(mark) == seen:
        return
    if file_sha256(path) != shard.sha256:
        raise CorpusError(
            f"corpus: shard {path} is damaged: its sha256 is not the manifest's. Prepare the corpus again."
        )
    with contextlib.suppress(OSError):  # a mark saves time only: a home that cannot be written does no harm
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
        raise CorpusError(f"corpus: shard {path} is not readable ({error}). Prepare the corpus again.") from error
    if len(view) != shard.tokens:
        raise CorpusError(f"corpus: shard {path} has {len(view)} tokens, the manifest says {shard.tokens}.")
    return view
