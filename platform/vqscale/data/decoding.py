"""Bytes of files as UTF-8: encodings, byte-order marks, and bytes that are not text.

`errors` says what becomes of those: "strict" refuses the file, "replace" puts U+FFFD in their place, "skip" leaves them
out. Both are counted.
"""

import codecs
import re
import threading
from collections.abc import Iterator
from typing import IO, Literal

from vqscale.data.signatures import HEAD, byte_order, foreign, has_many_nuls, unmarked_wide
from vqscale.errors import CorpusError

PIECE = 1 << 20
BINARY = "binary"
"""The `encoding` that takes bytes as they are."""

Errors = Literal["strict", "replace", "skip"]

_SUBSTITUTE = {"replace": "\ufffd", "skip": ""}
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Count(threading.local):
    bad = 0


_count = _Count()


def _lenient(substitute: str, error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    _count.bad += error.end - error.start
    return substitute, error.end


# Python's own handlers do not say how many bytes they met.
codecs.register_error("vqscale-replace", lambda error: _lenient("\ufffd", error))
codecs.register_error("vqscale-skip", lambda error: _lenient("", error))


def require_encoding(encoding: str) -> None:
    """Raise CorpusError unless Python has the codec `encoding`, or it is `binary`."""
    if encoding == BINARY:
        return
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError) as error:  # the second: the codec `undefined`
        raise CorpusError(
            f"encoding: {encoding!r} is not known. Name one such as utf-8, latin-1, utf-16; or {BINARY}."
        ) from error


def expects_ascii(encoding: str) -> bool:
    """Whether ASCII text is itself in `encoding`, so that marks and zero bytes of wider ones are recognised."""
    return encoding != BINARY and "ab".encode(encoding) == b"ab"


def not_text(name: str, head: bytes, encoding: str) -> tuple[str, str] | None:
    """(what is wrong, remedy) of a file whose first bytes are no text in `encoding`; None if they may be."""
    if encoding == BINARY:
        return None
    if (found := foreign(name, head)) is not None:
        return f"is {found[0]}, not text", found[1]
    if not expects_ascii(encoding):
        return None
    if wide := byte_order(head):
        return f"begins with the byte-order mark of {wide}", f"Set --encoding {wide}"
    if wide := unmarked_wide(head):
        return f"looks like {wide}: every second byte is zero", f"Set --encoding {wide}"
    if has_many_nuls(head):
        return "is no text: it holds many zero bytes", "Convert it to text, or leave it out"
    return None


class Decoder:
    """Reads text in `encoding` as UTF-8; `bad` counts the bytes (or halves of surrogate pairs) that were no text."""

    def __init__(self, encoding: str, errors: Errors = "strict") -> None:
        self._encoding, self._errors = encoding, errors
        self.bad = 0

    @property
    def _handler(self) -> str:
        return "strict" if self._errors == "strict" else f"vqscale-{self._errors}"

    def take(self) -> int:
        """`bad` since the last call."""
        bad, self.bad = self.bad, 0
        return bad

    def chunks(self, name: str, stream: IO[bytes]) -> Iterator[bytes]:
        """The text of `stream`; CorpusError for what is no text, with its byte and line if it is only some bytes."""
        if self._encoding == BINARY:
            while chunk := stream.read(PIECE):
                yield chunk
            return
        decoder = codecs.getincrementaldecoder(self._encoding)(self._handler)
        offset, line = 0, 1
        while True:
            chunk = stream.read(PIECE)
            if offset == 0 and (wrong := not_text(name, chunk[:HEAD], self._encoding)):
                raise CorpusError(f"source: {name} {wrong[0]}. {wrong[1]}.")
            pending = len(decoder.getstate()[0])
            _count.bad = 0
            try:
                text = decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                raise CorpusError(self._wrong_bytes(name, error, offset - pending, line)) from error
            self.bad += _count.bad
            yield text.encode("utf-8")
            if not chunk:
                return
            line += text.count("\n")
            offset += len(chunk)

    def head(self, name: str, head: bytes, is_whole: bool) -> bytes:
        """The first bytes of a file as UTF-8, without a character that may be cut at their end."""
        decoder = codecs.getincrementaldecoder(self._encoding)(self._handler)
        try:
            return decoder.decode(head, is_whole).encode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(self._wrong_bytes(name, error, 0, 1)) from error

    def _wrong_bytes(self, name: str, error: UnicodeDecodeError, start: int, line: int) -> str:
        line += error.object[: error.start].count(b"\n")
        found = f"byte 0x{error.object[error.start]:02x}: {error.reason}"
        older = " Older text of Western Europe is often --encoding cp1252 or latin-1." if self._is_utf8 else ""
        return (
            f"encoding: {name} is not {self._encoding} at byte {start + error.start}, line {line} ({found}). "
            f"Name its real encoding with --encoding, or set --errors replace or skip.{older}"
        )

    @property
    def _is_utf8(self) -> bool:
        return codecs.lookup(self._encoding).name == "utf-8"

    def decode(self, text: bytes, encoding: str | None = None) -> bytes | None:
        """One whole text in the encoding as UTF-8; None if it is not in the encoding and errors is strict."""
        encoding = encoding or self._encoding
        if encoding == BINARY:
            return text
        _count.bad = 0
        try:
            decoded = text.decode(encoding, self._handler)
        except UnicodeDecodeError:
            return None
        self.bad += _count.bad
        return decoded.encode("utf-8")

    def encode(self, text: str) -> bytes | None:
        """`text` in UTF-8; None if it holds half of a surrogate pair, which JSON can express, and errors is strict."""
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:
            if self._errors == "strict":
                return None
            repaired, count = _SURROGATE.subn(_SUBSTITUTE[self._errors], text)
            self.bad += count
            return repaired.encode("utf-8")


def utf8_chunks(name: str, stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The text of `stream` as UTF-8; CorpusError with the byte and line where it is not in `encoding`."""
    return Decoder(encoding).chunks(name, stream)


def without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """UTF-8 without the byte-order mark that may begin it: JSON and tables do not begin with one."""
    held = b""
    for chunk in chunks:
        held += chunk
        if len(held) >= 3:
            yield held.removeprefix(codecs.BOM_UTF8)
            yield from chunks
            return
    yield held
