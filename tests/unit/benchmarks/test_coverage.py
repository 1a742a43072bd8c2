import pandas as pd
import pytest

from benchmarks.coverage import FILE, PLANS, STUDIES, main, measure_coverage


def test_simulated_studies_give_intervals_that_widen_beyond_the_data():
    table = measure_coverage(PLANS[:1], studies=4, refits=40)
    assert table["quantity"].tolist() == ["a", "N*", "D*", "L*", "N*", "D*", "L*"]
    assert (table["inside_90"] <= table["inside_95"]).all()
    assert (table["refused"] == 0).all()
    inside, beyond = table[table["quantity"] == "N*"]["median_width_90"]
    assert 0.01 < inside < beyond < 1
    assert (table["bias"].abs() < 0.2).all()


def test_coverage_command_writes_its_tables(tmp_path):
    main(["--smoke", "--out", str(tmp_path)])
    text = (tmp_path / f"{FILE}_smoke.md").read_text()
    assert "python -m benchmarks.coverage --smoke" in text
    assert len(pd.read_csv(tmp_path / f"{FILE}_smoke.csv")) == 7 * len(PLANS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_intervals_of_the_best_size_hold_it_in_nine_of_ten_studies():
    table = measure_coverage(PLANS[:1])
    best = table[table["quantity"] == "N*"]
    assert len(best) == 2
    assert best["inside_90"].between(0.86, 0.94).all()
    assert (best["refused"] < 0.02 * STUDIES).all()
