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
    chosen = home or os.environ.get("VQSCALE_HOME") or "~/.cache/vqscale"
    return Path(chosen).expanduser().absolute()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it alone among all processes of this machine; wait while another holds it.

    The holder may remove the folder: whoever waited then notices that it holds the lock of a vanished file and
    takes a fresh one.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _open_lock(folder / "lock")
        except OSError as error:
            raise StorageError(f"{folder} cannot be written ({error.strerror}). Name a place you can write.") from error
        if file is None:
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still_at(file.fileno(), folder / "lock"):
                yield
                return


def _open_lock(path: Path) -> IO[str] | None:
    """The lock file; None if its folder was removed by a holder that finished just now."""
    try:
        return path.open("w")
    except FileNotFoundError:
        return None


def _is_still_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
