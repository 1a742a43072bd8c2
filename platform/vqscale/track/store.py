"""The store that `tracking.uri` names: checked before anything starts, and opened by one process at a time."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import requests

from vqscale import storage
from vqscale.address import Address
from vqscale.errors import AddressError, StorageError, TrackingError
from vqscale.masking import secret_spans
from vqscale.track.failures import as_tracking_error

TIMEOUT_SECONDS = 5
"""For a server or a database to answer at all."""
LOCK_SECONDS = 300
"""Another process may have to make or to migrate the store first, on a slow disk."""
SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DRIVERS = {
    "postgresql": (
        ("psycopg2", "psycopg2", "psycopg2-binary"),
        ("psycopg", "psycopg", "psycopg[binary]"),
        ("pg8000", "pg8000", "pg8000"),
    ),
    "mysql": (("mysqldb", "MySQLdb", "mysqlclient"), ("pymysql", "pymysql", "PyMySQL")),
    "mssql": (("pyodbc", "pyodbc", "pyodbc"), ("pymssql", "pymssql", "pymssql")),
}
"""Name in an address, module and package of a database's drivers, the first that is installed is taken."""
URI_VARIABLE = "MLFLOW_TRACKING_URI"
_ADVISORY_LOCK = int.from_bytes(hashlib.sha256(b"vqscale opens a tracking store").digest()[:8], "big", signed=True)


def check_reachable(given: Address | str) -> Address:
    """The whole address of the store, with a local path made absolute and the database's driver named.

    Raises TrackingError for a server that does not answer, an unknown scheme, a database that cannot be created, and
    an address that is not complete.
    """
    address = _complete(Address(given))
    if address.scheme in ("http", "https"):
        _require_plain(address)
        _check_server(address)
        return address
    if address.scheme == "sqlite":
        return _local_database(address)
    if _database(address) in DATABASE_PORTS:
        _require_plain(address)
        _check_database(address)
        return _with_driver(address)
    if address.scheme == "databricks" or str(address) == "databricks" or address.scheme.startswith("sqlite+"):
        return address
    raise TrackingError(
        f"tracking.uri: {str(address)!r} is no tracking store. Use sqlite:///FILE, http(s)://HOST:PORT of an MLflow"
        " server, or a database address such as postgresql://USER@HOST/NAME."
    )


def local_file(address: Address | str) -> Path | None:
    """The file of a SQLite store; None for every other store, and for an address that names variables."""
    given = Address(address)
    if given.scheme != "sqlite" or given.variables or given.incomplete:
        return None
    return Path(unquote(given.reveal().removeprefix(SQLITE).partition("?")[0]))


def served(address: Address) -> bool:
    """Whether the store is an MLflow server, which decides by itself where files go."""
    return address.scheme in ("http", "https")


def login() -> dict[str, Any]:
    """What MLflow's own client reads for a server that asks who is there, as options of `requests.get`."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", True)
    options: dict[str, Any] = {"verify": False if insecure else certificate}
    if user and password:
        options["auth"] = (user, password)
    elif token:
        options["headers"] = {"Authorization": f"Bearer {token}"}
    return options


@contextlib.contextmanager
def opening(address: Address) -> Iterator[None]:
    """Within the block no other process that asks here opens the store: MLflow's migrations do not wait for each other.

    The lock ends with the process that holds it, however that ends. Raises TrackingError after `LOCK_SECONDS`.
    """
    file = local_file(address)
    if file is not None:
        with _file_lock(file):
            yield
    elif address.scheme.startswith("postgresql+"):
        with _advisory_lock(address):
            yield
    else:  # a server migrates before it answers; for other databases MLflow has no tables of its own to lock yet
        yield


def make_database(address: Address) -> None:
    """Make the tables of a SQLite store that is not there yet. Its file appears whole or not at all.

    To be called within `opening`: a process that is killed meanwhile leaves a draft, which the next one replaces.
    """
    file = local_file(address)
    if file is None or (file.exists() and file.stat().st_size):
        return
    from mlflow import MlflowClient

    draft = file.with_name(f".{file.name}.draft")
    for leftover in (draft, Path(f"{draft}-journal")):
        leftover.unlink(missing_ok=True)
    MlflowClient(tracking_uri=_sqlite_address(draft, "").reveal()).search_experiments()
    draft.replace(file)


def _complete(given: Address) -> Address:
    """The whole address: of one whose password was not kept, the one in the environment, if it is the same store."""
    if given.incomplete:
        whole = Address(os.environ.get(URI_VARIABLE, ""))
        if str(whole) != str(given):
            raise TrackingError(
                f"tracking.uri: {given}: the password is not kept in copies of a study. Use the study file that holds"
                f" it, or set {URI_VARIABLE} to the whole address of this store."
            )
        return whole
    try:
        return Address(given.reveal())
    except AddressError as error:
        raise TrackingError(f"tracking.uri: {error}") from None


def _require_plain(address: Address) -> None:
    """Raises TrackingError where it is unclear which part is the password: drivers would take its end for the host."""
    whole = address.reveal()
    begin = whole.index("://") + 3
    host = re.match(r"[^/?#]*", whole[begin:])
    assert host is not None
    end = whole.rfind("@")
    if end > begin and (whole.count("@") > 1 or end >= begin + host.end()) and secret_spans(whole):
        raise TrackingError(
            f"tracking.uri: {address}: a user name or password holds one of @ / ? #, so that the host is unclear. Write"
            " %40 for @, %2F for /, %3F for ?, %23 for #; or put the password into an environment variable and write"
            " ${NAME} in its place."
        )


def _local_database(address: Address) -> Address:
    whole = address.reveal()
    place, _, options = whole.removeprefix(SQLITE).partition("?")
    if not whole.startswith(SQLITE) or place in ("", ":memory:"):
        raise TrackingError(
            f"tracking.uri: {address} names no file. Write three slashes and a path: sqlite:///runs/mlflow.db, or four"
            " before an absolute one."
        )
    path = Path(unquote(place)).resolve()
    folder = next(parent for parent in path.parents if parent.exists())
    held = path if path.exists() else folder
    if path.is_dir() or not folder.is_dir() or not os.access(held, os.W_OK):
        raise TrackingError(f"tracking.uri: {address}: {path} cannot be written. Name a file in a writable folder.")
    try:  # the database, its lock and its journal are made in this folder: permissions do not say that they can be
        storage.require_writable(str(folder))
    except StorageError as error:
        raise TrackingError(f"tracking.uri: {address}: {error}") from error
    return _sqlite_address(path, options)


def _sqlite_address(path: Path, options: str) -> Address:
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    return Address(f"{SQLITE}{encoded}" + (f"?{options}" if options else ""))


def _check_server(address: Address) -> None:
    try:
        answer = requests.get(address.reveal().rstrip("/") + "/health", timeout=TIMEOUT_SECONDS, **login())
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader):
        raise TrackingError(f"tracking.uri: {address}: is no address. Write http(s)://HOST:PORT.") from None
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri: {address} does not answer within {TIMEOUT_SECONDS} s ({type(error).__name__}). Start the"
            " MLflow server, or use tracking: {uri: sqlite:///runs/mlflow.db}."
        ) from None
    if answer.status_code in (401, 403):
        raise TrackingError(
            f"tracking.uri: {address} answers {answer.status_code}: it asks for a login. Set MLFLOW_TRACKING_USERNAME"
            " and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code >= 400:
        raise TrackingError(f"tracking.uri: {address} answers {answer.status_code} to /health: is it an MLflow server?")


def _database(address: Address) -> str:
    """`postgresql` of `postgres://...` and of `postgresql+psycopg2://...`."""
    name = address.scheme.partition("+")[0]
    return "postgresql" if name == "postgres" else name


def _with_driver(address: Address) -> Address:
    """The address with the driver that is installed: what `postgresql://` means differs between SQLAlchemy's versions.

    Raises TrackingError where no driver is installed.
    """
    from sqlalchemy import make_url

    kind, rest = _database(address), address.reveal().partition("://")[2]
    if "+" in address.scheme:
        named = Address(f"{kind}+{address.scheme.partition('+')[2]}://{rest}")
        with as_tracking_error(named):
            make_url(named.reveal()).get_dialect().import_dbapi()
        return named
    drivers = DRIVERS[kind]
    for name, module, _ in drivers:
        if importlib.util.find_spec(module) is not None:
            return Address(f"{kind}+{name}://{rest}")
    raise TrackingError(
        f"tracking.uri: {address}: no driver for {kind} is installed. Install one: pip install '{drivers[0][2]}'"
        f" (it is used as {kind}+{drivers[0][0]}://)."
    )


def _check_database(address: Address) -> None:
    """Check that the database accepts connections: MLflow itself would retry for minutes."""
    from sqlalchemy import make_url

    try:
        with as_tracking_error(address):
            url = make_url(address.reveal())
    except ValueError:  # SQLAlchemy's `int` of the port
        raise TrackingError(f"tracking.uri: {address}: the port is no number. Name the database's port.") from None
    if url.port is not None and not 0 < url.port < 2**16:
        raise TrackingError(f"tracking.uri: {address}: {url.port} is no port. Name the database's port.")
    if url.host:  # an address without one is a local socket or an ODBC name
        port = url.port or DATABASE_PORTS[_database(address)]
        try:
            socket.create_connection((url.host, port), timeout=TIMEOUT_SECONDS).close()
        except OSError as error:
            raise TrackingError(
                f"tracking.uri: {address}: nothing answers at {url.host}:{port} within {TIMEOUT_SECONDS} s ({error})."
                " Start the database, or use tracking: {uri: sqlite:///runs/mlflow.db}."
            ) from None


@contextlib.contextmanager
def _file_lock(file: Path) -> Iterator[None]:
    """Hold `FILE.lock`, which stays: a removed lock file could be held twice, once under each of its lives.

    Where the file system of the store has no locks, a file in this machine's temporary folder is locked instead.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as held:
        for place in (file.with_name(f"{file.name}.lock"), Path(tempfile.gettempdir(), f"vqscale-store-{name}.lock")):
            descriptor = _lock_file(place)
            held.callback(os.close, descriptor)
            if _locked(descriptor, place):
                break
        yield


def _lock_file(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, whose file can be locked without being written
        return os.open(place, os.O_RDONLY)


def _locked(descriptor: int, place: Path) -> bool:
    """Wait for the lock; False where the file system has none. The kernel ends the lock of a process that dies."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return True
        if time.monotonic() > until:
            raise TrackingError(
                f"tracking.uri: another process has held {place} for {LOCK_SECONDS} s while it opens the same store."
                f" See which one: fuser {place}"
            )
        time.sleep(0.05)


@contextlib.contextmanager
def _advisory_lock(address: Address) -> Iterator[None]:
    from sqlalchemy import create_engine, text

    with as_tracking_error(address):
        engine = create_engine(address.reveal(), isolation_level="AUTOCOMMIT")
        connection = engine.connect()
    try:
        with as_tracking_error(address):
            connection.execute(text(f"set lock_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(text("select pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield
    finally:
        with contextlib.suppress(Exception):  # the database ends the lock with the connection
            connection.close()
        engine.dispose()
