"""`vqscale predict`: decisions with intervals near the truth, and refusals with their reasons."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import FitError, StudyError


def ask(study: Any, *words: str) -> Any:
    return CliRunner().invoke(app, ["predict", str(study.folder), *words])


def values(study: Any, *words: str) -> list[dict[str, Any]]:
    done = ask(study, *words, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_compute_gives_every_architecture_its_best_run_with_intervals(fitted_study: Any) -> None:
    answers = values(fitted_study, "--compute", "3e11")
    assert {one["where"]["arch"] for one in answers} == {"transformer", "transformer_vq"}
    for one in answers:
        best, scale = one["optimum"], 1.02 if one["where"]["arch"] == "transformer_vq" else 1.0
        n, d = best["parameters"]["value"], best["tokens"]["value"]
        assert best["loss"]["value"] == pytest.approx(scale * (0.8 + 30 * n**-0.4 + 90 * d**-0.4), rel=0.01)
        assert best["parameters_low"] < n < best["parameters_high"]
        assert best["parameters"]["interval"]["low90"] <= n <= best["parameters"]["interval"]["high90"]
        assert one["flops"]["value"] == 3e11
        assert 1 < best["beyond"] < 2
        assert one["seconds"] == pytest.approx(300, rel=0.05)
        assert one["money"] == pytest.approx(300 * 0.5 / 3600, rel=0.05)


def test_questions_from_every_side_have_one_answer(fitted_study: Any) -> None:
    own = ("--arch", "transformer_vq")
    (first,) = values(fitted_study, "--compute", "1e11", *own)
    best = first["optimum"]
    for words in (
        ("--params", str(best["parameters"]["value"])),
        ("--tokens", str(best["tokens"]["value"])),
        ("--loss", str(best["loss"]["value"])),
        ("--money", f"{first['money']}eur"),
    ):
        (other,) = values(fitted_study, *words, *own)
        assert other["optimum"]["parameters"]["value"] == pytest.approx(best["parameters"]["value"], rel=0.02)
        assert other["flops"]["value"] == pytest.approx(1e11, rel=0.02)


def test_size_at_a_token_budget_is_one_run_whose_loss_scatters_more_than_the_law(fitted_study: Any) -> None:
    (one,) = values(fitted_study, "--params", "65000", "--tokens", "1e6", "--arch", "transformer")
    assert one["loss"]["value"] == pytest.approx(0.8 + 30 * 65000**-0.4 + 90 * 1e6**-0.4, rel=0.01)
    assert one["loss"]["interval"]["low90"] < one["loss"]["value"] < one["loss"]["interval"]["high90"]
    assert one["beyond"]["C"] > 1


def test_predict_for_people_names_quantities_extrapolation_and_fit(fitted_study: Any) -> None:
    text = ask(fitted_study, "--compute", "3e12").output
    for word in ("N*", "D*", "L*", "within 1 %", "updates", "EUR", "extrapolated", "exact FLOPs", "chinchilla"):
        assert word in text, word


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        (["--compute", "1e20"], FitError, "more than 100 times outside the runs"),
        (["--loss", "0.5"], FitError, "lies at or below E"),
        (["--tokens", "1e15"], FitError, "is optimal for no budget"),
        (["--compute", "1e11", "--loss", "2"], FitError, "Name one of"),
        ([], FitError, "Name one of"),
        (
            ["--compute", "1e11", "--arch", "longvq"],
            FitError,
            "no fit is what --arch, --context, --codebook and --group say",
        ),
        (["--compute", "1e11", "--law", "power_n"], FitError, "no fit is of law power_n"),
        (["--money", "lots"], StudyError, "--money"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    words: list[str], error: type, reason: str, fitted_study: Any
) -> None:
    done = ask(fitted_study, *words)
    assert isinstance(done.exception, error)
    assert reason in str(done.exception)
