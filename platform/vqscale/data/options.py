"""Options of a preparation as a validated value."""

from typing import TypeVar

from pydantic import ValidationError

from vqscale.errors import CorpusError
from vqscale.study.frozen import Frozen

Options = TypeVar("Options", bound=Frozen)


def checked(kind: type[Options], **values: object) -> Options:
    """`kind(**values)`; CorpusError that names the option, its value and the rule it breaks."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        given = f" (got {first['input']!r})" if place and first["type"] not in {"missing", "value_error"} else ""
        raise CorpusError(f"{place + ': ' if place else ''}{rule}{given}") from error


def require_share(option: str, value: float) -> None:
    """Raise CorpusError unless `value` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise CorpusError(f"{option}: {value} is no share. Use a number from 0 to 1.")
