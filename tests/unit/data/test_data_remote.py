"""Sources and corpora on stores that fail: what the store said is reported, and a store that answers is read."""

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from vqscale.data.corpus import open_corpus
from vqscale.data.files import list_files
from vqscale.data.prepare import prepare
from vqscale.errors import CorpusError, StorageError

TEXT = b"\n\n\n".join(b"document %d " % number * 20 for number in range(4000))


class ClientPayloadError(Exception):
    """As aiohttp's."""


class Breaking(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store of one file, `file.txt`, that fails as `fails` says: when it is looked for, opened, or in the middle."""

    protocol = "breaking"
    fails: ClassVar[str] = ""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if self.fails == "info":
            raise ClientPayloadError("Unable to locate credentials")
        if not path.endswith("file.txt"):
            raise FileNotFoundError(path)
        return {"name": path, "size": len(TEXT), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if self.fails == "open":
            raise ClientPayloadError("Unable to locate credentials")
        return Halves(TEXT) if self.fails == "read" else io.BytesIO(TEXT)


class Halves(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > len(TEXT) // 2:
            raise ClientPayloadError("Response payload is not completed")
        return super().read(min(size or 0, 1 << 14))


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    yield monkeypatch
    Breaking.clear_instance_cache()


@pytest.mark.parametrize(
    ("fails", "told"),
    [("info", "Unable to locate credentials"), ("open", "Unable to locate"), ("read", "payload is not completed")],
)
def test_source_on_a_store_that_fails_is_refused_with_what_the_store_said(
    breaking: pytest.MonkeyPatch, tmp_path: Path, fails: str, told: str
) -> None:
    breaking.setattr(Breaking, "fails", fails)
    with pytest.raises(
        StorageError, match=rf"breaking://(file\.txt|.*): cannot be read \(ClientPayloadError: .*{told}"
    ):
        prepare("breaking://file.txt", str(tmp_path / "corpus"))
    assert list(tmp_path.iterdir()) == []


def test_source_on_a_store_that_answers_is_read_as_a_local_file(breaking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(TEXT)
    remote = prepare("breaking://file.txt", str(tmp_path / "remote"), split="contiguous")
    local = prepare(str(tmp_path / "file.txt"), str(tmp_path / "local"), split="contiguous")
    assert {name: split.tokens for name, split in remote.splits.items()} == {
        name: split.tokens for name, split in local.splits.items()
    }
    with pytest.raises(CorpusError, match="is no file, no folder"):
        list_files("breaking://absent")


@pytest.fixture
def web(tmp_path: Path, corpus_uri: str) -> Iterator[str]:
    """A web server on loopback that serves a copy of the corpus."""
    shutil.copytree(corpus_uri, tmp_path / "www" / "corpus")
    handler = functools.partial(QuietPages, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class QuietPages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_corpus_on_a_web_server_is_the_corpus(web: str, corpus_uri: str, tmp_path: Path) -> None:
    there, here = open_corpus(f"{web}/corpus", cache=str(tmp_path / "cache")), open_corpus(corpus_uri)
    assert there.fingerprint == here.fingerprint
    assert len(there.split("train")) == len(here.split("train"))
    with pytest.raises(CorpusError, match=r"nothing holds no manifest\.json"):
        open_corpus(f"{web}/nothing")


def test_corpus_on_a_web_server_that_is_gone_is_not_called_absent(web: str) -> None:
    for address, told in ((f"https{web[4:]}/corpus", "SSL"), ("http://127.0.0.1:1/corpus", "Connect call failed")):
        with pytest.raises(StorageError, match=rf"manifest\.json: cannot be read .*{told}"):
            open_corpus(address)


def test_corpus_whose_shard_is_gone_from_the_server_says_so(web: str, tmp_path: Path) -> None:
    for shard in (tmp_path / "www" / "corpus").glob("train*.arrow"):
        shard.unlink()
    with pytest.raises(CorpusError, match="is missing, though the manifest names it"):
        open_corpus(f"{web}/corpus", cache=str(tmp_path / "cache"))
