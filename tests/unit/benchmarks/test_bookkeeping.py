"""The benchmark of bookkeeping: its studies are what it says, and its page says what was measured and what was not."""

import argparse
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import bookkeeping
from benchmarks.bookkeeping import BUDGETS, SIZES, as_markdown, make_study
from vqscale.planning.plan import plan
from vqscale.study.spec import load_study


def test_study_of_the_benchmark_has_a_record_for_every_trial(corpus_uri: str, tmp_path: Path) -> None:
    file = make_study(tmp_path / "s", corpus_uri, 200, None)
    planned = plan(load_study(file), source=file)
    assert (len(planned.trials), planned.pending) == (200, [])
    assert len({one.cost.parameters_non_embedding for one in planned.trials}) == len(SIZES)
    assert len({one.cost.tokens for one in planned.trials}) == BUDGETS


def costs(checkout: str, count: int, seconds: float, mib: float = 100.0) -> dict[str, object]:
    ends = {"cpu_seconds": seconds, "cpu_seconds_low": seconds, "cpu_seconds_high": seconds, "peak_mib": mib}
    return {"records": count, "checkout": checkout, "step": "all", **ends}


def test_page_gives_ratios_growth_and_an_extrapolation_that_is_named_one() -> None:
    rows = [costs("baseline", 100, 1.0), costs("baseline", 200, 9.0), costs("baseline", 400, 65.0)]
    rows += [costs("this", count, 0.5 + count / 200) for count in (100, 200, 400, 4000)]
    page = as_markdown(pd.DataFrame(rows), 3, "python -m benchmarks.bookkeeping")
    assert "| 200 | all | this | 1.50 [1.50, 1.50] | 100 MiB | 6.0 |" in page
    assert "From 200 to 400 records the time of baseline above that of 100 records grows with power 3.00." in page
    assert "not measured: 17.8 CPU hours of baseline at 4,000 records, 3,122 times as long." in page
    assert "at 4,000 records: missed, 20.5 s and 100 MiB." in page


@pytest.mark.parametrize(("seconds", "mib"), [(20.1, 100.0), (1.0, 1025.0)])
def test_page_says_that_the_target_is_missed(seconds: float, mib: float) -> None:
    assert "records: missed, " in as_markdown(pd.DataFrame([costs("this", 10_000, seconds, mib)]), 3, "x")


@pytest.mark.parametrize("text", ["50", "150", "0", "100,-100"])
def test_counts_that_no_study_of_the_benchmark_has_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="multiples of 100"):
        bookkeeping._counts(text)
