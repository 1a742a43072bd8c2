"""A page of very many runs: few curves are read, charts and tables are cut and say so, work grows with the runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from operations import growth
from synthetic_runs import make_run

from vqscale.laws import StudyFits
from vqscale.reporting import gather, write_report
from vqscale.reporting.charts import curves
from vqscale.reporting.charts.curves import CURVES_PER_ARCHITECTURE, training_curves
from vqscale.reporting.charts.interactive import FEW_POINTS, MOST_POINTS, plotly_chart
from vqscale.reporting.charts.panel import Axis, Panel, PointsLayer
from vqscale.reporting.html import MOST_ROWS
from vqscale.reporting.page import make_sections
from vqscale.results import read_table, write_table

STUDY = {"study": "many", "question": "", "resources": {}, "train": {}}


def many(count: int, folder: Path) -> pd.DataFrame:
    runs = [make_run(tokens=100_000 + 1000 * index, trial_id=f"t{index}", name=f"run{index}") for index in range(count)]
    uri = str(folder / f"{count}.parquet")
    write_table(runs, uri)
    return read_table(uri)


def points(count: int, **values: Any) -> PointsLayer:
    x = [float(index) for index in range(count)]
    y = [5.0 - index / count for index in range(count)]
    y[count // 3], y[count // 2] = 9.0, 1.0
    return PointsLayer(shade="#000000", x=x, y=y, texts=[f"p{index}" for index in range(count)], **values)


def chart(*layers: PointsLayer) -> dict[str, Any]:
    return plotly_chart(Panel(name="p", title="Loss", x=Axis(name="x"), y=Axis(name="y"), layers=layers))


def test_chart_of_many_points_draws_some_evenly_with_all_extremes_and_says_so() -> None:
    made = chart(points(10_000))
    (trace,) = made["data"]
    assert MOST_POINTS <= len(trace["x"]) <= MOST_POINTS + 4
    assert (trace["x"][0], trace["x"][-1]) == (0.0, 9999.0)
    assert (max(trace["y"]), min(trace["y"])) == (9.0, 1.0)
    assert [f"p{x:.0f}" for x in trace["x"]] == trace["text"]
    assert made["title"] == f"Loss; {len(trace['x']):,} of 10,000 points are drawn, evenly over x"
    gaps = {b - a for a, b in zip(trace["x"], trace["x"][1:], strict=False)}
    assert max(gaps) == 10


def test_chart_of_few_points_is_whole() -> None:
    made = chart(points(MOST_POINTS))
    assert (len(made["data"][0]["x"]), made["title"]) == (MOST_POINTS, "Loss")


def test_chart_keeps_small_layers_whole_beside_a_large_one() -> None:
    made = chart(points(5000), points(FEW_POINTS), points(5000))
    assert [len(trace["x"]) for trace in made["data"]][1] == FEW_POINTS
    assert sum(len(trace["x"]) for trace in made["data"]) <= MOST_POINTS + FEW_POINTS + 8


def test_page_of_many_runs_lists_the_best_and_says_how_many_there_are(tmp_path: Path) -> None:
    count = MOST_ROWS + 700
    write_report(gather(study=STUDY, table=many(count, tmp_path), fits=StudyFits()), str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert f"The first {MOST_ROWS} of {count:,} rows." in text
    assert f"<summary>{count:,} runs</summary>" in text
    listed = text[text.index('id="runs"') : text.index('id="failures"')]
    assert listed.count("<tr>") == MOST_ROWS + 1
    assert f">run{count - 1}<" in listed  # the longest one, which has the lowest loss
    assert "points are drawn, evenly over x" in page
    assert "np.float64" not in page


def test_curves_of_many_trials_are_read_for_those_that_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = many(5 * CURVES_PER_ARCHITECTURE, tmp_path)
    rows = [{"step": step, "tokens": 1024 * step, "loss": 5 / step, "bpb": 7 / step} for step in range(1, 11)]
    for trial in table["trial_id"]:
        (folder := tmp_path / "trials" / trial).mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read: list[str] = []
    actual = curves.read_rows
    monkeypatch.setattr(
        curves, "read_rows", lambda folder, *more, **named: read.append(folder) or actual(folder, *more, **named)
    )
    found = training_curves(str(tmp_path), table)
    assert len(read) == len(found) == CURVES_PER_ARCHITECTURE
    assert found[0].trial_id == f"t{len(table) - 1}"  # the longest
    shown = make_sections(gather(study=STUDY, table=table, fits=StudyFits(), home=str(tmp_path)))
    (training,) = [section for section in shown if section.id == "training"]
    assert f"{CURVES_PER_ARCHITECTURE} of {len(table)} runs" in training.blocks[0].text  # type: ignore[union-attr]


def test_sections_of_twice_the_runs_take_twice_the_operations(tmp_path: Path) -> None:
    def of_size(count: int) -> Callable[[], object]:
        table = many(count, tmp_path)
        return lambda: make_sections(gather(study=STUDY, table=table, fits=StudyFits()))

    assert growth(of_size, 150) < 2.15
