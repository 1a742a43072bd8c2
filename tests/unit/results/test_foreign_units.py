"""Units that cannot be are noted with the likely ones; a unit that is stated, in a header or an option, is applied."""

import numpy as np
import pandas as pd
import pytest

from vqscale.results.foreign import read_runs

N = np.array([2e7, 4e7, 8e7, 1.6e8])
D = np.array([8e9, 4e9, 2e9, 1e9])
C = 6 * N * D
LOSS = np.array([3.69, 3.54, 3.48, 3.52])
PF_DAY = 8.64e19


@pytest.fixture
def read(tmp_path):
    def write_and_read(measured, **options):
        pd.DataFrame({"loss": LOSS} | measured).to_csv(tmp_path / "runs.csv", index=False)
        return read_runs(str(tmp_path / "runs.csv"), **options)

    return write_and_read


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"N": N / 1e6, "D": D / 1e9, "C": C}, "--unit N=M --unit D=B"),
        ({"N": N / 1e6, "D": D, "C": C}, "--unit N=M"),
        ({"N": N / 1e9, "D": D / 1e9, "C": C}, "--unit N=B --unit D=B"),
        ({"N": N, "D": D / 1e9, "C": C}, "--unit D=B"),
        ({"N": N, "D": D / 1e6, "C": C}, "--unit D=M"),
        ({"N": N * 1e3, "D": D * 20e3 / 1e12, "C": 20e6 * C}, "--unit D=T"),
        ({"N": N, "D": D, "C": C / 1e18}, "--unit C=1e18"),
        ({"N": N, "D": D, "C": C / 1e21}, "--unit C=1e21"),
        ({"N": N, "D": D, "C": C / PF_DAY}, "--unit C=8.64e19"),
        ({"N": N / 1e6, "D": D / 1e9}, "--unit N=M --unit D=B"),
        ({"N": N, "D": D / 1e9}, "--unit D=B"),
        ({"N": N, "D": D / 1e6}, "--unit D=M"),
        ({"N": N / 1e6, "C": C}, "--unit N=M"),
        ({"D": D / 1e9, "C": C}, "--unit D=B"),
        ({"N": N / 1e6}, "--unit N=M"),
        ({"D": D / 1e9}, "--unit D=B"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_units_that_cannot_be_are_noted_with_the_likely_ones(columns, options, read):
    (note,) = read(columns).reading.notes
    assert f"state it with {options}." in note
    stated = [option.split()[0] for option in options.split("--unit ")[1:]]
    assert read(columns, units=stated).reading.notes == []


def test_stated_unit_is_applied_and_recorded(read):
    runs = read({"N": N / 1e6, "D": D / 1e9, "C": C}, units=["N=M", "D=1e9"])
    np.testing.assert_allclose(runs.table["parameters_non_embedding"], N)
    np.testing.assert_allclose(runs.table["tokens"], D)
    assert runs.reading.factors == {"parameters_non_embedding": 1e6, "tokens": 1e9}
    assert "N = N x 1e06, D = D x 1e09" in runs.reading.describe()


@pytest.mark.parametrize(
    ("header", "axis", "factor"),
    [
        ("params (M)", "N", 1e6),
        ("N [millions]", "N", 1e6),
        ("params_M", "N", 1e6),
        ("model_size_millions", "N", 1e6),
        ("Parameters (B)", "N", 1e9),
        ("tokens (B)", "D", 1e9),
        ("D (in billions)", "D", 1e9),
        ("training_tokens_B", "D", 1e9),
        ("tokens_billions", "D", 1e9),
        ("compute (PF-days)", "C", PF_DAY),
        ("compute_pf_days", "C", PF_DAY),
        ("Training compute (EFLOPs)", "C", 1e18),
        ("train_zflops", "C", 1e21),
        ("flops (1e18)", "C", 1e18),
    ],
)
def test_unit_in_a_header_is_applied_and_recorded(header, axis, factor, read):
    values = {"N": N, "D": D, "C": C}
    column = {"N": "parameters_non_embedding", "D": "tokens", "C": "flops"}[axis]
    runs = read(
        {header if name == axis else name: each / factor if name == axis else each for name, each in values.items()}
    )
    np.testing.assert_allclose(runs.table[column], values[axis])
    assert runs.reading.factors == {column: factor}
    assert runs.reading.notes == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"N": N, "D": D, "C": C * 30}, "C is 30 times 6ND"),
        ({"N": N, "D": D, "C": C / 15}, "C is 0.0667 times 6ND"),
        ({"N": N, "D": N / 50}, "0.02 training tokens per parameter can hardly be"),
    ],
)
def test_contradiction_is_noted_where_no_unit_explains_it(columns, said, read):
    (note,) = read(columns).reading.notes
    assert said in note


@pytest.mark.parametrize("factor", [0.2, 0.34, 1, 1.33, 5])
def test_flops_near_six_n_d_are_not_noted(factor, read):
    assert read({"N": N, "D": D, "C": C * factor}).reading.notes == []


@pytest.mark.parametrize("ratio", [1, 20, 200, 5000])
def test_usual_shares_of_tokens_are_not_noted(ratio, read):
    assert read({"N": N, "D": ratio * N}).reading.notes == []


def test_units_are_judged_by_finished_runs(read):
    state = ["finished", "finished", "crashed", "crashed"]
    assert read({"N": N, "D": [8e9, 4e9, 1, 1], "state": state}).reading.notes == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"N": [20, 4e7, 8e7, 1.6e8]}, "units: line 2 may be in other units than the other rows (N = 20"),
        ({"D": [8e9, 4e9, 2e9, 1.0]}, "units: line 5 may be in other units than the other rows (D = 1"),
        ({"C": [*C[:3], C[3] / 1e3]}, "units: line 5 may be in other units than the other rows (C is 0.001 times 6ND"),
    ],
)
def test_row_in_other_units_than_the_others_is_named(changed, said, read):
    (note,) = read({"N": N, "D": D, "C": C} | changed).reading.notes
    assert note.startswith(said)


def test_unit_of_a_header_that_cannot_be_is_noted_with_the_option_against_it(read):
    (note,) = read({"N": N, "tokens_B": D, "C": C}).reading.notes
    assert note.endswith("--unit D=1 takes the numbers as they are")
    runs = read({"N": N, "tokens_B": D, "C": C}, units=["D=1"])
    np.testing.assert_allclose(runs.table["tokens"], D)
    assert runs.reading.notes == []


@pytest.mark.parametrize(("options", "factor"), [([], 1e9), (["D=1"], 1), (["D=M"], 1e6)])
def test_table_is_read_again_as_it_was_read(options, factor, read):
    columns = {"N": N, "tokens_B": D / factor, "C": C}
    first = read(columns, units=options)
    assert first.reading.factors.get("tokens", 1) == factor
    again = read(columns, columns=first.reading.column_options, units=first.reading.unit_options)
    np.testing.assert_allclose(again.table["tokens"], D)
    stated = read(columns, columns=["D=tokens_B"], units=options)
    np.testing.assert_allclose(stated.table["tokens"], D)
