"""Every command that takes a study takes its file and its folder alike, and says the same of what is neither."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import UserError

COMMANDS = {
    "plan": ["--json"],
    "status": ["--json"],
    "fit": ["--json", "--bootstrap", "0"],
    "report": [],
    "export": ["--json", "--format", "csv"],
    "predict": ["--json", "--compute", "1e11"],
}
STUDIES_ONLY = ["plan", "run", "autotune", "throughput"]
TABLES_TOO = ["fit", "report", "export", "predict", "recipe", "next"]


@pytest.fixture
def copied_study(fitted_study: Any, tmp_path: Path) -> Callable[[], tuple[str, str]]:
    """File and folder of a fitted study of its own, which a test may write to."""

    def copy() -> tuple[str, str]:
        folder = tmp_path / "runs" / "books"
        shutil.copytree(fitted_study.folder, folder)
        return str(folder / "study.yaml"), str(folder)

    return copy


def invoke(command: str, *words: str) -> str:
    done = CliRunner().invoke(app, [command, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command_makes_the_same_of_a_study_file_its_folder_and_the_folder_with_a_slash(
    command: str, copied_study: Callable[[], tuple[str, str]]
) -> None:
    file, folder = copied_study()
    said = [invoke(command, target, *COMMANDS[command]) for target in (file, folder, f"{folder}/")]
    if command == "fit":  # says when each was made
        said = [json.dumps([fit["parameters"] for fit in json.loads(text)["fits"]]) for text in said]
    assert said[0] == said[1] == said[2]
    assert said[0]


def refusal(command: str, target: str, *words: str) -> str:
    with pytest.raises(UserError) as refused:
        CliRunner().invoke(app, [command, target, *words], catch_exceptions=False)
    return str(refused.value)


@pytest.mark.parametrize("command", [*STUDIES_ONLY, *TABLES_TOO])
def test_command_names_the_studies_of_a_folder_that_holds_several(
    command: str, fitted_study: Any, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(fitted_study.file, tmp_path / name / "study.yaml")
    words = ["--budget", "1e11", "--out", str(tmp_path / "next.yaml")] if command == "next" else []
    words += ["--compute", "1e11"] if command == "predict" else []
    assert f"holds 2 studies: name one of {tmp_path}/one, {tmp_path}/two" in refusal(command, str(tmp_path), *words)


@pytest.mark.parametrize("command", [*STUDIES_ONLY, *TABLES_TOO])
@pytest.mark.parametrize(("name", "message"), [("", "holds no study.yaml"), ("nothing", "does not exist")])
def test_command_says_what_to_name_where_there_is_no_study(
    command: str, name: str, message: str, tmp_path: Path
) -> None:
    words = ["--budget", "1e11", "--out", str(tmp_path / "next.yaml")] if command == "next" else []
    words += ["--compute", "1e11"] if command == "predict" else []
    said = refusal(command, str(tmp_path / name), *words)
    assert message in said
    assert "Name a study file (.yaml)" in said
    assert ("a table of runs" in said) == (command in TABLES_TOO)
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_copied_folder_leaves_the_original_alone(
    copied_study: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    _, folder = copied_study()
    (copy := tmp_path / "elsewhere" / "mine").parent.mkdir()
    shutil.copytree(folder, copy)
    values = json.loads(invoke("plan", str(copy), "--json"))
    assert (values["study"], values["folder"]) == ("mine", str(copy))
    assert values["total"]["pending"] == 0
