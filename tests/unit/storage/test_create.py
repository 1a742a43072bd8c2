"""A file that is written only where none exists: of many callers one succeeds."""

import errno
import os
import threading
from pathlib import Path

import fsspec
import pytest

from vqscale import storage
from vqscale.errors import StorageError


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    fsspec.filesystem("memory").store.clear()
    return "memory://root"


def test_create_keeps_the_first_content(root: str) -> None:
    uri = storage.join(root, "study", "lease.json")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.listdir(storage.join(root, "study")) == ["lease.json"]
    storage.remove(uri)
    assert storage.create(uri, b"third")
    assert storage.read_bytes(uri) == b"third"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_create_of_many_at_once_has_one_winner(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = storage.join(str(tmp_path) if kind == "local" else request.getfixturevalue("bucket"), "lease")
    together, won = threading.Barrier(8), []

    def attempt(name: bytes) -> None:
        together.wait()
        if storage.create(uri, name):
            won.append(name)

    threads = [threading.Thread(target=attempt, args=(b"caller %d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri) == won[0]


def test_create_on_s3_is_decided_by_the_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.join(bucket, "lease")
    assert storage.create(uri, b"first")
    fs, _ = storage.filesystem(uri)
    monkeypatch.setattr(type(fs), "exists", lambda *_, **__: False)  # the other's write comes after the look
    assert not storage.create(uri, b"second")
    monkeypatch.undo()


def test_create_without_hard_links_is_still_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "lease")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert [entry.name for entry in tmp_path.iterdir()] == ["lease"]
    assert storage.read_bytes(uri) == b"first"


def test_create_where_nothing_can_be_written_names_the_file() -> None:
    with pytest.raises(StorageError, match="/dev/null/lease: cannot be written"):
        storage.create("/dev/null/lease", b"first")
