"""Records of JSON Lines, JSON, tables and Parquet: which column is taken, and which row is refused."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqscale.data.records import MISSING, find_separator, lookup
from vqscale.data.sources import FileSource, Piece
from vqscale.errors import CorpusError


def texts(path: Path, **options: object) -> list[bytes]:
    return [piece.data for piece in FileSource(uri=str(path), **options).pieces() if piece.left_out is None]


def left_out(path: Path, **options: object) -> list[str]:
    pieces: list[Piece] = list(FileSource(uri=str(path), **options).pieces())
    return [piece.left_out.reason for piece in pieces if piece.left_out is not None]


@pytest.mark.parametrize(
    ("record", "path", "expected"),
    [
        ({"event": {"message": "m"}}, "event.message", "m"),
        ({"event.message": "flat", "event": {"message": "m"}}, "event.message", "flat"),
        ({"a": {"b.c": {"d": 1}, "b": {"c": {"d": 2}}}}, "a.b.c.d", 1),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a.b": {"x": 1}, "a": {"b": {"c": 2}}}, "a.b.c", 2),
        ({"messages": [{"content": "hi"}]}, "messages.0.content", "hi"),
        ({"messages": [["x"]]}, "messages.0.0", "x"),
        ({"messages": []}, "messages.0.content", MISSING),
        ({"messages": [{"content": "hi"}]}, "messages.content", MISSING),
        ({"0": "named"}, "0", "named"),
        ({"event": None}, "event.message", MISSING),
        ({"event": {"message": None}}, "event.message", None),
    ],
)
def test_column_path_finds_its_value(record, path, expected):
    assert lookup(record, path) == expected


def test_jsonl_nested_field_is_named_by_its_path(tmp_path):
    lines = [{"event": {"message": "one"}}, {"event": {"message": None}}, {"event": {}}, {"event": {"message": "four"}}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    options = {"text_column": "event.message"}
    assert texts(tmp_path / "a.jsonl", **options) == [b"one", b"four"]
    assert left_out(tmp_path / "a.jsonl", **options) == [
        f"{tmp_path}/a.jsonl line 2 has null in 'event.message'",
        f"{tmp_path}/a.jsonl line 3 has no 'event.message'; it has event",
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"id": ' + "9" * 5000 + ', "text": "fine"}',
        '{"score": NaN, "loss": -Infinity, "text": "fine"}',
        '{"id": 1, "id": 2, "text": "fine"}',
        '{"type": "text", "text": "fine"}',
        '\ufeff{"text": "fine"}',
        '{"text": "fine"}\r\n\r\n  \n',
        '{"text": "\\u0066ine", "other": {"text": "nested"}}',
    ],
)
def test_jsonl_line_that_is_unusual_gives_its_text(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line, "utf-8", newline="")
    assert texts(tmp_path / "a.jsonl") == [b"fine"]


def test_jsonl_long_line_is_one_document(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x y " * 1_000_000}))
    pieces = list(FileSource(uri=str(tmp_path / "a.jsonl")).pieces())
    assert sum(len(piece.data) for piece in pieces) == 4_000_000
    assert [piece.last for piece in pieces] == [False] * 3 + [True]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "one"}, {"text": "two"}]',
        '[\n  {\n    "text": "one"\n  },\n  {"text": "two"}\n]\n',
        '{"text": "one"}\n{"text": "two"}\n',
        '{\n "text": "one"\n}\n{\n "text": "two"\n}',
        '\n\n{"text": "one"}{"text": "two"}',
        '\ufeff[{"text": "one"},{"text": "two"}]',
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_json_file_is_a_list_or_objects_in_a_row(tmp_path, content, pack):
    path = tmp_path / ("a.json.gz" if pack else "a.json")
    path.write_bytes(gzip.compress(content.encode()) if pack else content.encode())
    assert texts(path) == [b"one", b"two"]


def test_json_list_longer_than_a_piece_is_read_in_pieces(tmp_path):
    records = [{"id": number, "text": f"text {number} " + "x" * 300} for number in range(10_000)]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    assert texts(tmp_path / "a.json") == [record["text"].encode() for record in records]


def test_json_list_named_as_lines_is_told_how_to_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('[{"text": "one"}, {"text": "two"}]')
    with pytest.raises(CorpusError, match=r"line 1 is a list, not an object \(.*--format json\)"):
        texts(tmp_path / "a.jsonl")
    assert texts(tmp_path / "a.jsonl", format="json") == [b"one", b"two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "one"}, {"text": ', "not JSON from record 2 on"),
        ('[{"text": "one"}', "not JSON from record 1 on"),
        ('[{"text": "one"}] trailing', "not JSON from record 2 on: '] trailing'"),
        ("hello", "not JSON from record 1 on: 'hello'"),
        ('["one", "two"]', "record 1 is a text, not an object"),
        ("[" * 100_000, "record 1 is nested too deeply"),
    ],
)
def test_json_file_that_cannot_be_read_names_the_record(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=message):
        texts(tmp_path / "a.json")


def test_records_that_cannot_be_read_are_left_out_when_asked(tmp_path):
    lines = ['{"text": "one"}', "not json", '{"text": 5}', "[1]", "[" * 100_000, '{"text": "two"}', '{"text": "cut']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert texts(tmp_path / "a.jsonl", errors="skip") == [b"one", b"two"]
    reasons = left_out(tmp_path / "a.jsonl", errors="skip")
    assert [reason.split("a.jsonl ")[1][:6] for reason in reasons] == [f"line {number}" for number in (2, 3, 4, 5, 7)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_table_separator_follows_from_the_header(tmp_path, separator):
    rows = [("id", "text", "note"), ("1", f'"a{separator} ""b""\nnext line"', "x"), ("2", "plain", "")]
    (tmp_path / "a.csv").write_text("\n".join(separator.join(row) for row in rows) + "\n")
    assert texts(tmp_path / "a.csv") == [f'a{separator} "b"\nnext line'.encode(), b"plain"]


@pytest.mark.parametrize(
    ("header", "separator"),
    [("id;text, or not;x", ";"), ("text", "\x1f"), ("a,b;text;c,d,e", ";"), ("a\tb,c\td", "\t")],
)
def test_table_separator_is_one_that_names_the_column(header, separator):
    assert find_separator(header, "text") == separator


@pytest.mark.parametrize(
    "content",
    [
        b"text\r\none, with a comma\r\ntwo\r\n",
        b"\xef\xbb\xbfid, text \n1,\"one, with a comma\"\n2,two\n",
        b"sep=;\nid;text\n1;one, with a comma\n2;two\n",
        b"\n\nid,text,\n1,\"one, with a comma\",\n2,two,,\n\n",
        b"id,text\r1,\"one, with a comma\"\r2,two",
    ],
)  # fmt: skip
def test_table_of_another_program_is_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert texts(tmp_path / "a.csv") == [b"one, with a comma", b"two"]


def test_table_cell_longer_than_the_csv_module_expects_is_read(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"' + "word " * 100_000 + '"\n')
    assert len(b"".join(texts(tmp_path / "a.csv"))) == 500_000


def test_table_without_quotes_keeps_them(tmp_path):
    (tmp_path / "a.tsv").write_text('label\ttext\n1\t"open quote\n0\tplain "quoted" end\n')
    assert texts(tmp_path / "a.tsv", format="tsv") == [b'"open quote', b'plain "quoted" end']
    with pytest.raises(CorpusError, match=r"a.tsv line 2 is no row of a table .*--format tsv"):
        texts(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,body\n1,x\n", "text_column: .* has no 'text'; its header names id, body"),
        ("text,text\n1,x\n", "has 2 columns 'text'"),
        ("id,text\n1,hello, world\n", "line 2 has 3 cells, the header 2: is its text in quotes"),
        ("id,text\n1,fine\n2\n", "line 3 has 1 cells, the header 2"),
        ('id,text\n1,fine\n2,"never closed\n3,x\n', "line 3 is no row of a table"),
    ],
)
def test_table_that_cannot_be_read_names_the_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        texts(tmp_path / "a.csv")


def test_parquet_column_is_taken_by_its_name(tmp_path):
    """pyarrow's `columns=["a.b"]` gives the column of that name and member b of a, in the order of the file."""
    nested = pa.array([{"b": "member 1"}, {"b": "member 2"}])
    pq.write_table(pa.table({"a": nested, "a.b": ["flat 1", "flat 2"]}), tmp_path / "both.parquet")
    pq.write_table(pa.table({"a.c": ["no", "no"], "a": nested}), tmp_path / "one.parquet")
    assert texts(tmp_path / "both.parquet", text_column="a.b") == [b"flat 1", b"flat 2"]
    assert texts(tmp_path / "one.parquet", text_column="a.b") == [b"member 1", b"member 2"]


def test_parquet_nested_values_are_null_where_anything_above_them_is(tmp_path):
    rows = [
        {"messages": [{"content": "one"}, {"content": "no"}]},
        {"messages": []},
        None,
        {"messages": None},
        {"messages": [{"content": None}]},
        {"messages": [{"content": "six"}]},
    ]
    pq.write_table(pa.table({"chat": rows}), tmp_path / "a.parquet")
    options = {"text_column": "chat.messages.0.content"}
    assert texts(tmp_path / "a.parquet", **options) == [b"one", b"six"]
    assert [reason.split("parquet ")[1][:5] for reason in left_out(tmp_path / "a.parquet", **options)] == [
        f"row {number}" for number in (2, 3, 4, 5)
    ]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_of_any_type_is_read_and_nulls_are_counted(tmp_path, kind):
    values = pa.array(["one", None, "zwölf"], pa.string()).cast(kind)
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [b"one", "zwölf".encode()]
    assert left_out(tmp_path / "a.parquet") == [f"{tmp_path}/a.parquet row 2 has null in 'text'"]


def test_parquet_string_that_is_not_utf8_is_a_named_row(tmp_path):
    """pyarrow trusts the writer of a string column; its to_pylist raises for the whole batch."""
    wrong = _unchecked([b"fine", b"caf\xe9"])
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"row 2 has bytes in 'text' that are not utf-8"):
        texts(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", errors="replace") == [b"fine", "caf\ufffd".encode()]
    assert texts(tmp_path / "a.parquet", errors="skip") == [b"fine", b"caf"]


def _unchecked(values: list[bytes]) -> pa.Array:
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def test_parquet_missing_column_names_nested_ones(tmp_path):
    pq.write_table(pa.table({"id": [1], "event": [{"message": "x", "level": 3}]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"has no 'text'; it has id, event.message, event.level"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"holds int64 in 'event.level', not text"):
        texts(tmp_path / "a.parquet", text_column="event.level")
