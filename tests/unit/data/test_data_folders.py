"""Folders as users have them: files of many kinds, hidden ones, links, empty ones; all that fail are named at once."""

import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqscale.data.files import Pick, list_files
from vqscale.data.manifests import read_manifest
from vqscale.data.prepare import prepare
from vqscale.data.sources import FileSource
from vqscale.errors import CorpusError


def relative(folder: Path, **options: object) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in FileSource(uri=str(folder), **options).files()]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder in which four files cannot be read, among readable ones."""
    folder = tmp_path / "mixed"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    contents = {
        "notes.txt": b"some notes\n" * 40,
        "README": b"about this folder\n",
        "empty.txt": b"",
        ".DS_Store": b"\x00\x00\x00\x01Bud1" + bytes(64),
        ".git/config": b"[core]",
        "__MACOSX/x.txt": b"\xff",
        "sub/report.pdf": b"%PDF-1.4\n\xe9",
        "sub/deep/latin.txt": "Größe\n".encode("latin-1") * 9,
        "sub/good.jsonl": "".join(json.dumps({"text": f"record {n}"}) + "\n" for n in range(200)).encode(),
        "sub/other.jsonl": b'{"body": "x"}\n{"body": "y"}\n',
        "sub/table.csv": b"id,body\n1,x\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


UNREADABLE = ["sub/deep/latin.txt", "sub/other.jsonl", "sub/report.pdf", "sub/table.csv"]


def test_mixed_folder_names_every_file_that_cannot_be_read_before_it_begins(mixed, tmp_path):
    stages: list[str] = []
    with pytest.raises(CorpusError, match=r"4 of 8 files cannot be read") as refused:
        prepare(str(mixed), str(tmp_path / "made/for/it"), progress=lambda stage, done, total: stages.append(stage))
    message = str(refused.value)
    assert [name for name in UNREADABLE if f"{mixed}/{name}" in message] == UNREADABLE
    assert "--exclude 'PATTERN'" in message
    assert "notes.txt" not in message
    assert set(stages) == {"examine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed"]


def test_files_that_turn_unreadable_later_are_named_together(tmp_path):
    for name in ("a.txt", "c.txt", "d.txt"):
        (tmp_path / name).write_bytes(b"fine\n" * 30_000 + (b"" if name == "c.txt" else b"caf\xe9\n"))
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n' * 6000 + "broken\n")
    with pytest.raises(CorpusError, match="3 of 4 files cannot be read") as refused:
        prepare(str(tmp_path), str(tmp_path / "out"))
    found = re.findall(
        r"/(\w\.\w+) (is not utf-8 at byte 150003, line 30001|line 6001 is not JSON)", str(refused.value)
    )
    assert [name for name, _ in found] == ["a.txt", "b.jsonl", "d.txt"]


def test_mixed_folder_is_read_without_what_is_excluded(mixed, tmp_path):
    manifest = prepare(str(mixed), str(tmp_path / "out"), exclude=[*UNREADABLE[:2], "*.pdf", "table.*"])
    assert manifest.source.formats == {"text": 3, "jsonl": 1}
    assert manifest.source.empty_documents == 1
    assert sum(record.documents for record in manifest.splits.values()) == 202


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ("*.txt",)}, ["empty.txt", "notes.txt", "sub/deep/latin.txt"]),
        (
            {"include": ("sub/*",), "exclude": ("*.csv", "deep/*")},
            ["sub/good.jsonl", "sub/other.jsonl", "sub/report.pdf"],
        ),
        ({"include": ("notes.txt",)}, ["notes.txt"]),
        ({"exclude": ("sub/*", "README")}, ["empty.txt", "notes.txt"]),
    ],
)
def test_patterns_pick_files_by_name_and_folder(mixed, options, expected):
    assert relative(mixed, **options) == expected


@pytest.mark.parametrize("uri", ["logs", "logs/*.txt", "logs/a.txt"])
def test_patterns_are_relative_to_the_source(tmp_path, uri):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.txt").write_text("text")
    with pytest.raises(CorpusError, match="include: none of the 1 files"):
        FileSource(uri=str(tmp_path / uri), include=("logs/*",)).files()
    assert len(FileSource(uri=str(tmp_path / uri), include=("a.*",)).files()) == 1


def test_patterns_that_leave_nothing_are_refused(mixed):
    with pytest.raises(CorpusError, match="include: none of the 8 files"):
        relative(mixed, include=("*.docx",))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_patterns_pick_members_of_archives(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    members = {"in/a.txt": b"one", "in/b.pdf": b"%PDF-1.4", "c/d.txt": b"two"}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    pieces = FileSource(uri=str(path), include=("*.txt",)).pieces()
    assert [piece.data for piece in pieces] == [b"one", b"two"]
    pieces = FileSource(uri=str(path), exclude=("*.pdf", "c/*")).pieces()
    assert [piece.data for piece in pieces] == [b"one"]
    assert not Pick(exclude=("*.zip", "*.gz")).wants_file(str(path))


def test_links_are_followed_and_a_loop_is_read_once(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "sub" / "a.txt").write_text("one")
    (elsewhere / "b.txt").write_text("two")
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "file.txt").symlink_to(elsewhere / "b.txt")
    os.mkfifo(folder / "pipe")
    assert relative(folder) == ["file.txt", "linked/b.txt", "sub/a.txt"]
    assert [Path(file.path).name for file in list_files(str(folder / "*.txt"))] == ["file.txt"]


def test_link_to_nothing_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "fine.txt").write_text("fine")
    with pytest.raises(CorpusError, match=r"gone.txt cannot be read \(No such file"):
        prepare(str(tmp_path / "in"), str(tmp_path / "out"))


@pytest.mark.parametrize("make", [lambda path: "-", lambda path: os.mkfifo(path) or str(path)])
def test_stream_is_refused_since_it_can_be_read_only_once(tmp_path, make):
    with pytest.raises(CorpusError, match=r"is a stream.*Save it to a file"):
        list_files(make(tmp_path / "pipe"))


def test_many_small_files_are_read_in_order(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:05}.txt").write_text(f"document {number}")
    manifest = prepare(str(folder), str(tmp_path / "out"))
    assert sum(record.documents for record in manifest.splits.values()) == 3000
    assert read_manifest(str(tmp_path / "out")).source.formats == {"text": 3000}


def test_corpus_inside_of_its_source_is_no_part_of_it(tmp_path):
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    made = prepare(str(tmp_path), str(tmp_path / "out"))
    again: list[str] = []
    prepare(str(tmp_path), str(tmp_path / "out"), progress=lambda stage, done, total: again.append(stage))
    assert again == ["complete"]
    assert prepare(str(tmp_path), str(tmp_path / "out"), overwrite=True).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_column": "at", "split": "time"}, "time_column: 'at' names a column, but .* is read as plain text"),
        ({"errors": "skip", "encoding": "binary"}, "errors: 'skip' has no meaning for --encoding binary"),
        ({"max_skipped": 1.5}, "max_skipped: 1.5 is no share"),
    ],
)
def test_option_that_would_be_ignored_is_refused(tmp_path, options, message):
    (tmp_path / "a.log").write_text("".join(f"2024-01-01 00:00:{n:02} x\n" for n in range(60)))
    with pytest.raises(CorpusError, match=message):
        prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), **options)


def test_text_column_for_plain_text_is_refused(tmp_path):
    (tmp_path / "a.log").write_text('{"body": "x"}\n' * 50)
    with pytest.raises(CorpusError, match=r"text_column: 'body' names a column, but .* is read as plain text"):
        prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), text_column="body", split="contiguous")
    options = {"text_column": "body", "split": "contiguous"}
    manifest = prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), format="jsonl", **options)
    assert manifest.source.formats == {"jsonl": 1}


def test_parquet_without_the_column_is_named_with_the_others(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"body": ["x"], "id": [number]}), tmp_path / f"{number}.parquet")
    with pytest.raises(CorpusError, match="3 of 3 files cannot be read") as refused:
        prepare(str(tmp_path / "*.parquet"), str(tmp_path / "out"))
    assert str(refused.value).count("has no 'text'; it has body, id") == 3
