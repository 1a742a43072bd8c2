"""Studies that run at the same time, each in a process of its own, with runs in one MLflow store."""

import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

STUDIES = ("first", "second", "third")
ROWS = 50
STUDY = f"""
import sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from vqscale.track.tracker import Tracker
folder, name, *uris = sys.argv[1:]
for index, uri in enumerate(uris):
    Path(folder, f"{{index}}-{{name}}").touch()
    until = time.monotonic() + 120
    while not all(Path(folder, f"{{index}}-{{one}}").exists() for one in {STUDIES}):
        time.sleep(0.001)
        assert time.monotonic() < until, "another study has ended before it came here"
    opened = Tracker(uri, name, artifacts=None)
    run = opened.trial_run(opened.study_run(), "trial-" + name, {{"lr": 0.1}}, {{}})
    for step in range({ROWS}):
        opened.log_row(run, {{"loss": 1.0 / (step + 1)}}, tokens=step)
    opened.end(run, "FINISHED")
"""


def start(code: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", "-c", code, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_at_once(folder: Path, *uris: str) -> None:
    """Every study in a process of its own; they open one store after the other, each at the same moment."""
    running = {name: start(STUDY, str(folder), name, *uris) for name in STUDIES}
    try:
        ended = {name: (*one.communicate(timeout=300), one.returncode) for name, one in running.items()}
    finally:
        for one in running.values():
            one.kill()
    assert {name: (code, errors) for name, (_, errors, code) in ended.items()} == dict.fromkeys(STUDIES, (0, ""))


def require_all(uri: str) -> None:
    client = MlflowClient(uri)
    for name in STUDIES:
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.`vqscale.kind` = 'trial'")
        assert run.info.status == "FINISHED"
        assert sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss")) == list(range(ROWS))
