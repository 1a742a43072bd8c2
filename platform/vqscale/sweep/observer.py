"""What the driver does with the news of a trial: show it, and mirror it to MLflow."""

from rich.markup import escape

from vqscale.plan.plan import Plan
from vqscale.results.record import Result
from vqscale.study.trial import Trial
from vqscale.sweep.progress import Progress, last_line
from vqscale.track.tracker import RunStatus, Tracker
from vqscale.train.record import git_commit, versions
from vqscale.train.trial import Row

RUN_STATUS: dict[str, RunStatus] = {"finished": "FINISHED", "stopped": "FINISHED"}
FINAL = (
    *("loss", "bpb", "perplexity", "tokens_per_second", "flops_per_second", "peak_memory_bytes", "flops"),
    *("code_perplexity", "dead_codes", "quantisation_error", "seconds_training", "seconds_overhead"),
    "seconds_evaluation",
)


class Observer:
    """Progress on the screen and runs in MLflow for the trials of one plan."""

    def __init__(self, plan: Plan, progress: Progress, tracker: Tracker) -> None:
        self._trials = {planned.trial.id: planned for planned in plan.trials}
        self._progress, self._tracker = progress, tracker
        self._runs: dict[str, str] = {}
        self._parent = tracker.study_run()
        tracker.begin(self._parent)
        if plan.study.question:
            tracker.set_tags(self._parent, {"mlflow.note.content": plan.study.question})

    def row(self, trial_id: str, row: Row) -> None:
        self._progress.row(trial_id, row)
        self._tracker.log_row(self._run(trial_id), row, tokens=int(row["tokens"]))

    def warn(self, trial_id: str, message: str) -> None:
        self._progress.say(f"[yellow]{self._trials[trial_id].trial.name}: {escape(message)}[/yellow]")

    def retried(self, trial_id: str, error: str) -> None:
        self._progress.retried(trial_id, error)

    def ended(self, trial_id: str, result: Result) -> None:
        self._progress.ended(trial_id, result)
        run = self._run(trial_id)
        final = {f"final/{key}": getattr(result, key) for key in FINAL}
        self._tracker.log_final(run, final, tokens=result.tokens)
        tags = {"status": result.status, "device": result.device or "", "backend": result.backend or ""}
        tags |= {"error": last_line(result.error)} if result.error else {}
        self._tracker.set_tags(run, {key: value for key, value in tags.items() if value})
        self._tracker.end(run, RUN_STATUS.get(result.status, "FAILED"))

    def _run(self, trial_id: str) -> str:
        if trial_id not in self._runs:
            trial = self._trials[trial_id].trial
            run = self._tracker.trial_run(self._parent, trial_id, self._parameters(trial_id), _tags(trial))
            for context in ("training", "validation"):
                self._tracker.log_dataset(
                    run,
                    name=trial.corpus.rsplit("/", 1)[-1],
                    digest=trial.corpus_fingerprint,
                    source=trial.corpus,
                    context=context,
                )
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


def _tags(trial: Trial) -> dict[str, str]:
    tags = {"vqscale.fingerprint": trial.fingerprint, "corpus": trial.corpus_fingerprint}
    tags |= {f"version.{name}": version for name, version in versions().items()}
    commit = git_commit()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})
