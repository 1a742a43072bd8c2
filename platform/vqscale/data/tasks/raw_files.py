"""Labelled examples from raw data files: the base of their loaders.

A loader names the options that it uses; others are refused rather than ignored.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any, ClassVar, TypeVar

from pydantic import Field, field_validator

from vqscale.data.archives import DAMAGE, archive_members, damage_named
from vqscale.data.files import SourceFile, list_files
from vqscale.data.labelled.format import Example, Layout
from vqscale.data.labelled.source import Labelled, Unreadable
from vqscale.data.shards import SplitName
from vqscale.data.splits import hash_split
from vqscale.data.wholeness import asked_partly, partly, require_whole
from vqscale.errors import CorpusError
from vqscale.study.frozen import Frozen

Found = TypeVar("Found")

FEWEST = 3
"""Examples of a class at least, in data of the user's own: one for each split."""


class LoaderOptions(Frozen):
    """What a user may set for raw data files; None: the loader's default."""

    length: int | None = Field(default=None, gt=0)
    """Most tokens of a sequence."""
    validation: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training examples used for validation, where the raw data have no validation split."""
    fractions: tuple[float, float, float] | None = None
    """Shares of train, validation and test, where the raw data have no splits."""
    seed: int | None = Field(default=None, ge=0)
    """Another seed puts other examples into these shares."""
    real_inputs: bool | None = None
    partial: bool | None = None
    """The files need not be the whole data set."""

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if fractions is not None and (min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9):
            raise ValueError(f"{fractions} must be three positive shares that sum to 1")
        return fractions


@dataclass(frozen=True)
class RawFiles:
    """The raw data files of a task at `uri`: a file, a folder, a glob or an archive."""

    uri: str
    options: LoaderOptions = field(default_factory=LoaderOptions)

    name: ClassVar[str]
    uses: ClassVar[frozenset[str]] = frozenset()
    published: ClassVar[Mapping[SplitName, int]] = {}
    """Examples of the published data set by split; those held out for validation are among its training examples."""
    default_length: ClassVar[int | None] = None
    default_validation: ClassVar[float] = 0.1
    default_fractions: ClassVar[tuple[float, float, float]] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        given = self.options.model_dump(exclude_none=True)
        possible = self.uses | ({"partial"} if self.published else set())
        for name in given.keys() - possible:
            used = f"It takes {', '.join(sorted(possible))}." if possible else "It takes none of these options."
            raise CorpusError(f"{name}: {given[name]} has no meaning for {self.name}. {used}")

    @property
    def length(self) -> int | None:
        return self.options.length or self.default_length

    @property
    def real_inputs(self) -> bool:
        return bool(self.options.real_inputs)

    @cached_property
    def files(self) -> list[SourceFile]:
        return list_files(self.uri)

    def describe(self) -> str:
        return f"{self.name} at {self.uri}{partly(bool(self.options.partial))}"

    def identity(self) -> dict[str, Any]:
        resolved = {"length": self.length, "real_inputs": self.real_inputs, "seed": self.options.seed or 0}
        shares = [self.options.validation or self.default_validation, self.options.fractions or self.default_fractions]
        files = [file.identity() for file in self.files]
        resolved |= asked_partly(bool(self.options.partial))
        return {"loader": self.name, "files": files, "options": resolved, "shares": shares}

    def extent(self) -> tuple[int, int | None]:
        return len(self.files), sum(file.size for file in self.files) or None

    def layout(self) -> Layout:
        raise NotImplementedError

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example] | Unreadable]:
        """The examples of one file; nothing for a file that is not part of the task."""
        raise NotImplementedError

    def walk(self) -> Iterator[Labelled | Unreadable]:
        counts: Counter[SplitName] = Counter()
        damaged: list[Unreadable] = []
        for found, read in self.each(self.examples, damaged):
            if isinstance(found, Unreadable):
                yield found._replace(read=read)
                continue
            counts[found[0]] += 1
            yield Labelled(*found, read)
        yield from damaged
        self._require_whole(counts)

    def _require_whole(self, counts: Counter[SplitName]) -> None:
        if self.options.partial or not self.published:
            return
        if "validation" not in self.published:
            counts["train"] += counts["validation"]
        require_whole(self.uri, self.name, "examples", counts, self.published)

    def each(
        self, read_file: Callable[[str, IO[bytes]], Iterator[Found]], damaged: list[Unreadable] | None = None
    ) -> Iterator[tuple[Found, int]]:
        """Everything that `read_file` finds in each file, archives opened, with the bytes read so far.

        A damaged file is a CorpusError that names it; if it is one example, it is passed over, and added to `damaged`.
        """
        done = 0
        for file in self.files:
            try:
                with damage_named(file.path), file.open() as raw:
                    for name, stream in archive_members(file.path, raw):
                        for found in read_file(name, stream):
                            yield found, done + min(raw.tell(), file.size)
            except CorpusError as error:
                if not isinstance(error.__cause__, DAMAGE) or not self.is_one_example(file.path):
                    raise
                if damaged is not None:
                    reason = getattr(error.__cause__, "strerror", None) or str(error.__cause__) or "it ends early"
                    damaged.append(Unreadable(file.path, reason, done))
            done += file.size

    def is_one_example(self, path: str) -> bool:
        """Whether a file is one example of many, so that the others can do without it."""
        return False

    def names(self) -> list[str]:
        """The names of all files, archives opened."""
        return [name for name, _ in self.each(lambda name, stream: iter([name]))]

    def read(self, stream: IO[bytes]) -> bytes:
        """The content of a file that is one sequence, cut to `length` bytes."""
        return stream.read() if self.length is None else stream.read(self.length)

    def held_out(self, content: bytes) -> SplitName:
        """Train or validation, for a training example of raw data without a validation split."""
        share = self.options.validation or self.default_validation
        return "train" if hash_split(self._seeded(content), (1 - share, share, 0.0)) == "train" else "validation"

    def by_hash(self, content: bytes) -> SplitName:
        """The split of an example of raw data without splits: equal examples are in the same one."""
        return hash_split(self._seeded(content), self.options.fractions or self.default_fractions)

    def _seeded(self, content: bytes) -> bytes:
        return f"{self.options.seed or 0} ".encode() + content


SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    **dict.fromkeys(("valid", "validation", "val", "dev"), "validation"),
    "test": "test",
}
