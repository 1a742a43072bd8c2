"""Published data sets have known sizes: what is at hand is compared with them."""

from collections.abc import Mapping
from typing import TypeVar

from vqscale.errors import CorpusError

Part = TypeVar("Part", bound=str)


def partly(partial: bool) -> str:
    """What a description adds for raw data files that were not compared with the whole data set."""
    return " (taken with --partial)" if partial else ""


def asked_partly(partial: bool) -> dict[str, bool]:
    """What an identity adds: the same request without --partial compares the sizes."""
    return {"partial": True} if partial else {}


def require_whole(place: str, name: str, unit: str, found: Mapping[Part, int], expected: Mapping[Part, int]) -> None:
    """Raise CorpusError where `found` differs from `expected`, the numbers of `unit` that the data set `name` has."""
    for part, number in expected.items():
        if found.get(part, 0) != number:
            where = f" of {part}" if part else ""
            raise CorpusError(
                f"source: {place} has {found.get(part, 0):,} {unit}{where}; {name} has {number:,}. "
                "Download it again, or take what there is with --partial."
            )
