import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.validation.holdout import FittedLaw
from vqscale.laws.validation.model_selection import CandidateForm, SelectionRuns, select_model

N = np.geomspace(1e5, 1e7, 5)
S = np.array([32.0, 64, 128, 256, 512])


def candidate(name, predict, parameters=3, refused=None):
    """A form whose prediction is given; `x` is the index of the run."""
    x = np.arange(20.0)[:, None]

    def refit(rows):
        return refused or FittedLaw(predict=predict, exponents={})

    return CandidateForm(law=name, form="", limits="", parameters=parameters, x=x, refit=refit)


def judged(loss, **values):
    return SelectionRuns(loss=loss, order=np.repeat([1.0, 10, 100, 1000], 5), values=values)


LOSS = np.linspace(3, 2, 20)


def off(share, spread=0.0):
    noise = np.random.default_rng(0).normal(0, spread, 20)
    return lambda x: LOSS[x[:, 0].astype(int)] * (1 + share + noise[x[:, 0].astype(int)])


def test_form_that_predicts_best_is_selected():
    found = select_model({}, "", [candidate("far", off(0.05)), candidate("near", off(0.001))], judged(LOSS))
    assert found.chosen == "near"
    assert [one.held_out_error for one in found.candidates] == pytest.approx([0.05, 0.001])
    assert "judged by the 5 largest of 20 runs" in found.description


def test_difference_within_noise_takes_the_simpler_form():
    rich = candidate("rich", off(0.0100, spread=0.004), parameters=6)
    simple = candidate("simple", off(0.0101, spread=0.0045), parameters=4)
    found = select_model({}, "", [rich, simple], judged(LOSS))
    assert found.chosen == "simple"
    assert "within noise" in found.description


@pytest.mark.parametrize(("mean", "selected"), [(1.35, "simple"), (1.5, "rich")])
def test_forms_are_distinguished_from_two_standard_errors_of_the_paired_difference_on(mean, selected):
    """Differences of m + s (-2, -1, 0, 1, 2): their deviation is s sqrt(10 / 4), the standard error s / sqrt 2."""
    s = 0.001
    spread = 0.01 + s * (mean + np.tile(np.arange(-2.0, 3.0), 4))
    rich = candidate("rich", off(0.01), parameters=6)
    simple = candidate("simple", lambda x: LOSS[x[:, 0].astype(int)] * (1 + spread[x[:, 0].astype(int)]), parameters=4)
    assert select_model({}, "", [rich, simple], judged(LOSS)).chosen == selected


def test_form_refused_on_a_split_is_not_selected_and_has_its_reason():
    found = select_model({}, "", [candidate("a", off(0.1)), candidate("b", off(0), refused="on a bound")], judged(LOSS))
    assert found.chosen == "a"
    assert found.candidates[1].held_out_error is None
    assert found.candidates[1].reason.endswith("on a bound")
    none = select_model({}, "", [candidate("b", off(0), refused="on a bound")], judged(LOSS))
    assert none.chosen is None
    assert "none of them could predict" in none.description


def test_codebooks_are_left_out_in_turn_where_there_are_four():
    sizes = np.tile([32.0, 64, 128, 256], 5)
    assert (
        "left out in turn (4 of them)"
        in select_model({}, "", [candidate("a", off(0.1))], judged(LOSS, S=sizes)).description
    )
    three = np.tile([32.0, 64, 128, 128], 5)
    assert "largest of 20 runs" in select_model({}, "", [candidate("a", off(0.1))], judged(LOSS, S=three)).description


def test_runs_held_out_by_design_are_what_forms_are_judged_by():
    held = np.arange(20) >= 10
    runs = SelectionRuns(loss=LOSS, order=np.repeat([1.0, 10, 100, 1000], 5), values={}, held=held)
    found = select_model({}, "", [candidate("a", lambda x: off(0.1)(x) * (1 + (x[:, 0] < 10)))], runs)
    assert found.candidates[0].held_out_error == pytest.approx(0.1)
    assert "10 runs that the study's design holds out" in found.description


def test_one_budget_leaves_nothing_to_judge_by():
    runs = SelectionRuns(loss=LOSS, order=np.ones(20), values={})
    found = select_model({}, "", [candidate("a", off(0.1))], runs)
    assert (found.chosen, found.candidates[0].held_out_error) == (None, None)


def test_study_selects_the_form_that_made_the_runs():
    n, s, m = (grid.ravel() for grid in np.meshgrid(N, S, [10.0, 60.0]))
    d = n * m
    loss = 1.6 + 80 * n**-0.34 * (1 + 1.1 * s**-0.4) + 300 * d**-0.33
    noise = np.random.default_rng(0).normal(0, 2e-4, len(n))
    table = pd.DataFrame(
        {
            "parameters_non_embedding": n,
            "tokens": d,
            "codebook_size": s,
            "flops": 6 * n * d,
            "loss": loss * np.exp(noise),
        }
    )
    found = fit_study(table, ["codebook_additive", "codebook_capacity"], bootstrap=0, sensitivity=False)
    (selection,) = found.selections
    assert selection.chosen == "codebook_capacity"
    assert {one.law for one in selection.candidates} == {"codebook_additive", "codebook_capacity"}
    assert "every codebook size S left out in turn (5 of them)" in selection.description
