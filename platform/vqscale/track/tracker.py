"""MLflow as a view of a study: a parent run for the study, a child run for each trial.

Runs are made and written by one process, the driver's, with `MlflowClient` and explicit run ids: no fluent state, no
second run, no race on a fresh SQLite file. Everything shown can be rebuilt from the study's folder.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from vqscale import storage
from vqscale.errors import TrackingError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

ANSWER_SECONDS = 5
PARAMETER_LENGTH = 6000
"""MLflow's limit; longer values are cut by it."""
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


def check_reachable(uri: str) -> str:
    """The tracking URI made absolute, after a look whether something answers there.

    Raises TrackingError for a server that is silent, an unknown scheme, or a database that cannot be made.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        _check_server(uri)
        return uri
    if parts.scheme == "sqlite":
        path = Path(uri.removeprefix("sqlite:///")).resolve()
        folder = next(parent for parent in path.parents if parent.exists())
        held = path if path.exists() else folder
        if path.is_dir() or not folder.is_dir() or not os.access(held, os.W_OK):
            raise TrackingError(f"tracking.uri: {uri}: {path} cannot be written. Name a file in a writable folder.")
        return f"sqlite:///{path}"
    if parts.scheme in ("postgresql", "mysql", "mssql", "databricks") or "+" in parts.scheme:
        return uri
    raise TrackingError(
        f"tracking.uri: {uri!r} is no tracking store. Use sqlite:///FILE, http(s)://HOST:PORT of an MLflow server, or a"
        " database address such as postgresql://USER@HOST/NAME."
    )


def _check_server(uri: str) -> None:
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri: {uri} does not answer within {ANSWER_SECONDS} s ({type(error).__name__}). Start the MLflow"
            " server, or use tracking: {uri: sqlite:///runs/mlflow.db}."
        ) from error
    if answer.status_code >= 400:
        raise TrackingError(f"tracking.uri: {uri} answers {answer.status_code} to /health: is it an MLflow server?")


class Tracker:
    """The runs of one study."""

    def __init__(self, uri: str, study: str, *, artifacts: str | None) -> None:
        """Open the store; makes the database, the experiment and nothing else.

        `artifacts`: where a store without a server keeps the experiment's files (None: the server decides).
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.uri = check_reachable(uri)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            found = self._client.get_experiment_by_name(study)
            self.experiment_id: str = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(study, artifact_location=None if _served(self.uri) else artifacts)
            )
        except MlflowException as error:
            raise TrackingError(f"tracking.uri: {uri}: the store cannot be used ({error})") from error
        self._study = study
        self._logged: dict[str, int] = {}

    def study_run(self) -> str:
        """Id of the study's parent run, made at first use."""
        own = {"vqscale.kind": "study", "vqscale.study": self._study}
        return self._find(own) or self._create(self._study, own)

    def begin(self, run_id: str) -> None:
        """Show a run as running (again)."""
        self._client.update_run(run_id, status="RUNNING")

    def trial_run(self, parent: str, trial_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Id of a trial's child run; a run that exists goes on, and rows it already holds are not logged again."""
        own = {"vqscale.kind": "trial", "vqscale.trial_id": trial_id}
        run_id = self._find(own)
        if run_id is None:
            run_id = self._create(trial_id, {**own, "mlflow.parentRunId": parent, **tags})
            self.log_parameters(run_id, parameters)
        else:
            self.begin(run_id)
            history = self._client.get_metric_history(run_id, "loss")
            self._logged[run_id] = max((point.step for point in history), default=-1)
        return run_id

    def log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = [Param(key, str(value)[:PARAMETER_LENGTH]) for key, value in parameters.items() if value is not None]
        self._client.log_batch(run_id, params=values)

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="vqscale corpus", source=f'{{"uri": "{source}"}}')
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_row(self, run_id: str, row: Mapping[str, float | int], *, tokens: int) -> None:
        """Metrics at a number of training tokens; a row at or before the last logged one is a replay and is left."""
        from mlflow.entities import Metric

        if tokens <= self._logged.get(run_id, -1):
            return
        now = int(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(key, float(value), now, tokens) for key, value in row.items()])
        self._logged[run_id] = tokens

    def log_final(self, run_id: str, values: Mapping[str, float | None], *, tokens: int) -> None:
        """Final measurements of a run; what was not measured is not logged."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, tokens) for key, value in values.items() if value is not None]
        self._client.log_batch(run_id, metrics=points)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value[:5000]) for key, value in tags.items()])

    def log_folder(self, run_id: str, folder: str, names: list[str]) -> None:
        """Files of a study's folder as artifacts, in their own sub-folders."""
        for name in names:
            uri = storage.join(folder, name)
            if not storage.exists(uri):
                continue
            parent = name.rpartition("/")[0] or None
            if storage.is_local(uri):
                self._client.log_artifact(run_id, storage.filesystem(uri)[1], artifact_path=parent)
            else:
                self._client.log_text(run_id, storage.read_text(uri), name)

    def end(self, run_id: str, status: RunStatus) -> None:
        self._client.set_terminated(run_id, status)

    def _find(self, tags: Mapping[str, str]) -> str | None:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([self.experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self.experiment_id, tags=dict(tags), run_name=name)
        return str(run.info.run_id)


def _served(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
