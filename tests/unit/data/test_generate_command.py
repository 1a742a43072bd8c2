import json

import pytest
from typer.testing import CliRunner

from vqscale.cli.data import app
from vqscale.data.corpora import corpus_folder
from vqscale.data.tasks.generator import numbers, span, three
from vqscale.errors import CorpusError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


GENERATORS = {
    "listops": ("--length", "10:60"),
    "pathfinder": ("--difficulty", "easy"),
    "recall": ("--length", "32", "--pairs", "2", "--test-lengths", "32,64", "--validation-lengths", "48"),
    "needle": ("--length", "32"),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generate_command_makes_the_corpus_and_shows_it(name, tmp_path):
    out = str(tmp_path / "out")
    made = json.loads(run("generate", name, "--out", out, "--examples", "6,2,2", *GENERATORS[name], "--json"))
    assert made["task"] == "classification"
    assert made == json.loads(run("show", out, "--json"))
    shown = run("show", out)
    assert f"generator {name}" in shown
    assert made["layout"]["classes"][0] in shown


@pytest.mark.parametrize("name", GENERATORS)
def test_generate_command_help_has_an_example(name):
    assert f"vqscale data generate {name}" in run("generate", name, "--help")


def test_generate_command_without_out_goes_home():
    run("generate", "listops", "--examples", "6,2,2", "--length", "10:60")
    assert json.loads(run("list", "--json")).keys() == {corpus_folder("listops")}
    assert "10 classes" in run("list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("listops", "--length", "20-60"), "length: '20-60' is no range"),
        (("listops", "--examples", "10,x,10"), "examples: '10,x,10' is no list"),
        (("listops", "--examples", "10,10"), "examples"),
        (("recall", "--test-lengths", "64,8"), "length: 8 tokens"),
        (("recall", "--processes", "0"), "processes: 0"),
    ],
)
def test_generate_command_refuses_what_cannot_be_by_name(arguments, message, tmp_path):
    with pytest.raises(CorpusError, match=message):
        run("generate", *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers_on_the_command_line_are_read():
    assert span(" 20 : 512 ", "length") == (20, 512)
    assert numbers("256", "lengths") == (256,)
    assert three("6, 2,2", "examples") == (6, 2, 2)


@pytest.mark.parametrize("value", ["", ":", "5", "5:", ":5", "a:5", "5:b", "-5:5", "1:2:3"])
def test_range_that_is_not_two_numbers_is_refused(value):
    with pytest.raises(CorpusError, match=rf"length: '{value}' is no range\. Write two numbers"):
        span(value, "length")


@pytest.mark.parametrize("value", ["6,2", "6,2,2,2", "6,2,", "a,b,c"])
def test_counts_that_are_not_three_numbers_are_refused(value):
    with pytest.raises(CorpusError, match=f"examples: '{value}' (must be three numbers|is no list of numbers)"):
        three(value, "examples")
