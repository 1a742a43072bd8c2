"""One owner a study: refused while it lives, taken over when it is gone, and never two at once."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vqscale.results import lease
from vqscale.results.lease import Lease, StudyOwnedError, newest

ANOTHER = {
    "token": "t",
    "user": "ada",
    "host": "far",
    "machine": "far boot pid",
    "pid": 7,
    "process_started": 1.0,
    "since": "2026-01-01T00:00:00+00:00",
    "heartbeat": "2026-01-01T00:00:00+00:00",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.3)


@pytest.fixture(params=["local", "memory"])
def folder(request: Any, tmp_path: Path) -> Any:
    if request.param == "local":
        yield str(tmp_path / "study")
        return
    yield "memory://leases/study"
    fs = fsspec.filesystem("memory")
    fs.rm("/leases", recursive=True) if fs.exists("/leases") else None


def write(folder: str, number: int, /, **values: Any) -> None:
    record = json.dumps(ANOTHER | {"folder": lease.storage.absolute(folder)} | values)
    lease.storage.write_text(f"{folder}/owner/{number:08d}.json", record)


def take(folder: str, **options: Any) -> Lease:
    return Lease(folder, **({"on_lost": lambda _: None} | options))


def test_second_owner_is_refused_and_told_who_the_first_is(folder: str) -> None:
    with take(folder):
        with pytest.raises(StudyOwnedError, match=rf"is being run by .* \(process {os.getpid()}\) since"), take(folder):
            pass
        assert newest(folder)[0] == 1


def test_owner_that_has_left_is_followed(folder: str) -> None:
    lease.storage.write_text(f"{folder}/study.yaml", "{}")
    for number in (1, 2, 3):
        with take(folder):
            assert newest(folder)[0] == number
    assert lease.storage.listdir(f"{folder}/owner") == ["00000003.json"]


def test_refused_work_leaves_no_folder(folder: str) -> None:
    with take(folder):
        pass
    assert not lease.storage.exists(folder)


@pytest.mark.parametrize("pid", [2**22 + 1, os.getpid()], ids=["no such process", "its number is used again"])
def test_owner_of_this_machine_that_died_is_followed_at_once(folder: str, pid: int) -> None:
    write(folder, 4, machine=lease._machine(), pid=pid, process_started=5.0, heartbeat=lease.utc_now())
    waits: list[str] = []
    with take(folder, on_wait=waits.append):
        assert newest(folder)[0] == 5
    assert waits == []


def test_owner_elsewhere_with_a_fresh_heartbeat_is_respected(folder: str) -> None:
    write(folder, 4, heartbeat=lease.utc_now())
    with pytest.raises(StudyOwnedError, match="ada on far"), take(folder):
        pass


def test_owner_elsewhere_without_a_heartbeat_is_watched_then_followed(folder: str) -> None:
    write(folder, 4)
    waits: list[str] = []
    with take(folder, on_wait=waits.append):
        number, owner = newest(folder)
        assert (number, owner and owner.pid) == (5, os.getpid())
    assert len(waits) == 1
    assert "ada on far (process 7) ran this study until 2026-01-01" in waits[0]


def test_owner_elsewhere_whose_clock_is_behind_is_respected(folder: str) -> None:
    write(folder, 4)
    beat = threading.Timer(0.1, write, (folder, 4), {"heartbeat": "2026-01-01T00:00:10+00:00"})
    beat.start()
    with pytest.raises(StudyOwnedError), take(folder):
        pass
    beat.join()


def test_owner_that_was_replaced_is_told_once_and_leaves_the_lease_alone(folder: str) -> None:
    lost: list[str] = []
    told = threading.Event()

    def on_lost(reason: str) -> None:
        lost.append(reason)
        told.set()

    with take(folder, on_lost=on_lost):
        write(folder, 2, heartbeat=lease.utc_now())
        assert told.wait(5)
    assert lost == ["ada on far (process 7) has taken this study over."]
    number, owner = newest(folder)
    assert (number, owner and owner.token, owner and owner.released) == (2, "t", False)


def test_heartbeat_renews_the_lease(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    beaten = threading.Event()
    write_text = lease.storage.write_text

    def seen(uri: str, text: str) -> None:
        write_text(uri, text)
        if "owner" in uri:
            beaten.set()

    with take(folder):
        monkeypatch.setattr(lease.storage, "write_text", seen)
        assert beaten.wait(5)


def test_damaged_lease_belongs_to_nobody(folder: str) -> None:
    lease.storage.write_text(f"{folder}/owner/00000007.json", "{half")
    with take(folder):
        assert newest(folder)[0] == 8


def test_copied_folder_is_no_property_of_the_original(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "study").mkdir()
    write(str(tmp_path / "copy"), 1, folder=str(tmp_path / "study"), heartbeat=lease.utc_now())
    with take(str(tmp_path / "copy")):
        assert newest(str(tmp_path / "copy"))[0] == 2


def test_folder_mounted_elsewhere_is_respected(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    write(str(tmp_path / "study"), 1, folder="/mnt/of/another/machine/study", heartbeat=lease.utc_now())
    with pytest.raises(StudyOwnedError), take(str(tmp_path / "study")):
        pass


CONTENDER = """
import sys, time
from vqscale.results.lease import Lease, StudyOwnedError
folder, start = sys.argv[1], float(sys.argv[2])
while time.time() < start: pass
try:
    with Lease(folder, on_lost=print):
        print("owner", flush=True)
        sys.stdin.read()
except StudyOwnedError:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("dead", [False, True], ids=["fresh", "after an owner that died"])
def test_of_processes_that_start_at_once_one_owns(tmp_path: Path, dead: bool) -> None:
    if dead:
        write(str(tmp_path), 3, machine=lease._machine(), pid=2**22 + 1)
    start = lease.time.time() + 2.0
    command = [sys.executable, "-c", CONTENDER, str(tmp_path), str(start)]
    contenders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [contender.stdout.readline().strip() for contender in contenders if contender.stdout]
    for contender in contenders:
        contender.communicate("")
    assert sorted(said) == ["owner", "refused", "refused", "refused"]
