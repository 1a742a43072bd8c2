"""Every failure of a tracking store as one kind of error."""

import contextlib
from collections.abc import Iterator

from vqscale.address import Address
from vqscale.errors import TrackingError

DRIVER_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}
"""Package of a database driver, by module, where the two have different names."""


@contextlib.contextmanager
def as_tracking_error(address: Address) -> Iterator[None]:
    """TrackingError in place of any failure of MLflow, its database, its server or its drivers, without a password.

    The failure itself is no longer shown: it may hold the address.
    """
    try:
        yield
    except _kinds() as error:
        raise TrackingError(f"tracking.uri: {address}: {address.hide(_reason(error))}") from None


def _kinds() -> tuple[type[Exception], ...]:
    """Imported only after something was raised: these packages take seconds to import, and are loaded by then."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # OSError is the root of requests' exceptions, of silent sockets and of an artifact folder that takes no file
    return (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError)


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        package = DRIVER_PACKAGES.get(module, module)
        return f"the Python module {module} is not installed. Install it: pip install '{package}'."
    if "database schema" in str(error):
        return (
            f"the store has the tables of another version of MLflow ({str(error).splitlines()[0]}). If they are older,"
            " back the store up and run `mlflow db upgrade` with its address; if they are newer, install that version."
        )
    lines = str(error).strip().splitlines()
    return f"the store cannot be used ({type(error).__name__}: {lines[0] if lines else 'no reason given'})."
