"""Files that are no text, recognised by their first bytes: what they are, and what to do with them."""

import codecs
import posixpath
import re

HEAD = 1 << 16
"""Bytes of a file that are examined."""

_CONVERT = "Convert it to text first"
_OFFICE = {
    ".docx": ("a Word document", "Save it as plain text"),
    ".odt": ("a text document of an office suite", "Save it as plain text"),
    ".xlsx": ("a spreadsheet", "Save it as CSV"),
    ".xls": ("a spreadsheet", "Save it as CSV"),
    ".ods": ("a spreadsheet", "Save it as CSV"),
    ".pptx": ("a presentation", "Save it as plain text"),
    ".epub": ("an e-book", "Convert it to plain text"),
    ".npz": ("an archive of arrays", "Export its text as .jsonl, .csv or .parquet"),
}
_MEMBERS = (
    (b"xl/workbook", ".xlsx"),
    (b"xl/worksheets", ".xlsx"),
    (b"word/document", ".docx"),
    (b"ppt/presentation", ".pptx"),
    (b"mimetypeapplication/epub", ".epub"),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", ".ods"),
    (b"mimetypeapplication/vnd.oasis.opendocument.text", ".odt"),
)
_IMAGE, _SOUND, _PACKED = ("an image", "It holds no text"), ("sound or video", "It holds no text"), "Unpack it"
_EXPORT = "Export its text as .jsonl, .csv or .parquet"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (rb"\s{0,16}%PDF-", "a PDF document", "Convert it to text first, for example with pdftotext"),
    (rb"PK[\x03\x05\x07]", "a zip archive, or a document that is one inside", "Unpack it, or name it .zip"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an older office suite", "Save it as plain text or CSV"),
    (rb"\{\\rtf", "an RTF document", "Save it as plain text"),
    (rb"%!PS-", "a PostScript document", _CONVERT),
    (rb"\x1f\x8b", "gzip-compressed", "Let its name end in .gz"),
    (rb"BZh[1-9]1AY&SY", "bzip2-compressed", "Let its name end in .bz2"),
    (rb"\xfd7zXZ\x00", "xz-compressed", "Let its name end in .xz"),
    (rb"\x28\xb5\x2f\xfd", "zstd-compressed", "Let its name end in .zst"),
    (rb"\x04\x22\x4d\x18", "lz4-compressed", _PACKED),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACKED),
    (rb"Rar!\x1a\x07", "a rar archive", _PACKED),
    (rb"(?s:.{257})ustar", "a tar archive", "Let its name end in .tar"),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|II\*\x00|MM\x00\*|BM.{4}\x00\x00\x00\x00", *_IMAGE),
    (rb"RIFF.{4}WEBP|.{4}ftyp(avif|heic)", *_IMAGE),
    (rb"RIFF.{4}(WAVE|AVI )|OggS\x00|fLaC|ID3[\x02-\x04]|\xff[\xfb\xf3\xf2]|\x1a\x45\xdf\xa3|.{4}ftyp", *_SOUND),
    (rb"PAR1", "a Parquet file", "Let its name end in .parquet, or set --format parquet"),
    (rb"ARROW1|FEA1|\xff\xff\xff\xff.{3}\x00\x10\x00\x00\x00", "an Arrow file", _EXPORT),
    (rb"Obj\x01", "an Avro file", _EXPORT),
    (rb"ORC", "an ORC file", _EXPORT),
    (rb"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (rb"\x93NUMPY", "an array of NumPy", _EXPORT),
    (rb"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (rb"\x80[\x02-\x05]", "a pickle, which could run code when it is read", _EXPORT),
    (rb"\x7fELF|\xca\xfe\xba\xbe|\xcf\xfa\xed\xfe|MZ(?s:.{0,80})\x00|\x00asm", "a program", "It holds no text"),
    (rb"LPKSHHRH", "a journal of systemd", "Export it: journalctl -o json --file FILE > logs.jsonl"),
    (rb"ElfFile\x00", "an event log of Windows", "Export it as CSV or text"),
    (rb"\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x0a\x0d\x0d\x0a", "a capture of network packets", _CONVERT),
    (rb"(?s:.{4})Bud1", "a .DS_Store of macOS", "Leave it out"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.DOTALL), kind, remedy) for pattern, kind, remedy in _SIGNATURES)
_WEAK = frozenset({"an ORC file", "a Parquet file", "an Arrow file", "sound or video", "a capture of network packets"})
"""Signatures that text could begin with: bytes that no text holds must follow."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MOST_NULS = 0.1
"""Share of zero bytes above which bytes are no text; a log may hold a block of them after a power failure."""


def foreign(name: str, head: bytes) -> tuple[str, str] | None:
    """(what it is, remedy) of a file that is no text, from its first bytes; None for what may be text."""
    for pattern, kind, remedy in _COMPILED:
        if pattern.match(head) and (kind not in _WEAK or _holds_no_text(head)):
            return _office(name, head) or (kind, remedy)
    return None


def _office(name: str, head: bytes) -> tuple[str, str] | None:
    """The document that a zip archive, or a file of an older office suite, is: by its members, then by its name."""
    if head.startswith(b"PK"):
        found = next((suffix for member, suffix in _MEMBERS if member in head), None)
        return _OFFICE[found] if found else _OFFICE.get(posixpath.splitext(name)[1].lower())
    return _OFFICE.get(posixpath.splitext(name)[1].lower()) if head.startswith(b"\xd0\xcf\x11\xe0") else None


def _holds_no_text(head: bytes) -> bool:
    return bool(re.search(rb"[\x00-\x08\x0e-\x1a]", head)) or b"\xff" in head


def byte_order(head: bytes) -> str | None:
    """The encoding that a byte-order mark at the start names, other than UTF-8."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def unmarked_wide(head: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be` for text in it without a mark, else None."""
    even, odd = head[0::2], head[1::2]
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(zeros) > 1 and zeros.count(0) > 0.7 * len(zeros) and others.count(0) < 0.1 * len(others):
            return encoding
    return None


def has_many_nuls(head: bytes) -> bool:
    return head.count(0) > _MOST_NULS * len(head)
