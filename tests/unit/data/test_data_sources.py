import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from vqscale.data.sources import PIECE, FileSource
from vqscale.errors import CorpusError

TEXT = "Ein Satz über Größe, und noch einer.\n".encode() * 3


def documents(source: FileSource) -> list[bytes]:
    """The documents of a source, put together from their pieces."""
    found, parts = [], []
    for piece in source.pieces():
        parts.append(piece.data)
        if piece.last:
            found.append(b"".join(parts))
            parts = []
    assert not parts
    return found


def tar_bytes(mode: str = "w", **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"folder/{name}.txt")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._a.txt", b"\xff")
        for name, data in files.items():
            archive.writestr(f"folder/{name}.txt", data)
    return buffer.getvalue()


COMPRESSED = {
    "a.txt": TEXT,
    "a.txt.gz": gzip.compress(TEXT, mtime=0),
    "a.txt.bz2": bz2.compress(TEXT),
    "a.txt.xz": lzma.compress(TEXT),
    "a.txt.zst": zstandard.compress(TEXT[:40]) + zstandard.compress(TEXT[40:]),
}
ARCHIVES = {
    "a.tar": tar_bytes(a=TEXT, b=b"second"),
    "a.tar.gz": gzip.compress(tar_bytes(a=TEXT, b=b"second")),
    "a.tgz": gzip.compress(tar_bytes(a=TEXT, b=b"second")),
    "a.tar.bz2": bz2.compress(tar_bytes(a=TEXT, b=b"second")),
    "a.tar.xz": lzma.compress(tar_bytes(a=TEXT, b=b"second")),
    "a.tar.zst": zstandard.compress(tar_bytes(a=TEXT, b=b"second")),
    "a.zip": zip_bytes(a=TEXT, b=b"second"),
    "a.zip.xz": lzma.compress(zip_bytes(a=TEXT, b=b"second")),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_source_compressed_file_gives_its_text(tmp_path, name):
    (tmp_path / name).write_bytes(COMPRESSED[name])
    assert documents(FileSource(uri=str(tmp_path / name))) == [TEXT]


@pytest.mark.parametrize("name", ARCHIVES)
def test_source_archive_gives_a_document_a_member(tmp_path, name):
    (tmp_path / name).write_bytes(ARCHIVES[name])
    assert documents(FileSource(uri=str(tmp_path / name))) == [TEXT, b"second"]


@pytest.mark.parametrize("name", [name for name in COMPRESSED | ARCHIVES if name not in {"a.txt", "a.tar"}])
def test_source_truncated_archive_is_named(tmp_path, name):
    data = (COMPRESSED | ARCHIVES)[name]
    (tmp_path / name).write_bytes(data[: len(data) - 12])
    with pytest.raises(CorpusError, match=rf"{name} is damaged or incomplete"):
        documents(FileSource(uri=str(tmp_path / name)))


def test_source_archive_in_an_archive_is_opened(tmp_path):
    (tmp_path / "outer.zip").write_bytes(zip_bytes(a=b"plain"))
    with zipfile.ZipFile(tmp_path / "outer.zip", "a") as archive:
        archive.writestr("inner.tar.gz", ARCHIVES["a.tar.gz"])
    assert documents(FileSource(uri=str(tmp_path / "outer.zip"))) == [b"plain", TEXT, b"second"]


def test_source_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name, text in {"b/2.txt": "two", "a.txt": "one", "c.txt.gz": "", ".git/x": "hidden"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"three") if name.endswith("gz") else text.encode())
    assert documents(FileSource(uri=str(tmp_path))) == [b"one", b"two", b"three"]


def test_source_glob_takes_what_matches(tmp_path):
    for name in ("a.txt", "b.txt", "b.md"):
        (tmp_path / name).write_text(name)
    assert documents(FileSource(uri=str(tmp_path / "*.txt"))) == [b"a.txt", b"b.txt"]


def test_source_memory_uri_is_read():
    fsspec.filesystem("memory").pipe("/in/a.txt.xz", lzma.compress(TEXT))
    assert documents(FileSource(uri="memory://in")) == [TEXT]


@pytest.mark.parametrize("uri", ["nothing", "nothing/*.txt", "empty"])
def test_source_without_files_is_refused(tmp_path, uri):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="is no file"):
        FileSource(uri=str(tmp_path / uri)).files()


def test_source_jsonl_gives_the_text_of_every_record(tmp_path):
    records = [{"text": "one", "id": 1}, {"text": "zwölf\u2028zeilen\n"}]
    lines = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert documents(FileSource(uri=str(tmp_path / "a.jsonl.gz"))) == [b"one", "zwölf\u2028zeilen\n".encode()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "line 2 is not JSON"),
        ('["text"]', "line 2 is a list, not an object"),
        ('{"text": 5}', "line 2 has a number in 'text', not text"),
        ('{"text": {"a": 1}}', "line 2 has an object in 'text', not text"),
        ('{"text": "a", "text": "b"}', "line 2 has 'text' twice in one object"),
        ('{"text": "a", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2 is nested too deeply"),
        ('{"text": "cut in', "line 2 is not JSON"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_source_bad_json_line_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(CorpusError, match=message):
        documents(FileSource(uri=str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_source_parquet_gives_the_text_of_every_row(tmp_path, kind):
    rows = [f"row {number}" for number in range(600)]
    pq.write_table(
        pa.table({"id": range(600), "body": pa.array(rows, kind)}), tmp_path / "a.parquet", row_group_size=100
    )
    source = FileSource(uri=str(tmp_path / "a.parquet"), text_column="body")
    assert documents(source) == [row.encode() for row in rows]


def test_source_parquet_in_a_tar_is_read(tmp_path):
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.parquet", "a.parquet")
    assert documents(FileSource(uri=str(tmp_path / "a.tar.gz"))) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"body": ["x"]}, "has no 'text'; it has body"),
        ({"text": [1, 2]}, "holds int64 in 'text', not text; it has text"),
        ({"text": [["x"]]}, "holds list<.*> in 'text', not text"),
    ],
)
def test_source_parquet_without_text_is_named(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=message):
        documents(FileSource(uri=str(tmp_path / "a.parquet")))


def test_source_broken_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(CorpusError, match="no readable Parquet"):
        documents(FileSource(uri=str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("before", [10, PIECE - 1, PIECE + 5])
def test_source_wrong_encoding_names_the_byte(tmp_path, before):
    (tmp_path / "a.txt").write_bytes(b"x" * before + "é".encode("latin-1") + b" later")
    with pytest.raises(CorpusError, match=rf"a.txt is not utf-8 at byte {before}, line 1 .*--encoding"):
        documents(FileSource(uri=str(tmp_path / "a.txt")))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "shift-jis", "utf-8-sig"])
def test_source_named_encoding_becomes_utf8(tmp_path, encoding):
    text = "ab日本\n" * 300_000 if encoding == "shift-jis" else "aé\n" * 400_000
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert documents(FileSource(uri=str(tmp_path / "a.txt"), encoding=encoding)) == [text.encode()]


@pytest.mark.parametrize("encoding", ["utf-99", "rot13", "undefined"])
def test_source_unknown_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"encoding: .* is not known"):
        documents(FileSource(uri=str(tmp_path / "a.txt"), encoding=encoding))


def test_source_binary_takes_any_bytes(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    assert documents(FileSource(uri=str(tmp_path / "a.bin"), encoding="binary")) == [bytes(range(256))]


@pytest.mark.parametrize("unit", [b"a line\n", b"words ", b"x", "é".encode()])
def test_source_long_document_comes_in_pieces_of_whole_characters(tmp_path, unit):
    text = unit * (3 * PIECE // len(unit)) + b"end"
    (tmp_path / "a.txt").write_bytes(text)
    pieces = list(FileSource(uri=str(tmp_path / "a.txt")).pieces())
    assert b"".join(piece.data for piece in pieces) == text
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(0 < len(piece.data) <= PIECE for piece in pieces)
    assert all(piece.data.endswith(unit) for piece in pieces[:-1])
    assert [piece.read for piece in pieces] == sorted(piece.read for piece in pieces)
    assert pieces[-1].read == len(text)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("content", [b"plain text\n" * 50, gzip.compress(TEXT, mtime=0), bz2.compress(TEXT), b"x"])
def test_source_of_a_wrong_ending_is_told_from_a_damaged_one(tmp_path, ending, content):
    own = {b"\x1f": ".gz", b"B": ".bz2"}.get(content[:1])
    (tmp_path / f"a.txt{ending}").write_bytes(content)
    if own == ending:
        assert documents(FileSource(uri=str(tmp_path / f"a.txt{ending}"))) == [TEXT]
        return
    with pytest.raises(
        CorpusError, match=rf"a.txt{ending} is not compressed as its name ends.*Correct its name"
    ) as told:
        documents(FileSource(uri=str(tmp_path / f"a.txt{ending}")))
    assert (f"it looks like {own}" in str(told.value)) == (own is not None)


def test_source_empty_compressed_file_is_an_empty_document(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"")
    assert documents(FileSource(uri=str(tmp_path / "a.txt.gz"))) == [b""]
