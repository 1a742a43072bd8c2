"""The current time in the form that records hold."""

import datetime


def utc_now() -> str:
    """ISO 8601 with time zone, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
