"""The benchmark of linear time and memory: its arithmetic, and one tiny run of the whole command."""

import pandas as pd
import pytest
import torch

from benchmarks.layers import SMOKE_SHAPES
from benchmarks.linearity import main, measure_linearity, memory_line


@pytest.fixture
def one_thread():
    """Restores the number of threads, which the command sets for its own process."""
    threads = torch.get_num_threads()
    yield "1"
    torch.set_num_threads(threads)


def test_linearity_smoke_command_writes_both_tables_with_how_they_were_made(tmp_path, capsys, one_thread):
    main(["--smoke", "--out", str(tmp_path), "--threads", one_thread])
    assert {path.name for path in tmp_path.iterdir()} == {
        "attention_linearity_smoke.csv",
        "attention_linearity_smoke.md",
    }
    text = (tmp_path / "attention_linearity_smoke.md").read_text()
    for fact in (
        "machine: ",
        "versions: python",
        "date: 20",
        "commit: ",
        "command: `python -m benchmarks.linearity",
    ):
        assert fact in text
    table = pd.read_csv(tmp_path / "attention_linearity_smoke.csv")
    assert table.groupby("shape", sort=False)["context"].apply(list).tolist() == [[32, 64, 128]] * 2
    assert "us per token" in capsys.readouterr().out


def test_measure_linearity_ratio_is_taken_within_each_repeat():
    readings = iter([0, 4, 4, 12, 12, 20, 20, 28])  # T = 32 twice: 4 s, then 8 s; T = 64: 8 s, 8 s
    table = measure_linearity(SMOKE_SHAPES[:1], (32, 64), 2, clock=lambda: float(next(readings)))
    assert table["relative"].tolist() == pytest.approx([1.0, 1.5])
    assert (table["relative_low"].iloc[1], table["relative_high"].iloc[1]) == pytest.approx((1.0, 2.0))
    assert table["us_per_token"].tolist() == pytest.approx([6e6 / 64, 8e6 / 64])


def test_memory_line_straight_data_is_recovered_with_no_deviation():
    context = [2048, 4096, 8192]
    line = memory_line(pd.DataFrame({"context": context, "peak_memory_bytes": [1000 + 300 * T for T in context]}))
    assert (line.fixed, line.per_token) == pytest.approx((1000.0, 300.0))
    assert line.worst < 1e-9
