"""What a user names, a file or a folder, and the study that it means."""

from pathlib import Path

import pytest
import yaml

from vqscale.errors import StudyError
from vqscale.study.places import open_any, open_study, study_file
from vqscale.study.throughput_study import ThroughputStudy

VALUES = {
    "study": "books",
    "data": {"corpus": "stdlib"},
    "model": {"arch": "transformer", "preset": "pico"},
    "train": {"context": 64, "tokens": 512, "batch_tokens": 64, "lr": 0.01},
}
SPEED = {"kind": "throughput", "study": "speed", "cell": {"arch": "transformer", "preset": "pico", "batch": 1},
         "sweep": [{"context": [64]}]}  # fmt: skip


def own_folder(folder: Path, storage: Path, values: dict[str, object] = VALUES, holds: str = "trials") -> Path:
    """A study's own folder, with its file as `run` leaves it."""
    (folder / holds).mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(values | {"storage": str(storage)}))
    return folder


@pytest.mark.parametrize("name", ["", "/", "/study.yaml", "/results.parquet", "/results.csv"])
def test_study_in_its_own_folder_is_found_by_every_name_of_it(tmp_path: Path, name: str) -> None:
    folder = own_folder(tmp_path / "books", tmp_path)
    assert open_study(f"{folder}{name}").folder == str(folder)


@pytest.mark.parametrize("name", ["", "/study.yaml"])
def test_copied_study_folder_is_a_study_of_its_own_there(tmp_path: Path, name: str) -> None:
    folder = own_folder(tmp_path / "elsewhere" / "books-copy", tmp_path / "runs")
    study = open_study(f"{folder}{name}")
    assert (study.folder, study.study) == (str(folder), "books-copy")


def test_copied_folder_of_a_throughput_study_is_a_study_of_its_own_there(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "copy", tmp_path / "runs", SPEED, holds="throughput.parquet")
    study = open_any(str(folder))
    assert isinstance(study, ThroughputStudy)
    assert study.folder == str(folder)


def test_folder_that_only_keeps_the_file_leaves_the_study_where_it_says(tmp_path: Path) -> None:
    kept = tmp_path / "experiment"
    kept.mkdir()
    (kept / "study.yaml").write_text(yaml.safe_dump(VALUES | {"storage": str(tmp_path / "runs")}))
    assert open_study(str(kept)).folder == str(tmp_path / "runs" / "books")


def test_folder_with_a_name_that_no_study_has_is_refused(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "my books", tmp_path / "runs")
    with pytest.raises(StudyError, match="'my books' is no name for a study"):
        open_study(str(folder))


def test_folder_of_several_studies_names_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        own_folder(tmp_path / name, tmp_path)
    with pytest.raises(StudyError, match=f"holds 2 studies: name one of {tmp_path}/a, {tmp_path}/b"):
        study_file(str(tmp_path))


def test_folder_of_one_study_names_it(tmp_path: Path) -> None:
    own_folder(tmp_path / "a", tmp_path)
    with pytest.raises(StudyError, match=f"holds 1 study: name one of {tmp_path}/a"):
        study_file(str(tmp_path))


def test_folder_of_many_studies_names_five_and_counts_the_rest(tmp_path: Path) -> None:
    for index in range(7):
        own_folder(tmp_path / f"s{index}", tmp_path)
    with pytest.raises(StudyError, match=r"holds 7 studies: .*/s4 and 2 more"):
        study_file(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "holds no study.yaml. Name a study file"),
        ("nothing", "does not exist. Name a study file"),
        ("runs.csv", "is no study file. Name a study file"),
        ("results.csv", "is no study file. Name a study file"),
        ("notes", "is no study file. Name a study file"),
    ],
)
def test_place_without_a_study_says_what_to_name(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("runs.csv", "results.csv", "notes"):
        (tmp_path / file).write_text("loss\n1\n")
    with pytest.raises(StudyError, match=message):
        study_file(str(tmp_path / name))


def test_folder_of_a_study_of_the_other_kind_is_not_called_damaged(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "speed", tmp_path, SPEED, holds="throughput.parquet")
    with pytest.raises(StudyError, match="kind: throughput trains nothing") as refused:
        open_study(str(folder))
    assert "copy" not in str(refused.value)
