"""What a person sees while a study runs: what is being started before the first update, then the trials."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from operations import growth
from rich.console import Console

from vqscale.cli.live_table import SHOWN, LiveTable
from vqscale.costing.facts import failed_result
from vqscale.planning.plan import Plan, plan
from vqscale.results.result import Result


@pytest.fixture
def planned(corpus_uri: str, write_study: Any, tmp_path: Any) -> Callable[[int], Plan]:
    def make(count: int) -> Plan:
        rates = [0.001 + 0.00001 * index for index in range(count)]
        train = {"context": 64, "tokens": 8192, "batch_tokens": 512}
        model = {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16}
        sections = {"design": [], "sweep": [{"train.lr": rates}], "train": train, "model": model}
        return plan(write_study(tmp_path / "study.yaml", corpus_uri, **sections))

    return make


def result_of(one: Any, status: str = "finished", **values: Any) -> Result:
    failed = failed_result("s", one.trial, error="no", attempts=1, workers=1, started_at="now")
    return failed.model_copy(update={"status": status, "error": None, "bpb": 2.0} | values)


def begun(stage: Plan, *, terminal: bool = False) -> tuple[LiveTable, Console]:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    table = LiveTable(console)
    table.stage_started(stage)
    return table, console


def drawn(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table._render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_before_the_first_update_says_what_is_started(planned: Any) -> None:
    stage = planned(2)
    table, _ = begun(stage)
    table.phase("starting 2 worker groups")
    assert "so far, starting 2 worker groups" in drawn(table)
    assert drawn(table).count("waiting") == 2
    first = stage.trials[0].trial
    table.phase("loading", first)
    assert "starting 2 worker groups" not in drawn(table)
    assert "loading" in drawn(table)
    assert drawn(table).count("waiting") == 1
    table.phase("resumed at 40", first)
    assert "resumed at 40" in drawn(table)


def test_table_fits_a_terminal_of_80_columns_with_all_that_it_says(planned: Any) -> None:
    table, _ = begun(planned(1))
    table.phase("starting 2 worker groups")
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    lines = ["".join(part.text for part in line) for line in console.render_lines(table._render(), pad=False)]
    assert lines[-1].endswith("so far, starting 2 worker groups")


def test_table_shows_training_once_a_row_has_come_and_the_phase_after_it(planned: Any) -> None:
    stage = planned(1)
    table, _ = begun(stage)
    trial = stage.trials[0].trial
    table.phase("first updates", trial)
    table.row(trial, {"step": 8, "tokens": 4096, "loss": 3.0, "bpb": 4.3, "tokens_per_second": 1000.0})
    assert "training" in drawn(table)
    assert "50%" in drawn(table)
    table.phase("evaluating", trial)
    assert "evaluating" in drawn(table)


def test_phases_of_the_stage_are_lines_where_there_is_no_terminal_and_those_of_trials_are_not(planned: Any) -> None:
    stage = planned(1)
    console = Console(file=io.StringIO(), width=200)
    table = LiveTable(console)
    table.phase("starting Ray on this machine")
    table.stage_started(stage)
    table.phase("starting 1 worker group")
    table.phase("loading", stage.trials[0].trial)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["starting Ray on this machine ...", "starting 1 worker group ..."]


def test_table_shows_what_runs_then_what_ended_last_then_what_waits(planned: Any) -> None:
    stage = planned(SHOWN + 4)
    table, _ = begun(stage)
    for number, one in enumerate(stage.trials):
        table._lines[one.trial.id].name = f"trial{number:02d}"
    for one in stage.trials[:2]:
        table.ended(one.trial, result_of(one))
    for one in stage.trials[2:4]:
        table.phase("first updates", one.trial)
    names = [line.split()[0] for line in drawn(table).splitlines()[1 : 1 + SHOWN]]
    waiting = [f"trial{number:02d}" for number in range(4, SHOWN)]
    assert names == ["trial03", "trial02", "trial01", "trial00", *waiting]


def test_table_of_twice_the_trials_takes_twice_the_operations(planned: Any) -> None:
    def of_size(count: int) -> Callable[[], object]:
        stage = planned(count)
        results = [result_of(one) for one in stage.trials]
        table, _ = begun(stage)

        def all_events() -> None:
            for one, result in zip(stage.trials, results, strict=True):
                table.phase("first updates", one.trial)
                table.row(one.trial, {"step": 8, "tokens": 4096, "loss": 3.0, "tokens_per_second": 1000.0})
                table.ended(one.trial, result)

        return all_events

    assert growth(of_size, 100) < 2.15
