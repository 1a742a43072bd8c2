"""Whatever a file system raises is one kind of error, with the address, the reason and what helps."""

import errno
import http.server
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from vqscale import storage
from vqscale.errors import MissingFileError, StorageError


class NoCredentialsError(Exception):
    """As botocore's: no OSError, and known by the name of its class."""


class ClientPayloadError(Exception):
    """As aiohttp's."""


class Failing(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store of which every operation raises `failure`."""

    protocol = "failing"
    failure: ClassVar[BaseException] = OSError()

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise self.failure

    info = ls = cat_file = pipe_file = put_file = get_file = rm = rm_file = _raise


OPERATIONS = {
    "exists": lambda uri, _: storage.exists(uri),
    "listdir": lambda uri, _: storage.listdir(uri),
    "read_bytes": lambda uri, _: storage.read_bytes(uri),
    "read_text": lambda uri, _: storage.read_text(uri),
    "read_json": lambda uri, _: storage.read_json(uri),
    "write_bytes": lambda uri, _: storage.write_bytes(uri, b""),
    "write_json": lambda uri, _: storage.write_json(uri, {}),
    "create": lambda uri, _: storage.create(uri, b""),
    "upload": lambda uri, local: storage.upload(local, uri),
    "download": lambda uri, local: storage.download(uri, local),
    "remove": lambda uri, _: storage.remove(uri),
    "require_writable": lambda uri, _: storage.require_writable(uri),
}
FAILURES: list[tuple[BaseException, str]] = [
    (NoCredentialsError("Unable to locate credentials"), "Unable to locate credentials.*AWS_ACCESS_KEY_ID"),
    (ClientPayloadError("Response payload is not completed"), "ClientPayloadError: Response payload"),
    (OSError("Unable to load libjvm"), "Unable to load libjvm.*JAVA_HOME"),
    (ImportError("Please install gcsfs"), "Please install gcsfs.*local folder"),
    (PermissionError("Forbidden"), "Forbidden.*permissions"),
    (TimeoutError(), "no answer in time.*Check the address"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    (NotImplementedError(), "does not support it"),
    (KeyError("Contents"), "KeyError: 'Contents'"),
    (RuntimeError("first line\nsecond line"), r"RuntimeError: first line\)"),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> str:
    fsspec.register_implementation("failing", Failing, clobber=True)
    return "failing://host/file"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("failure", "told"), FAILURES, ids=lambda value: type(value).__name__)
def test_storage_failure_of_any_kind_names_address_and_reason(
    operation: str, failure: BaseException, told: str, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "failure", failure)
    (tmp_path / "local").write_text("")
    with pytest.raises(StorageError, match=told) as caught:
        OPERATIONS[operation](failing, str(tmp_path / "local"))
    assert "failing://host/file: cannot be " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_storage_interrupted_operation_stays_an_interrupt(
    operation: str, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "failure", KeyboardInterrupt())
    (tmp_path / "local").write_text("")
    with pytest.raises(KeyboardInterrupt):
        OPERATIONS[operation](failing, str(tmp_path / "local"))


def test_storage_absent_file_is_no_failure_where_absence_is_an_answer(failing: str, tmp_path: Path) -> None:
    for root in (str(tmp_path), "memory://nothing"):
        absent = storage.join(root, "absent")
        assert not storage.exists(absent)
        assert storage.listdir(absent) == []
        storage.remove(absent)
        with pytest.raises(MissingFileError, match="absent: cannot be read"):
            storage.read_bytes(absent)
        with pytest.raises(FileNotFoundError):  # callers may treat it as Python's own
            storage.download(absent, str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("unknown://x/y", "Protocol not known: unknown.*s3://bucket/folder"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket/x", "two slashes"),
        ("https:/host/x", "two slashes"),
        ("a\0b", "null byte"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_storage_address_that_cannot_be_opened_says_why(uri: str, told: str) -> None:
    with pytest.raises(StorageError, match=told):
        storage.exists(uri)
    with pytest.raises(StorageError, match=told):
        storage.require_writable(uri)


@pytest.mark.parametrize(("uri", "package"), [("gs://b/x", "gcsfs"), ("az://b/x", "adlfs"), ("sftp://h/x", "paramiko")])
def test_storage_address_whose_package_is_missing_names_the_package(uri: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(StorageError, match=f"{package}.*Or name a local folder"):
        storage.require_writable(uri)


def test_storage_local_failures_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    inside = str(tmp_path / "file" / "inside")
    assert not storage.exists(inside)
    for attempt in (
        lambda: storage.write_text(inside, ""),
        lambda: storage.create(inside, b""),
        lambda: storage.require_writable(inside),
        lambda: storage.read_bytes(str(tmp_path)),
        lambda: storage.write_text(str(tmp_path), ""),
    ):
        with pytest.raises(StorageError, match=str(tmp_path)):
            attempt()
    with pytest.raises(StorageError, match="file: is not UTF-8 text"):
        storage.read_text(str(tmp_path / "file"))
    (tmp_path / "json").write_text("[" * 100_000)
    with pytest.raises(StorageError, match="json: is damaged"):
        storage.read_json(str(tmp_path / "json"))


def test_storage_full_disk_is_no_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, path: str, data: bytes) -> None:
        Path(path).touch()  # what a full disk still does
        if data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    with pytest.raises(StorageError, match=r"No space left on device.*Name a folder"):
        storage.require_writable(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


class Pages(http.server.BaseHTTPRequestHandler):
    """A web server that takes every upload without keeping it."""

    def do_GET(self) -> None:
        status = {"/page": 200, "/secret": 403, "/broken": 500}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"hello")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_storage_reads_from_a_web_server_and_says_what_it_answers(web: str) -> None:
    assert storage.exists(f"{web}/page")
    assert storage.read_text(f"{web}/page") == "hello"
    assert not storage.exists(f"{web}/absent")
    for path, told in (("secret", "HTTP 403 Forbidden.*permissions"), ("broken", "HTTP 500")):
        for operation in (storage.exists, storage.read_bytes, storage.listdir):
            with pytest.raises(StorageError, match=told):
                operation(f"{web}/{path}")


def test_storage_never_writes_to_a_web_server(web: str) -> None:
    for attempt in (
        lambda: storage.write_bytes(f"{web}/page", b""),
        lambda: storage.create(f"{web}/new", b""),
        lambda: storage.remove(f"{web}/page"),
        lambda: storage.require_writable(f"{web}/folder"),
    ):
        with pytest.raises(StorageError, match="web servers are only read"):
            attempt()


def test_storage_web_server_that_does_not_answer_is_not_an_absent_file(web: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for operation in (storage.exists, storage.read_bytes, storage.listdir):
        with pytest.raises(StorageError, match=r"Connect call failed.*Check the address"):
            operation(f"http://127.0.0.1:{port}/x")
        with pytest.raises(StorageError, match=r"SSL.*Check the address"):
            operation(f"https{web[4:]}/page")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_storage_bucket_that_is_absent_is_said(operation: str, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("")
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/file.*bucket does not exist.*Create the bucket"):
        OPERATIONS[operation]("s3://no-such-bucket/file", str(tmp_path / "local"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_storage_without_credentials_says_which_to_set(
    operation: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    (tmp_path / "local").write_text("")
    with pytest.raises(StorageError, match=r"Unable to locate credentials.*AWS_ACCESS_KEY_ID"):
        OPERATIONS[operation](storage.join(bucket, "file"), str(tmp_path / "local"))


def test_storage_server_that_refuses_connections_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"Could not connect to the endpoint URL.*AWS_ENDPOINT_URL"):
        storage.exists(storage.join(bucket, "file"))


def test_storage_waits_for_a_silent_server_for_a_bounded_time(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, _ = storage.filesystem(bucket)
    assert fs.retries == storage.S3_ROUNDS
    assert fs.config_kwargs["retries"]["total_max_attempts"] == storage.S3_ATTEMPTS
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")  # the user's own setting is left alone
    s3fs.S3FileSystem.clear_instance_cache()
    assert "retries" not in storage.filesystem(bucket)[0].config_kwargs


def test_storage_of_s3_sees_what_another_client_wrote_and_removed(bucket: str) -> None:
    other = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    folder, inside = storage.join(bucket, "trials"), bucket.removeprefix("s3://") + "/trials"
    storage.write_text(storage.join(folder, "a"), "ours")
    assert storage.listdir(folder) == ["a"]
    other.pipe_file(f"{inside}/b", b"theirs")
    assert storage.read_text(storage.join(folder, "b")) == "theirs"
    assert storage.exists(storage.join(folder, "b"))
    assert storage.listdir(folder) == ["a", "b"]
    other.pipe_file(f"{inside}/c/d", b"theirs")
    storage.remove(storage.join(folder, "c"))
    assert not other.exists(f"{inside}/c/d")
    storage.listdir(folder)
    other.pipe_file(f"{inside}/b", b"longer than before")
    assert storage.read_text(storage.join(folder, "b")) == "longer than before"
    other.rm_file(f"{inside}/a")
    assert storage.listdir(folder) == ["b"]
    assert not storage.exists(storage.join(folder, "a"))
    storage.remove(folder)
    assert other.find(inside) == []
