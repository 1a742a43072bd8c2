"""Several processes measure one study: the spread between them, what is kept of each, and a child that fails."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from vqscale.errors import WorkFailedError
from vqscale.throughput.assemble import make_table
from vqscale.throughput.measure import MeasurementTools
from vqscale.throughput.measurement import Measurement, merge
from vqscale.throughput.plan import plan_throughput
from vqscale.throughput.processes import in_child, load_or_measure
from vqscale.throughput.request import default_study, with_options
from vqscale.throughput.spread import split, spread_of
from vqscale.throughput.table import THROUGHPUT_CSV, crossovers, read_throughput_table, write_throughput_table


def made_plan(**values):
    axes = {"context": [256, 512], "preset": ["pico"], "tokens_per_step": [512]}
    return plan_throughput(with_options(default_study(), axes, {"repeats": 3, "processes": 3} | values))


class Processes:
    """Tools whose every third set of models is slower, as if memory lay badly in that process."""

    def __init__(self, slower=(1.0, 1.0, 1.0), failing=None):
        self.now, self.log, self.slower, self.failing = 0.0, [], slower, failing
        self.tools = MeasurementTools(
            open_cell=lambda cell: Cell(self, cell),
            clock=lambda: self.now,
            open_meter=lambda device: None,
            ceiling=lambda device, precision: 1e9,
        )


class Cell:
    def __init__(self, book, cell):
        self.book, self.cell = book, cell

    def warm_up(self):
        key = self.cell.model.arch, self.cell.context
        self.process = sum(entry == key for entry in self.book.log)
        self.book.log.append(key)
        if self.book.failing == (*key, self.process):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.book.failing == ("stop", self.cell.context, self.process):
            raise KeyboardInterrupt
        return 1

    def run(self, updates):
        seconds = {"transformer_vq": 1.0, "transformer_full": 2.0, "transformer": 0.5}[self.cell.model.arch]
        factor = self.book.slower[self.process] if self.cell.model.arch == "transformer_vq" else 1.0
        self.book.now += updates * seconds * factor


def test_interval_is_that_of_a_second_measurement_by_t_over_processes():
    found = spread_of([[2.0], [4.0], [8.0]])
    assert found.value == pytest.approx(4.0)
    assert found.freedom == 2
    # t of 2 degrees of freedom at 95 %: 2.919986; the standard deviation of the logarithms is log 2.
    reach = 2.919986 * math.log(2) * math.sqrt(2 / 3)
    assert (found.low, found.high) == (pytest.approx(4 * math.exp(-reach)), pytest.approx(4 * math.exp(reach)))


def test_interval_holds_every_repeat_though_processes_agree():
    found = spread_of([[2.0, 2.0, 5.0], [2.0, 2.0, 1.5]])
    assert (found.value, found.low, found.high) == (pytest.approx(2.0), pytest.approx(1.5), pytest.approx(5.0))


def test_one_process_has_the_range_of_its_repeats_and_no_degree_of_freedom():
    found = spread_of([[1.0, 3.0, 2.0]])
    assert (found.value, found.low, found.high, found.freedom) == (
        pytest.approx(2.0), pytest.approx(1.0), pytest.approx(3.0), 0
    )  # fmt: skip


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_second_measurements_lie_in_nine_of_ten_intervals(processes):
    draw = np.random.default_rng(7)

    def measured():
        between = draw.normal(0.0, 0.2, size=(processes, 1))
        return spread_of(np.exp(between + draw.normal(0.0, 0.05, size=(processes, 2))).tolist())

    pairs = [(measured(), measured()) for _ in range(1500)]
    covered = np.mean([one.low <= other.value <= one.high for one, other in pairs])
    assert 0.87 < covered < 0.97


def test_range_of_the_repeats_of_one_process_covers_few_second_measurements():
    draw = np.random.default_rng(8)
    runs = [np.exp(draw.normal(0.0, 0.2) + draw.normal(0.0, 0.05, size=5)) for _ in range(1000)]
    covered = np.mean([one.min() <= np.median(other) <= one.max() for one, other in itertools.pairwise(runs)])
    assert covered < 0.35


def test_repeats_belong_to_the_processes_that_made_them():
    assert split([1.0, 2.0, 3.0], [2, 1]) == [[1.0, 2.0], [3.0]]
    assert split([1.0, 2.0], []) == [[1.0, 2.0]]


def test_every_process_measures_all_lengths_before_the_next_one_starts(tmp_path):
    book = Processes(slower=(1.0, 2.0, 4.0))
    measured = load_or_measure(made_plan(), str(tmp_path), tools=book.tools)
    lengths = [context for _, context in book.log]
    assert lengths == [256] * 3 + [512] * 3 + [256] * 3 + [512] * 3 + [256] * 3 + [512] * 3
    frame = make_table(made_plan(), measured.by_cell)
    vq = frame[(frame["arch"] == "transformer_vq") & (frame["context"] == 256)].iloc[0]
    assert (vq["repeats"], vq["processes"], vq["process_repeats"]) == (3, 3, [1, 1, 1])
    expected = spread_of([[2.0], [1.0], [0.5]])
    assert vq["ratio_to_transformer_full"] == pytest.approx(expected.value) == pytest.approx(1.0)
    assert vq["ratio_to_transformer_full_low"] == pytest.approx(expected.low)
    assert vq["ratio_to_transformer_full_high"] == pytest.approx(expected.high)
    found = {row["baseline"]: row["crossover"] for row in crossovers(frame).to_dict("records")}
    assert (found["transformer_full"].low, found["transformer_full"].high) == ("below", "beyond")


def test_interrupted_measurement_keeps_what_each_process_had_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_or_measure(made_plan(), str(tmp_path), tools=Processes(failing=("stop", 512, 1)).tools)
    book = Processes()
    measured = load_or_measure(made_plan(), str(tmp_path), tools=book.tools)
    assert [context for _, context in book.log] == [512] * 3 + [256] * 3 + [512] * 3
    assert measured.now == 6
    assert all(one.process_repeats == [1, 1, 1] for one in measured.by_cell.values())
    assert load_or_measure(made_plan(), str(tmp_path), tools=book.tools).now == 0


def test_cell_without_memory_in_one_process_has_no_speed_and_is_not_tried_again(tmp_path):
    book = Processes(failing=("transformer", 256, 1))
    measured = load_or_measure(made_plan(), str(tmp_path), tools=book.tools)
    frame = make_table(made_plan(), measured.by_cell)
    row = frame[(frame["arch"] == "transformer") & (frame["context"] == 256)].iloc[0]
    assert row["status"].startswith("out of memory")
    assert book.log.count(("transformer", 256)) == 2
    assert book.log.count(("transformer_vq", 256)) == 3
    assert load_or_measure(made_plan(), str(tmp_path), tools=book.tools).now == 0


def test_processes_are_no_more_than_repeats():
    assert [made_plan(repeats=repeats).study.process_count for repeats in (1, 2, 3, 7)] == [1, 2, 3, 3]
    assert made_plan(repeats=7).study.repeats_per_process == 3


def test_merged_measurement_has_the_largest_memory_and_ceiling_and_the_mean_energy():
    same = {"status": "ok", "device": "d", "threads": 1, "machine": "m", "versions": {}, "git": None}
    parts = [
        Measurement(**same, step_seconds=[1.0, 2.0], peak_memory_bytes=10, peak_flops=5.0, joules_per_token=1.0,
                    updates_per_repeat=1, measured_at="a"),
        Measurement(**same, step_seconds=[3.0], peak_memory_bytes=30, peak_flops=4.0, joules_per_token=3.0,
                    updates_per_repeat=2, measured_at="b"),
    ]  # fmt: skip
    found = merge(parts)
    assert (found.step_seconds, found.process_repeats) == ([1.0, 2.0, 3.0], [2, 1])
    assert (found.peak_memory_bytes, found.peak_flops, found.joules_per_token) == (30, 5.0, 2.0)
    assert (found.updates_per_repeat, found.measured_at) == (2, "b")


def test_child_process_measures_the_rounds_it_is_given():
    plan = plan_throughput(
        with_options(
            default_study(),
            {"context": [32, 64], "preset": ["pico"], "tokens_per_step": [64]},
            {"repeats": 1, "threads": 1, "seconds_per_repeat": 1e-6},
        )
    )
    ((index, measured),) = list(in_child(plan, {1: [0, 2]}, {}))
    assert index == 1
    assert [(one.status, len(one.step_seconds)) for one in measured] == [("ok", 1)] * 2


def test_child_process_that_ends_early_is_named(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WorkFailedError, match="The process that measures ended with 1 before it was done"):
        list(in_child(made_plan(), {0: [0]}, {}))


def test_table_of_an_earlier_version_was_measured_by_one_process(tmp_path):
    measured = load_or_measure(made_plan(repeats=1), str(tmp_path), tools=Processes().tools)
    frame = make_table(made_plan(repeats=1), measured.by_cell)
    write_throughput_table(frame, str(tmp_path))
    table = tmp_path / THROUGHPUT_CSV
    pd.read_csv(table).drop(columns=["processes", "process_repeats"]).to_csv(table, index=False)
    read = read_throughput_table(str(table))
    assert read["processes"].tolist() == [1.0] * 6
    assert read["process_repeats"].tolist() == [[1]] * 6
