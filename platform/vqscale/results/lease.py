"""One owner a study: a lease in the study's folder, renewed by a heartbeat, at any fsspec URI.

Owners are numbered: a process that wants the study writes the next number's file, which only one can create, and the
highest number owns. So two that find a dead owner at once cannot both take over, and an owner that was away for too
long (a machine that slept, a network that was down) learns from a higher number that it has been replaced.
"""

import contextlib
import datetime
import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
from pydantic import ValidationError

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.errors import StorageError, UserError
from vqscale.study.frozen import Frozen

FOLDER = "owner"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""An owner on another machine whose heartbeat is older than this may be gone."""
WATCH_SECONDS = 2.5 * HEARTBEAT_SECONDS
"""How long such an owner is watched before its study is taken over: its clock may only be behind."""


class StudyOwnedError(UserError):
    """Another process runs this study."""


class Owner(Frozen):
    """Who runs a study."""

    token: str
    user: str
    host: str
    machine: str
    """Host, boot and process namespace: where equal, a process number means the same process."""
    pid: int
    process_started: float
    """Seconds since the epoch; process numbers are used again."""
    folder: str
    """A copied folder holds the lease of the folder it was copied from."""
    since: str
    heartbeat: str
    """When the owner last said that it lives, ISO 8601, by its own clock."""
    released: bool = False


class Lease:
    """A context in which this process alone trains the study in `folder`.

    `on_lost` is called, from another thread and once, when another process has taken over; `on_wait` with a sentence
    when it takes a while to see whether the last owner still lives. Entering raises StudyOwnedError while it does.
    """

    def __init__(
        self, folder: str, *, on_lost: Callable[[str], None], on_wait: Callable[[str], None] = lambda _: None
    ) -> None:
        self._folder = folder
        self._on_lost, self._on_wait = on_lost, on_wait
        self._ended, self._lost = threading.Event(), False
        self._own = _this_process(folder)
        self._number = 0
        self.before = newest(folder)
        """The owner before this one, and its number, as found when this object was made, and then when entered."""

    def __enter__(self) -> "Lease":
        while True:
            number, held = self.before = newest(self._folder)
            if held is not None and not self._is_free(number, held):
                raise StudyOwnedError(_refusal(held))
            self._number = number + 1
            if self._create():
                break
        for name in storage.listdir(storage.join(self._folder, FOLDER)):
            if _is_number(name) and name < _file(self._number):  # others' drafts have other names
                storage.remove(storage.join(self._folder, FOLDER, name))
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        if storage.listdir(self._folder) == [FOLDER]:  # refused before anything was written: leave nothing
            storage.remove(self._folder)
        else:
            self._write(released=True)

    def _create(self) -> bool:
        data = self._own.model_dump_json(indent=2).encode()
        if storage.create(_uri(self._folder, self._number), data):
            return True
        _, held = newest(self._folder)  # an answer lost on the network: the file is this process's own
        return held is not None and held.token == self._own.token

    def _is_free(self, number: int, held: Owner) -> bool:
        if _holds(held, self._folder):
            return False
        if held.released or held.machine == self._own.machine or _is_copy(held.folder, self._folder):
            return True
        self._on_wait(
            f"{_who(held)} ran this study until {held.heartbeat}; waiting {WATCH_SECONDS:.0f} s to see whether it"
            " still does."
        )
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, WATCH_SECONDS / 10))
            if newest(self._folder) != (number, held):
                return False
        return True

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            number, held = self._look()
            if number > self._number:
                self._lost = True
                self._on_lost(f"{_who(held) if held else 'Another process'} has taken this study over.")
                return
            self._write()

    def _look(self) -> tuple[int, Owner | None]:
        try:
            return newest(self._folder)
        except StorageError:  # away for a moment; should another have taken over meanwhile, a later look finds it
            return self._number, None

    def _write(self, *, released: bool = False) -> None:
        now = self._own.model_copy(update={"heartbeat": utc_now(), "released": released})
        with contextlib.suppress(StorageError):  # the next beat tries again; at the end it turns stale by itself
            storage.write_text(_uri(self._folder, self._number), now.model_dump_json(indent=2))


def owner_now(folder: str) -> str | None:
    """Who runs the study in `folder` as far as its lease says without being watched, as text for the user."""
    _, held = newest(folder)
    return f"{_who(held)} since {held.since}" if held is not None and _holds(held, folder) else None


def newest(folder: str) -> tuple[int, Owner | None]:
    """The highest number and its owner; (0, None) where there was none. A damaged file belongs to nobody."""
    names = [name for name in storage.listdir(storage.join(folder, FOLDER)) if _is_number(name)]
    if not names:
        return 0, None
    number = int(max(names).removesuffix(".json"))
    try:
        return number, Owner.model_validate_json(storage.read_text(_uri(folder, number)))
    except (ValidationError, UnicodeDecodeError, FileNotFoundError):
        return number, None


def _this_process(folder: str) -> Owner:
    return Owner(
        token=uuid.uuid4().hex,
        user=_user(),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        folder=storage.absolute(folder),
        since=utc_now(),
        heartbeat=utc_now(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in the password file
        return f"user {os.getuid()}"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _holds(owner: Owner, folder: str) -> bool:
    """Whether the owner is known to run the study: its process lives, or its heartbeat is fresh."""
    if owner.released or _is_copy(owner.folder, folder):
        return False
    return _lives(owner) if owner.machine == _machine() else _age(owner) < STALE_SECONDS


def _lives(owner: Owner) -> bool:
    try:
        process = psutil.Process(owner.pid)
        return abs(process.create_time() - owner.process_started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_copy(theirs: str, here: str) -> bool:
    """Whether the lease names a folder that is certainly another one than this."""
    here = storage.absolute(here)
    if theirs == here:
        return False
    if storage.is_local(theirs) and storage.is_local(here):  # one folder may be mounted at two places
        return Path(theirs).exists() and not Path(theirs).samefile(here)
    return True


def _age(owner: Owner) -> float:
    """Seconds since the last heartbeat, by both machines' clocks."""
    then = datetime.datetime.fromisoformat(owner.heartbeat)
    return (datetime.datetime.now(datetime.UTC) - then).total_seconds()


def _who(owner: Owner) -> str:
    return f"{owner.user} on {owner.host} (process {owner.pid})"


def _refusal(owner: Owner) -> str:
    return (
        f"{owner.folder}: this study is being run by {_who(owner)} since {owner.since}, last heartbeat"
        f" {owner.heartbeat}. One process runs a study at a time: wait for it or stop it. When it was lost with its"
        f" machine, its lease ends {STALE_SECONDS:.0f} s after the last heartbeat: run the command again then."
    )


def _is_number(name: str) -> bool:
    return name.removesuffix(".json").isdigit()


def _file(number: int) -> str:
    return f"{number:08d}.json"


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, FOLDER, _file(number))
