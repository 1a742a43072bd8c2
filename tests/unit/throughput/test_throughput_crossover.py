"""Break-even on curves whose answer is known."""

import pytest

from vqscale.throughput.crossover import RatioPoint, crossover, last_rise


def points(ratios, spread=0.0):
    return [RatioPoint(context, ratio, ratio * (1 - spread), ratio * (1 + spread)) for context, ratio in ratios.items()]


def test_crossover_of_a_power_law_is_exact_between_any_two_lengths():
    found = crossover(points({context: (context / 3000) ** 0.7 for context in (256, 1024, 4096, 16384)}))
    assert found is not None
    assert found.at == pytest.approx(3000)
    assert (found.low, found.high) == (pytest.approx(3000), pytest.approx(3000))
    assert str(found) == "T = 3,000 [3,000, 3,000]"


def test_crossover_interval_comes_from_the_repeats():
    found = crossover(points({1000: 0.5, 4000: 2.0}, spread=0.1))
    assert found is not None
    assert found.at == pytest.approx(2000)
    assert found.low == pytest.approx(2000 / 1.1)
    assert found.high == pytest.approx(2000 / 0.9)


def test_crossover_below_the_shortest_length_is_said_and_not_extrapolated():
    found = crossover(points({256: 1.2, 1024: 3.0}, spread=0.05))
    assert found is not None
    assert (found.at, str(found)) == ("below", "below the shortest T measured (256)")


def test_crossover_beyond_the_longest_length_is_said_and_not_extrapolated():
    found = crossover(points({256: 0.2, 1024: 0.7}, spread=0.05))
    assert found is not None
    assert (found.at, str(found)) == ("beyond", "none up to T = 1,024")


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ({256: 1.02, 1024: 3.0}, "below the shortest T measured (256), though a second measurement may find one"),
        ({256: 0.2, 1024: 0.97}, "none up to T = 1,024, though a second measurement may find one"),
        ({256: 0.97, 1024: 1.02}, "T = 593 [below 256, beyond 1,024]"),
    ],
)
def test_crossover_that_the_repeats_leave_open_says_so(ratios, text):
    assert str(crossover(points(ratios, spread=0.05))) == text


def test_crossover_tie_at_a_measured_length_is_that_length():
    assert last_rise([256, 1024, 4096], [0.5, 1.0, 2.0]) == pytest.approx(1024)
    assert last_rise([256, 1024], [1.0, 2.0]) == "below"
    assert last_rise([256, 1024], [0.5, 1.0]) == pytest.approx(1024)
    assert last_rise([256, 1024], [1.0, 1.0]) == "below"


def test_crossover_of_a_curve_that_crosses_twice_is_the_last_rise():
    at = last_rise([100, 200, 400, 800, 1600], [0.5, 2.0, 0.5, 2.0, 3.0])
    assert at == pytest.approx(400 * 2**0.5)
    assert last_rise([100, 200, 400], [0.5, 2.0, 0.9]) == "beyond"


def test_crossover_points_in_any_order_and_a_single_length():
    found = crossover(points({4000: 2.0, 1000: 0.5}))
    assert found is not None
    assert found.at == pytest.approx(2000)
    assert str(crossover(points({512: 2.0}))) == "below the shortest T measured (512)"
    assert str(crossover(points({512: 0.5}))) == "none up to T = 512"
    assert crossover([]) is None
