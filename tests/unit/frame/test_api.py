"""The Python API as a notebook would use it: what it takes, what it refuses, and what it loads."""

import warnings
from pathlib import Path
from typing import Any

import pytest

import vqscale
from vqscale.errors import StudyError


def test_every_public_name_is_there_and_documented() -> None:
    for name in vqscale.__all__:
        assert getattr(vqscale, name) is not None
    for name in ("load_study", "plan", "run", "fit", "predict", "report", "load_model"):
        assert callable(getattr(vqscale, name))
        assert getattr(vqscale, name).__doc__
    assert vqscale.errors.StudyError is StudyError


def test_study_is_taken_as_path_folder_or_value(fitted_study: Any) -> None:
    trials = {one.trial.id for one in vqscale.plan(fitted_study.study).trials}
    for study in (fitted_study.file, Path(fitted_study.file), str(fitted_study.folder), fitted_study.folder):
        assert {one.trial.id for one in vqscale.plan(study).trials} == trials
    assert vqscale.load_study(fitted_study.file).study == fitted_study.study.study


@pytest.mark.parametrize("wrong", [{"study": "x"}, 3, None])
def test_what_is_no_study_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(StudyError, match="is no study"):
        vqscale.plan(wrong)


def test_throughput_study_is_refused_with_its_command(tmp_path: Path) -> None:
    path = tmp_path / "speed.yaml"
    cell = "cell: {preset: pico, batch: 1}"
    path.write_text(f"kind: throughput\nstudy: speed\n{cell}\nsweep: [{{arch: [transformer_vq], context: [64]}}]\n")
    with pytest.raises(StudyError, match="vqscale throughput"):
        vqscale.load_study(path)


def test_fit_of_a_study_takes_what_the_study_says_now(fitted_study: Any, tmp_path: Path) -> None:
    changed = fitted_study.study.model_copy(
        update={"fit": fitted_study.study.fit.model_copy(update={"laws": ["power_d"], "bootstrap": 0})}
    )
    done = vqscale.fit(changed, out=str(tmp_path / "fits"))
    laws = {one.law for one in (*done.fits.fits, *done.fits.refusals)}
    assert laws == {"power_d"}


def test_fit_and_predict_of_a_table_by_path(fitted_study: Any, tmp_path: Path) -> None:
    table = Path(fitted_study.folder, "results.csv")
    done = vqscale.fit(table, vqscale.FitOptions(laws="chinchilla", bootstrap=0), out=str(tmp_path / "fits"))
    assert {one.law for one in done.fits.fits} == {"chinchilla"}
    predicted = vqscale.predict(table, compute=1e12, fits=str(tmp_path / "fits"))
    assert [not isinstance(outcome, str) for _, outcome in predicted.outcomes] == [True, True]


def test_progress_is_a_flag_or_a_listener(fitted_study: Any) -> None:
    with pytest.raises(TypeError, match="RunEvents"):
        vqscale.run(fitted_study.study, progress=vqscale.RunEvents)  # type: ignore[arg-type]


def test_messages_without_progress_become_python_warnings() -> None:
    from vqscale.api import _events

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _events(False).message("MLflow lacks a part of this study", "warning")
        _events(False).message("an aside")
    assert [str(one.message) for one in caught] == ["MLflow lacks a part of this study"]
