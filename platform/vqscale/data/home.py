"""The user's own folder: prepared named corpora, downloaded shards, marks of verified files."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vqscale.errors import StorageError


def home_folder(home: str | None = None) -> Path:
    """`home`, else `$VQSCALE_HOME`, else `~/.cache/vqscale`. The folder need not exist."""
    folder = home or os.environ.get("VQSCALE_HOME") or "~/.cache/vqscale"
    return Path(folder).expanduser().absolute()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it among all processes of this machine; wait while another process holds the lock.

    The holder may remove the folder: a process that waited then finds that it locked a file which no longer exists,
    and locks the new one.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _open_lock(folder / "lock")
        except OSError as error:
            raise StorageError(f"{folder} cannot be written ({error.strerror}). Name one you can write.") from error
        if file is None:
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still_at(file.fileno(), folder / "lock"):
                yield
                return


def _open_lock(path: Path) -> IO[str] | None:
    """The lock file; None if its folder was removed at this moment by a holder that finished."""
    try:
        return path.open("w")
    except FileNotFoundError:
        return None


def _is_still_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
