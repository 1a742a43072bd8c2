"""The layouts in which tables of runs come: one table, written in every way, is read as the same numbers."""

import gzip
import json
import lzma

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import StorageError
from vqscale.results.foreign import read_runs

ROWS = [
    (20_157_316, 8_268_296_566, 1.0e18, 3.69294),
    (40_314_631, 4_134_148_386, 1.1e18, 3.54071),
    (8e7, 2e9, 1e18, 3.4),
]
TABLE = pd.DataFrame(ROWS, columns=["N", "D", "C", "loss"])
AXES = ["parameters_non_embedding", "tokens", "flops", "loss"]


def csv(**options):
    return TABLE.to_csv(index=False, **options)


def nested():
    """As a tracker's API gives runs: configuration and summary as mappings."""
    return [
        {"name": f"run-{i}", "config": {"n_params": n, "tokens": d}, "summary": {"flops": c, "val": {"loss": loss}}}
        for i, (n, d, c, loss) in enumerate(ROWS)
    ]


def printed_mappings():
    """As the export recipe of Weights & Biases writes them: Python's own text of a mapping, nan included."""
    summary = [str({"val_loss": loss, "best": float("nan"), "_step": 3}) for *_, loss in ROWS]
    config = [str({"n_params": n, "tokens": d, "flops": c}) for n, d, c, _ in ROWS]
    return pd.DataFrame({"summary": summary, "config": config, "name": ["a", "b", "c"]}).to_csv()


def with_header(text):
    return "N,D,C,loss\n" + text


BODY = csv(header=False)
LAYOUTS = {
    "commas.csv": csv(),
    "tabs.tsv": csv(sep="\t"),
    "tabs.csv": csv(sep="\t"),
    "tabs.txt": csv(sep="\t"),
    "semicolons.csv": csv(sep=";"),
    "bars.csv": csv(sep="|"),
    "decimal_commas.csv": csv(sep=";", decimal=","),
    "quotes.csv": csv(quoting=1),
    "windows_lines.csv": csv().replace("\n", "\r\n"),
    "old_mac_lines.csv": csv().replace("\n", "\r"),
    "blanks.csv": csv().replace(",", " , "),
    "blank_lines.csv": csv().replace("\n", "\n\n"),
    "byte_order_mark.csv": b"\xef\xbb\xbf" + csv().encode(),
    "spreadsheet_text.txt": csv(sep="\t").encode("utf-16"),
    "separator_line.csv": "sep=;\n" + csv(sep=";"),
    "comments.csv": "# made by a script\n# on a day\n" + csv(),
    "savetxt.csv": "# " + csv(),
    "savetxt.txt": "# " + csv(sep=" "),
    "aligned.txt": TABLE.to_string(index=False),
    "markdown.txt": "| N | D | C | loss |\n|---|--:|:-:|---|\n| "
    + BODY.replace(",", " | ").replace("\n", " |\n| ")[:-2],
    "upper_case.CSV": csv(),
    "pandas_index.csv": TABLE.to_csv(),
    "row_names_without_header.csv": with_header("".join(f"r{i},{line}\n" for i, line in enumerate(BODY.splitlines()))),
    "separator_at_the_end.csv": csv().replace("\n", ",\n"),
    "separator_at_the_end_of_rows.csv": with_header(BODY.replace("\n", ",\n")),
    "empty_rows.csv": csv() + ",,,\n,,,\n",
    "packed.csv.gz": gzip.compress(csv().encode(), mtime=0),
    "packed.jsonl.xz": lzma.compress(TABLE.to_json(orient="records", lines=True).encode()),
    "lines.jsonl": TABLE.to_json(orient="records", lines=True),
    "lines.json": TABLE.to_json(orient="records", lines=True),
    "nested.ndjson": "\n".join(json.dumps(row) for row in nested()),
    "records.json": TABLE.to_json(orient="records"),
    "columns.json": TABLE.to_json(),
    "rows_by_name.json": TABLE.to_json(orient="index"),
    "split.json": TABLE.to_json(orient="split"),
    "with_schema.json": TABLE.to_json(orient="table"),
    "lists.json": json.dumps(TABLE.to_dict("list")),
    "one_key.json": json.dumps({"runs": nested(), "next": None}),
    "mappings_as_text.csv": printed_mappings(),
}


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_runs(str(path))


@pytest.mark.parametrize("name", LAYOUTS)
def test_table_in_any_layout_is_read_as_the_same_numbers(name, tmp_path):
    runs = read(tmp_path, name, LAYOUTS[name])
    np.testing.assert_allclose(runs.table[AXES].to_numpy(dtype=float), TABLE.to_numpy(), rtol=1e-12)
    assert runs.reading.rows == 3
    assert runs.reading.notes == []


@pytest.mark.parametrize(
    "frame",
    [TABLE, TABLE.astype(str), TABLE.set_index(pd.Index(["a", "b", "c"])), pd.DataFrame(nested())],
    ids=["numbers", "text", "named index", "structs"],
)
def test_parquet_is_read_whatever_its_types(frame, tmp_path):
    frame.to_parquet(tmp_path / "runs.parquet")
    runs = read_runs(str(tmp_path / "runs.parquet"))
    np.testing.assert_allclose(runs.table[AXES].to_numpy(dtype=float), TABLE.to_numpy(), rtol=1e-12)


def test_row_is_named_by_its_line_in_the_file(tmp_path):
    text = 'N,D,loss,note\n1e7,1e9,3.5,"two\nlines"\n\n2e7,1e9,nan,\n3e7,1e9,3.3,\n'
    table = read(tmp_path, "runs.csv", text).table
    assert table["source_row"].tolist() == ["line 2", "line 5", "line 6"]
    assert [row.get("loss") for row in table["cell_problems"]] == [None, "loss is nan", None]


def test_rows_of_another_width_are_left_out_and_named(tmp_path):
    runs = read(tmp_path, "runs.csv", csv() + "20,157,316,1e9,1e18,3.1\n1e7,1e9\n")
    assert len(runs.table) == 3
    assert runs.reading.notes == [
        "left out line 5 (6), line 6 (2): not the 4 cells of the header."
        " A number with commas needs quotes where commas separate cells."
    ]


def test_lines_that_are_no_json_are_left_out_and_named(tmp_path):
    text = TABLE.to_json(orient="records", lines=True).rstrip("\n") + '\n{"N": 1e7, "D"\n[3]\n'
    runs = read(tmp_path, "runs.jsonl", text)
    assert len(runs.table) == 3
    assert runs.reading.notes == ["left out line 4, line 5: no JSON object"]


def test_columns_of_one_name_are_told_apart_by_their_place(tmp_path):
    table = read(tmp_path, "runs.csv", "N,D,loss,note,note\n1e7,1e9,3.5,a,b\n").table
    assert table[["note (column 4)", "note (column 5)"]].to_numpy().tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", "", "it is empty"),
        ("header_only.csv", "N,D,loss\n", "the table has no rows"),
        ("numbers_only.csv", "1e7,1e9,3.5\n2e7,1e9,3.4\n", "line 1 is no header: it holds numbers"),
        ("wide.csv", "N,loss\n20,157,316,3.5\n40,314,631,3.4\n", "A number with commas needs quotes"),
        ("latin.csv", "N,D,loss,gr\xf6sse\n".encode("latin-1"), "is no UTF-8 text"),
        ("list.json", "[1, 2]", "it holds no list of objects"),
        ("broken.json", '[{"N": 1', "not a readable table"),
        ("deep.json", "[" * 100_000 + "]" * 100_000, "not a readable table"),
        ("text.jsonl", "hello\nworld\n", "no line is a JSON object"),
        ("broken.csv.gz", b"\x1f\x8bnot packed", "cannot be unpacked"),
        ("cut.csv.gz", gzip.compress(csv().encode(), mtime=0)[:-12], "cannot be unpacked"),
        ("no.parquet", b"hello", "not a readable table"),
    ],
)
def test_file_without_a_table_is_refused_by_name(name, content, said, tmp_path):
    with pytest.raises(StorageError, match=name) as caught:
        read(tmp_path, name, content)
    assert said in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"runs\.csv: no such table"):
        read_runs(str(tmp_path / "runs.csv"))


def test_row_that_is_too_short_is_left_out_and_named(tmp_path):
    runs = read(tmp_path, "runs.csv", csv() + "Source: the paper\n")
    assert runs.reading.notes == ["left out line 5 (1): not the 4 cells of the header."]
