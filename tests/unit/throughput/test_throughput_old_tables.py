"""Measurements and tables of earlier versions, which wrote `tokens a step`, stay valid."""

from pathlib import Path

from vqscale.costing.presets import resolve
from vqscale.study.fingerprint import fingerprint
from vqscale.throughput.plan import Cell
from vqscale.throughput.table import ThroughputRow, read_throughput_table, throughput_frame, write_throughput_table

ABSENT = dict.fromkeys(
    (
        *("cell_id", "head", "codebook_size", "block_length", "backend", "parameters", "parameters_non_embedding"),
        *("device", "threads", "updates_per_repeat", "flops_per_token", "peak_flops", "peak_memory_bytes", "machine"),
        *("git", "measured_at"),
    )
)


def row(batching: str) -> ThroughputRow:
    return ThroughputRow(
        **ABSENT,
        study="s",
        arch="transformer",
        preset="pico",
        context=64,
        batch=8,
        batching=batching,
        tokens_per_step=512,
        precision="fp32",
        device_kind="cpu",
        status="ok",
        repeats=1,
        step_seconds=[0.5],
        versions={},
    )


def test_table_of_an_earlier_version_is_read_with_the_new_text(tmp_path: Path) -> None:
    write_throughput_table(throughput_frame([row("512 tokens a step"), row("batch 8")]), str(tmp_path))
    for name in ("throughput.parquet", "throughput.csv"):
        table = read_throughput_table(str(tmp_path / name))
        assert table["batching"].tolist() == ["512 tokens per step", "batch 8"]
        assert table["step_seconds"].tolist() == [[0.5], [0.5]]


def test_cell_has_the_fingerprint_that_its_measurement_was_kept_under() -> None:
    cell = Cell(
        model=resolve("transformer", "pico", 259, {}),
        preset="pico",
        context=128,
        batch=4,
        batching="512 tokens per step",
        precision="fp32",
        device="cpu",
        backend=None,
    )
    assert fingerprint(cell) == "0be9b39982d32e870ca02acd26cec0ccc534f787858426d4aaef8d8824e99047"


def test_cell_of_exact_keys_has_the_fingerprint_from_before_its_bias_was_a_choice() -> None:
    others = {"preset": "pico", "context": 128, "batch": 4, "batching": "512 tokens per step"}
    others |= {"precision": "fp32", "device": "cpu", "backend": None}
    every, window = (
        Cell(model=resolve("transformer_full", "pico", 259, {"bias": bias}), **others) for bias in ("all", "window")
    )
    assert "bias" not in every.identity()["model"]
    assert window.identity()["model"]["bias"] == "window"
