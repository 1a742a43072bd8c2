"""Equal N, D and C within the rounding to whole updates, and nothing more."""

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.fitting.points import level_values, levels, point_numbers
from vqscale.laws.fitting.run_filter import lower_envelope, rows_of, split_table


def test_values_within_half_a_percent_are_one_level_and_others_are_not():
    assert levels(np.array([1e9, 2e9, 1.004e9, 0.999e9, 2.02e9])).tolist() == [0, 1, 0, 0, 2]


def test_even_grid_finer_than_the_tolerance_is_not_merged_into_one():
    grid = 1e9 * 1.002 ** np.arange(500)
    level_R = levels(grid)
    spans = [np.ptp(np.log(grid[level_R == level])) for level in range(level_R.max() + 1)]
    assert max(spans) <= 0.005 + 1e-9
    assert len(spans) > 150


def test_groups_are_cut_at_their_widest_gap_and_not_counted_from_the_smallest():
    values = 1e9 * np.array([1.0, 1.0005, 1.0048, 1.0052, 1.0055])
    assert levels(values).tolist() == [0, 0, 1, 1, 1]


def test_level_is_called_by_a_value_that_was_measured():
    values = np.array([1.0e9, 1.001e9, 0.999e9, 4e9])
    assert level_values(values).tolist() == [1e9, 1e9, 1e9, 4e9]


def test_values_that_are_no_numbers_of_a_law_are_levels_of_their_own():
    assert len(set(levels(np.array([np.nan, np.inf, -1.0, 0.0, 1.0])).tolist())) == 5


def test_codebooks_are_compared_exactly_and_sizes_are_not():
    x = np.array([[1000.0, 1e9], [1001.0, 1e9], [1001.0, 1.001e9]])
    assert point_numbers(["S", "D"], x).tolist() == [0, 1, 1]
    assert point_numbers(["N", "D"], x).tolist() == [0, 0, 0]


def rounded_sweep(seed=0, batches=(262_144, 524_288, 1_048_576), penalty=(1.0, 1.02, 1.06)):
    """Twenty points at four budgets, each with three batches whose tokens are whole updates."""
    rng, rows = np.random.default_rng(seed), []
    for budget in (1e18, 3e18, 1e19, 3e19):
        for factor in (0.25, 0.5, 1, 2, 4):
            n = int(np.sqrt(budget / 120) * factor)
            scatter = rng.normal(0, 3e-3)
            for batch, worse in zip(batches, penalty, strict=True):
                d = round(budget / 6 / n / batch) * batch
                loss = (1.82 + 482 * n**-0.348 + 2085 * d**-0.366) * worse * np.exp(scatter)
                rows.append((n, d, 6.0 * n * d, batch, 1e-3, loss))
    return pd.DataFrame(rows, columns=["parameters_non_embedding", "tokens", "flops", "batch_tokens", "lr", "loss"])


def test_batches_at_one_point_are_one_point_and_the_best_represents_it():
    table = rounded_sweep()
    assert table["tokens"].nunique() == 39
    found = fit_study(table, ["chinchilla"], bootstrap=60, sensitivity=False)
    (fit,) = found.fits
    alone = fit_study(table[table["batch_tokens"] == 262_144], ["chinchilla"], bootstrap=60, sensitivity=False)
    assert fit.n_runs == 20
    assert fit.parameters == alone.fits[0].parameters
    assert fit.intervals == alone.fits[0].intervals
    assert len(found.excluded) == 40


def test_batches_in_rows_of_any_order_give_the_same_constants():
    table = rounded_sweep()
    (fit,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
    (other,) = fit_study(table.sample(frac=1, random_state=2), ["chinchilla"], bootstrap=0).fits
    assert other.parameters == pytest.approx(fit.parameters, rel=1e-6)


def test_short_runs_whose_batch_moves_their_tokens_by_percents_are_one_point():
    """A hundred updates of the largest batch: rounding moves D by up to a percent."""
    table = pd.DataFrame({"tokens": [1.00e8, 1.004e8, 0.996e8, 2e8], "batch_tokens": [1e5, 8e5, 1e6, 1e6]})
    assert [len(rows) for _, rows in split_table(table, ["tokens"])] == [3, 1]
    without = table.drop(columns="batch_tokens")
    assert [len(rows) for _, rows in split_table(without, ["tokens"])] == [2, 1, 1]


def test_budgets_of_a_law_in_n_are_split_by_tokens_within_rounding():
    n = np.geomspace(1e7, 1e9, 6)
    d = 1e9 * (1 + 1e-4 * np.arange(6))
    table = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "loss": 2 + 300 * n**-0.3})
    (fit,) = fit_study(table, ["power_n"], bootstrap=0).fits
    assert fit.n_runs == 6
    assert len(rows_of(table, fit.where)) == 6


def test_tokens_are_compared_within_one_size():
    """D of one size lies between those of another: together they would be cut in two."""
    table = pd.DataFrame(
        {"parameters_non_embedding": [1e6] * 3 + [2e6] * 3, "tokens": np.array([1, 1.002, 1.004, 1.003, 1.005, 1.007])}
    )
    assert [len(rows) for _, rows in split_table(table, ["parameters_non_embedding", "tokens"])] == [3, 3]


def test_frontier_keeps_the_best_run_of_a_budget_whose_flops_differ_by_rounding():
    table = pd.DataFrame({"flops": [1e18, 1.0003e18, 0.9999e18, 3e18], "loss": [3.4, 3.6, 3.7, 3.5]})
    assert lower_envelope(table, "flops", "loss")["loss"].tolist() == [3.4]


def test_holdout_takes_whole_budgets_though_their_flops_differ_by_rounding():
    table = rounded_sweep(batches=(524_288,), penalty=(1.0,))
    (fit,) = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False).fits
    assert len(fit.holdout.points) == 5


def test_points_that_seeds_repeat_count_once_towards_what_a_law_needs():
    n = np.repeat([1e7, 1e8, 1e9], 10)
    table = pd.DataFrame({"parameters_non_embedding": n, "seed": np.tile(range(10), 3), "loss": 2 + 300 * n**-0.3})
    (refusal,) = fit_study(table, ["power_n"], bootstrap=0).refusals
    assert refusal.reason == "3 distinct points (30 runs); L = E + A N^-alpha needs at least 4"
