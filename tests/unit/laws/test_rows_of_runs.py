"""Rows of a table from elsewhere that are not runs: copies, logged curves, evaluation sets. Seen, reported, right."""

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.fitting.rows import runs_of_table

POINT = ("parameters_non_embedding", "tokens", "flops")


def surface(n, d):
    return 1.82 + 482 * n**-0.348 + 2085 * d**-0.366


def iso20(seed=0, noise=3e-3):
    """Twenty runs at four budgets, as a table from elsewhere has them."""
    budgets = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    n = np.sqrt(budgets / 6 / 20) * np.tile([0.25, 0.5, 1, 2, 4], 4)
    d = budgets / 6 / n
    loss = surface(n, d) * np.exp(np.random.default_rng(seed).normal(0, noise, 20))
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "flops": budgets, "loss": loss.round(6)})


def only(table, **options):
    (fit,) = fit_study(table, ["chinchilla"], **{"bootstrap": 60, "sensitivity": False} | options).fits
    return fit


def width(fit):
    return fit.intervals["a"].high90 - fit.intervals["a"].low90


@pytest.mark.parametrize("order", ["one after the other", "shuffled", "with an index", "with names of their own"])
def test_copies_of_a_table_have_the_interval_of_one_and_are_reported(order):
    table = pd.concat([iso20()] * 5, ignore_index=True)
    if order == "shuffled":
        table = table.sample(frac=1, random_state=1).reset_index(drop=True)
    if order == "with an index":
        table.insert(0, "Unnamed: 0", range(100))
    if order == "with names of their own":
        table["run_name"] = [f"run-{index}" for index in range(100)]
    found = fit_study(table, ["chinchilla"], bootstrap=60, sensitivity=False)
    (fit,) = found.fits
    assert fit.n_runs == 20
    assert found.notes == ["80 of 100 rows repeat another row: 20 rows are left."]
    assert sum(one.reason == "repeats another row" for one in found.excluded) == 80
    once = only(iso20())
    if order == "shuffled":  # the same runs in another order draw other resamples
        assert width(fit) == pytest.approx(width(once), rel=0.5)
    else:
        assert fit.intervals == once.intervals


def test_runs_that_share_a_loss_of_few_digits_are_no_copies():
    table = iso20().assign(run_name=[f"run-{index}" for index in range(20)])
    again = table.assign(run_name=[f"again-{index}" for index in range(20)])
    rounded = pd.concat([table, again], ignore_index=True).round({"loss": 2})
    assert len(runs_of_table(rounded, "loss", POINT, ()).table) == 40


def curves(runs, steps=10):
    """A row for every tenth of every run's training, the last at its end."""
    parts = []
    for name, run in zip(runs.index, runs.to_dict("records"), strict=True):
        share = np.arange(1, steps + 1) / steps
        undecayed = 1 + 0.2 * (share < 1)
        parts.append(
            pd.DataFrame(
                {
                    "run_name": f"sweep-{name}",
                    "parameters_non_embedding": run["parameters_non_embedding"],
                    "tokens": run["tokens"] * share,
                    "flops": run["flops"] * share,
                    "loss": np.where(
                        share < 1, surface(run["parameters_non_embedding"], run["tokens"] * share), run["loss"]
                    )
                    * undecayed,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("column", ["run_name", "run_id", "tags.mlflow.runName", "Name", "id"])
def test_logged_curves_are_fitted_at_the_end_of_every_run(column):
    table = curves(iso20()).rename(columns={"run_name": column}).sample(frac=1, random_state=3).iloc[:-1]
    table = table.sort_values([column, "tokens"], ignore_index=True)
    found = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    ends = table.groupby(column)["tokens"].max()
    (fit,) = found.fits
    assert fit.n_runs == 20
    assert sorted(point.x[1] for point in fit.points) == pytest.approx(sorted(ends))
    assert found.notes[0].startswith(f"199 rows are 20 runs by {column}")
    assert {one.reason for one in found.excluded} == {"rows before the last step of the run"}
    assert len(found.excluded) == 20


def test_curve_along_steps_at_a_stated_budget_is_its_last_step():
    runs = curves(iso20())
    runs["step"] = runs.groupby("run_name").cumcount()
    runs["tokens"] = runs.groupby("run_name")["tokens"].transform("max")
    runs["flops"] = runs.groupby("run_name")["flops"].transform("max")
    fit, alone = only(runs), only(iso20().assign(run_name=[f"sweep-{index}" for index in range(20)]))
    assert fit.n_runs == 20
    assert fit.parameters == pytest.approx(alone.parameters)


def test_run_whose_last_loss_is_missing_is_named_and_left_out():
    table = curves(iso20())
    table.loc[(table["run_name"] == "sweep-3") & (table["tokens"] > 0.6 * table["tokens"].max()), "loss"] = np.nan
    last = table.index[table["run_name"] == "sweep-3"][5:]
    table.loc[last, "loss"] = np.nan
    found = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    assert found.fits[0].n_runs == 19
    assert ("sweep-3", "its last loss is not that of its last step") in [
        (one.name, one.reason) for one in found.excluded
    ]


def test_rows_of_one_model_name_at_several_budgets_are_runs():
    """A ladder names its sizes; four rows of one name are four trainings."""
    n, d = (grid.ravel() for grid in np.meshgrid([1.9e8, 3.7e8, 7.6e8, 1.3e9], [1, 2, 5, 10]))
    names = [f"{size / 1e6:.0f}M" for size in n]
    d = d * 20 * n
    table = pd.DataFrame({"name": names, "parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d})
    table["loss"] = surface(n, d)
    assert only(table, bootstrap=0).n_runs == 16


def test_ends_of_decays_that_share_a_prefix_stay_runs():
    table = curves(iso20()).rename(columns={"run_name": "shared_prefix"})
    assert only(table, bootstrap=0).n_runs == 200


@pytest.mark.parametrize("names", [("web", "code"), (1, 2)])
@pytest.mark.parametrize("column", ["dataset", "eval_set", "anything"])
def test_evaluation_sets_of_one_run_are_fitted_apart(column, names):
    table = iso20()
    both = pd.concat(
        [table.assign(**{column: names[0]}), table.assign(**{column: names[1]}, loss=(0.8 * table["loss"]).round(6))],
        ignore_index=True,
    )
    found = fit_study(both, ["chinchilla"], bootstrap=0, sensitivity=False)
    alone = only(table, bootstrap=0)
    assert [fit.where[column] for fit in found.fits] == sorted(names)
    for fit in found.fits:
        assert fit.n_runs == 20
        assert fit.parameters["alpha"] == pytest.approx(alone.parameters["alpha"], rel=0.02)
    assert f"Each {column} ({', '.join(map(str, sorted(names)))}) is fitted on its own." in found.notes[0]


def test_two_columns_that_split_the_same_points_are_crossed_and_their_followers_named():
    table = iso20()
    parts = [
        table.assign(metric=metric, mode=mode, vocab_size=vocab, loss=(factor * table["loss"]).round(6))
        for metric, vocab, one in (("c4", 32000, 1.0), ("pile", 50257, 0.8))
        for mode, factor in (("train", 0.98 * one), ("val", one))
    ]
    found = fit_study(pd.concat(parts, ignore_index=True), ["chinchilla"], bootstrap=0, sensitivity=False)
    assert {(fit.where["metric"], fit.where["mode"]) for fit in found.fits} == {
        ("c4", "train"), ("c4", "val"), ("pile", "train"), ("pile", "val")
    }  # fmt: skip
    assert found.notes[0].startswith("Each metric (c4, pile; vocab_size changes with it)")


def test_text_that_names_the_data_splits_without_shared_points():
    web, code = iso20(), iso20(seed=1)
    code["parameters_non_embedding"] *= 1.3
    code["flops"] = 6 * code["parameters_non_embedding"] * code["tokens"]
    code["loss"] *= 0.7
    both = pd.concat([web.assign(dataset="web"), code.assign(dataset="code")], ignore_index=True)
    assert [fit.where["dataset"] for fit in fit_study(both, ["chinchilla"], bootstrap=0).fits] == ["code", "web"]


def test_seeds_and_columns_without_an_effect_do_not_split():
    parts = [iso20(seed=seed).assign(seed=seed, host=f"node-{seed % 2}", runtime=100.0 + seed) for seed in range(4)]
    found = fit_study(pd.concat(parts, ignore_index=True), ["chinchilla"], bootstrap=0, sensitivity=False)
    assert [fit.n_runs for fit in found.fits] == [80]
    assert found.notes == []


def test_sizes_that_are_named_do_not_split():
    """`model` is a name of N, `length` one of D/N: neither differs at one point."""
    n, d = (grid.ravel() for grid in np.meshgrid([1.9e8, 3.7e8, 7.6e8, 1.3e9], [1, 2, 5, 10]))
    table = pd.DataFrame({"model": n.astype(str), "length": d.astype(str), "parameters_non_embedding": n})
    table = table.assign(tokens=d * 20 * n, loss=surface(n, d * 20 * n))
    assert only(table, bootstrap=0).n_runs == 16


def test_mixture_that_no_column_explains_is_refused():
    table = iso20()
    mixed = pd.concat([table, table.assign(loss=(0.8 * table["loss"]).round(6))], ignore_index=True)
    found = fit_study(mixed, ["chinchilla"], bootstrap=0)
    assert found.fits == []
    assert "rows at one point differ by up to 25 % in loss" in found.refusals[0].reason
    assert "no column says why: keep one row for every run" in found.refusals[0].reason


def test_mixture_under_another_grouping_names_the_column_to_group_by():
    table = iso20()
    mixed = pd.concat(
        [table.assign(arch="a", dataset="web"), table.assign(arch="a", dataset="code", loss=0.8 * table["loss"])],
        ignore_index=True,
    )
    (refusal,) = fit_study(mixed, ["chinchilla"], bootstrap=0, group=["arch"]).refusals
    assert refusal.reason.endswith("differ in dataset too: fit them apart with --group dataset")
    fits = fit_study(mixed, ["chinchilla"], bootstrap=0, group=["arch", "dataset"]).fits
    assert [fit.label for fit in fits] == ["a, dataset code", "a, dataset web"]


def test_seeds_are_drawn_as_runs_and_unnamed_rows_of_a_point_together():
    seeds = pd.concat([iso20(seed=seed).assign(seed=seed) for seed in range(3)], ignore_index=True)
    apart, together = only(seeds), only(seeds.drop(columns="seed"))
    assert apart.resampled == "60 runs at 20 points"
    assert together.resampled == "20 points, with all rows of each: no column tells the runs of its 60 rows apart"
    assert only(iso20()).resampled == "20 runs"


def test_law_in_tokens_alone_is_fitted_to_one_size_at_a_time():
    n, d = (grid.ravel() for grid in np.meshgrid([1e8, 1e9], np.geomspace(1e9, 1e11, 6)))
    table = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "loss": surface(n, d)})
    fits = fit_study(table, ["power_d"], bootstrap=0).fits
    assert [fit.where["parameters_non_embedding"] for fit in fits] == [1e8, 1e9]
    assert [fit.parameters["alpha"] for fit in fits] == pytest.approx([0.366, 0.366], rel=1e-3)


def test_row_with_impossible_flops_is_left_out_with_its_value_in_plain_numbers():
    table = iso20()
    table.loc[3, "flops"] = -8.2e18
    found = fit_study(table, ["chinchilla"], bootstrap=0)
    assert found.fits[0].n_runs == 19
    assert found.excluded[0].reason == "flops is -8.2e+18, not a positive number"


def test_runs_that_the_file_calls_run_name_are_logged_curves_however_they_are_spaced():
    """The reading calls the column `name`, which alone would need rows at even distances."""
    table = curves(iso20(), steps=10).rename(columns={"run_name": "name"})
    table = table[(table.groupby("name").cumcount() + 1).isin([1, 2, 5, 10])].reset_index(drop=True)
    assert only(table, bootstrap=0).n_runs == 80
    table.attrs["sources"] = {"name": "run_name"}
    found = fit_study(table, ["chinchilla"], bootstrap=0)
    assert [fit.n_runs for fit in found.fits] == [20]
    assert found.notes[0].endswith("--column shared_prefix=run_name")


def test_group_is_found_by_its_name_in_the_file():
    table = pd.concat([iso20().assign(dataset="web"), iso20(seed=1).assign(dataset="code")], ignore_index=True)
    table.attrs["sources"] = {"dataset": "config.dataset"}
    fits = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False, group=["config.dataset"]).fits
    assert [fit.where["dataset"] for fit in fits] == ["code", "web"]
