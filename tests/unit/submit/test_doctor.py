import json
import sqlite3

import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.submit import doctor
from vqscale.submit.doctor import Check, deepspeed_ops, disk, packages, stale_locks, tracking


def test_packages_of_this_installation_are_as_asked_for():
    check = packages()
    assert check.state == "ok", check.found
    assert "torch" in check.found


def test_packages_missing_and_too_old_are_named(monkeypatch):
    wanted = ["torch>=999", "no-such-package>=1", "pytest; extra == 'dev'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: wanted)
    check = packages()
    assert check.state == "broken"
    assert "is not >=999" in check.found
    assert "no-such-package is missing" in check.found
    assert check.fix is not None


def test_deepspeed_imports_and_needs_no_operator():
    check = deepspeed_ops()
    assert check.state == "ok", check.found
    assert "needs no compiled operator" in check.found


def test_stale_locks_are_found_and_named(tmp_path):
    assert stale_locks(tmp_path / "absent").state == "ok"
    lock = tmp_path / "py311_cpu/fused_adam/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    check = stale_locks(tmp_path)
    assert check.state == "warning"
    assert f"rm {lock}" in (check.fix or "")


def test_disk_of_a_folder_to_be_made_is_ok_and_nothing_is_made(tmp_path):
    assert disk(str(tmp_path / "runs/study")).state in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


def test_disk_below_a_file_is_broken(tmp_path):
    (tmp_path / "file").touch()
    assert disk(str(tmp_path / "file/study")).state == "broken"


def test_disk_that_is_nearly_full_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 2**80)
    assert disk(str(tmp_path)).state == "warning"


def test_tracking_store_that_is_not_made_yet_is_ok(tmp_path):
    assert tracking(f"sqlite:///{tmp_path}/mlflow.db").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_tracking_store_left_half_migrated_is_broken(tmp_path):
    file = tmp_path / "mlflow.db"
    database = sqlite3.connect(file)
    database.execute("create table _alembic_tmp_tags (id integer)")
    database.close()
    check = tracking(f"sqlite:///{file}")
    assert (check.state, "half-migrated" in check.found) == ("broken", True)


def test_tracking_file_that_is_no_database_is_broken(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 40)
    assert tracking(f"sqlite:///{tmp_path}/mlflow.db").state == "broken"


def test_tracking_server_that_is_silent_is_broken():
    assert tracking("http://127.0.0.1:9").state == "broken"


def test_study_that_cannot_be_read_is_a_broken_check(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "deepspeed_ops", lambda: Check(name="deepspeed", state="ok", found=""))
    (tmp_path / "study.yaml").write_text("study: x\nunknown: 1\n")
    check = doctor.diagnose(str(tmp_path / "study.yaml"))[-1]
    assert (check.name, check.state) == ("study", "broken")
    assert "unknown" in check.found


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warning", 0), ("broken", 1)])
def test_doctor_ends_with_1_only_when_something_is_broken(monkeypatch, state, code):
    checks = [Check(name="disk", state=state, found="[brackets] stay", fix="fix it")]
    monkeypatch.setattr(doctor, "diagnose", lambda *_, **__: checks)
    plain = CliRunner().invoke(app, ["doctor"])
    assert (plain.exit_code, "[brackets] stay" in plain.stdout) == (code, True)
    answer = CliRunner().invoke(app, ["doctor", "--json"])
    assert answer.exit_code == code
    assert json.loads(answer.stdout)[0]["state"] == state
