"""Brackets, backslashes and colons in a user's own texts reach the screen as they are, through the real entry point."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from rich.text import Span

from vqscale.cli import console, doctor
from vqscale.cli.live_table import LiveTable
from vqscale.cli.main import main
from vqscale.cli.messages import Messages
from vqscale.cli.progress import RoundsBar
from vqscale.costing.facts import failed_result
from vqscale.planning.plan import plan
from vqscale.study.spec import load_study
from vqscale.study.yaml_file import dumped
from vqscale.submit.doctor import Check

TEXTS = ["[/b]", "[nats]", "[red]x", "\\[", "[link=a]b[/link]", "a\\", "[x", "y]", ":smile:", "[bold]", "[/]"]
ALL = "[/b][nats][red]x\\\\[[x:smile:y][/]"
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `vqscale ...` in this process: the exit code, and what went to the screen without line breaks."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vqscale", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        screen = capsys.readouterr()
        return int(caught.value.code or 0), re.sub(r"\s+", " ", screen.out + screen.err)

    return run


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def study_file(tmp_path: Path, corpus_uri: str, text: str) -> str:
    """A study in a folder, with a question, of which the text is a part."""
    folder = tmp_path / f"of {text.replace('/', '_')}"
    folder.mkdir()
    values = {
        "study": "quick",
        "question": f"Is {text} text?",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01},
        "storage": f"{folder}/runs",
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }
    (folder / "study.yaml").write_text(dumped(values))
    return f"{folder}/study.yaml"


@pytest.mark.parametrize("text", TEXTS)
def test_styled_text_shows_values_as_they_are_and_keeps_its_styles(text: str) -> None:
    made = console.styled("[yellow]note[/yellow] {}: [dim]{}[/dim]{}", text, text, 3)
    assert made.plain == f"note {text}: {text}3"
    start = len(f"note {text}: ")
    assert made.spans == [Span(0, 4, "yellow"), Span(start, start + len(text), "dim")]


def test_styled_text_of_two_values_makes_no_tag_together() -> None:
    assert console.styled("{} {}", "[bold", "x]").plain == "[bold x]"
    assert console.styled("{}", "{}").plain == "{}"


def test_plan_shows_the_question_as_it_is(call: Call, study_file: str, text: str) -> None:
    code, screen = call("plan", study_file)
    assert code == 0
    assert f"Is {text} text?" in screen


def test_status_shows_paths_as_they_are(call: Call, study_file: str) -> None:
    code, screen = call("status", study_file)
    assert code == 0
    assert f"{Path(study_file).parent}/runs" in screen


def test_doctor_shows_findings_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    doctor._print([Check(name="study", state="broken", found=f"found {text}", fix=f"fix {text}")])
    screen = capsys.readouterr().out
    assert f"found {text}" in screen
    assert f"fix {text}" in screen


@pytest.mark.parametrize("command", ["plan", "fit", "report", "predict", "export", "next", "recipe"])
def test_refusals_show_what_was_asked_as_it_is(call: Call, command: str) -> None:
    extra = {
        "next": ["--budget", "1e15", "--out", "next.yaml"],
        "predict": ["--compute", "1e15"],
        "export": ["--format", "json"],
    }
    code, screen = call(command, f"no-{ALL}-here", *extra.get(command, []))
    assert code == 2
    assert f"no-{ALL}-here" in screen


def test_fits_and_predictions_show_architectures_and_run_names_as_they_are(call: Call, tmp_path: Path) -> None:
    rows = [
        {"arch": ALL, "parameters_non_embedding": n, "tokens": d, "loss": 1 + 400 / n**0.34 + 410 / d**0.28}
        for n in (1e6, 3e6, 1e7, 3e7)
        for d in (1e8, 3e8, 1e9)
    ]
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    for words in (
        ["fit", str(path), "--law", "chinchilla", "--bootstrap", "0"],
        ["predict", str(path), "--compute", "1.2e16"],
    ):
        code, screen = call(*words)
        assert code == 0, screen
        assert ALL in screen


def test_live_table_messages_and_progress_show_names_as_they_are(
    study_file: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(load_study(study_file), source=study_file)
    trial = planned.pending[0].trial
    shown = LiveTable(console.make_console())
    shown.stage_started(planned)
    shown.message(f"message {text}", "warning")
    shown.retried(trial, f"Error: {text}")
    shown.ended(
        trial,
        failed_result(
            "quick", trial, error=f"Error: {text}", attempts=1, workers=1, started_at="2026-12-01T00:00:00+00:00"
        ),
    )
    Messages(console.make_console()).message(f"more {text}")
    screen = capsys.readouterr().out
    assert f"message {text}" in screen
    assert f"{trial.name}: Error: {text}: it is tried again" in screen
    assert f"{trial.name}: Error: {text}" in screen.splitlines()[-2]
    assert f"more {text}" in screen
    with RoundsBar() as bar:
        bar.update(text, 0, 2)
        recorded = Console(record=True, width=80, markup=False, emoji=False)
        recorded.print(bar._progress.get_renderable())
    assert text in recorded.export_text()


def test_commands_style_texts_in_one_way_only() -> None:
    """A console of another kind, or a tag outside `styled`, would read markup in a user's text again."""
    for path in Path(console.__file__).parent.glob("*.py"):
        source = path.read_text()
        made = re.findall(r"\bConsole\(|rich\.markup", source)
        assert made == (["Console("] if path.name == "console.py" else []), path.name
        for line in source.splitlines():
            if re.search(r"\[/[a-z]*\]|TextColumn\(", line) and "import" not in line:
                allowed = "styled(" in line or "_complain(" in line or "markup=False" in line or "{colour}" in line
                assert allowed or path.name == "console.py", f"{path.name}: {line.strip()}"
