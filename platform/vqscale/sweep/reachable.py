"""Whether anything listens where a cluster should be, known without Ray, which takes a minute to give up."""

import re
import socket

from vqscale.errors import ClusterError

ANSWER_SECONDS = 10.0
"""Within which something has to listen at the address of a cluster."""
_HOST_AND_PORT = re.compile(r"(?:ray://)?([\w.-]+):(\d+)")


def require_listener(address: str) -> None:
    """Raise ClusterError where nothing listens at `HOST:PORT`; other forms, such as `auto`, are Ray's to resolve."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(
            f"--address {address}: no Ray cluster answers there ({reason}). Check host and port, and that the cluster"
            " runs (`ray status` on its head node)."
        ) from error
