"""Bytes that are not text: named by place, or replaced or skipped, and always counted."""

import json

import pytest

from vqscale.data.corpus import open_text
from vqscale.data.prepare import prepare
from vqscale.data.sources import FileSource
from vqscale.errors import CorpusError


def text_of(path, **options: object) -> tuple[bytes, int]:
    pieces = list(FileSource(uri=str(path), **options).pieces())
    return b"".join(piece.data for piece in pieces), sum(piece.bad_bytes for piece in pieces)


CAFE = b"one\ntwo caf\xe9 \xff\xfe three\n"


def test_wrong_bytes_name_file_byte_line_and_what_to_do(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x\n" * 700_000 + CAFE)
    place = r"a.txt is not utf-8 at byte 1400011, line 700002 \(byte 0xe9"
    with pytest.raises(CorpusError, match=place + r".*--encoding.*--errors replace or skip.*cp1252 or latin-1"):
        text_of(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [("replace", "one\ntwo caf\ufffd \ufffd\ufffd three\n".encode()), ("skip", b"one\ntwo caf  three\n")],
)
@pytest.mark.parametrize("before", [0, (1 << 20) - 11])
def test_wrong_bytes_are_replaced_or_skipped_and_counted(tmp_path, errors, expected, before):
    (tmp_path / "a.txt").write_bytes(b"x" * before + CAFE)
    assert text_of(tmp_path / "a.txt", errors=errors) == (b"x" * before + expected, 3)


def test_wrong_bytes_in_records_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "fine"}\n{"text": "\\ud800x"}\n')
    assert text_of(tmp_path / "a.jsonl", errors="replace") == ("caf\ufffdfine\ufffdx".encode(), 2)
    assert text_of(tmp_path / "a.jsonl", errors="skip") == (b"caffinex", 2)


@pytest.mark.parametrize("errors", ["replace", "skip"])
def test_wrong_bytes_that_were_accepted_are_in_the_manifest(tmp_path, errors):
    (tmp_path / "a.txt").write_bytes(CAFE * 40)
    manifest = prepare(str(tmp_path / "a.txt"), str(tmp_path / "out"), split="contiguous", errors=errors)
    left_out = manifest.source.left_out
    counts = (left_out.bytes_replaced, left_out.bytes_skipped)
    assert counts == ((120, 0) if errors == "replace" else (0, 120))
    assert open_text(str(tmp_path / "out")).manifest.source.left_out == left_out


def test_wrong_bytes_everywhere_are_another_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("Большой текст".encode("koi8-r") * 50)
    with pytest.raises(CorpusError, match=r"600 bytes of .* are not in its encoding, more than 0\.5"):
        prepare(str(tmp_path / "a.txt"), str(tmp_path / "out"), split="contiguous", errors="replace")


@pytest.mark.parametrize("errors", ["strict", "skip"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_wide_encoding_is_recognised(tmp_path, errors, encoding, name):
    (tmp_path / name).write_bytes(('{"text": "words and words"}\n' * 50).encode(encoding))
    with pytest.raises(CorpusError, match=f"Set --encoding {encoding}"):
        text_of(tmp_path / name, errors=errors)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_is_no_part_of_a_record(tmp_path, encoding, name):
    content = "text\nGröße" if name == "a.csv" else json.dumps({"text": "Größe"}, ensure_ascii=False)
    (tmp_path / name).write_bytes(content.encode(encoding))
    named = "utf-8" if encoding == "utf-8-sig" else encoding
    assert text_of(tmp_path / name, encoding=named)[0] == "Größe".encode()


def test_zero_bytes_within_a_log_are_text(tmp_path):
    (tmp_path / "a.log").write_bytes(b"a line of a log\n" * 100 + b"\0" * 100 + b"after a power failure\n")
    assert len(text_of(tmp_path / "a.log")[0]) == 1600 + 100 + 22
