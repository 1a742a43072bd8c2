"""The study file: what is accepted, and the message of every mistake."""

from pathlib import Path
from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.study.spec import load_study, parse_study

GOOD = """
study: quick
question: How?
data:  {corpus: stdlib}
model: {arch: transformer_vq, preset: pico}
train: {context: 256, tokens: 1e6, batch_tokens: 4096, lr: 3e-3, seeds: [0]}
sweep:
  - {model.preset: [pico, nano]}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return str(path)


def test_study_reads_scientific_numbers(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert study.train["lr"] == 0.003
    assert study.train["tokens"] == 1_000_000
    assert isinstance(study.train["tokens"], int)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("question: How?", "qestion: How?", ["qestion", "is not a known key"]),
        ("seeds: [0]", "sedes: [0]", ["train", "'sedes'"]),
        ("corpus: stdlib", "corpus: 3", ["data.corpus", "string", "3"]),
        ("{model.preset: [pico, nano]}", "{model.preset: []}", ["model.preset", "empty sweep"]),
        ("- {model.preset: [pico, nano]}", "[]", ["sweep", "at least 1 item"]),
        ("model.preset: [", "preset: [", ["'preset'", "model.KEY"]),
        ("model.preset: [pico, nano]", "train.seed: [0, 1]", ["'train.seed'", "unknown key 'seed'", "seeds"]),
        ("model.preset: [pico, nano]", "train.sedes: [[0]]", ["'train.sedes'", "unknown key 'sedes'", "seeds"]),
        ("model.preset: [pico, nano]", "train.deepspeed.x: [1]", ["unknown key 'deepspeed.x'"]),
        ("model.preset: [pico, nano]", "data.anything: [1]", ["'data.anything'", "unknown key 'anything'", "corpus"]),
        ("model.preset: [pico, nano]", "train.seeds: [0, 1]", ["'train.seeds'", "[0, 1]", "[[0, 1], [2]]"]),
        ("study: quick", "study: ../quick", ["study", "pattern"]),
        ("question: How?", "study: again", ["is written twice"]),
        ("study: quick\n", "", ["study", "required"]),
        ("data:  {corpus: stdlib}", "data: [", ["not valid YAML"]),
    ],
)
def test_study_mistake_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    message = str(caught.value)
    assert path in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_study_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StudyError, match="not a mapping"):
        load_study(write(tmp_path, text))


def test_study_file_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.yaml: cannot be read"):
        load_study(str(tmp_path / "nowhere.yaml"))


def test_study_yaml_cannot_build_objects(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"the tag !!python/object/apply:os.getcwd is not known"):
        load_study(write(tmp_path, GOOD + "storage: !!python/object/apply:os.getcwd []\n"))


def test_study_defaults_are_a_laptop() -> None:
    values: dict[str, Any] = {"study": "s", "data": {"corpus": "c"}, "model": {}, "train": {}}
    study = parse_study(values, source="here")
    assert (study.resources.workers, study.tracking.uri) == (1, "sqlite:///runs/mlflow.db")
    assert study.folder.endswith("/runs/s")
