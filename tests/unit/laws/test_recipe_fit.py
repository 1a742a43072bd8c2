"""From a sweep over the learning rate to a recipe."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.laws.recipe_law import fit_power_law, fit_recipe
from vqscale.study.recipe import Recipe, RecipeLaw, RecipeRule

RATES = (0.001, 0.002, 0.004, 0.008, 0.016)


def law(n: float) -> float:
    return 0.004 * (n / 1e5) ** -0.25


def sweep(sizes: Any = (3e4, 1e5, 3e5), rates: Any = RATES, curvature: float = 0.05, **columns: Any) -> pd.DataFrame:
    """Runs whose loss is a parabola in log rate about `law`; sizes drift too little to leave the rates."""
    rows = [
        {
            "trial_id": f"{int(n)}-{rate}",
            "status": "finished",
            "arch": "transformer",
            "head": None,
            "seed": 0,
            "parameters_non_embedding": int(n),
            "tokens": int(4 * n),
            "batch_tokens": 1024,
            "context": 512,
            "lr": rate,
            "loss": 2.0 + curvature * math.log(rate / law(n)) ** 2,
            "corpus_fingerprint": "c",
        }
        | columns
        for n in sizes
        for rate in rates
    ]
    return pd.DataFrame(rows)


def only(recipe: Recipe) -> RecipeRule:
    (rule,) = recipe.rules
    return rule


def test_recipe_of_parabolas_returns_the_law_they_were_made_of() -> None:
    recipe = fit_recipe(sweep(), study="lr")
    rule = only(recipe)
    assert rule.lr is not None
    assert rule.lr.powers["N"].exponent == pytest.approx(-0.25, abs=1e-9)
    assert rule.lr.at({"N": 1e6}) == pytest.approx(law(1e6), rel=1e-9)
    assert rule.lr.residual == pytest.approx(0.0, abs=1e-9)
    assert rule.batch_tokens is None
    assert [one.best for one in rule.references] == pytest.approx([law(n) for n in (3e4, 1e5, 3e5)])
    assert [one.best_loss for one in rule.references] == pytest.approx([2.0, 2.0, 2.0], abs=1e-9)
    assert [one.runs for one in rule.references] == [5, 5, 5]
    assert rule.references[0].trial_ids[0] == "30000-0.001"
    assert (recipe.corpus_fingerprint, recipe.metric, rule.references[0].tokens_per_parameter) == ("c", "loss", 4.0)


def test_recipe_takes_every_architecture_and_head_for_itself() -> None:
    gated, multi = sweep(arch="transformer_vq", head="shga"), sweep(arch="transformer_vq", head="mha")
    multi["lr"] *= 2
    recipe = fit_recipe(pd.concat([sweep(), gated, multi], ignore_index=True), study="lr")
    references = {rule.name: rule.lr.reference for rule in recipe.rules if rule.lr}
    assert set(references) == {"transformer", "transformer_vq (shga)", "transformer_vq (mha)"}
    assert references["transformer_vq (mha)"] == pytest.approx(2 * references["transformer_vq (shga)"])


def test_recipe_tunes_windows_of_their_presets_and_refuses_two_windows_of_one_size() -> None:
    window = sweep(arch="transformer_window")
    window["variant"] = np.where(window["parameters_non_embedding"] < 2e5, "w128", "w256")
    other = sweep(arch="longvq", variant="s4d")
    rule = only(fit_recipe(pd.concat([window, other], ignore_index=True), study="lr"))
    assert (rule.arch, rule.lr is not None) == ("transformer_window", True)
    two = pd.concat([window, sweep(sizes=[3e4], arch="transformer_window", variant="w64")], ignore_index=True)
    refused = [one for one in only(fit_recipe(two, study="lr")).references if one.refused]
    assert [one.parameters for one in refused] == [30_000]
    assert "differ in variant (w128, w64)" in str(refused[0].refused)


@pytest.mark.parametrize(("rates", "end", "way"), [(RATES[2:], "smallest", "below"), (RATES[:3], "largest", "above")])
def test_recipe_refuses_a_size_whose_best_rate_is_on_the_edge(rates: Any, end: str, way: str) -> None:
    edge = sweep(sizes=[3e5 if end == "smallest" else 3e4], rates=rates)
    rule = only(fit_recipe(pd.concat([sweep(sizes=[1e5, 9e4]), edge], ignore_index=True), study="lr"))
    refused = [one for one in rule.references if one.refused]
    assert len(refused) == 1
    assert f"is the {end} of those tried" in str(refused[0].refused)
    assert f"Widen the sweep {way}" in str(refused[0].refused)
    assert refused[0].best is None
    assert rule.lr is not None
    assert rule.lr.sizes == 2


def test_recipe_refuses_a_size_whose_losses_are_concave() -> None:
    table = sweep()
    table.loc[table["parameters_non_embedding"] == 100_000, "loss"] = [3.0, 3.3, 2.99, 3.3, 3.0]
    rule = only(fit_recipe(table, study="lr"))
    assert "concave" in str(rule.references[1].refused)
    assert rule.lr is not None
    assert rule.lr.sizes == 2


def test_recipe_refuses_a_size_with_too_few_rates() -> None:
    table = pd.concat([sweep(), sweep(sizes=[2e5], rates=RATES[2:4])], ignore_index=True)
    (refused,) = [one for one in only(fit_recipe(table, study="lr")).references if one.refused]
    assert "2 value(s) of the rate were tried (0.004, 0.008); a parabola needs 3" in str(refused.refused)


def test_recipe_refuses_a_size_that_diverged_beside_its_best_rate() -> None:
    table = sweep()
    table.loc[(table["parameters_non_embedding"] == 30_000) & (table["lr"] >= 0.008), ["status", "loss"]] = [
        "diverged",
        np.nan,
    ]
    first = only(fit_recipe(table, study="lr")).references[0]
    assert first.losses[-1] is None
    assert "0.008 diverged" in str(first.refused)


def test_recipe_refuses_a_size_whose_runs_differ_in_more_than_the_rate() -> None:
    table = sweep()
    table.loc[2, "context"] = 256
    assert "differ in context (256, 512)" in str(only(fit_recipe(table, study="lr")).references[0].refused)


def test_recipe_compares_rates_on_the_seeds_that_all_of_them_have() -> None:
    lucky = sweep(sizes=[3e4], rates=RATES[:1], seed=1, loss=1.0)
    rule = only(fit_recipe(pd.concat([sweep(), lucky], ignore_index=True), study="lr"))
    assert rule.references[0].best == pytest.approx(law(3e4))


def test_recipe_of_one_usable_size_is_refused() -> None:
    table = pd.concat([sweep(sizes=[1e5]), sweep(sizes=[3e5], rates=RATES[2:])], ignore_index=True)
    rule = only(fit_recipe(table, study="lr"))
    assert rule.lr is None
    assert "1 of 2 sizes have a best rate inside their sweep; an exponent needs at least 2" in str(rule.refused)
    assert "the best rate" in str(rule.references[1].refused)


def test_recipe_keeps_an_architecture_without_a_law_with_its_reason() -> None:
    table = pd.concat([sweep(), sweep(sizes=[1e5], arch="transformer_vq", head="shga")], ignore_index=True)
    rules = {rule.arch: rule for rule in fit_recipe(table, study="lr").rules}
    assert rules["transformer_vq"].lr is None
    assert "1 of 1 sizes" in str(rules["transformer_vq"].refusal(100_000))


def test_recipe_tunes_the_batch_where_it_varies() -> None:
    parts = []
    for batch in (256, 512, 1024, 2048, 4096):
        part = sweep(batch_tokens=batch)
        best = 1024 * (part["parameters_non_embedding"] / 1e5) ** 0.3
        parts.append(part.assign(loss=part["loss"] + 0.02 * np.log(batch / best) ** 2))
    rule = only(fit_recipe(pd.concat(parts, ignore_index=True), study="lr"))
    assert rule.batch_tokens is not None
    assert rule.batch_tokens.powers["N"].exponent == pytest.approx(0.3, abs=1e-6)
    assert rule.batch({"N": 1e5}, 512) == 1024
    assert rule.batch({"N": 1e6}, 512) == 2048
    assert rule.lr is not None
    assert rule.lr.powers["N"].exponent == pytest.approx(-0.25, abs=1e-6)


def test_recipe_refuses_every_size_whose_best_batch_is_on_the_edge() -> None:
    parts = [
        sweep(batch_tokens=batch).assign(loss=lambda t: t["loss"] + t["batch_tokens"] / 1e4) for batch in (1, 2, 4)
    ]
    rule = only(fit_recipe(pd.concat(parts, ignore_index=True), study="lr"))
    assert (rule.lr, rule.batch_tokens) == (None, None)
    assert {"the best batch 1 is the smallest of those tried" in str(one.refused) for one in rule.references} == {True}


def test_law_through_two_sizes_has_no_interval_and_through_three_a_wide_one() -> None:
    two = fit_power_law({"N": [1e4, 1e5]}, [0.02, 0.01])
    assert two.powers["N"].exponent == pytest.approx(-math.log10(2))
    assert (two.powers["N"].low90, two.powers["N"].high90, two.residual) == (None, None, None)
    three = fit_power_law({"N": [1e4, 1e5, 1e6]}, [0.02, 0.012, 0.005]).powers["N"]
    assert three.low90 is not None
    assert three.high90 is not None
    # 6.313752 is the 95 % point of Student's t with one degree of freedom; the sizes lie at -1, 0 and 1 in log10
    residuals = np.log10([0.02, 0.012, 0.005]) - np.polyval(
        np.polyfit([-1, 0, 1], np.log10([0.02, 0.012, 0.005]), 1), [-1, 0, 1]
    )
    half = 6.313752 * math.sqrt(float(residuals @ residuals) / 2)
    assert three.high90 - three.low90 == pytest.approx(2 * half, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0, "seed": range(15)}, "'lr': 15 of 15 runs have no positive number in it"),
        ({"status": "failed"}, "no finished run"),
    ],
)
def test_recipe_refuses_tables_that_are_no_sweep(change: Any, message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_recipe(sweep().assign(**change), study="lr")


def test_recipe_names_a_missing_column_and_refuses_two_corpora() -> None:
    with pytest.raises(FitError, match="'lr' is missing"):
        fit_recipe(sweep().drop(columns="lr"), study="lr")
    table = sweep()
    table.loc[0, "corpus_fingerprint"] = "d"
    with pytest.raises(FitError, match=r"2 corpora.* Name it with --group corpus_fingerprint=c"):
        fit_recipe(table, study="lr")
    assert only(fit_recipe(table, study="lr", group={"corpus_fingerprint": "c"})).references[0].runs == 4


def token_budgets(multiples: Any = (8, 20, 50), sizes: Any = (6e7, 2.7e8, 1.1e9), noise: float = 0.0) -> pd.DataFrame:
    """Sizes at several token budgets, whose best rate is that of the step law: 1.79 N^-0.713 D^0.307."""
    rng = np.random.default_rng(0)
    rows = []
    for n in sizes:
        for multiple in multiples:
            d = n * multiple
            best = 1.79 * n**-0.713 * d**0.307 * math.exp(noise * rng.normal())
            for rate in best * 1.1 * 2.0 ** np.arange(-2, 3):
                loss = 2.0 + 0.02 * math.log(rate / best) ** 2
                rows.append({"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d, "lr": rate, "loss": loss})
    return pd.DataFrame(rows)


def test_recipe_of_several_token_budgets_is_a_law_in_size_and_tokens() -> None:
    rule = only(fit_recipe(token_budgets(noise=0.01), study="published"))
    assert rule.lr is not None
    assert rule.lr.letters == ["N", "D"]
    assert rule.lr.powers["N"].exponent == pytest.approx(-0.713, abs=0.02)
    assert rule.lr.powers["D"].exponent == pytest.approx(0.307, abs=0.02)
    for power, truth in zip(rule.lr.powers.values(), (-0.713, 0.307), strict=True):
        assert power.low90 is not None
        assert power.high90 is not None
        assert power.low90 < truth < power.high90
    assert rule.lr.at({"N": 7e9, "D": 1.4e11}) == pytest.approx(1.79 * 7e9**-0.713 * 1.4e11**0.307, rel=0.1)
    assert (rule.lr.sizes, rule.lr.points) == (3, 9)
    assert (rule.arch, rule.name) == (None, "all runs")


def test_recipe_in_compute_is_fitted_where_it_is_asked_for() -> None:
    table = token_budgets(multiples=(20,), sizes=(6e7, 2.7e8, 1.1e9, 3e9))
    rule = only(fit_recipe(table.assign(arch="llama"), study="published", letters=("C",)))
    assert rule.lr is not None
    assert rule.lr.letters == ["C"]
    assert rule.lr.powers["C"].exponent == pytest.approx((0.307 - 0.713) / 2, abs=1e-6)  # N and D grow as C^0.5
    assert rule.name == "llama"


def test_recipe_of_batches_takes_its_own_letters() -> None:
    parts = []
    for batch in 2.0 ** np.arange(17, 24):
        part = token_budgets()
        best = 0.58 * part["tokens"] ** 0.571
        parts.append(part.assign(batch_tokens=batch, loss=part["loss"] + 0.01 * np.log(batch / best) ** 2))
    table = pd.concat(parts, ignore_index=True)
    rule = only(fit_recipe(table, study="published", batch_letters=("D",)))
    assert rule.batch_tokens is not None
    assert rule.batch_tokens.letters == ["D"]
    assert rule.batch_tokens.powers["D"].exponent == pytest.approx(0.571, abs=1e-6)
    assert rule.batch({"D": 1e10}, 4096) == round(0.58 * 1e10**0.571 / 4096) * 4096
    assert rule.lr is not None
    assert rule.lr.letters == ["N", "D"]


def test_sizes_and_tokens_that_move_together_determine_no_two_exponents() -> None:
    rule = only(
        fit_recipe(token_budgets(multiples=(20,), sizes=(6e7, 1e8, 2.7e8, 1.1e9)), study="p", letters=("N", "D"))
    )
    assert "N and D rise and fall together in all points" in str(rule.refused)
    assert only(fit_recipe(token_budgets(multiples=(20,)), study="p")).lr is not None


def test_sizes_at_equal_budgets_give_a_law_in_size_and_tokens() -> None:
    parts = [
        token_budgets(multiples=(budget / 6 / n**2,), sizes=(n,))
        for budget in (1e18, 1e19)
        for n in (1e8, 2.1e8, 4.3e8)
    ]
    parts = [
        part.assign(parameters_non_embedding=part["parameters_non_embedding"] * 1.1**place)
        for place, part in enumerate(parts)
    ]
    rule = only(fit_recipe(pd.concat(parts, ignore_index=True), study="p"))
    assert rule.lr is not None
    assert rule.lr.letters == ["N", "D"]


def test_tokens_that_differ_by_rounding_are_one_token_budget() -> None:
    table = token_budgets(multiples=(20,))
    table["tokens"] *= 1 + 5e-4 * np.arange(len(table)) / len(table)
    rule = only(fit_recipe(table, study="p"))
    assert rule.lr is not None
    assert (rule.lr.letters, len(rule.references)) == (["N"], 3)


@pytest.mark.parametrize("values", [(0.02, 0.0004, 0.02), (0.001, 0.02, 0.9)])
def test_exponent_that_may_be_anything_is_no_law(values: Any) -> None:
    with pytest.raises(FitError, match=r"the exponent of N, .* may be anything from .* does not determine it"):
        fit_power_law({"N": [1e7, 2e7, 4e7]}, values)


def test_recipe_whose_exponent_may_be_anything_is_refused_with_its_reason() -> None:
    table = sweep(sizes=[3e4, 1e5, 1.2e5])
    table.loc[table["parameters_non_embedding"] == 100_000, "lr"] *= 6
    rule = only(fit_recipe(table, study="lr"))
    assert rule.lr is None
    assert "the exponent of N" in str(rule.refused)


def test_recipe_of_two_datasets_asks_for_one() -> None:
    table = token_budgets()
    both = pd.concat([table.assign(dataset="web"), table.assign(dataset="code", loss=table["loss"] * 0.8)])
    with pytest.raises(FitError, match=r"of 2 dataset \(code, web\).* name it with --group dataset=code"):
        fit_recipe(both, study="p")
    rule = only(fit_recipe(both, study="p", group={"dataset": "web"}))
    assert rule.lr is not None
    with pytest.raises(FitError, match="--group dataset=logs: no row of the table is so; dataset has code, web"):
        fit_recipe(both, study="p", group={"dataset": "logs"})


def test_recipe_of_an_earlier_version_is_a_law_in_size() -> None:
    old = {
        "reference": 0.004, "reference_n": 1e5, "exponent": -0.25, "low90": None, "high90": None, "residual": None,
        "smallest": 30_000, "largest": 300_000, "sizes": 2,
    }  # fmt: skip
    law = RecipeLaw.model_validate(old)
    assert law.at({"N": 1e6}) == pytest.approx(0.004 * 10**-0.25)
    assert law.beyond({"N": 3e6}) == {"N": 10}
    assert RecipeLaw.model_validate(law.model_dump(mode="json")) == law
