"""Files that vqscale has written itself and reads back: a damaged one is named, with what is wrong in it."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vqscale import storage
from vqscale.errors import StorageError

Model = TypeVar("Model", bound=BaseModel)
LONGEST_VALUE = 60
"""Characters of a wrong value in a message."""


class DamagedFileError(StorageError):
    """A file of vqscale's own that is there and does not hold what was written."""

    def __init__(self, uri: str, fault: str, remedy: str = "") -> None:
        super().__init__(f"{uri}: is damaged ({fault}).{' ' if remedy else ''}{remedy}")
        self.fault = fault


def read_content(uri: str, remedy: str = "") -> bytes:
    """The bytes of a file. Raises MissingFileError, DamagedFileError for a folder in its place, StorageError where the
    store does not give it.
    """
    try:
        return storage.read_bytes(uri)
    except StorageError as error:
        if isinstance(error.__cause__, IsADirectoryError):
            raise DamagedFileError(uri, "a folder is in its place", remedy) from error
        raise


def read_model(uri: str, kind: type[Model], remedy: str = "") -> Model:
    """The value in a file of JSON. Raises as `read_content`, and DamagedFileError for anything but a `kind`."""
    content = read_content(uri, remedy)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise DamagedFileError(uri, first_fault(error), remedy) from error


def read_object(uri: str, remedy: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises as `read_content`, and DamagedFileError for any other content."""
    content = read_content(uri, remedy)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(uri, f"no JSON: {error}" if content.strip() else "empty", remedy) from error
    if not isinstance(value, dict):
        raise DamagedFileError(uri, f"{json_kind(value)}, not an object", remedy)
    return value


def json_kind(value: object) -> str:
    """What a value of JSON is, in JSON's words."""
    kinds = {list: "a list", dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def first_fault(error: ValidationError) -> str:
    """The first wrong value of a file, and how many there are."""
    issue = error.errors(include_url=False)[0]
    key, message = ".".join(map(str, issue["loc"])), issue["msg"].removeprefix("Value error, ")
    given = "" if issue["type"] in ("missing", "json_invalid") else f", not {_short(issue['input'])}"
    more = f"; {error.error_count()} faults in all" if error.error_count() > 1 else ""
    return f"{key}: {message}{given}{more}" if key else f"{message}{given}{more}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def replace_json(uri: str, value: Any) -> None:
    """As `replace_text`, JSON. NaN and infinities are refused: an absent measurement is None."""
    replace_text(uri, json.dumps(value, indent=2, allow_nan=False) + "\n")


def replace_text(uri: str, text: str) -> None:
    """As `replace_bytes`, text."""
    replace_bytes(uri, text.encode("utf-8"))


def replace_bytes(uri: str, content: bytes) -> None:
    """Write a whole file, also where a folder is in its place."""
    try:
        storage.write_bytes(uri, content)
    except StorageError as error:
        if not isinstance(error.__cause__, IsADirectoryError):
            raise
        storage.remove(uri)
        storage.write_bytes(uri, content)
