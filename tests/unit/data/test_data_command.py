import json

import pytest
from typer.testing import CliRunner

from vqscale.cli.data import app
from vqscale.data.corpora import corpus_folder
from vqscale.errors import CorpusError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_prepare_shows_the_corpus(texts, tmp_path):
    shown = run("prepare", str(texts), "--out", str(tmp_path / "out"), "--tokenizer", "bpe", "--vocab-size", "300")
    assert "validation" in shown
    assert "bpe, 300 ids" in shown


def test_command_json_is_the_manifest(texts, tmp_path):
    arguments = ("prepare", str(texts), "--out", str(tmp_path / "out"), "--fractions", "0.8", "0.1", "0.1", "--json")
    prepared = json.loads(run(*arguments))
    assert prepared == json.loads(run("show", str(tmp_path / "out"), "--json"))
    assert prepared["splits"]["train"]["shards"][0]["documents"] < 60


def test_command_named_corpus_goes_home(tmp_path):
    (tmp_path / "text8").write_bytes(b"some words " * 100)
    run("prepare", str(tmp_path / "text8"), "--as", "text8", "--partial")
    assert json.loads(run("list", "--json")).keys() == {corpus_folder("text8")}
    assert "text8" in run("list")
    assert "text8" in run("show", "text8")


def test_command_list_without_corpora_says_how_to_make_one():
    assert "vqscale data prepare" in run("list")


def test_command_without_out_is_refused(texts):
    with pytest.raises(CorpusError, match="--out"):
        run("prepare", str(texts))


@pytest.mark.parametrize("command", ["prepare", "list", "show"])
def test_command_help_has_an_example(command):
    assert f"vqscale data {command}" in run(command, "--help")


def test_command_prepares_labelled_raw_files_and_refuses_options_of_text(tmp_path):
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        for split in ("train", "valid", "test"):
            place = tmp_path / "raw" / split / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{split} {name}")
    arguments = ("prepare", str(tmp_path / "raw"), "--as", "labelled-text", "--out", str(tmp_path / "out"))
    made = json.loads(run(*arguments, "--length", "9", "--json"))
    assert made["splits"]["test"]["class_counts"] == [2, 2]
    assert made["splits"]["test"]["lengths"] == [9] * 5
    with pytest.raises(CorpusError, match="tokenizer: bpe does not fit: labelled-text has labelled examples"):
        run(*arguments, "--tokenizer", "bpe")


def test_command_refuses_options_of_labelled_examples_for_text(texts, tmp_path):
    with pytest.raises(CorpusError, match="length: 9 does not fit: this source is text"):
        run("prepare", str(texts), "--out", str(tmp_path / "out"), "--length", "9")


@pytest.fixture
def texts_of_classes(tmp_path):
    """A folder of two classes with 100 texts each, and no splits."""
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(100):
            (tmp_path / "classes" / name / str(number)).write_text(f"{name} {number}")
    return tmp_path / "classes"


def test_command_takes_the_fractions_that_are_given_for_labelled_examples(texts_of_classes, tmp_path):
    arguments = ("prepare", str(texts_of_classes), "--as", "labelled-text", "--json", "--out")
    by_default = json.loads(run(*arguments, str(tmp_path / "default")))
    asked = json.loads(run(*arguments, str(tmp_path / "asked"), "--fractions", "0.9", "0.05", "0.05"))
    said = json.loads(run(*arguments, str(tmp_path / "said"), "--fractions", "0.8", "0.1", "0.1"))
    counts = [sum(one["splits"]["train"]["class_counts"]) for one in (by_default, asked)]
    assert counts[0] < 175 < counts[1]
    assert said["request"] == by_default["request"]


def test_command_refuses_fractions_where_the_raw_files_have_splits(tmp_path):
    with pytest.raises(CorpusError, match=r"fractions: .* has no meaning for listops"):
        run(
            "prepare",
            str(tmp_path),
            "--as",
            "listops",
            "--out",
            str(tmp_path / "o"),
            "--fractions",
            "0.9",
            "0.05",
            "0.05",
        )


def test_command_that_knows_no_such_loader_names_all_there_are(texts):
    with pytest.raises(CorpusError, match=r"'imdbs' is not known. There are enwik8.*imdb"):
        run("prepare", str(texts), "--as", "imdbs")


def test_command_says_how_many_examples_were_empty(texts_of_classes, tmp_path):
    (texts_of_classes / "cat" / "empty").write_text("")
    assert "1 empty examples" in run(
        "prepare", str(texts_of_classes), "--as", "labelled-text", "--out", str(tmp_path / "out")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("listops", "--examples", "400,50"), "examples: '400,50' must be three numbers"),
        (("pathfinder", "--size", "33"), r"size: Input should be 32, 64 or 128 \(got 33\)"),
    ],
)
def test_command_generate_names_the_option_and_its_value(options, message):
    with pytest.raises(CorpusError, match=message):
        run("generate", *options)
