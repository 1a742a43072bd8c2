"""Percentiles of refits: which share of them lies outside an interval."""

import numpy as np
import pytest

from vqscale.laws import LAWS
from vqscale.laws.fitting.bootstrap import interval
from vqscale.laws.forms.curves import law_curves


def test_interval_leaves_out_the_share_of_the_refits_that_its_name_says():
    """Of 0, 1 .. 1000 a share p lies below 1000 p."""
    found = interval(np.random.default_rng(0).permutation(np.arange(1001.0)))
    assert (found.low90, found.high90) == (50, 950)
    assert (found.low95, found.high95) == (25, 975)


def test_band_of_a_curve_leaves_out_5_percent_of_the_refits_on_each_side():
    """Refits that differ in E alone, 0, 1 .. 1000 above the same power: the band is the power plus 50 and 950."""
    draws = np.stack([np.arange(1001.0), np.full(1001, 8.0), np.full(1001, 0.5)], axis=1)
    (curve,) = law_curves(LAWS["power_n"], np.array([[1.0], [4.0], [16.0]]), np.array([500.0, 8.0, 0.5]), draws)
    first = curve.points[0]
    assert (first.x, first.loss) == pytest.approx((1.0, 508.0))
    assert (first.low90, first.high90) == pytest.approx((58.0, 958.0))
