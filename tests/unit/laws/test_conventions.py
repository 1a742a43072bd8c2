import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.laws.forms.conventions import describe_convention, every_convention, flops_under, parameters_under
from vqscale.laws.io.schema import Convention

GROUPS = {
    "embedding": 1000,
    "absolute_position": 50,
    "projection": 4000,
    "feed_forward": 7000,
    "norm": 20,
    "head": 1000,
    "codebook": 600,
}


def table(**columns):
    return pd.DataFrame({"tokens": [10**13], "flops": [1.0e15]} | {name: [value] for name, value in columns.items()})


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("non_embedding", 11020),
        ("total", 13070),
        ("non_embedding_codebooks", 11620),
        ("total_codebooks", 13670),
    ],
)
def test_n_is_counted_by_group(kind, count):
    assert parameters_under(table(parameter_groups=GROUPS), Convention(parameters=kind)).tolist() == [count]


def test_table_without_groups_has_only_the_counts_of_its_columns():
    plain = table(parameters=200, parameters_non_embedding=150)
    assert parameters_under(plain, Convention()).tolist() == [150]
    assert parameters_under(plain, Convention(parameters="total")).tolist() == [200]
    with pytest.raises(FitError, match="no column parameter_groups"):
        parameters_under(plain, Convention(parameters="total_codebooks"))
    with pytest.raises(FitError, match="parameter_groups or parameters_non_embedding"):
        parameters_under(table(), Convention())


def test_6nd_of_a_large_run_does_not_overflow():
    large = table(parameters_non_embedding=10**12)
    n = parameters_under(large, Convention())
    assert flops_under(large, Convention(flops="6nd"), n).tolist() == [6e25]
    assert flops_under(large, Convention(), n).tolist() == [1e15]


def test_row_without_groups_has_no_count_rather_than_zero():
    two = pd.DataFrame({"parameter_groups": [GROUPS, None]})
    counts = parameters_under(two, Convention())
    assert counts[0] == 11020
    assert np.isnan(counts[1])


def test_missing_flops_refuse_the_exact_convention():
    with pytest.raises(FitError, match="no column flops"):
        flops_under(pd.DataFrame({"tokens": [1]}), Convention(), np.array([1.0]))


def test_all_conventions_differ_in_their_description_and_the_default_is_first():
    every = every_convention()
    assert every[0] == Convention()
    assert len({describe_convention(one) for one in every}) == len(every) == 8
