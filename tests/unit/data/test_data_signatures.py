"""Files that are no text are told by their first bytes, with what to do; none becomes a corpus of its bytes."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

from vqscale.data.prepare import prepare
from vqscale.data.signatures import foreign
from vqscale.errors import CorpusError


def made_by(write) -> bytes:
    target = io.BytesIO()
    write(target)
    return target.getvalue()


def zipped(target) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>" * 100)


def workbook(target) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"):
            archive.writestr(name, "<xml/>")


def tarred(target) -> None:
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO(b""))


def streamed(target) -> None:
    with pa.ipc.new_stream(target, TABLE.schema) as writer:
        writer.write_table(TABLE)


def image(kind: str) -> bytes:
    return made_by(lambda target: Image.new("RGB", (9, 9)).save(target, kind))


TABLE = pa.table({"text": ["a text"] * 9})
FILES = {
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document.*pdftotext"),
    "a.docx": (made_by(zipped), "a Word document.*plain text"),
    "a.xlsx": (made_by(workbook), "a spreadsheet.*CSV"),
    "renamed.csv": (made_by(workbook), "a spreadsheet.*CSV"),
    "a.jar": (
        made_by(lambda target: zipfile.ZipFile(target, "w").writestr("a.class", "x")),
        "a zip archive.*name it .zip",
    ),
    "a.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an older office suite"),
    "a.rtf": (b"{\\rtf1\\ansi text}", "an RTF document"),
    "a.png": (image("png"), "an image.*no text"),
    "a.jpg": (image("jpeg"), "an image"),
    "a.gif": (image("gif"), "an image"),
    "a.bmp": (image("bmp"), "an image"),
    "a.tif": (image("tiff"), "an image"),
    "a.webp": (image("webp"), "an image"),
    "a.wav": (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40), "sound or video"),
    "a.mp4": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "sound or video"),
    "packed": (gzip.compress(b"text", mtime=0), "gzip-compressed.*end in .gz"),
    "packed.txt": (bz2.compress(b"text"), "bzip2-compressed"),
    "packed.log": (lzma.compress(b"text"), "xz-compressed"),
    "packed.jsonl": (zstandard.compress(b"text"), "zstd-compressed"),
    "archive": (made_by(tarred), "a tar archive.*end in .tar"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
    "a.pkl": (pickle.dumps({"text": ["a"] * 9}), "a pickle, which could run code"),
    "a.pt": (pickle.dumps([1.0], protocol=2), "a pickle"),
    "a.npy": (made_by(lambda target: np.save(target, np.zeros(9))), "an array of NumPy"),
    "table": (made_by(lambda target: pq.write_table(TABLE, target)), "a Parquet file.*--format parquet"),
    "a.feather": (made_by(lambda target: pyarrow.feather.write_feather(TABLE, target)), "an Arrow file.*jsonl"),
    "data-00000-of-00001.arrow": (made_by(streamed), "an Arrow file.*jsonl"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "a.avro": (b"Obj\x01\x04\x14avro.codec", "an Avro file"),
    "a.so": (b"\x7fELF\x02\x01\x01" + bytes(64), "a program"),
    "a.journal": (b"LPKSHHRH" + bytes(64), "a journal of systemd.*journalctl"),
    "a.evtx": (b"ElfFile\x00" + bytes(64), "an event log of Windows"),
    "a.bin": (np.random.default_rng(0).integers(0, 6, 900).astype(np.uint8).tobytes(), "holds many zero bytes"),
}


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("sqlite") / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table logs (text)")
    return path.read_bytes()


@pytest.mark.parametrize("errors", ["strict", "skip"])
@pytest.mark.parametrize("name", FILES)
def test_file_that_is_no_text_is_refused_with_a_remedy(tmp_path, name, errors):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as refused:
        prepare(str(tmp_path / name), str(tmp_path / "out"), split="contiguous", errors=errors)
    assert "binary" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_database_is_refused(tmp_path, database):
    assert foreign("a.db", database) == ("an SQLite database", "Export its text as .jsonl, .csv or .parquet")


@pytest.mark.parametrize("name", ["a.docx", "a.pdf"])
def test_file_that_is_no_text_is_found_within_an_archive(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fine.txt", "text")
        archive.writestr(name, FILES[name][0])
    with pytest.raises(CorpusError, match=f"a.zip/{name} is"):
        prepare(str(tmp_path / "a.zip"), str(tmp_path / "out"), split="contiguous")


def test_bytes_are_taken_as_they_are_where_that_is_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(image("png") * 20)
    manifest = prepare(str(tmp_path / "a.png"), str(tmp_path / "out"), split="contiguous", encoding="binary")
    assert sum(record.bytes for record in manifest.splits.values()) == len(image("png") * 20)


@pytest.mark.parametrize(
    "text",
    [
        "PAR1 is where the file begins",
        "ORCHID, a flower",
        "BM25 ranks documents",
        "MZ 17 left the station",
        "ID3v2",
        "RIFF",
    ],
)
def test_text_that_begins_like_a_signature_is_text(text):
    assert foreign("a.txt", text.encode() * 20) is None
