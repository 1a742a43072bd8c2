"""Shards of a corpus as local files with the content that the manifest records: downloaded once, hashed once."""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from vqscale import storage
from vqscale.data.home import home_folder
from vqscale.errors import CorpusError, StorageError
from vqscale.study.fingerprint import fingerprint

REMEDY = "Restore the file, or prepare the corpus again with --overwrite."


class StoredShard(Protocol):
    """What the manifest of every corpus records of a shard: the file's name and its sha256."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_shards(uri: str, content: str, shards: Iterable[StoredShard], cache: str | None, verify: bool) -> Path:
    """The local folder that holds `shards` of the corpus at `uri`, whose fingerprint is `content`.

    Shards of a remote corpus are copied whole into `cache` (default: `home_folder`). A shard that was verified and has
    not changed since is not hashed again, in any process; marks for that are kept in the cache.
    `verify=False` trusts local files; downloads are always verified. CorpusError for any mismatch.
    """
    home = home_folder(cache)
    local = storage.is_local(uri)
    folder = Path(uri) if local else home / "shards" / content
    for shard in shards:
        if not local:
            _fetch(storage.join(uri, shard.name), folder / shard.name)
        if verify or not local:
            _verify(folder / shard.name, shard, home, is_copy=not local)
    return folder


def _fetch(place: str, copy: Path) -> None:
    """Copy a shard unless the copy exists."""
    if copy.exists():
        return
    try:
        storage.download(place, str(copy))
    except FileNotFoundError as error:
        raise CorpusError(f"corpus: {place} is missing, though the manifest names it. {REMEDY}") from error


def _verify(path: Path, shard: StoredShard, home: Path, *, is_copy: bool) -> None:
    """Hash the shard unless a mark says that exactly this file has been verified."""
    try:
        info = path.stat()
    except FileNotFoundError as error:
        raise CorpusError(f"corpus: {path} is missing, though the manifest names it. {REMEDY}") from error
    # Size alone would miss an overwritten file, times alone a restored one; the inode shows a replaced one.
    seen = [shard.sha256, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    mark = home / "verified" / f"{fingerprint(str(path))[:32]}.json"
    if _marked(mark) == seen:
        return
    if file_sha256(path) != shard.sha256:
        if is_copy:
            path.unlink()  # the next attempt downloads it again
        raise CorpusError(f"corpus: shard {path} is damaged: its sha256 differs from the manifest's. {REMEDY}")
    with contextlib.suppress(StorageError):  # a mark only saves time: a home folder without write access is no error
        storage.write_json(str(mark), seen)


def _marked(mark: Path) -> object:
    try:
        return json.loads(mark.read_bytes())
    except (OSError, ValueError):
        return None
