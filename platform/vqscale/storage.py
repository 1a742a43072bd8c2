"""Files at any fsspec URI, written whole or not at all.

Every path in vqscale is a string: a local path or a URI (`s3://bucket/prefix`). Nothing else in the package opens a
file that may be remote.
"""

import contextlib
import errno
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from vqscale.errors import MissingFileError, StorageError
from vqscale.masking import masked
from vqscale.storage_failures import failures_named, is_absence

WEB = {"http", "https"}
S3_ATTEMPTS = 3
"""Attempts of botocore at one request, unless AWS_MAX_ATTEMPTS or fsspec's configuration says otherwise."""
S3_ROUNDS = 2
"""Rounds of attempts that s3fs makes of its own. Its default of 5, each of 5 attempts of 15 s, waits for more than six
minutes for a server that accepts connections and never answers; these bounds, for a minute and a half."""
T = TypeVar("T")
REMOTE_CALLS = 16
"""Files of a remote store that are read at once."""
HTTP_CONNECT_SECONDS, HTTP_SILENCE_SECONDS = 10.0, 30.0
"""How long a web server may take to accept a connection, and to send anything; aiohttp waits for 5 minutes in all."""


_ONE_SLASH = re.compile(r"(?!file:|local:|data:)([a-z][a-z0-9+.-]+):(?!//|:)")
"""`s3:/bucket`, which fsspec takes for a local path, and would make the folder `s3:`."""


_NO_LOGIN = {"git", "github", "file", "local", "data"}
"""Protocols in whose addresses an @ does not end a login."""
_LOGIN = re.compile(r"[^/@]*:(?!\d+/).*@")
"""A name, a colon and a password, which may hold slashes (keys of AWS do); a colon, a port and a path are none."""
_NAMED_BY_HOST = {"s3", "s3a", "gs", "gcs", "az", "abfs", "oss", "http", "https"}
"""Protocols whose addresses begin with a bucket or a host."""


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that holds `uri`, and the path inside it.

    It knows no listings of before: fsspec's file systems answer from the listings that they keep, so that a file that
    another process has written would be missing, and one that it has removed would be there.
    Raises StorageError for an unknown protocol, a missing package and an address that is none.
    """
    check_address(uri)
    with failures_named(uri, "opened"):
        fs, path = fsspec.core.url_to_fs(uri)
        _bound_waiting(fs)
        fs.invalidate_cache()
    return fs, cast(str, path)


def check_address(uri: str, *, writing: bool = False) -> None:
    """Raise StorageError for an address that cannot name a file, whatever answers there. Opens and asks nothing.

    `writing`: also for web servers, which are only read.
    """
    if (match := _ONE_SLASH.match(uri)) and match[1] in known_implementations and not Path(uri).exists():
        raise StorageError(f"{uri}: is no address. Write {match[1]}:// with two slashes, or ./{uri} for a local path.")
    if "\0" in uri:  # Python's functions disagree on such a path: some raise, some say that it is absent
        raise StorageError(f"{uri!r}: is no address: it holds a null byte.")
    for part in uri.split("::"):
        _require_no_password(part)
    scheme, slashes, rest = uri.rpartition("::")[2].partition("://")
    if not slashes:
        return
    if scheme in _NAMED_BY_HOST and (not rest.strip("/") or rest.startswith("/")):
        raise StorageError(f"{uri}: is no address: it names no bucket or host. Write it after the two slashes.")
    if writing and scheme in WEB:
        raise _only_read(uri)


def _require_no_password(uri: str) -> None:
    """Raise StorageError for an address with a password: addresses of files are in records, tables and reports."""
    protocol, slashes, rest = uri.partition("://")
    if not slashes or not _LOGIN.match(rest) or protocol in _NO_LOGIN:
        return
    if protocol in ("s3", "s3a"):
        names = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    else:
        names = f"FSSPEC_{protocol.upper()}_USERNAME and FSSPEC_{protocol.upper()}_PASSWORD"
    raise StorageError(
        f"{masked(uri)}: holds a password, which would be in the records, tables and reports of a study. Leave it out,"
        f" and set {names} in the environment."
    )


def _only_read(uri: str) -> StorageError:
    return StorageError(
        f"{uri}: cannot be written (web servers are only read). Name a local folder or an object store, such as"
        " s3://bucket/folder."
    )


def _bound_waiting(fs: fsspec.AbstractFileSystem) -> None:
    """Let a server that does not answer be given up within two minutes. The user's own settings stay as they are."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if "s3" in protocols:
        fs.retries = S3_ROUNDS
        if "retries" not in fs.config_kwargs and "AWS_MAX_ATTEMPTS" not in os.environ:
            fs.config_kwargs = fs.config_kwargs | {"retries": {"mode": "standard", "total_max_attempts": S3_ATTEMPTS}}
    elif protocols & WEB and "timeout" not in fs.client_kwargs:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=HTTP_CONNECT_SECONDS, sock_read=HTTP_SILENCE_SECONDS)
        fs.client_kwargs = fs.client_kwargs | {"timeout": timeout}


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def absolute(uri: str) -> str:
    """`uri` with a local path made absolute, so that it means the same in every process."""
    if not is_local(uri):
        return uri.rstrip("/")
    with failures_named(uri, "opened"):
        return str(Path(filesystem(uri)[1]).resolve())


def join(uri: str, *parts: str) -> str:
    """`uri` extended by `parts`; each part must stay inside it."""
    for part in parts:
        assert ".." not in part.split("/"), f"{part!r} leaves its folder"
        assert not part.startswith("/"), f"{part!r} leaves its folder"
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether a file or folder exists. Only "not found" means no: a network error is raised."""
    fs, path = filesystem(uri)
    with failures_named(uri, "read"):
        return _is_there(fs, path)


def is_folder(uri: str) -> bool:
    """Whether there is a folder at `uri`; on an object store, whether anything lies under it."""
    fs, path = filesystem(uri)
    with failures_named(uri, "read"):
        return _is_there(fs, path) and fs.info(path)["type"] == "directory"


def listdir(uri: str) -> list[str]:
    """Names of the entries of a folder, sorted; an absent folder has none."""
    fs, path = filesystem(uri)
    own = path.rstrip("/")
    try:
        with failures_named(uri, "listed"):
            names = [entry.rstrip("/") for entry in fs.ls(path, detail=False)]
    except MissingFileError:
        return []
    return sorted(name.rsplit("/", 1)[-1] for name in names if name != own)


def for_each(uri: str, names: Sequence[str], read: Callable[[str], T]) -> list[T]:
    """What `read` makes of every name in the folder `uri`, in their order.

    Side by side where the store is remote: there a call mostly waits, and ten thousand one after another take minutes.
    """
    if is_local(uri):
        return [read(name) for name in names]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(REMOTE_CALLS, thread_name_prefix="storage") as pool:
        return list(pool.map(read, names))


def read_bytes(uri: str) -> bytes:
    """A whole file. Raises MissingFileError where there is none, StorageError where it cannot be read."""
    fs, path = filesystem(uri)
    with failures_named(uri, "read"):
        return cast(bytes, fs.cat_file(path))


def open_for_reading(fs: fsspec.AbstractFileSystem, path: str) -> IO[bytes]:
    """A file that is read in pieces. What its store raises then, at any piece, is StorageError."""
    if isinstance(fs, LocalFileSystem):
        return cast(IO[bytes], fs.open(path, "rb"))
    name = str(fs.unstrip_protocol(path))
    with failures_named(name, "read"):
        return io.BufferedReader(_Reading(fs.open(path, "rb"), name), _PIECE)


_PIECE = 1 << 20


class _Reading(io.RawIOBase):
    """A file of fsspec, of which every failure is named."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: Any) -> int:
        with failures_named(self._name, "read"):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with failures_named(self._name, "read"):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_text(uri: str) -> str:
    """A whole file as text. Raises as `read_bytes`, and StorageError for bytes that are no UTF-8."""
    try:
        return read_bytes(uri).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri}: is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def read_json(uri: str) -> Any:
    """The value in a file of JSON. Raises as `read_text`, and StorageError for a text that is no JSON."""
    text = read_text(uri)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{uri}: is damaged: no JSON ({error}).") from error


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
    fs, path = _writable(uri)
    with failures_named(uri, "written"):
        if isinstance(fs, LocalFileSystem):
            with atomic_path(path) as draft:
                Path(draft).write_bytes(data)
        else:
            fs.pipe_file(path, data)


def _writable(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """As `filesystem`. Raises StorageError for a web server: fsspec would post files to it, and believe any answer."""
    fs, path = filesystem(uri)
    if WEB & ({fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)):
        raise _only_read(uri)
    return fs, path


def create(uri: str, data: bytes) -> bool:
    """Write a whole file only where none exists; False where one does. Of several callers at most one gets True.

    Exact on local disks, and on object stores with conditional writes (S3, Google Cloud Storage, Azure): their servers
    decide. On other file systems it is a look followed by a write: two callers within that moment may both get True,
    and the later content stays. False can also follow one's own write whose answer was lost on the network and which
    was sent again, so a caller that waits for ownership compares the content. Raises StorageError.
    """
    fs, path = _writable(uri)
    with failures_named(uri, "written"):
        return _create_local(Path(path), data) if isinstance(fs, LocalFileSystem) else _create_remote(fs, path, data)


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
    if _is_there(fs, path):  # stores that do not know conditional writes overwrite without a word
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
    fs, path = _writable(uri)
    with failures_named(uri, "written"):
        if isinstance(fs, LocalFileSystem):
            with atomic_path(path) as draft:
                fs.cp_file(local_path, draft)
        else:
            fs.put_file(local_path, path)


def download(uri: str, local_path: str) -> None:
    """Copy one file to a local path, atomically. Raises MissingFileError where there is none."""
    fs, path = filesystem(uri)
    with failures_named(uri, f"copied to {local_path}"), atomic_path(local_path) as draft:
        fs.get_file(path, draft)


def remove(uri: str) -> None:
    """Remove a file, or a folder with everything in it; does nothing where there is none."""
    fs, path = _writable(uri)
    with failures_named(uri, "removed"):
        if not _is_there(fs, path):
            return
        try:
            fs.rm(path, recursive=True)
        except FileNotFoundError:  # another process removes it, too
            if _is_there(fs, path):
                raise


def _is_there(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """As `fs.exists`, which takes every failure for a no."""
    fs.invalidate_cache()
    try:
        fs.info(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_absence(error):
            return False
        raise
    return True


_PROBE = 4096


def require_writable(uri: str) -> None:
    """Raise StorageError unless a file can be created under `uri`; leaves nothing behind, not even folders."""
    fs, path = _writable(uri)
    try:
        with failures_named(uri, "written"):
            if isinstance(fs, LocalFileSystem):  # the nearest folder that exists decides: those below it can be created
                path = str(next(parent for parent in (Path(path), *Path(path).parents) if parent.exists()))
            probe = f"{path.rstrip('/')}/.write-probe-{uuid.uuid4().hex[:8]}"
            try:
                fs.pipe_file(probe, bytes(_PROBE))  # an empty file can be made on a full disk
            except OSError:
                with contextlib.suppress(OSError):
                    fs.rm_file(probe)
                raise
            fs.rm_file(probe)
    except StorageError as error:
        raise StorageError(f"storage: {error} Name a folder or URI that you can write.") from error.__cause__
