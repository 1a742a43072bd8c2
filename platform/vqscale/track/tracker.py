"""MLflow as a view of a study: a parent run for the study, a child run for each trial.

One process, the driver's, creates and writes all runs with `MlflowClient` and explicit run ids: no global MLflow state,
no duplicate runs, no race on a new SQLite file. Everything shown can be rebuilt from the study's folder.
"""

import contextlib
import functools
import getpass
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from vqscale import storage
from vqscale.address import Address
from vqscale.errors import TrackingError
from vqscale.track.failures import as_tracking_error
from vqscale.track.store import check_reachable, make_database, opening, served

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

PARAMETER_LENGTH = 6000
"""MLflow's limit; longer values are cut to it."""
TAG_LENGTH = 5000
"""MLflow's limit; longer values are cut to it."""
BATCH_METRICS = 1000
"""MLflow's limit for one request."""
BATCH_PARAMETERS = 100
"""MLflow's limit for one request."""
NO_LINKS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_EXTERNAL = {"mlflow.model.isExternal": "true"}
"""MLflow's own mark of a model whose files it does not hold."""
EXPERIMENT_KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without it MLflow's pages take an experiment for one of prompts and traces."""
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Values = Mapping[str, float | None]
"""Measurements by name; None: not measured."""
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """A trial's run as the store shows it; `metrics` are the latest values."""

    run_id: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A split of a corpus. MLflow keeps one context for each name and digest, so that each split has its own name."""

    name: str
    digest: str
    """At most 36 characters."""
    uri: str
    context: str
    """training, validation or test."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a finished trial leaves."""

    name: str
    kind: str
    weights: str
    """URI of its weights, which MLflow gets no copy of."""
    tokens: int
    parameters: Mapping[str, Any]


def _guarded(method: "Callable[Concatenate[Tracker, P], R]") -> "Callable[Concatenate[Tracker, P], R]":
    """A method of `Tracker` that raises TrackingError for every failure of the store."""

    @functools.wraps(method)
    def call(self: "Tracker", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with as_tracking_error(self.address):
            return method(self, *args, **kwargs)

    return call


class Tracker:
    """The runs of one study. Every method raises TrackingError, and nothing else, when the store fails."""

    def __init__(self, uri: Address | str, study: str, *, artifacts: str | None) -> None:
        """Open the store; creates the database and the experiment and nothing else.

        `artifacts`: where a store without a server keeps the experiment's files (None: the server decides).
        """
        self.address = check_reachable(uri)
        self._study = study
        self._logged: dict[str, set[int]] = {}
        with opening(self.address):
            self._open(artifacts)

    @_guarded
    def study_run(self) -> str:
        """Id of the study's parent run, which is created at first use."""
        own = {"vqscale.kind": "study", "vqscale.study": self._study}
        run = self._find(own)
        return str(run.info.run_id) if run else self._create(self._study, own)

    @_guarded
    def describe(self, run_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Log parameters and tags of a run that may have some: MLflow never changes the value of a parameter, so that
        one which has changed since is told in a tag."""
        known = self._client.get_run(run_id).data.params
        now = _as_texts(parameters)
        self.log_parameters(run_id, {key: value for key, value in now.items() if key not in known})
        changed = {f"changed.{key}": value for key, value in now.items() if known.get(key, value) != value}
        self.set_tags(run_id, {**tags, **changed})

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

        values = [Param(key, value) for key, value in _as_texts(parameters).items()]
        for part in _parts(values, BATCH_PARAMETERS):
            self._client.log_batch(run_id, params=part)

    @_guarded
    def log_datasets(self, run_id: str, datasets: Iterable[Dataset]) -> None:
        """Log what a run was trained and evaluated on; a data set that the run has is not logged again."""
        from mlflow.entities import Dataset as Data
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for one in datasets:
            source = json.dumps({"uri": one.uri})
            data = Data(name=one.name, digest=one.digest, source_type="vqscale corpus", source=source)
            inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", one.context)]))
        self._client.log_inputs(run_id, inputs)

    @_guarded
    def log_model(self, run_id: str, model: TrainedModel, metrics: Mapping[Dataset | None, Values]) -> None:
        """Log a trained model, its weights left where they are, and the final metrics of its run by what they were
        measured on.

        A model that the run has already is completed, and a metric that it shows already is not logged again.
        """
        from mlflow.entities import LoggedModelOutput

        found = self._client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'", max_results=1)
        known = found[0] if found else self._create_model(run_id, model)
        if known.status != "READY":
            self._client.log_outputs(run_id, [LoggedModelOutput(known.model_id, model.tokens)])
        held = {metric.key: metric.value for metric in known.metrics or ()}
        for data, values in metrics.items():
            own = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
            self._log_values(run_id, values, held, step=model.tokens, model_id=known.model_id, **own)
        if known.status != "READY":
            self._client.finalize_logged_model(known.model_id, "READY")

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
    def log_final(self, run_id: str, values: Values, *, tokens: int) -> None:
        """Log final measurements of a run, except for None and for what the run shows already."""
        self._log_values(run_id, values, self._client.get_run(run_id).data.metrics, step=tokens)

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
        with _without_links():
            self._client.set_terminated(run_id, status)

    @_guarded
    def _open(self, artifacts: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import LifecycleStage

        # what it reports there with a traceback is raised as well, and then told in one line
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        make_database(self.address)
        self._client = MlflowClient(tracking_uri=self.address.reveal())
        found = self._client.get_experiment_by_name(self._study) or self._create_experiment(artifacts)
        if found.lifecycle_stage == LifecycleStage.DELETED:
            raise TrackingError(
                f"tracking.uri: {self.address}: the experiment {self._study!r} was deleted there. Restore it (mlflow"
                f" experiments restore --experiment-id {found.experiment_id}), or give the study another name."
            )
        self.experiment_id: str = found.experiment_id
        if EXPERIMENT_KIND not in found.tags:
            self._client.set_experiment_tag(self.experiment_id, EXPERIMENT_KIND, MODEL_TRAINING)

    def _create_experiment(self, artifacts: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        place = None if served(self.address) else artifacts
        try:
            return self._client.get_experiment(self._client.create_experiment(self._study, artifact_location=place))
        except MlflowException:
            found = self._client.get_experiment_by_name(self._study)
            if found is None:
                raise
            return found  # another process of the same study was first, on a server that no lock of ours holds

    def _log_values(self, run_id: str, values: Values, shown: Mapping[str, float], **where: Any) -> None:
        """Log what is known and not `shown` yet: a second value at the same step would make two points of one."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {key: float(value) for key, value in values.items() if value is not None and shown.get(key) != value}
        for part in _parts(list(new.items()), BATCH_METRICS):
            self._client.log_batch(run_id, metrics=[Metric(key, value, now, **where) for key, value in part])

    def _find(self, tags: Mapping[str, str]) -> Any:
        """The first run with these tags, an `mlflow.entities.Run`; None where there is none."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([self.experiment_id], wanted, max_results=1)
        return runs[0] if runs else None

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self.experiment_id, tags={**_origin(), **tags}, run_name=name)
        return str(run.info.run_id)

    def _create_model(self, run_id: str, model: TrainedModel) -> Any:
        return self._client.create_logged_model(
            self.experiment_id,
            name=re.sub(r"[/:.%\"']", "-", model.name),  # what MLflow refuses in the name of a model
            source_run_id=run_id,
            tags={**_EXTERNAL, "vqscale.weights": model.weights},
            params=_as_texts(model.parameters),
            model_type=model.kind,
        )


def _as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that are known, as MLflow takes them."""
    return {key: str(value)[:PARAMETER_LENGTH] for key, value in values.items() if value is not None}


def _parts(values: list[R], size: int) -> list[list[R]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


@functools.cache
def _origin() -> dict[str, str]:
    """Who made a run, and how, in MLflow's own tags."""
    tags = {"mlflow.source.type": "JOB" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


@contextlib.contextmanager
def _without_links() -> Iterator[None]:
    """MLflow prints the address of a run that ends to standard output, where `--json` has the only word."""
    before = os.environ.get(NO_LINKS)
    os.environ[NO_LINKS] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_LINKS]
        else:
            os.environ[NO_LINKS] = before
