"""The public functions behind `import vqscale`: what the commands do, as values.

They raise the errors of `vqscale.errors`, print nothing but progress, and pass on warnings as Python warnings.
"""

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vqscale.cli.console import make_console
from vqscale.cli.live_table import LiveTable
from vqscale.errors import StudyError
from vqscale.laws import Fit, StudyFits
from vqscale.planning.plan import Plan, PlannedTrial
from vqscale.planning.plan import plan as make_plan
from vqscale.results.result import Result
from vqscale.study.places import open_any, study_file
from vqscale.study.spec import Study
from vqscale.study.throughput_study import ThroughputStudy
from vqscale.sweep.events import Level
from vqscale.workflow.fits import FitOptions, FitRun, fit_target
from vqscale.workflow.queries import Predicted, Selection, predict_target
from vqscale.workflow.report_page import report_target
from vqscale.workflow.study import RunEvents, StudyRun, run_study

if TYPE_CHECKING:
    import torch

    from vqscale.inference.load import LoadedModel

StudyLike = str | os.PathLike[str] | Study
"""A study's file, its folder after a run, or the study itself."""
Target = str | os.PathLike[str] | Study
"""The same, or a table of runs: .csv, .tsv, .json, .jsonl or .parquet."""

__all__ = [
    "Fit",
    "FitOptions",
    "FitRun",
    "Plan",
    "PlannedTrial",
    "Predicted",
    "Result",
    "RunEvents",
    "Study",
    "StudyFits",
    "StudyRun",
    "fit",
    "load_model",
    "load_study",
    "plan",
    "predict",
    "report",
    "run",
]


class _Warnings(RunEvents):
    """Shows no progress; what a user should know becomes a Python warning."""

    def message(self, text: str, level: Level = "info") -> None:
        if level == "warning":
            warnings.warn(text, stacklevel=2)


def load_study(path: str | os.PathLike[str]) -> Study:
    """The study of a file, or of a study's folder: every key checked and every default in place.

    Raises StudyError, also for a throughput study, which `vqscale throughput` measures.
    """
    return _study(path)[0]


def plan(study: StudyLike, *, allow_changed: bool = False) -> Plan:
    """The trials of a study with their exact FLOPs and estimated memory, time and money. Starts and writes nothing.

    `allow_changed`: leave out finished trials that the study no longer describes. Raises StudyError.
    """
    spec, source = _study(study)
    return make_plan(spec, source=source, allow_changed=allow_changed)


def run(
    study: StudyLike,
    *,
    address: str | None = None,
    allow_changed: bool = False,
    progress: bool | RunEvents = True,
) -> StudyRun:
    """Train what is not trained yet, then fit, measure and report. Safe to call any number of times.

    `address`: of a Ray cluster (such as "auto"); None: that of `RAY_ADDRESS`, else one of this machine for as long as
    it trains. A Ray connection of the caller's own is left alone.
    `progress`: True shows a table in a terminal, live in a notebook where ipywidgets is installed; False shows nothing;
    or a listener, a subclass of `RunEvents`.
    A failed trial is no error: its result says `failed`. Raises UserError before anything is started when the request
    is wrong, StudyInterruptedError on Ctrl-C, WorkFailedError when the process that talks to Ray died.
    """
    spec, source = _study(study)
    return run_study(spec, source=source, address=address, allow_changed=allow_changed, events=_events(progress))


def fit(target: Target, options: FitOptions | None = None, *, out: str | None = None) -> FitRun:
    """Scaling laws of a study's results, or of any table of runs, with intervals and a hold-out.

    Written, with figures, to the study's folder (of a table: to `TABLE.analysis/` beside it) or to `out`. Laws that the
    data cannot support are in `fits.refusals`, with reasons. Raises StorageError where there are no results, FitError
    for options that do not fit the table.
    """
    return fit_target(_target(target), options or FitOptions(), out=out, events=_Warnings())


def predict(
    target: Target,
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
    group: Mapping[str, str] | None = None,
    fits: str | None = None,
    beyond: bool = False,
) -> Predicted:
    """What the fits of `target` predict at training FLOPs, parameters, training tokens, a loss or money ("50usd").

    Name one of them; `params` and `tokens` together ask for the loss of that run. One outcome per architecture with a
    fit, or the reason of its refusal; of a table from elsewhere one per subset. `group`: column -> value of subsets
    that were fitted. `fits`: the folder with fits.json, where it is not the target's. `beyond`: answer also more than
    a hundred times outside the runs. Raises FitError where all refuse, and where nothing was fitted yet.
    """
    given = {"compute": compute, "params": params, "tokens": tokens, "loss": loss, "money": money}
    question = {name: value for name, value in given.items() if value is not None}
    selection = Selection(law=law, arch=arch, context=context, codebook=codebook, group=group or {})
    return predict_target(_target(target), question, selection, fits=fits, beyond=beyond)


def report(target: Target, *, out: str | None = None) -> list[str]:
    """Write figures and the self-contained HTML page of a study or a table of runs; returns their URIs, the page last.

    `out`: the folder with the fits, where figures and page go, too. Raises StorageError where there are no results.
    """
    return report_target(_target(target), out=out, events=_Warnings())


def load_model(run: StudyLike, trial: str | None = None, *, device: "str | torch.device" = "cpu") -> "LoadedModel":
    """A trained model with its tokenizer, in evaluation mode on `device`.

    `run`: a trial's folder, or a study together with the name or id of a `trial`. Weights are float32, whatever the
    precision of the training. Raises StorageError where there is no such trial or it has no weights (it failed,
    diverged or still trains), CorpusError where the corpus with its tokenizer is gone.
    """
    from vqscale.inference.load import load_model as load_trained  # PyTorch is loaded here, and not before

    return load_trained(_target(run), trial, device=device)


def _study(study: StudyLike) -> tuple[Study, str]:
    """A study that trains, and its name in messages."""
    if isinstance(study, Study):
        return study, study.study
    if not isinstance(study, str | os.PathLike):
        raise StudyError(f"study: {type(study).__name__} is no study. Give a file's path, or what load_study returns.")
    path = os.fspath(study)
    found = open_any(path)
    if isinstance(found, ThroughputStudy):
        raise StudyError(f"{path}: a throughput study trains nothing. Measure it: vqscale throughput {path}")
    return found, study_file(path)


def _target(target: Target) -> str | Study:
    return target if isinstance(target, Study) else os.fspath(target)


def _events(progress: bool | RunEvents) -> RunEvents:
    if isinstance(progress, RunEvents):
        return progress
    if not isinstance(progress, bool):
        raise TypeError(f"progress: {progress!r} is neither True, False nor an instance of a subclass of RunEvents")
    return LiveTable(make_console(stderr=True)) if progress else _Warnings()
