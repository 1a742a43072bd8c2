"""A study's trials in MLflow while they train.

MLflow is a view of the study's folder: while its store fails, training continues, and what the store missed is sent
once it answers. A run is ended last, after all its rows and final numbers, so that an ended run is a complete one.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from vqscale import storage
from vqscale.errors import TrackingError
from vqscale.planning.plan import Plan
from vqscale.provenance import git_commit, versions
from vqscale.results.metrics_rows import Row, read_rows
from vqscale.results.records import intact_result
from vqscale.results.result import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial
from vqscale.sweep.events import StudyEvents
from vqscale.track.tracker import Dataset, RunStatus, Tracker, TrainedModel, TrialRun, Values

PAUSE_SECONDS = 60.0
"""Nothing is sent for so long after a failure: each try would hold up the driver until MLflow gives up."""

RUN_STATUS: dict[str, RunStatus] = {"finished": "FINISHED", "stopped": "FINISHED"}
HELD_OUT = (
    *("loss", "bpb", "perplexity", "accuracy", "balanced_accuracy", "macro_f1"),
    *("loss_error", "bpb_error", "accuracy_error", "evaluation_documents", "evaluation_tokens"),
)
TEST = ("test_loss", "test_accuracy", "test_accuracy_error")
MEASURED = (
    *("tokens_per_second", "flops_per_second", "peak_memory_bytes", "flops"),
    *("code_perplexity", "dead_codes", "quantisation_error", "skipped_updates", "seconds_training", "seconds_overhead"),
    "seconds_evaluation",
)
FINAL = (*HELD_OUT, *TEST, *MEASURED)


class TrackingObserver(StudyEvents):
    """Runs in MLflow for the trials of one plan. Failures of the store are reported as messages to `events`."""

    def __init__(self, plan: Plan, events: StudyEvents, tracker: Tracker) -> None:
        self._plan = plan
        self._trials = {planned.trial.id: planned for planned in plan.trials}
        self._events, self._tracker = events, tracker
        self._runs: dict[str, str] = {}
        self._silent_until, self._reported = 0.0, False

    def stage_started(self, plan: Plan) -> None:
        self._send(lambda: self._parent)

    def row(self, trial: Trial, row: Row) -> None:
        self._send(lambda: self._tracker.log_row(self._run(trial.id), row, tokens=int(row["tokens"])), trial.id)

    def ended(self, trial: Trial, result: Result) -> None:
        self._send(lambda: self._finish(self._run(trial.id), result), trial.id)

    def catch_up(self) -> None:
        """Send what the store lacks of the trials that have a record; a search and no more when it lacks nothing.

        A store that still fails is reported as a message. Raises StorageError for a study that cannot be read.
        """
        try:
            shown = self._tracker.trials()
            for trial_id, planned in self._trials.items():
                result = planned.result if planned.done else intact_result(self._plan.folder(planned.trial))
                if result and not _complete(shown.get(trial_id), result):
                    self._finish(self._run(trial_id), result)
        except TrackingError as error:
            self._events.message(
                f"MLflow lacks a part of this study ({error}); the results in {self._plan.study.folder} are complete.",
                "warning",
            )

    def _send(self, write: Callable[[], object], trial_id: str = "") -> None:
        """Write to the store; a failure is reported once and never reaches the training."""
        if time.monotonic() < self._silent_until:
            return
        try:
            write()
        except TrackingError as error:
            self._runs.pop(trial_id, None)  # found again when it is opened, with what it holds
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            if not self._reported:
                self._events.message(f"{error} Training continues; MLflow gets what it missed later.", "warning")
            self._reported = True

    @functools.cached_property
    def _parent(self) -> str:
        """The study's own run, shown as running. Raises TrackingError."""
        parent = self._tracker.study_run()
        self._tracker.begin(parent)
        self._tracker.describe(parent, _study_parameters(self._plan.study), _study_tags(self._plan.study))
        return parent

    def _finish(self, run: str, result: Result) -> None:
        trial = self._trials[result.trial_id].trial
        rows = read_rows(self._plan.folder(trial), lambda text: self._events.message(text, "warning"))
        self._tracker.log_rows(run, ((int(row["tokens"]), row) for row in rows))
        self._log_final(run, trial, result)
        for name, lines in _tables(result).items():
            self._tracker.log_text(run, "".join(",".join(map(str, line)) + "\n" for line in lines), f"{name}.csv")
        tags = {"status": result.status, "device": result.device or "", "backend": result.backend or ""}
        tags |= {"error": _last_line(result.error)} if result.error else {}
        tags |= _code_tags(result.versions, result.git)
        self._tracker.set_tags(run, {key: value for key, value in tags.items() if value})
        self._tracker.end(run, _run_status(result))

    def _log_final(self, run: str, trial: Trial, result: Result) -> None:
        """Final measurements; those of a finished trial belong to the model that it left, too."""
        final = {key: getattr(result, key) for key in FINAL}
        if result.status != "finished":
            self._tracker.log_final(run, _named(final, FINAL), tokens=result.tokens)
            return
        model = TrainedModel(
            name=result.name,
            kind=result.arch,
            weights=storage.join(self._plan.folder(trial), "model.safetensors"),
            tokens=result.tokens,
            parameters=self._parameters(trial.id),
        )
        metrics: dict[Dataset | None, Values] = {
            _dataset(trial, "validation"): _named(final, HELD_OUT),
            None: _named(final, MEASURED),
        }
        if result.test_loss is not None:
            test = _dataset(trial, "test")
            self._tracker.log_datasets(run, [test])
            metrics[test] = _named(final, TEST)
        self._tracker.log_model(run, model, metrics)

    def _run(self, trial_id: str) -> str:
        if trial_id not in self._runs:
            trial = self._trials[trial_id].trial
            tags = _tags(trial) | {"mlflow.source.name": _study_file(self._plan.study)}
            run = self._tracker.trial_run(self._parent, trial_id, self._parameters(trial_id), tags)
            self._tracker.log_datasets(run, [_dataset(trial, "training"), _dataset(trial, "validation")])
            self._runs[trial_id] = run
        return self._runs[trial_id]

    def _parameters(self, trial_id: str) -> dict[str, object]:
        planned = self._trials[trial_id]
        trial, cost = planned.trial, planned.cost
        return {
            **{f"model.{key}": value for key, value in trial.model.model_dump().items()},
            **{f"train.{key}": value for key, value in trial.train.model_dump().items() if value != {}},
            "preset": trial.preset,
            "parameters": cost.parameters,
            "parameters_non_embedding": cost.parameters_non_embedding,
            "flops": cost.flops,
            "tokens": cost.tokens,
        }


def _named(values: Mapping[str, float | None], names: Sequence[str]) -> Values:
    return {f"final/{name}": values[name] for name in names}


def _dataset(trial: Trial, context: str) -> Dataset:
    """A split of a trial's corpus; the split that trains has the corpus's own name."""
    name = trial.corpus.rstrip("/").rsplit("/", 1)[-1]
    return Dataset(
        name=name if context == "training" else f"{name}/{context}",
        digest=trial.corpus_fingerprint[:36],
        uri=trial.corpus,
        context=context,
    )


def _study_file(study: Study) -> str:
    return storage.join(study.folder, "study.yaml")


def _study_tags(study: Study) -> dict[str, str]:
    tags = _code_tags(versions(), git_commit()) | {"mlflow.source.name": _study_file(study)}
    return tags | ({"mlflow.note.content": study.question} if study.question else {})


def _study_parameters(study: Study) -> dict[str, object]:
    """What the study file sets, by dotted key; lists, such as a sweep, as JSON."""
    values = study.model_dump(mode="json", exclude={"study", "question", "storage", "tracking"}, exclude_none=True)
    return dict(_dotted("", values))


def _dotted(prefix: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(f"{prefix}{key}.", value)
        elif value not in ([], {}):
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _tables(result: Result) -> dict[str, list[Sequence[object]]]:
    """What was measured of a classifier in rows, headers first: confusion matrix, accuracy by length and distance."""
    found: dict[str, list[Sequence[object]]] = {}
    if result.confusion:
        names = result.class_names or range(len(result.confusion))
        header = ["true class", *(f"as {name}" for name in names)]
        found["confusion"] = [header, *([name, *row] for name, row in zip(names, result.confusion, strict=True))]
    buckets = {"accuracy_by_length": result.accuracy_by_length, "accuracy_by_distance": result.accuracy_by_distance}
    for name, rows in buckets.items():
        if rows:
            found[name] = [("start", "end", "labels", "accuracy")]
            found[name] += [(one.start, one.end, one.labels, one.accuracy) for one in rows]
    return found


def _tags(trial: Trial) -> dict[str, str]:
    tags = {"vqscale.fingerprint": trial.fingerprint, "corpus": trial.corpus_fingerprint}
    return tags | _code_tags(versions(), git_commit())


def _code_tags(versions: Mapping[str, str], commit: str | None) -> dict[str, str]:
    tags = {f"version.{name}": version for name, version in versions.items()}
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _run_status(result: Result) -> RunStatus:
    return RUN_STATUS.get(result.status, "FAILED")


def _complete(run: TrialRun | None, result: Result) -> bool:
    """Whether a run was ended with this result, so holds all of it."""
    if run is None or run.status != _run_status(result) or run.tags.get("status") != result.status:
        return False
    return result.loss is None or "final/loss" in run.metrics


def _last_line(text: str) -> str:
    """The line of an error that says what happened."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""
