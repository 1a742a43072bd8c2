"""Throughput: what is measured in which order, what becomes a row, what is kept, and one real smoke run."""

import io
import itertools
import json
import weakref

import pandas as pd
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from vqscale.cli.throughput import throughput
from vqscale.cli.throughput_view import kept_in_words, speeds
from vqscale.data.prepare import prepare
from vqscale.errors import StorageError, StudyError
from vqscale.results.lease import Lease, StudyOwnedError
from vqscale.study.spec import ThroughputSpec, parse_study
from vqscale.throughput.assemble import cost_per_billion, kwh_per_billion, make_table
from vqscale.throughput.measure import MeasurementTools
from vqscale.throughput.memory import OutOfMemoryError
from vqscale.throughput.plan import plan_throughput
from vqscale.throughput.processes import load_or_measure
from vqscale.throughput.request import ARCHS, default_study, study_of_section, with_options
from vqscale.throughput.table import (
    ThroughputRow,
    crossovers,
    read_throughput_table,
    stored_throughput_table,
    write_throughput_table,
)
from vqscale.throughput.training_cell import TrainingCell

SECONDS_PER_TOKEN = {"transformer_vq": 1e-3, "transformer_full": 2e-3, "transformer": 5e-4}


class Bench:
    """Cells whose updates move a clock and nothing else; `starving` ones find no memory."""

    def __init__(self, starving=(), failing=(), drift=0.0, joules_a_second=None, bursting=(), warm_seconds=0.0):
        self.now = 0.0
        self.bursting, self.warm_seconds, self.cells = bursting, warm_seconds, {}
        self.log = []
        self.starving, self.failing, self.drift = starving, failing, drift
        self.laboratory = MeasurementTools(
            open_cell=lambda cell: FakeCell(self, cell),
            clock=lambda: self.now,
            open_meter=lambda device: None if joules_a_second is None else Meter(self, joules_a_second),
            ceiling=lambda device, precision: 1e9,
        )


class Meter:
    source = "a counter"

    def __init__(self, bench, watts):
        self.bench, self.watts = bench, watts

    def joules(self):
        return self.bench.now * self.watts


class FakeCell:
    def __init__(self, bench, cell):
        self.bench, self.cell, self.runs = bench, cell, itertools.count()
        bench.cells[cell.model.arch] = weakref.ref(self)

    def warm_up(self):
        arch, context = self.cell.model.arch, self.cell.context
        self.bench.log.append(("warm", arch, context))
        if (arch, context) in self.bench.starving:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if arch in self.bench.failing:
            raise ZeroDivisionError
        self.bench.now += self.bench.warm_seconds
        return self.cell.tokens_per_step * 100

    def run(self, updates):
        arch = self.cell.model.arch
        self.bench.log.append(("run", arch, self.cell.context, updates))
        run = next(self.runs)
        if run and arch in self.bench.bursting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        slower = 1 + self.bench.drift * run
        self.bench.now += updates * self.cell.tokens_per_step * SECONDS_PER_TOKEN[arch] * slower


def make_plan(axes=None, **values):
    axes = {"context": [256], "preset": ["pico"], "tokens_per_step": [512]} | (axes or {})
    return plan_throughput(with_options(default_study(), axes, {"repeats": 3, "processes": 1} | values))


def measure(bench, folder, axes=None, *, again=False, **values):
    plan = make_plan(axes, **values)
    measured = load_or_measure(plan, str(folder), again=again, tools=bench.laboratory)
    return make_table(plan, measured.by_cell)


def row_of(frame, arch, context):
    return frame[(frame["arch"] == arch) & (frame["context"] == context)].iloc[0]


def test_measurement_repeats_cycle_through_all_models_after_every_warm_up(tmp_path):
    bench = Bench()
    measure(bench, tmp_path, {"context": [512, 256]}, repeats=2)
    for context in (256, 512):
        entries = [entry for entry in bench.log if entry[2] == context]
        warm = [entry for entry in entries if entry[0] == "warm"]
        runs = [entry[1] for entry in entries if entry[0] == "run"]
        assert [entry[1] for entry in warm] == ARCHS
        assert runs[-2 * len(ARCHS) :] == ARCHS * 2
        assert entries.index(warm[-1]) < len(entries) - 2 * len(ARCHS)
    assert [entry[2] for entry in bench.log] == sorted(entry[2] for entry in bench.log)


def test_measurement_rows_hold_speeds_shares_and_memory_by_the_clock(tmp_path):
    frame = measure(Bench(), tmp_path, {"context": [256, 1024]})
    assert list(frame.columns) == list(ThroughputRow.model_fields)
    assert frame["batch"].tolist() == [2] * 3 + [1] * 3  # 512 tokens per step, but one sequence at least
    for row in frame.to_dict("records"):
        assert row["tokens_per_second"] == pytest.approx(1 / SECONDS_PER_TOKEN[row["arch"]])
        assert row["seconds_per_token"] == pytest.approx(SECONDS_PER_TOKEN[row["arch"]])
        assert row["ms_per_step"] == pytest.approx(1e3 * row["tokens_per_step"] * SECONDS_PER_TOKEN[row["arch"]])
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] * row["flops_per_token"] / 1e9)
        assert row["peak_memory_bytes"] == row["tokens_per_step"] * 100
        assert (row["status"], row["repeats"]) == ("ok", 3)
    assert frame["backend"].isna().tolist() == [False, True, True] * 2
    counts = frame["parameters_non_embedding"]
    assert counts.max() / counts.min() < 1.03


def test_measurement_of_uneven_repeats_gives_median_quartiles_and_range(tmp_path):
    row = row_of(measure(Bench(drift=0.1), tmp_path, repeats=5), "transformer_vq", 256)
    speeds = [1000 / (1 + 0.1 * run) for run in range(1, 6)]  # run 0 decides how many updates make a repeat
    assert row["tokens_per_second"] == pytest.approx(speeds[2])
    assert row["tokens_per_second_low"] == pytest.approx(speeds[4])
    assert row["tokens_per_second_high"] == pytest.approx(speeds[0])
    assert row["tokens_per_second_q1"] == pytest.approx(speeds[3])
    assert row["tokens_per_second_q3"] == pytest.approx(speeds[1])


def test_ratios_are_medians_within_repeats_and_absent_where_one_side_is(tmp_path):
    frame = measure(Bench(starving=[("transformer_full", 1024)], drift=0.5), tmp_path, {"context": [256, 1024]})
    short, long = row_of(frame, "transformer_vq", 256), row_of(frame, "transformer_vq", 1024)
    assert short["ratio_to_transformer_full"] == pytest.approx(2.0)  # every repeat drifts, the ratios do not
    assert short["ratio_to_transformer_full_low"] == pytest.approx(2.0)
    assert pd.isna(long["ratio_to_transformer_full"])
    assert long["ratio_to_transformer"] == pytest.approx(0.5)
    assert row_of(frame, "transformer", 256)["ratio_to_transformer_full"] == pytest.approx(4.0)
    assert pd.isna(row_of(frame, "transformer", 256)["ratio_to_transformer"])


def test_measurement_slow_cell_is_cut_to_fewer_repeats(tmp_path):
    frame = measure(Bench(), tmp_path, {"context": [1024], "tokens_per_step": [1024]}, repeats=5, seconds_per_cell=2.5)
    assert dict(zip(frame["arch"], frame["repeats"], strict=True)) == {
        "transformer_vq": 2,
        "transformer_full": 1,
        "transformer": 4,
    }


def test_measurement_out_of_memory_is_a_row_without_speed(tmp_path):
    frame = measure(Bench(starving=[("transformer_full", 1024)]), tmp_path, {"context": [256, 1024]})
    row = row_of(frame, "transformer_full", 1024)
    assert row["status"] == "out of memory beside the weights of 1 other model(s)"
    assert row["repeats"] == 0
    assert row[["tokens_per_second", "ms_per_step", "mfu", "peak_memory_bytes"]].isna().all()
    assert (frame["status"] == "ok").sum() == 5
    alone = measure(Bench(starving=[("transformer_vq", 256)]), tmp_path / "alone", {"arch": ["transformer_vq"]})
    assert alone["status"].tolist() == ["out of memory"]


def test_measurement_out_of_memory_in_a_timed_repeat_lets_the_model_go(tmp_path):
    bench = Bench(bursting=["transformer_full"])
    held = []

    def clock():
        held.append({arch for arch, cell in bench.cells.items() if cell() is not None})
        return bench.now

    frame = measure_with(bench, tmp_path, clock=clock)
    assert held[-1] == {"transformer_vq", "transformer"}
    assert frame["status"].tolist() == ["ok", "out of memory beside the weights of 2 other model(s)", "ok"]


def measure_with(bench, folder, **changes):
    plan = make_plan()
    measured = load_or_measure(plan, str(folder), tools=bench.laboratory._replace(**changes))
    return make_table(plan, measured.by_cell)


def test_measurement_warm_up_well_over_the_limit_is_skipped_at_once(tmp_path):
    bench = Bench(warm_seconds=63.0)
    frame = measure(bench, tmp_path, {"context": [256, 512]}, seconds_per_cell=1.0)
    assert frame["status"].tolist()[:3] == ["skipped: longer than 1 s per update (warm-up: 63 s)"] * 3
    assert frame["status"].tolist()[3:] == ["skipped: longer than 1 s per update already at T = 256"] * 3
    assert [entry[0] for entry in bench.log] == ["warm"] * 3
    compiling = measure(Bench(warm_seconds=30.0), tmp_path / "compiling", seconds_per_cell=2.0)
    assert compiling["status"].tolist() == ["ok"] * 3


def test_training_cell_that_cannot_fit_is_refused_before_it_runs(monkeypatch):
    axes = {"arch": ["transformer_vq"], "backend": ["naive", "blockwise"], "context": [1024], "tokens_per_step": [1024]}
    by_backend = {cell.backend: cell for _, cell in make_plan(axes, threads=1).cells}
    monkeypatch.setattr("vqscale.throughput.training_cell.free_memory", lambda: 6 << 20)
    monkeypatch.setattr(TrainingCell, "_prepare", lambda self: None)
    with pytest.raises(OutOfMemoryError, match="at least are needed"):
        TrainingCell(by_backend["naive"]).warm_up()
    assert TrainingCell(by_backend["blockwise"]).warm_up() == 0


def test_measurement_too_slow_is_a_row_and_longer_lengths_are_not_tried(tmp_path):
    bench = Bench()
    frame = measure(bench, tmp_path, {"context": [256, 512, 1024]}, seconds_per_cell=1.0)
    full = frame[frame["arch"] == "transformer_full"]
    assert full["status"].tolist() == [
        "skipped: longer than 1 s per update",
        "skipped: longer than 1 s per update already at T = 256",
        "skipped: longer than 1 s per update already at T = 256",
    ]
    assert full["tokens_per_second"].isna().all()
    assert [entry for entry in bench.log if entry[0] == "warm" and entry[1] == "transformer_full"] == [
        ("warm", "transformer_full", 256)
    ]
    assert row_of(frame, "transformer_vq", 512)["status"] == "ok"


def test_measurement_other_error_is_raised_and_threads_are_restored(tmp_path):
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        measure(Bench(failing=["transformer"]), tmp_path, threads=1)
    assert torch.get_num_threads() == threads


def test_measurement_second_run_measures_nothing_and_an_interrupted_one_resumes(tmp_path):
    stopped = Bench(failing=[])
    broken = stopped.laboratory._replace(open_cell=lambda cell: self_destruct(FakeCell(stopped, cell)))
    plan = make_plan({"context": [256, 512]})
    with pytest.raises(KeyboardInterrupt):
        load_or_measure(plan, str(tmp_path), tools=broken)
    bench = Bench()
    measured = load_or_measure(plan, str(tmp_path), tools=bench.laboratory)
    assert measured.now == 3
    assert {entry[2] for entry in bench.log} == {512}
    assert load_or_measure(plan, str(tmp_path), tools=bench.laboratory).now == 0
    assert load_or_measure(plan, str(tmp_path), tools=bench.laboratory, again=True).now == 6


def self_destruct(cell):
    if cell.cell.context == 512:
        raise KeyboardInterrupt
    return cell


def test_measurement_skipped_before_the_interruption_still_spares_longer_lengths(tmp_path):
    measure(Bench(), tmp_path, {"context": [256]}, seconds_per_cell=1.0)
    bench = Bench()
    measure(bench, tmp_path, {"context": [256, 512]}, seconds_per_cell=1.0)
    assert "transformer_full" not in {entry[1] for entry in bench.log}


def test_kept_measurement_names_its_code_and_the_present_one_where_it_differs(tmp_path):
    frame = measure(Bench(), tmp_path)
    assert "(the same as now). --again" in kept_in_words(frame)
    frame.loc[0, "git"] = "0123abcd"
    text = kept_in_words(frame)
    for words in ("this was measured with commit 0123abcd, torch", "(now commit", "--again"):
        assert words in text


def test_rows_of_swept_settings_can_be_distinguished_on_the_console(tmp_path):
    axes = {"arch": ["transformer_vq", "transformer"], "codebook_size": [16, 32], "block_length": [32, 64]}
    shown = io.StringIO()
    Console(file=shown, width=200).print(speeds(measure(Bench(), tmp_path, axes)))
    for size, block in itertools.product((16, 32), (32, 64)):
        assert shown.getvalue().count(f"Transformer-VQ (S = {size}, L = {block})") == 1


def test_cells_of_a_round_with_new_company_are_measured_again(tmp_path):
    pair = {"arch": ["transformer_vq", "transformer"]}
    measure(Bench(), tmp_path, pair)
    bench = Bench()
    measure(bench, tmp_path)
    assert {entry[1] for entry in bench.log} == set(ARCHS)
    again = Bench()
    measure(again, tmp_path, pair, price_per_device_hour=2.0)  # a price is no part of a measurement
    assert again.log == []


def test_cost_and_energy_of_a_billion_tokens():
    assert cost_per_billion(3.6e-6, 2.5) == pytest.approx(2.5)  # 1e9 tokens in one hour
    assert kwh_per_billion(3.6e-3) == pytest.approx(1.0)


def test_expenses_follow_from_price_and_counter(tmp_path):
    row = row_of(
        measure(Bench(joules_a_second=40.0), tmp_path, price_per_device_hour=3.6, currency="EUR", watts=7.0),
        "transformer_vq",
        256,
    )
    assert row["cost_per_billion_tokens"] == pytest.approx(1e9 * 1e-3 / 1e3)
    assert (row["price_per_device_hour"], row["currency"]) == (3.6, "EUR")
    assert row["energy_kwh_per_billion_tokens"] == pytest.approx(40.0 * 1e-3 * 1e9 / 3.6e6)
    assert row["energy_source"] == "a counter"


def test_expenses_without_counter_are_empty_or_as_stated(tmp_path):
    nothing = measure(Bench(), tmp_path)
    columns = ["cost_per_billion_tokens", "currency", "energy_kwh_per_billion_tokens", "energy_source"]
    assert nothing[columns].isna().all().all()
    stated = row_of(measure(Bench(), tmp_path, watts=7.2), "transformer", 256)
    assert stated["energy_kwh_per_billion_tokens"] == pytest.approx(7.2 * 5e-4 * 1e9 / 3.6e6)
    assert stated["energy_source"] == "stated: 7.2 W, not measured"


def test_crossovers_come_from_the_table(tmp_path):
    frame = measure(Bench(), tmp_path, {"context": [256, 512]})
    found = {row["baseline"]: str(row["crossover"]) for row in crossovers(frame).to_dict("records")}
    assert found == {"transformer_full": "below the shortest T measured (256)", "transformer": "none up to T = 512"}


def test_stored_table_reads_back_equal_from_parquet_and_csv(tmp_path):
    frame = measure(Bench(starving=[("transformer", 256)]), tmp_path, price_per_device_hour=1.0)
    write_throughput_table(frame, str(tmp_path))
    table = stored_throughput_table(str(tmp_path))
    assert table is not None
    pd.testing.assert_frame_equal(table, frame)
    from_csv = read_throughput_table(str(tmp_path / "throughput.csv"))
    for name in ("step_seconds", "versions", "context", "cell_id", "status", "ratio_to_transformer_full"):
        pd.testing.assert_series_equal(from_csv[name], frame[name], check_dtype=False)
    assert ",51200," in (tmp_path / "throughput.csv").read_text()  # whole bytes stay whole beside a missing one


def test_stored_table_of_another_version_is_refused_and_an_empty_folder_has_none(tmp_path):
    assert stored_throughput_table(str(tmp_path)) is None
    pd.DataFrame({"arch": ["transformer"], "context": [256]}).to_parquet(tmp_path / "throughput.parquet")
    with pytest.raises(StorageError, match="Measure again"):
        stored_throughput_table(str(tmp_path))


def test_throughput_of_a_study_of_classifiers_is_refused():
    values = {"study": "s", "task": "classification", "data": {"corpus": "c"}, "model": {}, "train": {}}
    with pytest.raises(StudyError, match="task: classification: throughput is measured for language models"):
        study_of_section(parse_study(values, source="s.yaml"), None)


def test_section_of_a_study_takes_its_head_precision_and_vocabulary(tmp_path):
    (tmp_path / "text.txt").write_text("a line of text\n" * 200)
    prepare(str(tmp_path / "text.txt"), str(tmp_path / "corpus"), split="contiguous", tokenizer="bpe", vocab_size=270)
    study = parse_study(
        {
            "study": "s",
            "data": {"corpus": str(tmp_path / "corpus")},
            "model": {"arch": "transformer_vq", "preset": "pico", "head": "mqa"},
            "train": {"precision": "bf16"},
        },
        source="study.yaml",
    )
    plan = plan_throughput(study_of_section(study, ThroughputSpec(contexts=[64], preset="pico", repeats=2)))
    assert {cell.model.arch for _, cell in plan.cells} == set(ARCHS)
    for _, cell in plan.cells:
        assert (cell.precision, cell.batching) == ("bf16", "4096 tokens per step")
        assert 259 < cell.model.vocab_size <= 270
        assert cell.model.head == (None if cell.model.arch == "transformer" else "mqa")
    assert plan.study.repeats == 2


def test_options_replace_an_axis_in_every_grid_and_the_other_way_to_fill_a_step():
    study = with_options(default_study(), {"batch": [2], "arch": ["transformer"], "context": [64, 128]}, {})
    cells = study.cells()
    assert [(cell.arch, cell.context, cell.batch, cell.tokens_per_step) for cell in cells] == [
        ("transformer", 64, 2, None),
        ("transformer", 128, 2, None),
    ]


@pytest.fixture(scope="module")
def command():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(throughput)
    return app


def test_throughput_command_without_study_writes_everything_and_remembers(tmp_path, command):
    options = ["--preset", "pico", "--contexts", "64,128", "--repeats", "1", "--tokens", "64", "--threads", "1"]
    options += ["--out", str(tmp_path)]
    first = CliRunner().invoke(command, options, catch_exceptions=False)
    assert "Transformer-VQ trains" in first.stdout
    assert "nothing follows for a GPU" in first.stdout
    names = {path.name for path in tmp_path.iterdir()}
    tables = {"throughput.parquet", "throughput.csv"}
    assert names == {"throughput", "figures", "report.html", "study.yaml", "owner"} | tables
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    second = json.loads(CliRunner().invoke(command, [*options, "--json"], catch_exceptions=False).stdout)
    assert second["measured_now"] == 0
    assert len(second["rows"]) == 6
    smallest = min(row["peak_memory_bytes"] / row["parameters_non_embedding"] for row in second["rows"])
    assert smallest > 16  # weights, gradients, moments
    assert {row["baseline"] for row in second["break_even"]} == {"transformer_full", "transformer"}


def test_throughput_command_lists_with_spaces_are_lists(tmp_path, command):
    options = ["--arch", "transformer_vq, transformer", "--contexts", "32, 64", "--preset", "pico", "--tokens", "64"]
    options += ["--repeats", "1", "--threads", "1", "--json", "--out", str(tmp_path)]
    rows = json.loads(CliRunner().invoke(command, options, catch_exceptions=False).stdout)["rows"]
    assert {row["arch"] for row in rows} == {"transformer_vq", "transformer"}


def test_throughput_command_measures_peers_beside_a_baseline(tmp_path, command):
    options = ["--arch", "transformer_full,longvq,mega,gla,transformer_window", "--contexts", "64", "--preset", "pico"]
    options += ["--tokens", "64", "--repeats", "1", "--threads", "1", "--json", "--out", str(tmp_path)]
    values = json.loads(CliRunner().invoke(command, options, catch_exceptions=False).stdout)
    rows = {row["arch"]: row for row in values["rows"]}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {arch for arch, row in rows.items() if row["backend"]} == {"longvq"}
    assert {row["arch"] for row in values["break_even"]} == {"longvq", "gla", "transformer_window"}
    assert rows["mega"]["ratio_to_transformer_full"] > 0


def test_throughput_command_contexts_no_numbers_are_refused(tmp_path, command):
    with pytest.raises(StudyError, match="--contexts"):
        CliRunner().invoke(command, ["--contexts", "many", "--out", str(tmp_path)], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_measurement_that_another_process_makes_is_not_disturbed(tmp_path, command):
    options = ["--preset", "pico", "--contexts", "64", "--repeats", "1", "--tokens", "64", "--out", str(tmp_path)]
    with Lease(str(tmp_path), on_lost=print), pytest.raises(StudyOwnedError, match="is being run by"):
        CliRunner().invoke(command, options, catch_exceptions=False)
    assert not (tmp_path / "throughput.parquet").exists()
