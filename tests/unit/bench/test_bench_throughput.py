"""Throughput: what is measured in which order, what becomes a row, what is kept, and one real smoke run."""

import json

import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from vqscale.bench import table as bench_table
from vqscale.bench.request import make_request, request_of
from vqscale.bench.table import ratios, stored
from vqscale.bench.throughput import ARCHS, load_or_measure, measure_throughput
from vqscale.cli.throughput import throughput, track_throughput
from vqscale.data.prepare import prepare
from vqscale.errors import StudyError
from vqscale.results.table import read_table
from vqscale.study.spec import ThroughputSpec, parse_study

SECONDS_A_TOKEN = {"transformer_vq": 1e-3, "transformer_full": 2e-3, "transformer": 5e-4}


class Laboratory:
    """Cells whose updates move a clock and nothing else; `starving` ones find no memory."""

    def __init__(self, starving=(), failing=()):
        self.now = 0.0
        self.log = []
        self.starving = starving
        self.failing = failing

    def clock(self):
        return self.now

    def open(self, request, model, context):
        return FakeCell(self, model.arch, context, request.batch(context) * context)


class FakeCell:
    def __init__(self, laboratory, arch, context, tokens):
        self.laboratory, self.arch, self.context, self.tokens = laboratory, arch, context, tokens

    def warm_up(self):
        self.laboratory.log.append(("warm", self.arch, self.context))
        if (self.arch, self.context) in self.laboratory.starving:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.arch in self.laboratory.failing:
            raise ZeroDivisionError
        return self.tokens * 100

    def run(self, updates):
        self.laboratory.log.append(("run", self.arch, self.context, updates))
        self.laboratory.now += updates * self.tokens * SECONDS_A_TOKEN[self.arch]


def measure(laboratory, **spec):
    spec = {"contexts": [256], "preset": "pico", "tokens": 512, "repeats": 3} | spec
    return measure_throughput(make_request(spec=spec), open_cell=laboratory.open, clock=laboratory.clock)


def test_measure_throughput_repeats_cycle_through_all_models_after_every_warm_up():
    laboratory = Laboratory()
    measure(laboratory, contexts=[512, 256], repeats=2)
    for context in (256, 512):
        entries = [entry for entry in laboratory.log if entry[2] == context]
        warm = [entry for entry in entries if entry[0] == "warm"]
        runs = [entry[1] for entry in entries if entry[0] == "run"]
        assert [entry[1] for entry in warm] == list(ARCHS)
        assert runs[-2 * len(ARCHS) :] == list(ARCHS) * 2
        assert entries.index(warm[-1]) < len(entries) - 2 * len(ARCHS)
    assert [entry[2] for entry in laboratory.log] == sorted(entry[2] for entry in laboratory.log)


def test_measure_throughput_rows_hold_speed_of_tokens_by_the_clock():
    frame = measure(Laboratory(), contexts=[256, 1024])
    assert list(frame.columns) == list(bench_table.Row._fields)
    assert frame["batch"].tolist() == [2] * 3 + [1] * 3  # 512 tokens an update, but one sequence at least
    for row in frame.to_dict("records"):
        assert row["tokens_per_second"] == pytest.approx(1 / SECONDS_A_TOKEN[row["arch"]])
        assert row["tokens_per_second_low"] <= row["tokens_per_second"] <= row["tokens_per_second_high"] + 1e-9
        assert row["peak_memory_bytes"] == row["batch"] * row["context"] * 100
        assert (row["status"], row["repeats"]) == ("ok", 3)


def test_measure_throughput_equal_parameters_within_three_percent():
    counts = measure(Laboratory(), preset="nano")["parameters_non_embedding"]
    assert counts.max() / counts.min() < 1.03


def test_measure_throughput_slow_cell_is_cut_to_fewer_repeats():
    laboratory = Laboratory()
    request = make_request(
        spec={"contexts": [1024], "preset": "pico", "tokens": 1024, "repeats": 5}, seconds_per_cell=2.5
    )
    frame = measure_throughput(request, open_cell=laboratory.open, clock=laboratory.clock)
    assert dict(zip(frame["arch"], frame["repeats"], strict=True)) == {
        "transformer_vq": 2,
        "transformer_full": 1,
        "transformer": 4,
    }


def test_measure_throughput_out_of_memory_becomes_a_row_without_numbers():
    frame = measure(Laboratory(starving=[("transformer_full", 1024)]), contexts=[256, 1024])
    row = frame[(frame["arch"] == "transformer_full") & (frame["context"] == 1024)].iloc[0]
    assert (row["status"], row["repeats"]) == ("out of memory", 0)
    assert row[["tokens_per_second", "tokens_per_second_low", "peak_memory_bytes"]].isna().all()
    assert (frame["status"] == "ok").sum() == 5


def test_measure_throughput_other_error_is_raised_and_threads_are_restored():
    threads = torch.get_num_threads()
    request = make_request(spec={"contexts": [256], "preset": "pico"}, threads=1)
    laboratory = Laboratory(failing=["transformer"])
    with pytest.raises(ZeroDivisionError):
        measure_throughput(request, open_cell=laboratory.open, clock=laboratory.clock)
    assert torch.get_num_threads() == threads


def test_ratios_are_medians_of_one_run_and_absent_where_one_side_is():
    frame = measure(Laboratory(starving=[("transformer_full", 1024)]), contexts=[256, 1024])
    values = {(row["context"], row["baseline"]): row for row in ratios(frame).to_dict("records")}
    assert set(values) == {(256, "transformer_full"), (256, "transformer"), (1024, "transformer")}
    assert values[256, "transformer_full"]["speed_ratio"] == pytest.approx(2.0)
    assert values[1024, "transformer"]["speed_ratio"] == pytest.approx(0.5)
    assert values[256, "transformer"]["memory_ratio"] == pytest.approx(1.0)


def test_stored_table_reads_back_equal_from_parquet_and_csv(tmp_path):
    frame = measure(Laboratory(starving=[("transformer", 256)]))
    bench_table.write(frame, str(tmp_path), "f" * 64)
    pd.testing.assert_frame_equal(stored(str(tmp_path), "f" * 64), frame)
    from_csv = read_table(str(tmp_path / "throughput.csv"))
    pd.testing.assert_frame_equal(from_csv.drop(columns="head"), frame.drop(columns="head"), check_dtype=False)
    assert from_csv["head"].isna().tolist() == [False, False, True]
    assert ",51200," in (tmp_path / "throughput.csv").read_text()  # whole bytes stay whole beside a missing one


def test_stored_other_fingerprint_or_empty_folder_gives_nothing(tmp_path):
    assert stored(str(tmp_path), "a") is None
    bench_table.write(measure(Laboratory()), str(tmp_path), "a")
    assert stored(str(tmp_path), "b") is None
    assert stored(str(tmp_path)) is not None


def test_load_or_measure_unchanged_request_is_not_measured_again(tmp_path):
    spec = {"contexts": [32], "preset": "pico", "tokens": 32, "repeats": 1, "block_length": 16, "codebook_size": 8}
    seen = []
    first = load_or_measure(make_request(spec=spec, threads=1), str(tmp_path), told=lambda *_: seen.append(1))
    again = load_or_measure(make_request(spec=spec, threads=1), str(tmp_path), told=lambda *_: seen.append(2))
    pd.testing.assert_frame_equal(first, again)
    assert seen == [1]
    assert (first["status"] == "ok").all()
    assert (first["peak_memory_bytes"] > 16 * first["parameters_non_embedding"]).all()  # weights, gradients, moments


def test_request_fingerprint_depends_on_how_it_is_measured():
    spec = {"contexts": [256], "preset": "pico"}
    prints = {make_request(spec=spec, **more).fingerprint for more in ({}, {"precision": "bf16"}, {"threads": 7})}
    assert len(prints) == 3


def test_request_of_study_takes_its_head_precision_and_vocabulary(tmp_path):
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
    spec = ThroughputSpec(contexts=[64], preset="pico")
    own, other = request_of(study, spec), request_of(study, spec, head="mha")
    assert (own.head, own.precision, other.head) == ("mqa", "bf16", "mha")
    assert 259 < own.vocab_size <= 270
    assert own.model("transformer_full").head == "mqa"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spec": {"contexts": [0], "preset": "pico"}}, "contexts: 0"),
        ({"spec": {"contexts": [], "preset": "pico"}}, "contexts"),
        ({"spec": {"contexts": [64], "preset": "pico"}, "head": "gqa"}, "head"),
    ],
)
def test_make_request_wrong_value_is_named(values, message):
    with pytest.raises(StudyError, match=message):
        make_request(**values)


def test_measure_throughput_unknown_preset_is_refused_before_anything_runs():
    laboratory = Laboratory()
    with pytest.raises(StudyError, match="huge"):
        measure(laboratory, preset="huge")
    assert laboratory.log == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_make_request_gpu_that_is_not_there_is_refused():
    with pytest.raises(StudyError, match=r"device: .*no GPU"):
        make_request(spec={"contexts": [64], "preset": "pico"}, device="cuda")


class RememberingTracker:
    """What `track_throughput` logs, without a store."""

    def __init__(self):
        self.metrics, self.ended, self.tags, self.files = {}, [], {}, []

    def study_run(self):
        return "parent"

    def trial_run(self, parent, trial_id, parameters, tags):
        self.tags = tags
        return trial_id

    def log_final(self, run, values, *, tokens):
        self.metrics |= {(name, tokens): value for name, value in values.items()}

    def log_folder(self, run, folder, names):
        self.files = names

    def end(self, run, status):
        self.ended.append((run, status))


def test_track_logs_every_metric_over_the_context_length_and_nothing_missing():
    tracker = RememberingTracker()
    frame = measure(Laboratory(starving=[("transformer_full", 1024)]), contexts=[256, 1024])
    request = make_request(spec={"contexts": [256, 1024], "preset": "pico"})
    track_throughput(tracker, request, frame, "folder")
    assert tracker.metrics["transformer_vq/tokens_per_second", 1024] == pytest.approx(1000.0)
    assert tracker.metrics["speed_ratio/transformer_full", 256] == pytest.approx(2.0)
    assert ("transformer_full/tokens_per_second", 1024) not in tracker.metrics
    assert tracker.tags["vqscale.kind"] == "throughput"
    assert tracker.ended == [(f"throughput-{request.fingerprint[:12]}", "FINISHED")]


@pytest.fixture(scope="module")
def command():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(throughput)
    return app


def test_throughput_command_without_study_writes_table_and_figure_and_remembers(tmp_path, command):
    options = ["--preset", "pico", "--contexts", "16,32", "--repeats", "1", "--tokens", "32", "--threads", "1"]
    options += ["--out", str(tmp_path)]
    first = CliRunner().invoke(command, options, catch_exceptions=False)
    assert "Training speed" in first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"throughput.parquet", "throughput.csv", "figures"}
    assert (tmp_path / "figures" / "throughput.png").read_bytes()[:4] == b"\x89PNG"
    second = json.loads(CliRunner().invoke(command, [*options, "--json"], catch_exceptions=False).stdout)
    assert second["measured_now"] is False
    assert len(second["rows"]) == 6
    assert {row["context"] for row in second["ratios"]} == {16, 32}


def test_throughput_command_contexts_no_numbers_are_refused(tmp_path, command):
    with pytest.raises(StudyError, match="--contexts"):
        CliRunner().invoke(command, ["--contexts", "many", "--out", str(tmp_path)], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
