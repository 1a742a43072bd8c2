"""Errors that a user can cause: each message names the field, the value, the rule and the remedy, and no password."""

from vqscale.masking import without_passwords


class _MaskedError(Exception):
    """An error whose message shows no password of an address in it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_passwords(str(message)))


class UserError(_MaskedError):
    """The request was wrong; nothing was started and nothing written. Exit code 2."""


class StudyError(UserError):
    """A study file that cannot be run as it is."""


class CorpusError(UserError):
    """A corpus, or a source of one, that is missing, empty, corrupt or unreadable."""


class StorageError(UserError):
    """A file or folder that cannot be read or written."""


class MissingFileError(StorageError, FileNotFoundError):
    """A file that is not there, at an address that answers."""


class ClusterError(UserError):
    """A cluster that cannot be reached or is too small for what was asked."""


class AddressError(UserError):
    """An address that is not complete."""


class TrackingError(UserError):
    """A tracking server that does not answer."""


class FitError(UserError):
    """A law that the data cannot identify."""


class StudyInterruptedError(_MaskedError):
    """The user stopped the work; what was done is kept. Exit code 130."""


class WorkFailedError(_MaskedError):
    """The request was right but part of the work failed. Exit code 1."""
