"""What a user can cause: each message names the field, the value, the rule and the remedy."""


class UserError(Exception):
    """The request was wrong; nothing was started and nothing written. Exit code 2."""


class StudyError(UserError):
    """A study file that cannot be run as it stands."""


class CorpusError(UserError):
    """A corpus, or a source of one, that is missing, empty, corrupt or unreadable."""


class StorageError(UserError):
    """A place that cannot be read or written."""


class ClusterError(UserError):
    """A cluster that cannot be reached or is too small for what was asked."""


class TrackingError(UserError):
    """A tracking server that does not answer."""


class FitError(UserError):
    """A law that the data cannot support."""


class BackendError(UserError):
    """A named implementation that cannot run here."""


class StudyInterruptedError(Exception):
    """A person stopped the work; what was done is kept. Exit code 130."""


class WorkFailedError(Exception):
    """The request was right but part of the work failed. Exit code 1."""
