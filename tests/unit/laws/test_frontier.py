import numpy as np
import pytest

from vqscale.costing.counts import flops_per_token, parameters_non_embedding
from vqscale.costing.presets import PRESETS, resolve
from vqscale.errors import FitError
from vqscale.laws.decisions.frontier import make_frontier, optimum_at
from vqscale.laws.decisions.optimum import find_optimum
from vqscale.laws.decisions.surface import surface
from vqscale.laws.decisions.token_cost import fit_token_cost, six_n
from vqscale.laws.io.schema import Term

TRUTH = {"E": 1.7, "A": 420.0, "alpha": 0.36, "B": 1900.0, "beta": 0.29}
TERMS = [Term(coefficient="A", powers={"N": "alpha"}), Term(coefficient="B", powers={"D": "beta"})]
A_EXPONENT = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
BUDGETS = np.geomspace(1e17, 1e19, 5)
WIDTH_FLOPS = 8e3
"""FLOPs per token and root of N that attention and head take in these tests: a third of the total in the middle."""


def best_size(budget):
    """N* for C = 6ND, Hoffmann et al. equation 4."""
    ratio = TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])
    return ratio ** (1 / (TRUTH["alpha"] + TRUTH["beta"])) * (budget / 6) ** A_EXPONENT


def loss_of(n, d):
    return TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]


def law(per_token=lambda n: 6 * n, spread=4.0, shift=1.0, draws=None, budgets=BUDGETS):
    """An isoFLOP study without noise; `shift` moves its sizes off the optimum."""
    n = np.concatenate([shift * best_size(budget) * np.geomspace(1 / spread, spread, 5) for budget in budgets])
    d = np.repeat(budgets, 5) / per_token(n)
    values = np.array(list(TRUTH.values()))
    refits = np.empty((0, 5)) if draws is None else draws
    return surface(TERMS, list(TRUTH), values, refits, ["N", "D"], np.stack([n, d], axis=1), loss_of(n, d))


def noisy_draws(count=60):
    return np.array(list(TRUTH.values())) * np.exp(np.random.default_rng(0).normal(0, 0.01, (count, 5)))


def test_optimum_by_6nd_is_the_closed_form():
    study = law()
    found = optimum_at(study, six_n(study.n), 1e18)
    assert found.parameters.value == pytest.approx(best_size(1e18), rel=1e-9)
    assert found.tokens.value == pytest.approx(1e18 / 6 / best_size(1e18), rel=1e-9)
    assert found.loss.value == pytest.approx(loss_of(found.parameters.value, found.tokens.value), rel=1e-12)
    assert found.parameters.interval is None


def test_optimum_by_exact_flops_is_the_best_of_all_sizes():
    def per_token(n):
        return 6 * n + WIDTH_FLOPS * np.sqrt(n)

    study = law(per_token)
    cost = fit_token_cost(study.n, per_token(study.n), "exact FLOPs per token")
    found = optimum_at(study, cost, 1e18)
    sizes = np.geomspace(found.parameters.value / 10, found.parameters.value * 10, 200_001)
    best = sizes[loss_of(sizes, 1e18 / per_token(sizes)).argmin()]
    assert found.parameters.value == pytest.approx(best, rel=1e-3)
    assert abs(np.log(found.parameters.value / best_size(1e18))) > 0.05
    assert found.tokens.value * per_token(found.parameters.value) == pytest.approx(1e18, rel=1e-6)


def test_frontier_exponents_by_6nd_are_those_of_the_law():
    study = law(draws=noisy_draws())
    found = make_frontier(study, six_n(study.n), "6nd")
    assert found.a.value == pytest.approx(A_EXPONENT, rel=1e-9)
    assert found.a.value + found.b.value == pytest.approx(1, rel=1e-9)
    assert found.a.interval.low95 < found.a.interval.low90 < A_EXPONENT < found.a.interval.high90
    assert [round(one.beyond, 9) for one in found.optima[-3:]] == [3, 10, 100]
    assert found.refused == {}


def test_flat_bottom_is_within_a_hundredth_of_the_optimal_loss():
    study = law()
    found = optimum_at(study, six_n(study.n), 1e18)
    for size in (found.parameters_low, found.parameters_high):
        assert loss_of(size, 1e18 / 6 / size) == pytest.approx(1.01 * found.loss.value, rel=1e-4)
    assert found.parameters_low < found.parameters.value < found.parameters_high


@pytest.mark.parametrize(("shift", "side"), [(20.0, "smaller"), (1 / 20, "larger")])
def test_optimum_that_no_size_tried_comes_close_to_is_refused(shift, side):
    study = law(shift=shift)
    with pytest.raises(FitError, match=f"do not bracket the optimum: near 1e.18 .* Train {side} sizes"):
        optimum_at(study, six_n(study.n), 1e18)
    with pytest.raises(FitError, match=r"do not bracket the optimum: near 1e\+19 "):
        optimum_at(study, six_n(study.n), 1e20)
    found = make_frontier(study, six_n(study.n), "6nd")
    assert found.optima == []
    assert len(found.refused) == 10


@pytest.mark.parametrize("shift", [6.0, 1 / 6])
def test_optimum_outside_the_sizes_is_given_where_one_of_them_has_nearly_its_loss(shift):
    """Sizes of a budget end at a quarter and at four times its middle: the nearest is 1.5 times off."""
    study = law(shift=shift)
    found = optimum_at(study, six_n(study.n), 1e17 if shift > 1 else 1e19)
    assert found.supported
    assert found.outside == pytest.approx(1.5)
    assert found.parameters_low < found.parameters.value * (1.5 if shift > 1 else 1 / 1.5) < found.parameters_high
    side = "1/1.5 x the smallest" if shift > 1 else "1.5 x the largest"
    assert found.extrapolation[0].startswith(f"N is {side.replace('1/1.5', '0.667')} size tried near this budget")
    inside = optimum_at(law(), six_n(law().n), 1e18)
    assert (inside.outside, inside.supported, inside.extrapolation) == (1, True, [])


def test_optimum_outside_the_sizes_is_given_where_its_interval_holds_one_of_them():
    """The nearest size is three times off, far beyond the flat bottom: only refits that scatter by more reach it."""
    scattered = np.array(list(TRUTH.values())) * np.exp(
        np.random.default_rng(0).normal(0, [0, 0.5, 0, 0.5, 0], (60, 5))
    )
    study = law(shift=12.0, draws=scattered)
    found = optimum_at(study, six_n(study.n), 1e17)
    assert found.parameters_high < 3 * found.parameters.value < found.parameters.interval.high90
    assert found.supported
    assert not optimum_at(study.only_fit(), six_n(study.n), 1e17).supported


LADDER = {"E": 1.82, "A": 482.0, "alpha": 0.348, "B": 2085.0, "beta": 0.366}
"""Close to twenty tokens per parameter are best by this law at 1e20 FLOPs."""


def ladder(values):
    """Four sizes on 1 to 10 times 20 tokens per parameter: at the largest budget there is one size only."""
    n, multiple = (grid.ravel() for grid in np.meshgrid([1.9e8, 3.7e8, 7.6e8, 1.3e9], [1, 2, 5, 10]))
    d = 20 * n * multiple
    loss = values["E"] + values["A"] * n ** -values["alpha"] + values["B"] * d ** -values["beta"]
    parameters, runs = np.array(list(values.values())), np.stack([n, d], axis=1)
    return surface(TERMS, list(values), parameters, np.empty((0, 5)), ["N", "D"], runs, loss)


def test_ladder_gives_the_best_size_of_its_own_largest_budget_and_beyond():
    study = ladder(LADDER)
    largest = float((6 * study.n * study.d).max())
    ratio = LADDER["alpha"] * LADDER["A"] / (LADDER["beta"] * LADDER["B"])
    total = LADDER["alpha"] + LADDER["beta"]
    for times in (1, 10, 100):
        best_n = ratio ** (1 / total) * (times * largest / 6) ** (LADDER["beta"] / total)
        found = optimum_at(study, six_n(study.n), times * largest)
        assert found.parameters.value == pytest.approx(best_n, rel=1e-6)
        assert not found.supported
        assert found.outside == pytest.approx(best_n / 1.3e9, rel=1e-6)
        assert f"N is {best_n / 1.3e9:.3g} x the largest size tried" in found.extrapolation[0]
        assert any(one.startswith("C is") for one in found.extrapolation) == (times > 1)


def test_ladder_whose_sizes_are_all_too_large_for_its_tokens_is_refused():
    study = ladder(TRUTH)
    with pytest.raises(FitError, match="Train smaller sizes"):
        optimum_at(study, six_n(study.n), 1e20)


def test_optimum_more_than_ten_times_a_supported_budget_away_is_refused():
    """The same five sizes at every budget: they bracket the optimum at the smaller ones only."""
    budgets = np.geomspace(1e17, 1e21, 9)
    n = np.tile(best_size(1e17) * np.geomspace(0.25, 4, 5), 9)
    d = np.repeat(budgets, 5) / 6 / n
    runs, values = np.stack([n, d], axis=1), np.array(list(TRUTH.values()))
    study = surface(TERMS, list(TRUTH), values, np.empty((0, 5)), ["N", "D"], runs, loss_of(n, d))
    near = optimum_at(study, six_n(n), 1e19)
    assert near.outside == pytest.approx(best_size(1e19) / best_size(1e17) / 4)
    with pytest.raises(FitError, match=r"do not bracket the optimum: near 1e\+21 .* Train larger sizes"):
        optimum_at(study, six_n(n), 1e21)
    with pytest.raises(FitError, match="do not bracket"):
        optimum_at(study, six_n(n), 1e22)


def test_budget_between_two_that_are_far_apart_is_judged_by_both():
    study = law(budgets=np.array([1e16, 1e20]))
    assert optimum_at(study, six_n(study.n), 1e18).parameters.value == pytest.approx(best_size(1e18), rel=1e-9)
    apart = law(budgets=np.array([1e16, 1e20]), shift=1e4)
    with pytest.raises(FitError, match="Train smaller sizes"):
        optimum_at(apart, six_n(apart.n), 1e18)


def test_budget_far_outside_the_runs_is_refused_unless_it_is_asked_for():
    study, cost = law(), six_n(law().n)
    with pytest.raises(FitError, match=r"C is 103 x the largest budget tried \(1e\+19\): .* --beyond"):
        optimum_at(study, cost, 103 * BUDGETS[-1])
    with pytest.raises(FitError, match=r"C is 0.005 x the smallest budget tried"):
        optimum_at(study, cost, BUDGETS[0] / 200)
    assert optimum_at(study, cost, 100 * BUDGETS[-1]).beyond == pytest.approx(100)
    found = optimum_at(study, cost, 1e4 * BUDGETS[-1], beyond=True)
    assert found.parameters.value == pytest.approx(best_size(1e4 * BUDGETS[-1]), rel=1e-9)
    assert [one.split(" tried")[0] for one in found.extrapolation] == [
        f"N is {best_size(1e23) / best_size(1e19) / 4:.3g} x the largest size",
        f"D is {1e23 / best_size(1e23) / 6 / study.d.max():.3g} x the largest number of tokens",
        "C is 1e+04 x the largest budget",
    ]


def test_size_that_is_best_far_beyond_the_runs_is_refused_unless_it_is_asked_for():
    study, cost = law(), six_n(law().n)
    size = best_size(1e4 * BUDGETS[-1])
    with pytest.raises(FitError, match="Ask further with --beyond"):
        find_optimum(study, cost, parameters=size)
    assert find_optimum(study, cost, parameters=size, beyond=True).compute.value == pytest.approx(1e23, rel=1e-6)


def test_law_whose_best_size_has_no_end_is_refused():
    study = law()
    endless = surface(
        [Term(coefficient="A", powers={"N": "alpha"})],
        ["E", "A", "alpha"],
        np.array([1.7, 420.0, 0.36]),
        np.empty((0, 3)),
        ["N", "D"],
        np.stack([study.n, study.d], axis=1),
        study.loss,
    )
    with pytest.raises(FitError, match="no finite optimum"):
        make_frontier(endless, six_n(study.n), "6nd")


def test_surface_with_a_free_axis_needs_its_value():
    terms = [*TERMS, Term(coefficient="G", powers={"N": "alpha", "S": "gamma"})]
    names = [*TRUTH, "G", "gamma"]
    values = np.array([*TRUTH.values(), 50.0, 0.5])
    x = np.array([[1e6, 1e8, 64.0]])
    with pytest.raises(FitError, match="S is free"):
        surface(terms, names, values, np.empty((0, 7)), ["N", "D", "S"], x, np.array([3.0]))
    fixed = surface(terms, names, values, np.empty((0, 7)), ["N", "D", "S"], x, np.array([3.0]), {"S": 64.0})
    loss = fixed.losses(np.log([[1e6]]), np.log([[1e8]]))[0, 0]
    assert loss == pytest.approx(loss_of(1e6, 1e8) + 50 * 1e6**-0.36 * 64**-0.5, rel=1e-12)


def test_cost_goes_through_the_sizes_and_grows_as_n_beyond_them():
    n = np.geomspace(1e5, 1e7, 6)
    cost = fit_token_cost(n, 6 * n + 2e4 * n**0.5, "exact FLOPs per token")
    assert cost.deviation < 1e-3
    assert "through 6 sizes" in cost.description
    assert cost.per_token(1e12) / 1e12 == pytest.approx(6, rel=0.02)
    slopes = cost.slope(np.log(np.array([1e5, 1e7, 1e12])))
    assert np.all(np.diff(slopes) > 0)
    assert slopes[-1] == pytest.approx(1, abs=0.01)


def test_cost_of_embeddings_that_are_counted_but_never_multiplied_still_grows_as_n():
    n = np.geomspace(1e5, 1e7, 6)
    cost = fit_token_cost(n, 6 * n - 300 * n**0.5, "exact FLOPs per token")
    assert cost.deviation < 1e-3
    assert cost.per_token(1e3) > 0


@pytest.mark.parametrize(
    ("arch", "most"), [("transformer_vq", 0.05), ("transformer", 0.12), ("transformer_full", 0.12)]
)
@pytest.mark.parametrize("context", [256, 4096])
def test_cost_of_our_models_is_a_function_of_n(arch, most, context):
    fixed = {"codebook_size": 64, "block_length": 64} if arch == "transformer_vq" else {}
    models = [resolve(arch, preset, 256, fixed) for preset in PRESETS]
    n = np.array([parameters_non_embedding(model) for model in models], dtype=float)
    flops = np.array([sum(flops_per_token(model, context).values()) for model in models])
    assert fit_token_cost(n, flops, "exact FLOPs per token").deviation < most


@pytest.mark.parametrize(
    ("n", "per_token", "message"),
    [
        ([1e5, 1e6], [6e5, 6e6], "known for 2 sizes"),
        ([1e5, 1e6, 1e7], [6e5, 6e4, 6e3], "does not grow with N"),
        # in seconds, where a curve below zero at the smallest size is below it by a tiny number
        ([1e4, 3e5, 4e5], [1e-6, 3e-9, 1e-7], "does not grow with N"),
        ([1e5, 2e5, 4e5, 8e5], [6e5, 4e6, 2e6, 5e6], "no smooth function of N"),
    ],
)
def test_cost_that_n_does_not_determine_is_refused(n, per_token, message):
    with pytest.raises(FitError, match=message):
        fit_token_cost(np.array(n), np.array(per_token), "exact FLOPs per token")


def test_optimum_is_the_same_for_each_given_quantity():
    study = law(draws=noisy_draws())
    cost = six_n(study.n)
    asked = find_optimum(study, cost, compute=1e18)
    assert asked.compute.value == 1e18
    size, tokens, loss = asked.optimum.parameters.value, asked.optimum.tokens.value, asked.optimum.loss.value
    for run in (
        find_optimum(study, cost, parameters=size),
        find_optimum(study, cost, tokens=tokens),
        find_optimum(study, cost, loss=loss),
    ):
        assert run.compute.value == pytest.approx(1e18, rel=1e-6)
        assert run.compute.interval.low90 < 1e18 < run.compute.interval.high90


def test_optimum_for_money_is_the_one_for_the_compute_that_it_buys():
    study = law()
    flops = six_n(study.n)
    money = flops.times(2.5e-18, "2.5 USD for 1e18 FLOPs")
    run = find_optimum(study, money, compute=2.5)
    assert run.optimum.parameters.value == pytest.approx(best_size(1e18), rel=1e-9)
    assert run.optimum.tokens.value == pytest.approx(1e18 / 6 / best_size(1e18), rel=1e-9)


def test_optimum_for_a_loss_out_of_reach_is_refused():
    study = law()
    with pytest.raises(FitError, match=r"1\.69 lies at or below E"):
        find_optimum(study, six_n(study.n), loss=1.69)
    with pytest.raises(FitError, match="times the largest fitted budget"):
        find_optimum(study, six_n(study.n), loss=1.75)
    with pytest.raises(FitError, match="exactly one"):
        find_optimum(study, six_n(study.n), loss=2.5, compute=1e18)
