"""What the user sees while a study runs: a line per trial, a bar, and the time left. Plain lines without a terminal."""

import itertools
import time
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vqscale.cli.console import styled
from vqscale.cli.error_view import with_error
from vqscale.formatting import duration, short_count
from vqscale.planning.plan import Plan
from vqscale.results.metrics_rows import Row
from vqscale.results.result import Result
from vqscale.study.trial import Trial
from vqscale.sweep.events import Level
from vqscale.workflow.study import RunEvents

QUALITY = {"language": "bpb", "classification": "accuracy"}
"""By task, the measure that people look at first."""
SHOWN = 16
"""Trials that the live table holds: those that run, those that ended last, then those that wait."""


@dataclass
class _Line:
    name: str
    flops: float
    state: str = "waiting"
    share: float = 0.0
    loss: float | None = None
    quality: float | None = None
    """Bits per byte, or accuracy."""
    tokens_per_second: float | None = None


class LiveTable(RunEvents):
    """Shows a study's progress on a console: a live table in a terminal, plain lines elsewhere.

    In a notebook the table is live where ipywidgets is installed, which is what rich draws it with there.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._lines: dict[str, _Line] = {}
        self._phase = ""

    def stage_started(self, stage: Plan) -> None:
        # Three kinds of lines, so that what is shown of ten thousand trials costs no more than what is shown of ten.
        self._lines = {p.trial.id: _Line(p.trial.name, p.cost.flops) for p in stage.pending}
        self._waiting = dict.fromkeys(self._lines)
        self._running: dict[str, _Line] = {}
        """The one that changed last is the last."""
        self._ended: deque[_Line] = deque(maxlen=SHOWN)
        self._flops = sum(line.flops for line in self._lines.values())
        self._flops_ended, self._count_ended, self._phase = 0.0, 0, ""
        self._tokens = {p.trial.id: p.cost.tokens for p in stage.pending}
        self._quality = QUALITY[stage.study.task]
        self._done_before = len(stage.trials) - len(stage.pending)
        self._started = time.monotonic()
        if self._console.is_terminal or (self._console.is_jupyter and find_spec("ipywidgets")):
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()

    def stage_ended(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def message(self, text: str, level: Level = "info") -> None:
        style = "yellow" if level == "warning" else None
        self._console.print(text, style=style, markup=False, highlight=False)

    def phase(self, text: str, trial: Trial | None = None) -> None:
        if trial is not None:
            self._changed(trial).state = text
            return
        self._phase = text
        if self._live is None:
            self._console.print(f"{text} ...", style="dim", markup=False, highlight=False)

    def row(self, trial: Trial, row: Row) -> None:
        line = self._changed(trial)
        line.state, line.share = "training", row["tokens"] / self._tokens[trial.id]
        line.loss, line.quality = row.get("loss"), row.get("bpb", row.get("accuracy"))
        line.tokens_per_second = row["tokens_per_second"]

    def retried(self, trial: Trial, error: str) -> None:
        self._changed(trial).state = "retrying"
        self.message(f"{trial.name}: {last_line(error)}: it is tried again", "warning")

    def ended(self, trial: Trial, result: Result) -> None:
        line = self._changed(trial)
        del self._running[trial.id]
        line.state, line.quality, line.share = result.status, quality(result), 1.0
        self._ended.appendleft(line)
        self._flops_ended += line.flops
        self._count_ended += 1
        done, total = self._count_ended + self._done_before, len(self._lines) + self._done_before
        known = quality(result)
        measured = (
            (result.error or "")
            if known is None
            else (f"{with_error(known, quality_error(result))} {QUALITY[result.task]} held out")
        )
        speed = f", {short_count(result.tokens_per_second)} tokens/s" if result.tokens_per_second else ""
        colour = {"finished": "green", "stopped": "cyan"}.get(result.status, "red")
        self._console.print(
            styled(
                f"[{colour}]{{}}[/{colour}] {{}}: {{}}  [dim]{{}}[/dim]",
                f"{result.status:>9}",
                f"{done:>3}/{total}  {line.name}",
                f"{last_line(measured)}{speed}",
                self._left(),
            ),
            highlight=False,
        )

    def _changed(self, trial: Trial) -> _Line:
        """The line of a trial that a worker group has begun, from now on the one that changed last."""
        self._waiting.pop(trial.id, None)
        line = self._running.pop(trial.id, self._lines[trial.id])
        self._running[trial.id] = line
        self._phase = ""
        return line

    def _share(self) -> float:
        running = sum(line.flops * line.share for line in list(self._running.values()))
        return (self._flops_ended + running) / self._flops if self._flops else 1.0

    def _left(self) -> str:
        share, spent = self._share(), time.monotonic() - self._started
        if share < 0.02:
            return ""
        return f"about {duration(spent * (1 - share) / share)} left" if share < 1 else ""

    def _shown(self) -> list[_Line]:
        # Copies: rich draws in a thread of its own while events change what is copied here.
        waiting = [self._lines[name] for name in list(itertools.islice(self._waiting, SHOWN))]
        return [*reversed(list(self._running.values())), *list(self._ended), *waiting][:SHOWN]

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for title in ("trial", "state", "done", "loss", self._quality, "tokens/s"):
            table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
        for line in self._shown():
            table.add_row(
                line.name,
                line.state,
                f"{line.share:.0%}",
                "" if line.loss is None else f"{line.loss:.3f}",
                "" if line.quality is None else f"{line.quality:.3f}",
                "" if line.tokens_per_second is None else short_count(line.tokens_per_second),
            )
        spent = duration(time.monotonic() - self._started)
        words = [f"{self._count_ended}/{len(self._lines)} trials", f"{spent} so far", self._phase or self._left()]
        text = Text(", ".join(word for word in words if word), style="bold")
        # Padding ends the bar's line: without it the text would follow on the same line and be cut off.
        return Group(table, Padding(ProgressBar(total=1.0, completed=self._share(), width=60), 0), text)


def quality(result: Result) -> float | None:
    """The trial's value of the task's `QUALITY`."""
    return result.accuracy if result.task == "classification" else result.bpb


def quality_error(result: Result) -> float | None:
    """Its standard error over held-out documents or examples."""
    return result.accuracy_error if result.task == "classification" else result.bpb_error


def last_line(text: str) -> str:
    """The line of an error that says what happened."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""
