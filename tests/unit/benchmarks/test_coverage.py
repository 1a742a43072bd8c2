import pandas as pd
import pytest

from benchmarks.coverage import FILE, PLANS, STUDIES, main, measure_coverage, verdict

PLAN = {plan.name: plan for plan in PLANS}


def test_simulated_studies_give_intervals_that_widen_beyond_the_data():
    table = measure_coverage([PLAN["centred"]], studies=4, refits=40)
    law = table[table["quantity"].str.endswith("of the law")]
    assert law["quantity"].str.split().str[0].tolist() == ["a", "N*", "D*", "L*", "N*", "D*", "L*"]
    assert (table["inside_90"] <= table["inside_95"].fillna(1)).all()
    assert (table["refused"] == 0).all()
    inside, beyond = law[law["quantity"] == "N* of the law"]["median_width_90"]
    assert 0.01 < inside < beyond < 1
    assert (law["bias"].abs() < 0.2).all()


def test_every_printed_interval_is_simulated():
    table = measure_coverage([PLAN["centred"]], studies=2, refits=20)
    assert set(table["quantity"]) == {
        *("a of the law", "N* of the law", "D* of the law", "L* of the law", "multiplier"),
        *("a of the parabolas", "vertex of a parabola", "difference of two held-out losses"),
        "break-even of a second measurement",
    }
    assert len(table[table["quantity"] == "vertex of a parabola"]) == len(PLAN["centred"].budgets)


def test_untuned_wings_shift_the_loss_of_the_law():
    centred, untuned = (measure_coverage([PLAN[name]], 3, 20) for name in ("centred", "untuned wings"))
    bias = [table[table["quantity"] == "L* of the law"]["bias"].iloc[0] for table in (centred, untuned)]
    assert bias[1] - bias[0] > 0.003


def test_share_of_an_interval_of_90_percent_is_judged_within_four_points():
    assert [verdict(share) for share in (0.85, 0.86, 0.94, 0.95, float("nan"))] == [
        *("no", "yes", "yes", "too wide", "none given"),
    ]


def test_coverage_command_writes_its_tables(tmp_path):
    main(["--smoke", "--out", str(tmp_path)])
    text = (tmp_path / f"{FILE}_smoke.md").read_text()
    assert "python -m benchmarks.coverage --smoke" in text
    assert set(pd.read_csv(tmp_path / f"{FILE}_smoke.csv")["plan"]) >= set(PLAN)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_intervals_of_the_best_size_hold_it_in_nine_of_ten_studies():
    table = measure_coverage([PLAN["centred"]])
    best = table[table["quantity"] == "N* of the law"]
    assert len(best) == 2
    assert best["inside_90"].between(0.86, 0.94).all()
    assert (best["refused"] < 0.02 * STUDIES).all()
