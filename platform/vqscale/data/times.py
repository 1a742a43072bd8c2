"""Times of records and of the lines of logs, and where to cut a source so that a later split holds later times.

Times are seconds since 1970 as floats (a quarter of a microsecond at best); without a zone they are taken as UTC.
"""

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import NamedTuple

from vqscale.data.shards import SPLITS, SplitName
from vqscale.errors import CorpusError
from vqscale.study.frozen import Frozen

_MONTHS = {name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_NO_YEAR = 1972
"""The year given to times without one: a leap year, which has a 29 February."""
_MOST_BINS = 1 << 20


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
    # A leap second is the first of the next minute, as in POSIX time.
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    return moment.timestamp() + max(0, second - 59)


def _fraction(digits: bytes | None) -> float:
    return float(b"0." + digits) if digits else 0.0


def _offset(zone: bytes | None) -> float:
    if zone is None or zone in b"Zz":
        return 0.0
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
    return (-1 if zone[:1] == b"-" else 1) * (3600 * hours + 60 * minutes)


def _iso(match: re.Match[bytes]) -> float:
    *fields, digits, zone = match.groups()
    return _seconds(*(int(field) for field in fields)) + _fraction(digits) - _offset(zone)


def _access(match: re.Match[bytes]) -> float:
    day, month, year, hour, minute, second, zone = match.groups()
    at = _seconds(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second))
    return at - _offset(zone)


def _dotted(match: re.Match[bytes]) -> float:
    day, month, year, *clock, digits = match.groups()
    return _seconds(int(year), int(month), int(day), *(int(field) for field in clock)) + _fraction(digits)


def _ctime(match: re.Match[bytes]) -> float:
    month, day, hour, minute, second, digits, year = match.groups()
    return _seconds(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second)) + _fraction(digits)


def _epoch(match: re.Match[bytes]) -> float:
    return int(match[1]) + _fraction((match[2] or b"") + (match[3] or b""))


def _compact(match: re.Match[bytes]) -> float:
    year, *rest = (int(field) for field in match.groups())
    return _seconds(2000 + year if year < 70 else 1900 + year, *rest)


def _syslog(match: re.Match[bytes]) -> float:
    month, day, hour, minute, second = match.groups()
    return _seconds(_NO_YEAR, _MONTHS[month], int(day), int(hour), int(minute), int(second))


def _month_day(match: re.Match[bytes]) -> float:
    *fields, digits = match.groups()
    return _seconds(_NO_YEAR, *(int(field) for field in fields)) + _fraction(digits)


_CLOCK = rb"(\d\d):(\d\d):(\d\d)"
_MONTH = rb"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"


class _Form(NamedTuple):
    """A way of writing times. `example` is shown where none is found."""

    example: str
    pattern: bytes
    seconds: Callable[[re.Match[bytes]], float]
    has_year: bool = True
    has_zone: bool = False
    """The last group of the pattern is the zone, if one is written."""


_FORMS = (
    _Form(
        "2024-01-31 23:59:59",
        rb"(?<!\d)(\d{4})[-/.]?([01]\d)[-/.]?([0-3]\d)[T -]([0-2]\d)[:.]?([0-5]\d)[:.]?([0-6]\d)(?:[.,:](\d{1,9}))?"
        rb"(?!\d| ?[AaPp]\.?[Mm]\b)(?: ?(Z|[+-]\d\d:?\d\d|(?<! )[+-]\d\d)(?!\d))?",
        _iso,
        has_zone=True,
    ),
    _Form(
        "31/Jan/2024:23:59:59 +0000",
        rb"(\d\d)/" + _MONTH + rb"/(\d{4}):" + _CLOCK + rb"(?: ([+-]\d{4}))?",
        _access,
        has_zone=True,
    ),
    _Form(
        "31.01.2024 23:59:59", rb"(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{4}) +" + _CLOCK + rb"(?:[.,](\d+))?(?!\d)", _dotted
    ),
    _Form("Jan 31 23:59:59 2024", _MONTH + rb" +(\d{1,2}) " + _CLOCK + rb"(?:\.(\d+))? (\d{4})(?!\d)", _ctime),
    _Form("1706745599", rb"(?<![\w.:-])(1\d{9})(\d{3}|\d{6}|\d{9})?(?:\.(\d+))?(?![\w:-])", _epoch),
    _Form("240131 235959", rb"(?<!\d)(\d\d)([01]\d)([0-3]\d) ([0-2]\d)([0-5]\d)([0-6]\d)(?!\d)", _compact),
    _Form("Jan 31 23:59:59", _MONTH + rb" +(\d{1,2}) " + _CLOCK, _syslog, has_year=False),
    _Form("01-31 23:59:59.000", rb"(?<!\d)([01]\d)-?([0-3]\d) " + _CLOCK + rb"\.(\d+)", _month_day, has_year=False),
)
EXAMPLES = ", ".join(form.example for form in _FORMS)
_ZONE = tuple(re.compile(form.pattern).groups for form in _FORMS)
"""The last group of each form."""
_NEAR = 64
"""A line's own time begins within its first bytes; later ones belong to its message."""
_LINES = tuple(re.compile(rb"^[^\n]{0,%d}?" % _NEAR + form.pattern, re.MULTILINE) for form in _FORMS)
_WHOLE = tuple(re.compile(rb"\s*" + form.pattern + rb"\s*") for form in _FORMS)
_FIRST_LINES = 20
_EXAMINED = 1 << 15
"""Bytes at the start of a file from which the form of its times is recognised."""


@lru_cache(1 << 12)
def _parsed(form: int, stamp: bytes) -> float | None:
    match = re.fullmatch(_FORMS[form].pattern, stamp)
    try:
        return None if match is None else _FORMS[form].seconds(match)
    except (ValueError, OverflowError):  # such as day 31 of February
        return None


def moment(value: object) -> float | None:
    """The time that a value of a record states: a date, a text in one of the forms, or seconds (or milli-, micro-,
    nanoseconds) since 1970. None if it is none of these."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _of_number(float(value))
    return _of_text(value) if isinstance(value, str) else None


def _of_number(value: float) -> float | None:
    if not 0 < value < 1e20:
        return None
    for unit in (1, 1e3, 1e6, 1e9):
        if value / unit < 1e11:  # the year 5138 in seconds, 1973 in milliseconds
            return value / unit
    return None


def _of_text(text: str) -> float | None:
    content = text.strip().encode()
    if re.fullmatch(rb"\d{4}-\d\d-\d\d", content):
        content += b" 00:00:00"
    if re.fullmatch(rb"\d+(\.\d+)?", content):
        return _of_number(float(content[:30]))
    for number, pattern in enumerate(_WHOLE):
        if _FORMS[number].has_year and pattern.fullmatch(content):
            return _parsed(number, content)
    return None


class LogClock:
    """Times of the lines of the documents of one source, in order."""

    def __init__(self) -> None:
        self._form = -1
        self._now = 0.0
        self._shift = 0.0
        self._documents = self._documents_without_year = 0
        self._turned = False  # a document's times without a year passed a new year
        self._months: set[int] = set()
        self._zones: set[bool] = set()  # whether the times of a document have one

    def start(self, head: bytes, place: str) -> None:
        """Begin the document that starts with `head`. CorpusError if no line of it has a time."""
        self._form = self._recognised(head)
        first = next(self._stamps(head[:_EXAMINED]), None) if self._form >= 0 else None
        if first is None:
            raise CorpusError(
                f"split: {place} has no line that begins with a time in a form such as {EXAMPLES}. "
                "Use --split contiguous, which takes the order of the files and lines."
            )
        self._shift = 0.0
        self._now = first[1]  # of lines before the first time
        self._zones.add(first[2])
        self._documents += 1
        self._documents_without_year += not _FORMS[self._form].has_year
        if 0 < self._documents_without_year < self._documents:
            raise CorpusError(
                f"split: the times of some logs have a year, those of others (such as {place}) have none, so they "
                "cannot be compared. Prepare them apart, or use --split contiguous."
            )
        self._require_one_year()

    def _recognised(self, head: bytes) -> int:
        """The form that most lines of `head` have; that of the document before if half of its first lines have it."""
        lines = head[:_EXAMINED].split(b"\n", _FIRST_LINES)[:_FIRST_LINES]
        if self._form >= 0 and 2 * sum(bool(_LINES[self._form].match(line)) for line in lines) >= len(lines):
            return self._form
        counts = [sum(1 for _ in pattern.finditer(head[:_EXAMINED])) for pattern in _LINES]
        return max(range(len(counts)), key=counts.__getitem__) if any(counts) else -1

    @property
    def mixes_zones(self) -> bool:
        """Whether some documents state the zone of their times and others do not."""
        return len(self._zones) > 1

    def _stamps(self, data: bytes) -> Iterator[tuple[int, float, bool]]:
        """(start of the line, time, whether it has a zone) of every line that has a time."""
        zoned = _FORMS[self._form].has_zone
        for match in _LINES[self._form].finditer(data):
            at = _parsed(self._form, match[0][match.start(1) - match.start() :])
            if at is not None:
                yield match.start(), at, zoned and match[_ZONE[self._form]] is not None

    def runs(self, data: bytes) -> Iterator[tuple[float, int, int]]:
        """(time, start, end) of parts of `data`: a line with a time and the lines after it that have none."""
        start = 0
        for position, at, _ in self._stamps(data):
            if position > start:
                yield self._now, start, position
                start = position
            self._now = self._in_order(at)
        if start < len(data) or not data:  # a document may end with an empty piece
            yield self._now, start, len(data)

    def _in_order(self, at: float) -> float:
        """The time of a form without a year, one year later once December was followed by January."""
        if _FORMS[self._form].has_year:
            return at
        if (month := _month(at)) not in self._months:
            self._months.add(month)
            self._require_one_year()
        if at + self._shift < self._now - 183 * 86_400:
            self._shift += 366 * 86_400
            self._turned = True
            self._require_one_year()
        return at + self._shift

    def _require_one_year(self) -> None:
        """Times without a year cannot be compared between files if they reach over a new year."""
        if self._documents_without_year > 1 and (self._turned or {1, 12} <= self._months):
            raise CorpusError(
                "split: the times of several logs have no year and reach over a new year, so their order is unknown. "
                "Join the logs in order into one file, or use --split contiguous."
            )


def _month(at: float) -> int:
    return datetime.fromtimestamp(at, UTC).month


class TimeCuts(Frozen):
    """Where validation and test begin: bins of `width` seconds. `first` and `last` are the times of the source."""

    width: float
    validation: int
    test: int
    first: float
    last: float
    mixes_zones: bool = False

    def split_of(self, at: float) -> SplitName:
        return SPLITS[bisect_right((self.validation, self.test), int(at // self.width))]

    def shown(self) -> tuple[str, str, str, str]:
        """The source's first time, the beginnings of validation and test, and its last time."""
        return (
            _shown(self.first),
            _shown(self.validation * self.width),
            _shown(self.test * self.width),
            _shown(self.last),
        )


class Timeline:
    """How many bytes each time holds, in constant memory: bins widen as the times spread."""

    def __init__(self) -> None:
        self._width = 2.0**-10  # whole seconds are multiples of it
        self._bins: Counter[int] = Counter()
        self._first, self._last = float("inf"), float("-inf")

    def add(self, at: float, size: int) -> None:
        self._first, self._last = min(self._first, at), max(self._last, at)
        self._bins[int(at // self._width)] += size
        if len(self._bins) > _MOST_BINS:
            self._width *= 16
            wider: Counter[int] = Counter()
            for key, count in self._bins.items():
                wider[key // 16] += count
            self._bins = wider

    def cuts(self, fractions: tuple[float, float, float], *, mixes_zones: bool = False) -> TimeCuts:
        """The cuts nearest to `fractions` of the bytes. CorpusError if there are fewer than three different times."""
        keys = sorted(self._bins)
        if len(keys) < 3:
            raise CorpusError(
                f"split: there are {len(keys)} different times, but three splits need three. "
                "Use --split document-hash or contiguous."
            )
        sums = [0, *itertools.accumulate(self._bins[key] for key in keys)]
        wanted = [sums[-1] * share for share in itertools.accumulate(fractions)]
        validation = min(max(1, _nearest(sums, wanted[0])), len(keys) - 2)  # every split keeps a bin
        test = min(max(validation + 1, _nearest(sums, wanted[1])), len(keys) - 1)
        return TimeCuts(
            width=self._width,
            validation=keys[validation],
            test=keys[test],
            first=self._first,
            last=self._last,
            mixes_zones=mixes_zones,
        )


def _nearest(sums: list[int], wanted: float) -> int:
    above = min(bisect_right(sums, wanted), len(sums) - 1)
    return min((above - 1, above), key=lambda index: abs(sums[index] - wanted))


def _shown(at: float) -> str:
    """A time as text, in UTC."""
    moment = datetime.fromtimestamp(at, UTC)
    if moment.year < 1980:  # no log is that old: its times have no year
        return f"{moment:%b %d %H:%M:%S} of year {moment.year - _NO_YEAR + 1}"
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
