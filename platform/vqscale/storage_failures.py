"""Whatever a file system raises, as one kind of error that says what was asked, what went wrong and what helps.

File systems raise what their libraries raise: OSError, botocore's and aiohttp's own exceptions, ImportError where a
package is missing. None of these libraries is imported here: their exceptions are known by the names of their classes.
"""

import contextlib
from collections.abc import Iterator

from vqscale.errors import MissingFileError, StorageError, UserError

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
_NO_CONNECTION = {"EndpointConnectionError", "HTTPClientError", "ConnectTimeoutError", "ClientConnectionError"}
_ABSENT_STATUS = {404, 410}
_ABSENT_CODE = {"404", "NoSuchKey", "NoSuchVersion"}
_LONGEST_REASON = 300


@contextlib.contextmanager
def failures_named(uri: str, action: str) -> Iterator[None]:
    """StorageError "`uri` cannot be `action`" in place of any failure within the block; MissingFileError where the file
    is absent.

    Only calls of a file system belong into the block: a programmer's error there would be reported as the store's.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = MissingFileError if is_absence(error) else StorageError
        remedy = _remedy(uri, error)
        text = f"{uri}: cannot be {action} ({_reason(error)})."
        raise kind(f"{text} {remedy}" if remedy else text) from error


def is_absence(error: Exception) -> bool:
    """Whether a store answered that there is no such file, and not that it cannot answer.

    fsspec's HTTP file system raises FileNotFoundError for every failure (refused, 403, TLS) and keeps the failure as
    the cause; s3fs raises it for a bucket that does not exist.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return False
    cause = error.__cause__
    if cause is None or isinstance(cause, FileNotFoundError | NotADirectoryError):
        return True
    if (status := getattr(cause, "status", None)) is not None:
        return status in _ABSENT_STATUS
    if (code := _code(cause)) is not None:
        return code in _ABSENT_CODE
    return not isinstance(cause, OSError) and "ClientError" not in _names(cause)  # aiohttp's


def _reason(error: Exception) -> str:
    found = _met(error)
    if isinstance(found, NotImplementedError):
        return "this kind of address does not support it"
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    if (status := getattr(found, "status", None)) is not None:
        return f"HTTP {status} {getattr(found, 'message', '')}".strip()
    if isinstance(found, FileNotFoundError | NotADirectoryError):
        return "no such file or folder" if is_absence(found) else _first_line(found)
    if isinstance(found, TimeoutError) and not str(found):
        return "no answer in time"
    own = isinstance(found, OSError | ImportError) or _names(found) & (_NO_CREDENTIALS | _NO_CONNECTION)
    line = _first_line(found)
    return line if line and own else f"{type(found).__name__}: {line}" if line else type(found).__name__


def _met(error: Exception) -> BaseException:
    """The failure that the file system met, where it raised FileNotFoundError in its place."""
    hidden = isinstance(error, FileNotFoundError) and not is_absence(error) and _code(error.__cause__) is None
    return error.__cause__ or error if hidden else error


def _remedy(uri: str, error: Exception) -> str:
    found = _met(error)
    names = _names(found)
    if isinstance(found, ImportError) or "Protocol not known" in str(found):
        return "Or name a local folder, or an object store such as s3://bucket/folder."
    if "libjvm" in str(found) or "libhdfs" in str(found):
        return "hdfs:// needs Java and Hadoop: set JAVA_HOME and HADOOP_HOME."
    if names & _NO_CREDENTIALS:
        return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    if isinstance(found, PermissionError) or getattr(found, "status", None) in {401, 403}:
        return "Check the permissions of the file or folder, or the credentials."
    if isinstance(found, ConnectionError | TimeoutError) or names & _NO_CONNECTION:
        place = "the address and the endpoint (AWS_ENDPOINT_URL)" if uri.startswith("s3") else "the address"
        return f"Check {place}, and that its server runs."
    if _code(error.__cause__) == "NoSuchBucket":
        return "Create the bucket, or correct its name."
    return ""


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _code(error: BaseException | None) -> str | None:
    """The code in an answer of an S3 server; None for any other error."""
    answer = getattr(error, "response", None)
    return answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    line = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."
