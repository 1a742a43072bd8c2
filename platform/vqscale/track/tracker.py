"""MLflow as a view of a study: a parent run for the study, a child run for each trial.

One process, the driver's, creates and writes all runs with `MlflowClient` and explicit run ids: no global MLflow state,
no duplicate runs, no race on a new SQLite file. Everything shown can be rebuilt from the study's folder.
"""

import functools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import urlsplit

import requests

from vqscale import storage
from vqscale.errors import TrackingError
from vqscale.track.failures import as_tracking_error, without_password

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

STORE_TIMEOUT_SECONDS = 5
PARAMETER_LENGTH = 6000
"""MLflow's limit; longer values are cut to it."""
TAG_LENGTH = 5000
"""MLflow's limit; longer values are cut to it."""
BATCH_METRICS = 1000
"""MLflow's limit for one request."""
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
P = ParamSpec("P")
R = TypeVar("R")


def check_reachable(uri: str) -> str:
    """The tracking URI with a local path made absolute, after checking that the store can be used.

    Raises TrackingError for a server that does not answer, an unknown scheme, or a database that cannot be created.
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
    if parts.scheme.partition("+")[0] in DATABASE_PORTS:
        _check_database(uri)
        return uri
    if parts.scheme == "databricks" or parts.scheme.startswith("sqlite+"):
        return uri
    raise TrackingError(
        f"tracking.uri: {without_password(uri)!r} is no tracking store. Use sqlite:///FILE, http(s)://HOST:PORT of an"
        " MLflow server, or a database address such as postgresql://USER@HOST/NAME."
    )


def _check_server(uri: str) -> None:
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=STORE_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri: {uri} does not answer within {STORE_TIMEOUT_SECONDS} s ({type(error).__name__}). Start the"
            " MLflow server, or use tracking: {uri: sqlite:///runs/mlflow.db}."
        ) from error
    if answer.status_code >= 400:
        raise TrackingError(f"tracking.uri: {uri} answers {answer.status_code} to /health: is it an MLflow server?")


def _check_database(uri: str) -> None:
    """Check that the database accepts connections and has its driver: MLflow itself would retry for minutes."""
    from sqlalchemy import make_url

    try:
        urlsplit(uri).port  # noqa: B018  (reading it is the check)
    except ValueError as error:
        raise TrackingError(f"tracking.uri: {without_password(uri)}: {error}. Name the database's port.") from error
    with as_tracking_error(uri):
        url = make_url(uri)
    if url.host:  # an address without one is a local socket or an ODBC name
        port = url.port or DATABASE_PORTS[url.get_backend_name()]
        try:
            socket.create_connection((url.host, port), timeout=STORE_TIMEOUT_SECONDS).close()
        except OSError as error:
            raise TrackingError(
                f"tracking.uri: {without_password(uri)}: nothing answers at {url.host}:{port} within"
                f" {STORE_TIMEOUT_SECONDS} s ({error}). Start the database, or use tracking: {{uri: sqlite:///runs/mlflow.db}}."
            ) from error
    with as_tracking_error(uri):
        url.get_dialect().import_dbapi()


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """A trial's run as the store shows it; `metrics` are the latest values."""

    run_id: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]


def _guarded(method: "Callable[Concatenate[Tracker, P], R]") -> "Callable[Concatenate[Tracker, P], R]":
    """A method of `Tracker` that raises TrackingError for every failure of the store."""

    @functools.wraps(method)
    def call(self: "Tracker", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with as_tracking_error(self.uri):
            return method(self, *args, **kwargs)

    return call


class Tracker:
    """The runs of one study. Every method raises TrackingError, and nothing else, when the store fails."""

    def __init__(self, uri: str, study: str, *, artifacts: str | None) -> None:
        """Open the store; creates the database and the experiment and nothing else.

        `artifacts`: where a store without a server keeps the experiment's files (None: the server decides).
        """
        self.uri = check_reachable(uri)
        self._study = study
        self._logged: dict[str, set[int]] = {}
        self._open(artifacts)

    @_guarded
    def study_run(self) -> str:
        """Id of the study's parent run, which is created at first use."""
        own = {"vqscale.kind": "study", "vqscale.study": self._study}
        run = self._find(own)
        return str(run.info.run_id) if run else self._create(self._study, own)

    @_guarded
    def begin(self, run_id: str) -> None:
        """Show a run as running (again)."""
        self._client.update_run(run_id, status="RUNNING")

    @_guarded
    def trial_run(self, parent: str, trial_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Id of a trial's child run; an existing run is continued, and rows that it holds are not logged again."""
        own = {"vqscale.kind": "trial", "vqscale.trial_id": trial_id}
        run = self._find(own)
        if run is None:
            run_id = self._create(trial_id, {**own, "mlflow.parentRunId": parent, **tags})
            self.log_parameters(run_id, parameters)
            return run_id
        run_id = str(run.info.run_id)
        self.begin(run_id)
        # An interruption may have left a run without some of its parameters.
        self.log_parameters(run_id, {key: parameters[key] for key in parameters if key not in run.data.params})
        self._logged[run_id] = {point.step for point in self._client.get_metric_history(run_id, "loss")}
        return run_id

    @_guarded
    def curve_run(
        self, parent: str, curve_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> str | None:
        """Id of the child run of a throughput curve; None where that run already holds the whole curve."""
        own = {"vqscale.kind": "throughput", "vqscale.curve_id": curve_id}
        run = self._find(own)
        if run is None:
            name = curve_id.rpartition("-")[0]
            run_id = self._create(name, {**own, "mlflow.parentRunId": parent, **tags})
            self.log_parameters(run_id, parameters)
            return run_id
        if run.info.status == "FINISHED":
            return None
        run_id = str(run.info.run_id)
        self._logged[run_id] = {point.step for point in self._client.get_metric_history(run_id, "tokens_per_second")}
        return run_id

    @_guarded
    def trials(self) -> dict[str, TrialRun]:
        """The trials' runs by trial id, in one search."""
        found, token = dict[str, TrialRun](), None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], "tags.`vqscale.kind` = 'trial'", max_results=1000, page_token=token
            )
            for run in page:
                found[run.data.tags["vqscale.trial_id"]] = TrialRun(
                    run_id=run.info.run_id, status=run.info.status, tags=run.data.tags, metrics=run.data.metrics
                )
            token = page.token
            if not token:
                return found

    @_guarded
    def log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = [Param(key, str(value)[:PARAMETER_LENGTH]) for key, value in parameters.items() if value is not None]
        if values:
            self._client.log_batch(run_id, params=values)

    @_guarded
    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow stores digests of at most 36 characters.
        dataset = Dataset(name=name, digest=digest[:36], source_type="vqscale corpus", source=f'{{"uri": "{source}"}}')
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_row(self, run_id: str, row: Mapping[str, float | int], *, tokens: int) -> None:
        """Log metrics at a number of training tokens; a row that the run already holds is not logged again."""
        self.log_rows(run_id, [(tokens, row)])

    @_guarded
    def log_rows(self, run_id: str, rows: Iterable[tuple[int, Mapping[str, float | int]]]) -> None:
        """Log pairs of training tokens and metrics in as few requests as possible; known rows are not logged again."""
        from mlflow.entities import Metric

        logged, now = self._logged.setdefault(run_id, set()), int(time.time() * 1000)
        new = [(tokens, row) for tokens, row in rows if tokens not in logged]
        size = BATCH_METRICS // max((len(row) for _, row in new), default=1)
        for start in range(0, len(new), size):
            part = new[start : start + size]
            points = [Metric(key, float(value), now, tokens) for tokens, row in part for key, value in row.items()]
            self._client.log_batch(run_id, metrics=points)
            logged.update(tokens for tokens, _ in part)

    @_guarded
    def log_final(self, run_id: str, values: Mapping[str, float | None], *, tokens: int) -> None:
        """Log final measurements of a run; None values are not logged."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, tokens) for key, value in values.items() if value is not None]
        self._client.log_batch(run_id, metrics=points)

    @_guarded
    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value[:TAG_LENGTH]) for key, value in tags.items()])

    @_guarded
    def log_folder(self, run_id: str, folder: str, names: list[str]) -> None:
        """Log files of a study's folder as artifacts, in the same sub-folders."""
        for name in names:
            uri = storage.join(folder, name)
            if not storage.exists(uri):
                continue
            parent = name.rpartition("/")[0] or None
            if storage.is_local(uri):
                self._client.log_artifact(run_id, storage.filesystem(uri)[1], artifact_path=parent)
                continue
            with tempfile.TemporaryDirectory() as here:
                copy = f"{here}/{name.rpartition('/')[2]}"
                storage.download(uri, copy)
                self._client.log_artifact(run_id, copy, artifact_path=parent)

    @_guarded
    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Log a small file as an artifact of a run; MLflow shows CSV as a table."""
        self._client.log_text(run_id, text, name)

    @_guarded
    def end(self, run_id: str, status: RunStatus) -> None:
        self._client.set_terminated(run_id, status)

    @_guarded
    def _open(self, artifacts: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import LifecycleStage

        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=self.uri)
        found = self._client.get_experiment_by_name(self._study)
        if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
            raise TrackingError(
                f"tracking.uri: {without_password(self.uri)}: the experiment {self._study!r} was deleted there. Restore"
                f" it (mlflow experiments restore --experiment-id {found.experiment_id}), or give the study another"
                " name."
            )
        place = None if _served(self.uri) else artifacts
        self.experiment_id: str = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(self._study, artifact_location=place)
        )

    def _find(self, tags: Mapping[str, str]) -> Any:
        """The first run with these tags, an `mlflow.entities.Run`; None where there is none."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([self.experiment_id], wanted, max_results=1)
        return runs[0] if runs else None

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self.experiment_id, tags=dict(tags), run_name=name)
        return str(run.info.run_id)


def _served(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
