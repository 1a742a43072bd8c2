"""Addresses that may hold a password, as a type of their own: whatever prints one prints it masked."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vqscale.errors import AddressError
from vqscale.masking import MASK, PLACEHOLDER, hidden, hide, masked, secret_spans

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Address:
    """An address whose text, JSON, YAML and copy in another process are masked: see `vqscale.masking`.

    Only `reveal` gives the whole of it, for the moment in which a connection is opened. It may name environment
    variables as `${NAME}`; `reveal` looks them up, and what they hold never becomes part of the value.
    """

    __slots__ = ("_given",)

    def __init__(self, address: "str | Address") -> None:
        self._given: str = address._given if isinstance(address, Address) else address

    def reveal(self, environment: Mapping[str, str] = os.environ) -> str:
        """The whole address. The value of a variable is percent-encoded where a password goes.

        Raises AddressError for a variable that is not set, and for an address whose password was not kept.
        """
        if self.incomplete:
            raise AddressError(f"{self}: only the masked form of this address was kept.")
        spans = secret_spans(self._given)

        def value(found: re.Match[str]) -> str:
            if found[1] not in environment:
                raise AddressError(f"{self}: the environment variable {found[1]} is not set. Set it.")
            known = environment[found[1]]
            return quote(known, safe="") if any(start <= found.start() < stop for start, stop in spans) else known

        return PLACEHOLDER.sub(value, self._given)

    def hide(self, text: str) -> str:
        """`text`, such as the message of a driver, without the secrets of this address."""
        return hide(self._given, text)

    @property
    def has_password(self) -> bool:
        """Whether its text holds a secret, which the name of a variable is not."""
        return bool(hidden(self._given))

    @property
    def incomplete(self) -> bool:
        """Whether it was read from a place where only its masked form was kept."""
        return any(self._given[start:stop] == MASK for start, stop in hidden(self._given))

    @property
    def variables(self) -> list[str]:
        """Names of the environment variables that it needs."""
        return [found[1] for found in PLACEHOLDER.finditer(self._given)]

    @property
    def scheme(self) -> str:
        """`sqlite` of `sqlite:///runs/mlflow.db`; "" where it has none."""
        return self._given.partition(":")[0].lower() if "://" in self._given else ""

    def __str__(self) -> str:
        return masked(self._given)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return self._given == (other._given if isinstance(other, Address) else other)

    def __hash__(self) -> int:
        return hash(self._given)

    def __copy__(self) -> "Address":
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> "Address":
        return self

    def __reduce__(self) -> tuple[type["Address"], tuple[str]]:
        return Address, (str(self),)  # what leaves the process, or is dumped as YAML, has no password

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )

    @classmethod
    def _validated(cls, value: Any) -> "Address":
        if not isinstance(value, str | Address) or not value:
            raise ValueError("is no address")
        return cls(value)
