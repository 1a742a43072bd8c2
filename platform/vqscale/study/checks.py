"""Rules for values of a study file that no type states. Each raises ValueError with value, rule and remedy."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vqscale import storage
from vqscale.address import Address
from vqscale.errors import StorageError
from vqscale.study.fingerprint import fingerprint
from vqscale.study.yaml_file import shown

LONGEST_NAME = 128
"""Bytes of a study's name. It names a folder, of which file systems allow 255 bytes, and parts are added to it."""
RESERVED = ("artifacts", "mlflow.db")
"""Names beside the studies in `storage`: MLflow's files of all studies, and by default its database."""
LARGEST_SEED = 2**32 - 1
MOST_GRID_POINTS = 100_000
"""Of one grid; with ten times as many, planning alone would take many minutes."""
TRACKING_SCHEMES = ("sqlite", "http", "https", "postgresql", "postgres", "mysql", "mssql", "databricks")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def distinct(values: Sequence[Any]) -> Sequence[Any]:
    """`values` unchanged, where each occurs once; 1 and 1.0 are one value."""
    seen: set[str] = set()
    for value in values:
        try:
            identity = fingerprint(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{shown(value)} is no value of a study ({error})") from error
        if identity in seen:
            raise ValueError(f"{shown(value)} is listed twice. Remove one of the two")
        seen.add(identity)
    return values


def seeds(values: Any) -> list[int]:
    """Seeds of trials: whole numbers, each once."""
    if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
        raise ValueError(f"{shown(values)} is no list of whole numbers, such as [0, 1, 2]")
    for value in values:
        if not 0 <= value <= LARGEST_SEED:
            raise ValueError(f"seed {shown(value)} is not from 0 to {LARGEST_SEED}")
    distinct(values)
    return values


def grid(axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The axes of a grid: every value of an axis once, and not more combinations than can be planned."""
    for axis, values in axes.items():
        try:
            distinct(values)
        except ValueError as error:
            raise ValueError(f"axis {axis!r}: {error}") from error
    points = math.prod(len(values) for values in axes.values())
    if points > MOST_GRID_POINTS:
        raise ValueError(f"has {points:,} combinations; a grid has at most {MOST_GRID_POINTS:,}. Use fewer values")
    return axes


def plain_text(text: str) -> str:
    """A text without characters that steer a terminal."""
    if found := _CONTROL.search(text):
        raise ValueError(f"holds the control character {found[0]!r}. Remove it")
    return text


def name(text: str) -> str:
    """The name of a study, which is the name of its folder."""
    if len(text.encode()) > LONGEST_NAME:
        raise ValueError(f"has {len(text.encode())} characters; a name has at most {LONGEST_NAME}: it names a folder")
    if text in RESERVED:
        raise ValueError(f"is reserved: {text} in storage holds what MLflow keeps of all studies. Choose another name")
    return text


def storage_address(uri: str) -> str:
    """A folder, or the address of one in a store that can be written."""
    if not uri.strip() or uri != uri.strip():
        raise ValueError("is empty or has blanks at an end. Name a folder or a URI such as s3://bucket/folder")
    try:
        storage.check_address(plain_text(uri), writing=True)
    except StorageError as error:
        raise ValueError(str(error)) from error
    return uri


def tracking_address(uri: Address) -> Address:
    """An address of a kind of store that MLflow has. Whether it answers is asked when a study is run."""
    if uri.incomplete or (uri.variables and not uri.scheme) or str(uri) == "databricks":
        return uri
    kind = uri.scheme.partition("+")[0]
    if kind == "sqlite" and not re.match(r"sqlite(\+\w+)?:///[^?]", str(uri)):
        raise ValueError("names no file. Write three slashes and a path: sqlite:///runs/mlflow.db")
    if str(uri).startswith(("sqlite:///:memory:", "sqlite:////:memory:")):
        raise ValueError("is kept in memory only. Name a file: sqlite:///runs/mlflow.db")
    if kind not in TRACKING_SCHEMES:
        raise ValueError(
            "is no tracking store. Use sqlite:///FILE, http(s)://HOST:PORT of an MLflow server, or a database address"
            " such as postgresql://USER@HOST/NAME"
        )
    local = r"|[\w+]+:///." if kind not in ("http", "https") else ""  # a database may be reached by a local socket
    if kind != "sqlite" and not re.match(rf"[\w+]+://[^/]{local}", str(uri)):
        raise ValueError("names no host. Write it after the two slashes")
    return uri


def different(values: Iterable[Any], what: str) -> None:
    """Raise ValueError where two of `values`, such as two grids, are equal."""
    try:
        distinct(list(values))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
