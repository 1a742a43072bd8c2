"""Files at any fsspec URI, written whole or not at all.

Every path in vqscale is a string: a local path or a URI (`s3://bucket/prefix`). Nothing else in the package opens a
file that may be remote.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vqscale.errors import StorageError


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that holds `uri`, and the path inside it. Raises StorageError for an unknown protocol."""
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: no file system serves this address ({error})") from error
    return fs, cast(str, path)


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def absolute(uri: str) -> str:
    """`uri` with a local path made absolute, so that it means the same in every process."""
    return str(Path(filesystem(uri)[1]).resolve()) if is_local(uri) else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """`uri` extended by `parts`; each part must stay inside it."""
    for part in parts:
        assert ".." not in part.split("/"), f"{part!r} leaves its folder"
        assert not part.startswith("/"), f"{part!r} leaves its folder"
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether a file or folder exists. Only "not found" means no: a network error is raised."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()  # fsspec keeps listings: without this, what another process wrote or removed is not seen
    try:
        fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listdir(uri: str) -> list[str]:
    """Names of the entries of a folder, sorted; an absent folder has none."""
    if not exists(uri):
        return []
    fs, path = filesystem(uri)
    own = path.rstrip("/")
    names = (entry.rstrip("/") for entry in fs.ls(path, detail=False))
    return sorted(name.rsplit("/", 1)[-1] for name in names if name != own)


def read_bytes(uri: str) -> bytes:
    fs, path = filesystem(uri)
    return cast(bytes, fs.cat_file(path))


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def read_json(uri: str) -> Any:
    return json.loads(read_text(uri))


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """A local file name to write to. It replaces `path` when the block succeeds and is removed otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield str(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file atomically (local: draft and rename; object stores: a single put is atomic)."""
    fs, path = filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with atomic_path(path) as draft:
                Path(draft).write_bytes(data)
        else:
            fs.pipe_file(path, data)
    except OSError as error:
        raise StorageError(f"{uri}: cannot be written ({error.strerror or error})") from error


def create(uri: str, data: bytes) -> bool:
    """Write a whole file only where none exists; False where one does. Of several callers at most one gets True.

    Exact on local disks, and on object stores with conditional writes (S3, Google Cloud Storage, Azure): their servers
    decide. On other file systems it is a look followed by a write: two callers within that moment may both get True,
    and the later content stays. False can also follow one's own write whose answer was lost on the network and which
    was sent again, so a caller that waits for ownership compares the content. Raises StorageError.
    """
    fs, path = filesystem(uri)
    try:
        return _create_local(Path(path), data) if isinstance(fs, LocalFileSystem) else _create_remote(fs, path, data)
    except OSError as error:
        raise StorageError(f"{uri}: cannot be written ({error.strerror or error})") from error


def _create_local(target: Path, data: bytes) -> bool:
    """A draft that is linked to its name: the file appears whole, and linking refuses a name that is taken."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return _linked(draft, target, data)
    finally:
        draft.unlink(missing_ok=True)


def _linked(draft: Path, target: Path, data: bytes) -> bool:
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        try:
            with target.open("xb") as file:  # exclusive, though a reader may see it before it is whole
                file.write(data)
        except FileExistsError:
            return False
    return True


_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links answer: FAT, and some network and user-space ones."""


def _create_remote(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    if fs.exists(path):  # stores that do not know conditional writes overwrite without a word
        return False
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except (
        OSError
    ) as error:  # s3fs makes FileExistsError only of answers that name the condition: not every server's do
        answer = getattr(error.__cause__, "response", None) or {}
        if answer.get("Error", {}).get("Code") in _CONDITION_FAILED:
            return False
        raise
    return True


_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
"""Codes by which an S3 server says that another write was first, or is under way at this moment."""


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode("utf-8"))


def write_json(uri: str, value: Any) -> None:
    """Write JSON. NaN and infinities are refused: an absent measurement is None."""
    write_text(uri, json.dumps(value, indent=2, allow_nan=False) + "\n")


def upload(local_path: str, uri: str) -> None:
    """Copy one local file to `uri`, atomically on a local file system."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        with atomic_path(path) as draft:
            fs.cp_file(local_path, draft)
    else:
        fs.put_file(local_path, path)


def download(uri: str, local_path: str) -> None:
    """Copy one file to a local path, atomically."""
    fs, path = filesystem(uri)
    with atomic_path(local_path) as draft:
        fs.get_file(path, draft)


def remove(uri: str) -> None:
    """Remove a file, or a folder with everything in it; does nothing where there is none."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def require_writable(uri: str) -> None:
    """Raise StorageError unless a file can be created under `uri`; leaves nothing behind, not even folders."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):  # the nearest folder that exists decides: missing ones below it can be created
        path = str(next(parent for parent in (Path(path), *Path(path).parents) if parent.exists()))
    probe = f"{path.rstrip('/')}/.write-probe-{uuid.uuid4().hex[:8]}"
    try:
        fs.pipe_file(probe, b"")
        fs.rm_file(probe)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"storage: {uri} cannot be written ({reason}). Name a folder or URI that you can write."
        ) from error
