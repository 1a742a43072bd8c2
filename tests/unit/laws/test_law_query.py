"""A joint law at one codebook is a law in N and D; the loss of a run is refused far from the data."""

import itertools

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.laws import Fit, fit_study
from vqscale.laws.decisions.query import at_fixed_axes, query_loss, query_optimum


def truth(n: float, d: float, s: float) -> float:
    return 0.9 + 40 * n**-0.35 + 110 * d**-0.37 + 0.8 * s**-0.5


@pytest.fixture(scope="module")
def joint() -> Fit:
    sizes, multiples, codebooks = np.geomspace(3e4, 3e6, 5), (5.0, 20.0, 80.0), (16, 64, 256)
    rows = []
    for n, multiple, s in itertools.product(sizes, multiples, codebooks):
        flops = (6 * n + 50 * n**0.5 * s) * multiple * n
        rows.append((n, multiple * n, s, flops, truth(n, multiple * n, s)))
    table = pd.DataFrame(rows, columns=["parameters_non_embedding", "tokens", "codebook_size", "flops", "loss"])
    found = fit_study(table, ["codebook_additive"], bootstrap=10, sensitivity=False)
    assert found.fits, found.refusals
    return found.fits[0]


def test_joint_law_at_a_codebook_has_its_own_losses(joint: Fit) -> None:
    own = at_fixed_axes(joint, {"S": 64.0})
    assert own.letters == ["N", "D"]
    assert {tuple(point.x) for point in own.points} == {
        (point.x[0], point.x[1]) for point in joint.points if point.x[joint.letters.index("S")] == 64
    }
    for n, d in ((1e5, 1e6), (1e6, 3e7)):
        folded, whole = query_loss(own, {"N": n, "D": d}), query_loss(joint, {"N": n, "D": d, "S": 64.0})
        assert folded.loss.value == pytest.approx(whole.loss.value)
        assert folded.loss.value == pytest.approx(truth(n, d, 64), rel=1e-4)


def test_joint_law_at_a_codebook_has_the_optimum_of_its_own_flops(joint: Fit) -> None:
    budget = 1e13
    best = query_optimum(at_fixed_axes(joint, {"S": 16.0}), "compute", budget, pd.DataFrame(), None)
    sizes = np.geomspace(1e4, 1e7, 4001)
    losses = [truth(n, budget / (6 * n + 50 * n**0.5 * 16), 16) for n in sizes]
    assert best.optimum.loss.value == pytest.approx(min(losses), rel=1e-3)
    assert best.optimum.parameters.value == pytest.approx(sizes[int(np.argmin(losses))], rel=0.05)
    assert (best.seconds, best.money) == (None, None)


@pytest.mark.parametrize(
    ("fixed", "reason"), [({}, "needs a value of S: --codebook"), ({"S": 48.0}, "no fitted run has S 48")]
)
def test_joint_law_without_its_codebook_is_refused(joint: Fit, fixed: dict[str, float], reason: str) -> None:
    with pytest.raises(FitError, match=reason):
        at_fixed_axes(joint, fixed)


def test_loss_far_beyond_the_runs_is_refused(joint: Fit) -> None:
    with pytest.raises(FitError, match=r"D is 4.17e\+06 x the largest number of tokens tried \(240M\): more than 100"):
        query_loss(joint, {"N": 1e6, "D": 1e15, "S": 64.0})
    near = query_loss(joint, {"N": 1e6, "D": 2.4e9, "S": 64.0})
    assert near.beyond["D"] == pytest.approx(10.0)
