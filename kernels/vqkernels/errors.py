"""The errors of this package that are not plain ValueErrors."""


class BackendUnavailableError(RuntimeError):
    """A named implementation cannot run here; the message says why and which can."""
