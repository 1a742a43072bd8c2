"""The benchmark of the diagonal scan: its arithmetic, and one tiny run of the whole command."""

import pandas as pd
import pytest
import torch

from benchmarks.scan import SMOKE_WIDTHS, main, measure_scan


@pytest.fixture
def one_thread():
    """Restores the number of threads, which the command sets for its own process."""
    threads = torch.get_num_threads()
    yield "1"
    torch.set_num_threads(threads)


def test_scan_smoke_command_writes_both_tables_with_how_they_were_made(tmp_path, capsys, one_thread):
    main(["--smoke", "--out", str(tmp_path), "--threads", one_thread])
    assert {path.name for path in tmp_path.iterdir()} == {"scan_cpu_smoke.csv", "scan_cpu_smoke.md"}
    text = (tmp_path / "scan_cpu_smoke.md").read_text()
    for fact in ("machine: ", "versions: python", "date: 20", "commit: ", "command: `python -m benchmarks.scan"):
        assert fact in text
    table = pd.read_csv(tmp_path / "scan_cpu_smoke.csv")
    assert table["width"].tolist() == [str(width) for width in SMOKE_WIDTHS for _ in range(2)]
    assert table["batch"].tolist() == [4, 1, 4, 1]
    assert table["recurrent_us"].isna().tolist() == [False, True, False, True]
    assert "not measured" in text
    assert "Diagonal scan" in capsys.readouterr().out


def test_measure_scan_ratio_is_taken_within_each_repeat():
    laps = [1, 8, 4, 3, 2, 4]  # recurrence, FFT, chunks; then again
    readings = iter([reading for lap in laps for reading in (0, lap)])
    row = measure_scan(SMOKE_WIDTHS[:1], (16,), 2, tokens=32, clock=lambda: float(next(readings))).iloc[0]
    assert (row["fft_over_chunked_low"], row["fft_over_chunked_high"]) == pytest.approx((0.5, 2.0))
    assert row["recurrent_us"] == pytest.approx(2e6 / 32)
    assert row["chunked_us_high"] == pytest.approx(4e6 / 32)
