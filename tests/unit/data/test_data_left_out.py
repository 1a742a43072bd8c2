"""Records without a text are left out, counted, and told; too many of them are an error."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vqscale.cli.data import app
from vqscale.data.manifests import read_manifest
from vqscale.data.prepare import prepare
from vqscale.errors import CorpusError

TEXTS = [None if number % 10 == 3 else "" if number % 10 == 5 else f"text {number}" for number in range(200)]


def write(folder, kind: str) -> str:
    path = folder / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        path.write_text(
            "".join(json.dumps({"id": n} if n % 20 == 3 else {"text": t}) + "\n" for n, t in enumerate(TEXTS))
        )
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("options", [{}, {"split": "contiguous"}, {"tokenizer": "bpe", "vocab_size": 270}])
def test_records_without_text_are_counted_for_every_split_and_tokenizer(tmp_path, kind, options):
    manifest = prepare(write(tmp_path, kind), str(tmp_path / "out"), **options)
    left_out = manifest.source.left_out
    assert (left_out.without_text, left_out.unreadable, manifest.source.empty_documents) == (20, 0, 20)
    assert left_out.first[0].endswith(("line 4 has no 'text'; it has id", "row 4 has null in 'text'"))
    assert len(left_out.first) == 20
    assert sum(record.bytes for record in manifest.splits.values()) == sum(len(text or "") for text in TEXTS)


def test_records_left_out_are_on_the_screen_and_in_the_json(tmp_path):
    arguments = ["prepare", write(tmp_path, "jsonl"), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "left out     20 empty documents, 20 records without a text" in shown.stdout
    assert "a.jsonl line 4 has no 'text'; it has id" in shown.stdout
    as_json = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["source"]["left_out"]["without_text"] == 20


@pytest.mark.parametrize(
    ("nulls", "most", "fits"), [(50, 0.5, True), (51, 0.5, False), (51, 0.6, True), (1, 0.0, False)]
)
def test_share_of_records_without_text_is_limited(tmp_path, nulls, most, fits):
    lines = [json.dumps({"text": None if number < nulls else f"text {number}"}) for number in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    def make():
        return prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "out"), split="contiguous", max_skipped=most)

    if fits:
        assert make().source.left_out.without_text == nulls
        return
    with pytest.raises(CorpusError, match=rf"max_skipped: {nulls} of 100 records .*line 1 has null.*--max-skipped"):
        make()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_column_that_no_record_has_is_named_before_anything_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "meta": {"id": 1}}\n' * 5000)
    with pytest.raises(CorpusError, match=r"line 1 has no 'text'; it has body, meta.id, and no other of its first 100"):
        prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "out"))


def test_column_that_few_records_have_is_read_when_that_is_allowed(tmp_path):
    lines = ['{"type": "other"}'] * 300 + [json.dumps({"text": f"text {number}"}) for number in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    manifest = prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "out"), split="contiguous", max_skipped=1.0)
    assert manifest.source.left_out.without_text == 300
    assert sum(record.bytes for record in manifest.splits.values()) == sum(len(f"text {n}") for n in range(30))


def test_unreadable_records_are_counted_apart(tmp_path):
    lines = [json.dumps({"text": f"text {number}"}) for number in range(60)] + ["{broken", '{"text": [1]}', "{}"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match=r"line 61 is not JSON .*--errors skip"):
        prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "out"), split="contiguous")
    left_out = prepare(
        str(tmp_path / "a.jsonl"), str(tmp_path / "out"), split="contiguous", errors="skip"
    ).source.left_out
    assert (left_out.unreadable, left_out.without_text) == (2, 1)


def test_manifest_of_an_earlier_version_is_still_read(tmp_path):
    prepare(write(tmp_path, "jsonl"), str(tmp_path / "out"))
    place = tmp_path / "out" / "manifest.json"
    manifest = json.loads(place.read_text())
    for added in ("formats", "left_out", "split_times"):
        del manifest["source"][added]
    place.write_text(json.dumps(manifest))
    assert read_manifest(str(tmp_path / "out")).source.left_out.records == 0
