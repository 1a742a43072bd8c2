"""The public functions behind `import vqscale`: what the commands do, as values.

Every function takes a study as a file's path, a folder or a `Study`, raises the errors of `vqscale.errors`, and prints
nothing but progress.
"""

from vqscale.cli.console import make_console
from vqscale.cli.live_table import LiveTable
from vqscale.errors import StudyError
from vqscale.inference.load import LoadedModel
from vqscale.inference.load import load_model as load_trained
from vqscale.inference.score import TextScore
from vqscale.laws import Fit, StudyFits
from vqscale.planning.plan import Plan, PlannedTrial
from vqscale.planning.plan import plan as make_plan
from vqscale.results.result import Result
from vqscale.study.spec import Study
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.workflow.fits import FitOptions, FitRun, fit_target
from vqscale.workflow.queries import Predicted, Selection, predict_target
from vqscale.workflow.report_page import report_target
from vqscale.workflow.study import RunEvents, StudyRun, run_study

__all__ = [
    "Fit",
    "FitOptions",
    "FitRun",
    "LoadedModel",
    "Plan",
    "PlannedTrial",
    "Predicted",
    "Result",
    "RunEvents",
    "Study",
    "StudyFits",
    "StudyRun",
    "TextScore",
    "ThroughputStudy",
    "fit",
    "load_model",
    "load_study",
    "plan",
    "predict",
    "report",
    "run",
]


def load_study(path: str) -> Study | ThroughputStudy:
    """The study of a file, every key checked and every default in place. Raises StudyError."""
    return load_any(path)


def plan(study: str | Study, *, allow_changed: bool = False) -> Plan:
    """The trials of a study with their exact FLOPs and estimated memory, time and money. Starts and writes nothing.

    `allow_changed`: leave out finished trials that the study no longer describes. Raises StudyError.
    """
    spec, source = _study(study)
    return make_plan(spec, source=source, allow_changed=allow_changed)


def run(
    study: str | Study,
    *,
    address: str | None = None,
    allow_changed: bool = False,
    progress: bool | RunEvents = True,
) -> StudyRun:
    """Train what is not trained yet, then fit, measure and report. Safe to call any number of times.

    `address`: of a Ray cluster (such as "auto"); None: one of this machine, for as long as the call takes.
    `progress`: True shows a live table (in a notebook, too), False nothing; or your own listener.
    A failed trial is no error: its result says `failed`. Raises UserError before anything is started when the request
    is wrong, StudyInterruptedError on Ctrl-C, WorkFailedError when the process that talks to Ray died.
    """
    spec, source = _study(study)
    return run_study(spec, source=source, address=address, allow_changed=allow_changed, events=_events(progress))


def fit(target: str | Study, options: FitOptions | None = None, *, out: str | None = None) -> FitRun:
    """Scaling laws of a study's results, or of a .csv or .parquet table of runs, with intervals and a hold-out.

    Written, with figures, to the study's folder (of a table: to `TABLE.analysis/` beside it) or to `out`. Laws that the
    data cannot support are in `fits.refusals`, with reasons. Raises StorageError where there are no results, FitError
    for options that do not fit the table.
    """
    return fit_target(_target(target), options or FitOptions(), out=out, events=RunEvents())


def predict(
    target: str | Study,
    *,
    compute: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
    money: str | None = None,
    law: str | None = None,
    arch: str | None = None,
    context: int | None = None,
    codebook: int | None = None,
) -> Predicted:
    """What the fits of `target` predict at training FLOPs, parameters, training tokens, a loss or money ("50usd").

    Name one of them; `params` and `tokens` together ask for the loss of that run. One outcome per architecture with a
    fit, or the reason of its refusal. Raises FitError where all refuse, and where nothing was fitted yet.
    """
    given = {"compute": compute, "params": params, "tokens": tokens, "loss": loss, "money": money}
    question = {name: value for name, value in given.items() if value is not None}
    selection = Selection(law=law, arch=arch, context=context, codebook=codebook)
    return predict_target(_target(target), question, selection)


def report(target: str | Study, *, out: str | None = None) -> list[str]:
    """Write figures and the self-contained HTML page of a study or a table of runs; returns their URIs, the page last.

    `out`: the folder with the fits, where figures and page go, too. Raises StorageError where there are no results.
    """
    return report_target(_target(target), out=out, events=RunEvents())


def load_model(run: str | Study, trial: str | None = None, *, device: str = "cpu") -> LoadedModel:
    """A trained model with its tokenizer, in evaluation mode on `device`.

    `run`: a trial's folder, or a study (file, folder or `Study`) together with the name or id of a `trial`. Weights are
    float32, whatever the precision of the training. Raises StorageError where there is no such trial or it has no
    weights (it failed, diverged or still trains), CorpusError where the corpus with its tokenizer is gone.
    """
    return load_trained(_target(run), trial, device=device)


def _study(study: str | Study) -> tuple[Study, str]:
    """A study that trains, and what messages call it."""
    if not isinstance(study, str):
        return study, study.study
    found = load_any(study)
    if isinstance(found, ThroughputStudy):
        raise StudyError(f"{study}: a throughput study trains nothing. Measure it: vqscale throughput {study}")
    return found, study


def _target(target: str | Study) -> str:
    return target if isinstance(target, str) else target.folder


def _events(progress: bool | RunEvents) -> RunEvents:
    if isinstance(progress, RunEvents):
        return progress
    return LiveTable(make_console(stderr=True)) if progress else RunEvents()
