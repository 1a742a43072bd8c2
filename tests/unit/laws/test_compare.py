import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.decisions.compare import Price, changed, compare_fits, compare_sides, side_of

E, A, ALPHA, B, BETA = 1.7, 420.0, 0.36, 1900.0, 0.29
BUDGETS = np.geomspace(1e17, 1e19, 5)
TWO = "two things changed: exact keys and a bias over all distances"
ONE = "one thing changed: exact keys"
SPEED = 2e12
"""FLOP/s of the baseline in these tests."""


def runs(arch, codebook, factor=1.0, overhead=0.0, speed=SPEED, context=512, budgets=BUDGETS, seed=None):
    """An isoFLOP study whose losses are those of a model with `factor` times the N and D.

    `overhead`: FLOPs per token and root of N beside 6N.
    """
    n = np.concatenate([(c / 2.3e4) ** 0.5 * np.geomspace(0.25, 4, 5) for c in budgets])
    c = np.repeat(budgets, 5)
    d = c / (6 * n + overhead * n**0.5)
    loss = E + A * (factor * n) ** -ALPHA + B * (factor * d) ** -BETA
    if seed is not None:
        loss = loss * np.exp(np.random.default_rng(seed).normal(0, 1e-3, len(n)))
    return pd.DataFrame(
        {
            "name": [f"{arch}-{context}-{index}" for index in range(len(n))],
            "status": "finished",
            "arch": arch,
            "codebook_size": codebook,
            "context": context,
            "parameters_non_embedding": n,
            "tokens": d,
            "flops": c,
            "loss": loss,
            "tokens_per_second": speed * d / c,
            "workers": 2,
            "device": "cpu",
        }
    )


def study(**vq):
    vq = {"factor": 0.8} | vq
    table = pd.concat([runs("transformer_vq", 64.0, **vq), runs("transformer", np.nan)], ignore_index=True)
    return fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False), table


@pytest.fixture(scope="module")
def compared():
    fits, table = study(speed=2 * SPEED)
    (found,) = compare_fits(fits.fits, table, Price(per_device_hour=3.0, currency="EUR"))
    return found


def points(found, kind):
    return [point for point in found.points if point.kind == kind]


def test_multiplier_of_compute_is_what_the_model_lacks(compared):
    """0.8 of N and 0.8 of D make 1 / 0.64 of the compute for the same loss, whatever the budget."""
    assert (compared.label, compared.base_label) == ("transformer_vq, S 64, T 512", "transformer, T 512")
    for point in points(compared, "compute"):
        assert point.multiplier.value == pytest.approx(1 / 0.64, rel=1e-3)
        assert point.difference.value == pytest.approx(point.loss.value - point.base_loss.value)
        assert point.difference.value > 0
        assert point.unit == "FLOPs"
    assert [point.beyond for point in points(compared, "compute")][-2:] == pytest.approx([1, 10], rel=0.01)


def test_multiplier_of_time_counts_the_measured_speed(compared):
    for point in points(compared, "time"):
        assert point.multiplier.value == pytest.approx(1 / 0.64 / 2, rel=1e-3)
        assert point.unit == "seconds"
    assert points(compared, "time")[0].difference.value < 0


def test_money_is_device_hours_at_the_price(compared):
    time, money = (points(compared, kind) for kind in ("time", "money"))
    assert money[0].unit == "EUR"
    assert money[0].budget == pytest.approx(time[0].budget * 2 * 3.0 / 3600)
    assert money[0].multiplier.value == pytest.approx(time[0].multiplier.value, rel=1e-6)


def test_study_compares_at_equal_compute_and_says_why_not_at_equal_money():
    fits, _ = study()
    (found,) = fits.comparisons
    assert points(found, "compute")
    assert points(found, "time")
    assert "no price: set resources.price_per_device_hour" in found.skipped["money"]
    assert found.reason is None


def test_losses_that_never_meet_are_not_compared():
    fits, table = study(factor=1e-3)
    (found,) = compare_fits(fits.fits, table)
    assert found.points == []
    assert found.reason.startswith("the losses do not overlap")


def test_speeds_of_different_hardware_are_not_compared():
    table = pd.concat([runs("transformer_vq", 64.0, 0.8).assign(device="H100"), runs("transformer", np.nan)])
    fits = fit_study(table.reset_index(drop=True), ["chinchilla"], bootstrap=0, sensitivity=False)
    (found,) = fits.comparisons
    assert points(found, "time") == []
    assert "different hardware: H100 x 2 against cpu x 2" in found.skipped["time"]
    assert points(found, "compute")


def test_only_equal_contexts_are_compared_and_every_baseline_is():
    parts = [runs("transformer_vq", 64.0, 0.8, context=t) for t in (512, 1024)]
    parts += [runs("transformer", np.nan, context=t) for t in (512, 2048)] + [runs("transformer_full", np.nan, 1.1)]
    table = pd.concat(parts, ignore_index=True)
    fits = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    pairs = [(one.label, one.base_label) for one in fits.comparisons]
    vq = "transformer_vq, S 64, T 512"
    assert pairs == [(vq, "transformer, T 512"), (vq, "transformer_full, T 512")]


def test_architectures_with_equally_many_codes_are_compared_against_transformer_vq():
    coded = [("transformer_vq", 16.0), ("transformer_vq", 64.0), ("longvq", 64.0)]
    parts = [runs(arch, codes, factor) for (arch, codes), factor in zip(coded, (0.7, 0.8, 1.0), strict=True)]
    table = pd.concat([*parts, runs("transformer", np.nan)], ignore_index=True)
    fits = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    found = {(one.label, one.base_label): one for one in fits.comparisons}
    labels = [f"{arch}, S {codes:.0f}, T 512" for arch, codes in coded]
    among = (labels[2], labels[1])
    assert sorted(found) == sorted([*((label, "transformer, T 512") for label in labels), among])
    assert points(found[among], "compute")[0].multiplier.value == pytest.approx(0.64, rel=1e-3)


def test_two_architectures_meet_once_in_the_first_law_that_fits_both():
    table = pd.concat([runs("transformer_vq", 64.0, 0.8), runs("transformer", np.nan)], ignore_index=True)
    laws = ["chinchilla", "chinchilla_tied"]
    fits = fit_study(table, laws, bootstrap=0, sensitivity=False)
    assert [fit.law for fit in fits.fits] == [laws[0]] * 2 + [laws[1]] * 2
    (first,) = fits.comparisons
    (other,) = compare_fits(fits.fits[::-1], table)
    (only_tied,) = compare_fits([fits.fits[0], *fits.fits[2:]], table)
    assert other.points == only_tied.points
    assert first.points != other.points


def test_interval_of_the_multiplier_pairs_the_refits_and_holds_the_truth():
    table = pd.concat(
        [runs("transformer_vq", 64.0, 0.8, seed=0), runs("transformer", np.nan, seed=1)], ignore_index=True
    )
    fits = fit_study(table, ["chinchilla"], bootstrap=100, sensitivity=False)
    point = points(fits.comparisons[0], "compute")[2]
    interval = point.multiplier.interval
    assert interval.low95 < interval.low90 < point.multiplier.value < interval.high90 < interval.high95
    assert interval.low95 < 1 / 0.64 < interval.high95
    assert point.difference.interval.low90 > 0


def test_loss_out_of_reach_has_no_multiplier():
    fits, table = study()
    first, base = (side_of(fit, table, None) for fit in reversed(fits.fits))
    assert first.fit.where["arch"] == "transformer_vq"
    capped = first.fit.model_copy(update={"parameters": first.fit.parameters | {"E": 3.6}})
    found = compare_sides(side_of(capped, table, None), base)
    last = points(found, "compute")[-1]
    assert last.multiplier is None
    assert "does not reach" in last.reason


def test_multiplier_far_beyond_the_runs_is_not_given():
    """0.08 of N and of D need 156 times the compute: of five budgets over two decades, four are below 1 / 1.56 of the
    largest, and so need less than 100 times that."""
    fits, table = study(factor=0.08)
    (found,) = compare_fits(fits.fits, table)
    *given, fifth, beyond = points(found, "compute")
    assert [point.multiplier.value for point in given] == pytest.approx([1 / 0.08**2] * 4, rel=0.02)
    assert fifth.multiplier is None
    assert "would need 156 times the largest budget that transformer_vq, S 64, T 512 trained" in fifth.reason
    assert "would need 1.56e+03 times the largest budget" in beyond.reason


def test_both_baselines_with_exact_keys_are_compared_and_say_what_changed():
    vq, paper = runs("transformer_vq", 64.0, factor=0.8), runs("transformer_full", np.nan)
    alone = runs("transformer_full", np.nan, factor=0.9).assign(variant="window-bias", block_length=64)
    alone["name"] = "window-" + alone["name"]
    table = pd.concat([vq.assign(block_length=64), paper, alone], ignore_index=True)
    fits = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    found = {one.base_label: (points(one, "compute")[2].multiplier.value, changed(one)) for one in fits.comparisons}
    assert found == {
        "transformer_full, T 512": (pytest.approx(1 / 0.8**2, rel=0.02), TWO),
        "transformer_full, variant window-bias, T 512": (pytest.approx((0.9 / 0.8) ** 2, rel=0.02), ONE),
    }


def test_baseline_of_another_architecture_does_not_say_what_changed(compared):
    assert changed(compared) is None
