"""Every file that vqscale writes to a study's folder and reads back, damaged in every way: named, and made again or
refused with a remedy, in the commands and in a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import StorageError, UserError
from vqscale.laws import StudyFits, read_fits
from vqscale.planning.plan import plan
from vqscale.results import locate, read_table
from vqscale.results.estimates import read_estimates
from vqscale.results.metrics_rows import Row, write_rows
from vqscale.results.records import read_result, write_result
from vqscale.study.spec import Study, load_study
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import Stage
from vqscale.throughput.measurement import read_measurement
from vqscale.workflow.report_page import make_report_data
from vqscale.workflow.text_references import measure_references

Damage = Callable[[Path], object]


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("else")


DAMAGES: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) * 2 // 3]),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
    "list": lambda path: path.write_text("[1, 2]"),
    "number": lambda path: path.write_text("7"),
    "null": lambda path: path.write_text("null"),
    "folder": a_folder,
}
each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


class Told(StudyEvents):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def message(self, text: str, level: str = "info") -> None:
        self.warnings += [text] if level == "warning" else []


@pytest.fixture
def study(fitted_study: Any, tmp_path: Path) -> tuple[Path, Study]:
    """A study file and its study, trained and fitted, in a place of its own."""
    shutil.copytree(fitted_study.folder.parent, tmp_path / "runs")
    file = tmp_path / "study.yaml"
    file.write_text(
        Path(fitted_study.file).read_text().replace(str(fitted_study.folder.parent), str(tmp_path / "runs"))
    )
    made = load_study(str(file))
    assert Path(made.folder) == tmp_path / "runs" / "books"
    shutil.copy(file, Path(made.folder) / "study.yaml")
    return file, made


def command(*words: str) -> tuple[int, str]:
    """Exit code and output; a refusal is what the program's outermost function prints, with exit code 2."""
    done = CliRunner().invoke(app, [*words])
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    assert done.exception is None, done.output
    return done.exit_code, " ".join(done.output.split())


def trials(study: Study) -> list[Path]:
    return sorted(Path(study.folder, "trials").iterdir())


@each_damage
def test_damaged_record_is_named_by_plan_and_status_and_trained_again(
    damage: Damage, study: Any, train_by_records: Any
) -> None:
    file, made = study
    victim = trials(made)[0]
    whole = read_result(str(victim))
    assert whole is not None
    damage(victim / "result.json")
    for words in (["plan", str(file)], ["plan", str(file), "--json"], ["status", str(file)], ["status", made.folder]):
        code, said = command(*words)
        assert code == 0
        assert f"{victim}/result.json: is damaged" in said
        assert "trained again" in said
    orders: list[str] = []

    def record(stage: Stage) -> None:
        for order in stage.orders:
            orders.append(order.trial.id)
            write_result(whole, order.folder)

    told = Told()
    outcome = train_by_records(made, record, events=told)
    assert orders == [victim.name]
    assert f"{victim}/result.json: is damaged" in told.warnings[0]
    assert all(result.status == "finished" for result in outcome.results)
    assert command("status", str(file))[1].count("is damaged") == 0


def test_record_of_another_trial_is_named_and_its_trial_trained_again(study: Any) -> None:
    file, made = study
    first, second = trials(made)[:2]
    shutil.copy(first / "result.json", second / "result.json")
    code, said = command("plan", str(file), "--json")
    assert code == 0
    values = json.loads(said)
    assert values["total"]["pending"] == 1
    assert f"{second}/result.json: is damaged (the record of another trial, {first.name})" in values["damaged"][0]


def test_record_of_a_newer_version_counts_and_its_unknown_field_is_named(study: Any) -> None:
    file, made = study
    path = trials(made)[0] / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invented": 1}))
    code, said = command("plan", str(file), "--json")
    values = json.loads(said)
    assert (code, values["total"]["pending"]) == (0, 0)
    assert "holds invented, which this version of vqscale does not know" in values["damaged"][0]


def test_damaged_record_of_a_trial_that_the_file_does_not_describe_is_only_named(study: Any) -> None:
    file, made = study
    stray = Path(made.folder, "trials", "stray-0123456789ab")
    stray.mkdir()
    (stray / "result.json").write_text("{")
    code, said = command("plan", str(file), "--json")
    values = json.loads(said)
    assert (code, values["total"]["pending"]) == (0, 0)
    assert "does not describe this trial" in values["damaged"][0]


def test_failed_record_leaves_a_finished_one_in_a_run(study: Any) -> None:
    _, made = study
    folder = trials(made)[0]
    whole = read_result(str(folder))
    assert whole is not None
    late = whole.model_copy(update={"status": "failed", "loss": None, "error": "killed"})
    assert write_result(late, str(folder)) == whole
    assert read_result(str(folder)) == whole


@each_damage
def test_damaged_table_is_refused_with_the_way_to_write_it_again(damage: Damage, study: Any) -> None:
    _, made = study
    damage(Path(made.folder, "results.parquet"))
    for words in (["report", made.folder], ["fit", made.folder], ["predict", made.folder, "--compute", "1e12"]):
        code, said = command(*words)
        assert code == 2, said
        assert f"{made.folder}/results.parquet" in said
        assert "`vqscale run` of the study writes it again" in said


@each_damage
def test_damaged_table_estimates_and_study_copy_are_written_again_by_a_run(
    damage: Damage, study: Any, train_by_records: Any
) -> None:
    _, made = study
    for name in ("results.parquet", "results.csv", "study.yaml"):
        damage(Path(made.folder, name))
    train_by_records(made, lambda _: None)
    assert load_study(str(Path(made.folder, "study.yaml"))).folder == made.folder
    assert len(read_table(f"{made.folder}/results.parquet")) == len(trials(made))
    assert len(read_table(f"{made.folder}/results.csv")) == len(trials(made))


@each_damage
@pytest.mark.parametrize("name", ["fits.json", "predictions.json"])
def test_damaged_fits_and_predictions_are_refused_with_a_remedy(name: str, damage: Damage, study: Any) -> None:
    _, made = study
    path = Path(made.folder, name)
    path.touch()
    damage(path)
    code, said = command("report", made.folder)
    assert code == 2, said
    assert f"{path}: is damaged" in said
    assert ("vqscale fit" if name == "fits.json" else "restore it from a copy") in said


def test_damaged_predictions_stop_a_run_before_anything_is_trained(study: Any, monkeypatch: Any) -> None:
    from vqscale.workflow import study as workflow

    _, made = study
    Path(made.folder, "predictions.json").write_text("{")
    monkeypatch.setattr(workflow, "train_study", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(StorageError, match=r"predictions\.json: is damaged"):
        workflow.run_study(made, events=workflow.RunEvents())


@pytest.mark.parametrize("damage", ["truncated", "folder"])
def test_damaged_fits_are_written_again_by_fit(damage: str, study: Any) -> None:
    _, made = study
    DAMAGES[damage](Path(made.folder, "fits.json"))
    assert command("fit", made.folder)[0] == 0
    assert read_fits(made.folder).fits


def damages(study: Study) -> str:
    """What reading a study's folder for its report finds damaged."""
    return "\n".join(make_report_data(locate(study), StudyFits()).damages)


def test_report_says_what_it_had_to_leave_out(study: Any) -> None:
    _, made = study
    folder = trials(made)[0]
    rows: list[Row] = [{"step": step, "tokens": step * 512, "loss": 3.0 / step} for step in (1, 2, 3)]
    write_rows(str(folder), rows)
    assert f"{folder}/metrics.jsonl: its metrics end at 1536 of " in damages(made)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tok')
    for name in ("plan.json", "references.json"):
        Path(made.folder, name).write_text("{")
    code, said = command("report", made.folder)
    assert code == 0, said
    for path in (folder / "metrics.jsonl", Path(made.folder, "plan.json"), Path(made.folder, "references.json")):
        assert f"{path}:isdamaged" in said.replace(" ", "")  # the console breaks long lines
    assert f"{folder}/metrics.jsonl: is damaged" in Path(made.folder, "report.html").read_text()


@each_damage
def test_damaged_estimates_are_named_and_written_again(damage: Damage, study: Any, train_by_records: Any) -> None:
    _, made = study
    trial = trials(made)[0]
    whole = read_result(str(trial))
    assert whole is not None
    path = Path(made.folder, "plan.json")
    path.write_text('{"version": 1, "trials": {}}')
    damage(path)
    assert f"{path}: is damaged" in damages(made)
    shutil.rmtree(trial)  # one trial to train
    told = Told()
    train_by_records(made, lambda stage: write_result(whole, stage.orders[0].folder), events=told)
    assert any(f"{path}: is damaged" in text for text in told.warnings)
    assert list(json.loads(path.read_text())["trials"]) == [trial.name]


ESTIMATE = {"seconds": 1.0, "memory_bytes": None, "flops": 1, "speed_source": "x", "written_at": "now"}


@pytest.mark.parametrize(
    "kept",
    [
        {"trials": [1]},
        {"trials": None},
        {},
        {"trials": {"x": 7}},
        {"trials": {"x": {"seconds": 1.0}}},
        {"trials": {"x": ESTIMATE | {"seconds": "long"}}},
        {"trials": {"x": ESTIMATE | {"memory_bytes": [1]}}},
    ],
)
def test_estimates_of_the_wrong_kind_are_named_and_the_others_kept(kept: dict[str, Any], study: Any) -> None:
    _, made = study
    trial = trials(made)[0].name
    if isinstance(kept.get("trials"), dict):
        kept = {"trials": kept["trials"] | {trial: ESTIMATE}}
    Path(made.folder, "plan.json").write_text(json.dumps(kept))
    assert "plan.json: is damaged" in damages(made)
    assert (trial in read_estimates(made.folder, lambda _: None)) == isinstance(kept.get("trials"), dict)


@each_damage
def test_damaged_references_are_named_and_measured_again(damage: Damage, study: Any) -> None:
    _, made = study
    results = plan(made).results
    path, told = Path(made.folder, "references.json"), Told()
    measure_references(made, results, told)
    whole = path.read_text()
    assert told.warnings == []
    damage(path)
    assert f"{path}: is damaged" in damages(made)
    measure_references(made, results, told)
    assert f"{path}: is damaged" in told.warnings[0]
    assert path.read_text() == whole


@each_damage
def test_damaged_copy_of_the_study_file_is_refused_with_the_way_to_write_it_again(damage: Damage, study: Any) -> None:
    file, made = study
    damage(Path(made.folder, "study.yaml"))
    for words in (["report", made.folder], ["status", made.folder]):
        code, said = command(*words)
        assert code == 2, said
        assert f"{made.folder}/study.yaml" in said
        assert "`vqscale run` of the study's own file writes it again" in said
    assert command("status", str(file))[0] == 0


@each_damage
def test_damaged_measurement_is_named_and_its_cell_is_measured_again(damage: Damage, tmp_path: Path) -> None:
    from vqscale.throughput.measurement import Measurement, current_versions, write_measurement

    made = Measurement(
        status="ok", step_seconds=[1.0], device="cpu", threads=1, machine="m", versions=current_versions(), git=None,
        measured_at="now",
    )  # fmt: skip
    write_measurement(made, str(tmp_path), "cell")
    damage(tmp_path / "throughput" / "cell.json")
    with pytest.raises(StorageError, match=r"cell\.json: is damaged"):
        read_measurement(str(tmp_path), "cell")
    told: list[str] = []
    assert read_measurement(str(tmp_path), "cell", told.append) is None
    assert "measured again" in told[0]
    write_measurement(made, str(tmp_path), "cell")
    assert read_measurement(str(tmp_path), "cell") == made


def test_trial_that_failed_beside_a_damaged_record_is_written(study: Any) -> None:
    _, made = study
    folder = trials(made)[0]
    whole = read_result(str(folder))
    assert whole is not None
    (folder / "result.json").write_text("{")
    late = whole.model_copy(update={"status": "failed", "error": "killed"})
    assert write_result(late, str(folder)) == late
