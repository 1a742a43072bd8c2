"""The expected optimum: by a first guess, and by the budgets already trained."""

import math

import pytest

from vqscale.planning.centre import best_size, best_sizes, extrapolated, guessed


def parabola(best: float, sizes: list[float]) -> dict[float, float]:
    return {n: 2.0 + 0.1 * math.log(n / best) ** 2 for n in sizes}


def test_guess_has_the_asked_tokens_a_parameter_where_flops_are_six_n() -> None:
    rungs = [(n, 6 * n) for n in (1e4, 1e5, 1e6)]
    budget = 6 * 20 * 2e5**2
    assert guessed(budget, rungs, 20).parameters == pytest.approx(2e5)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_guess_beyond_the_rungs_grows_as_the_root_of_compute(factor: float) -> None:
    rungs = [(n, 6 * n) for n in (1e5, 1e6)]
    end = 1e5 if factor < 1 else 1e6
    assert guessed(6 * 20 * end**2 * factor, rungs, 20).parameters == pytest.approx(end * math.sqrt(factor))


def test_best_size_is_the_vertex_inside_and_the_end_at_an_end() -> None:
    sizes = [1e4, 2e4, 4e4, 8e4]
    assert best_size(parabola(2.5e4, sizes)) == pytest.approx(2.5e4)
    assert best_size(parabola(1e6, sizes)) == 8e4


def test_extrapolation_follows_the_line_through_two_budgets() -> None:
    sizes = [1e4, 2e4, 4e4, 8e4, 1.6e5]
    trained = {1e10: parabola(2e4, sizes), 1e11: parabola(2e4 * 10**0.4, sizes)}
    centre = extrapolated(1e12, best_sizes(trained))
    assert centre is not None
    assert centre.parameters == pytest.approx(2e4 * 100**0.4)
    assert "C^0.40" in centre.source


def test_extrapolation_from_one_budget_takes_the_usual_exponent() -> None:
    centre = extrapolated(4e10, best_sizes({1e10: parabola(2e4, [1e4, 2e4, 4e4])}))
    assert centre is not None
    assert centre.parameters == pytest.approx(4e4)


def test_extrapolation_does_not_trust_a_line_that_falls() -> None:
    sizes = [1e4, 2e4, 4e4, 8e4]
    centre = extrapolated(4e11, best_sizes({1e10: parabola(4e4, sizes), 1e11: parabola(2e4, sizes)}))
    assert centre is not None
    assert centre.parameters == pytest.approx(4e4)


def test_extrapolation_ignores_larger_budgets_and_those_with_few_sizes() -> None:
    sizes = [1e4, 2e4, 4e4]
    assert extrapolated(1e10, best_sizes({1e10: parabola(2e4, sizes), 1e11: parabola(2e4, sizes)})) is None
    assert extrapolated(1e11, best_sizes({1e10: parabola(2e4, sizes[:2])})) is None
