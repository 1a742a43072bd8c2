"""`vqscale plan`: what a person and a machine are shown of a design."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.cli.plan_view import BARS, SHOWN, sparkline
from vqscale.study.trial import TrainConfig

DESIGN = {
    "type": "isoflop",
    "budgets": [1e10, 4e10],
    "sizes": ["d16x2", "d24x2", "pico", "nano", "12m"],
    "per_budget": 3,
    "axes": {"train.lr": [0.01, 0.02]},
}


@pytest.fixture
def study(corpus_uri: str, tmp_path: Path) -> str:
    values: dict[str, Any] = {
        "study": "planned",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": {"context": 64, "batch_tokens": 512, "lr": 0.01},
        "design": [DESIGN],
        "resources": {"flops_per_second": 1e9, "price_per_device_hour": 2.0, "currency": "EUR"},
        "storage": str(tmp_path / "runs"),
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, ["plan", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_plan_shows_kept_and_dropped_cells_with_reasons_and_columns(study: str) -> None:
    text = shown(study)
    for word in (
        *("width/depth", "lr", "batch", "D/N", "x 6ND", "0.01", "0.02", "relative bias", "quantiser"),
        *("learning rate", "peak 0.01 to 0.02", "Dropped: ", "not among the 3 sizes", "too few training"),
        *("optimum expected at N", "held out of the fits", "device-hours", "EUR", "ZeRO stage 1", "stated"),
    ):
        assert word in text, word


def test_plan_as_json_carries_kept_dropped_and_totals(study: str) -> None:
    values = json.loads(shown(study, "--json"))
    assert {one["budget"] for one in values["trials"]} == {1e10, 4e10}
    assert {one["held_out"] for one in values["trials"]} == {True, False}
    assert all(one["reason"] for one in values["dropped"])
    first = values["trials"][0]
    assert first["aspect_ratio"] == first["model"]["d_model"] / first["model"]["n_layer"]
    assert sum(first["cost"]["flops_groups"].values()) == pytest.approx(first["cost"]["flops"])
    assert values["total"]["money_pending"] == pytest.approx(2.0 * values["total"]["device_hours_pending"])
    assert values["hold_out_from"] == pytest.approx(0.97 * 4e10)


def test_plan_says_what_a_budget_pays_for(study: str) -> None:
    assert "(budgets 1e10)" in shown(study, "--budget", "1e11")
    assert "All 12 trials fit" in shown(study, "--budget", "1h")
    answer = json.loads(shown(study, "--budget", "1e11", "--json"))["budget"]
    assert (answer["unit"], len(answer["fits"])) == ("FLOPs", 6)


@pytest.mark.parametrize("budget", ["1.01e11", "6.66e10", "3.33e10", "9.99e9", "0.003h", "0.0049EUR"])
def test_plan_of_the_budgets_that_it_suggests_is_paid_for(study: str, budget: str) -> None:
    values = yaml.safe_load(Path(study).read_text())
    values["design"][0] |= {"sizes": ["d8x2", "d16x2", "d24x2"], "minimum_steps": 1}
    Path(study).write_text(yaml.safe_dump(values))
    said = " ".join(shown(study, "--budget", budget).split())
    (suggested,) = re.findall(r"would fit: budgets \[(.*)\]", said)
    values["design"][0]["budgets"] = [float(one) for one in suggested.split(", ")]
    Path(study).write_text(yaml.safe_dump(values))
    assert "trials fit: they take" in shown(study, "--budget", budget)


def test_plan_of_many_trials_lists_the_first_and_says_where_all_are(study: str) -> None:
    values = yaml.safe_load(Path(study).read_text())
    rates = [0.001 + 0.0001 * index for index in range(SHOWN + 50)]
    values |= {"design": [], "sweep": [{"train.lr": rates}]}
    values["train"]["tokens"] = 5120
    Path(study).write_text(yaml.safe_dump(values))
    text = shown(study, "--budget", "1e9")
    assert f"{SHOWN} of {SHOWN + 50} trials: --json prints all." in text
    assert f"{SHOWN} of {SHOWN + 50} steps: --json prints all." in text
    assert text.count("pending") == SHOWN
    assert len(json.loads(shown(study, "--json"))["trials"]) == SHOWN + 50


def test_plan_of_a_budget_in_the_middle_of_many_steps_shows_where_it_ends(study: str) -> None:
    values = yaml.safe_load(Path(study).read_text())
    values |= {"design": [], "sweep": [{"train.lr": [0.001 + 0.0001 * index for index in range(3 * SHOWN)]}]}
    values["train"]["tokens"] = 5120
    Path(study).write_text(yaml.safe_dump(values))
    whole = json.loads(shown(study, "--json"))["total"]["flops"]
    rows = [line.split()[-1] for line in shown(study, "--budget", str(whole / 2)).splitlines() if "vq-pico" in line]
    assert (rows.count("yes"), rows.count("no")) == (SHOWN // 2, SHOWN // 2)


def test_plan_says_what_token_budgets_share_and_prices_the_rest(study: str) -> None:
    values = yaml.safe_load(Path(study).read_text()) | {"sweep": [{"train.tokens": [51_200, 102_400]}]}
    values["train"] |= {"schedule": "wsd", "warmup_tokens": 5120, "seeds": [0]}
    del values["design"]
    Path(study).write_text(yaml.safe_dump(values))
    text = " ".join(shown(study).split())
    assert "200 (80 shared)" in text
    assert "80 of 300 updates are shared" in text
    total = json.loads(shown(study, "--json"))["total"]
    assert (total["shared_steps"], total["tokens"]) == (80, 153_600)
    assert total["flops_pending"] == pytest.approx(total["flops"] * 220 / 300)


def test_plan_of_a_wrong_budget_is_a_wrong_request(study: str) -> None:
    done = CliRunner().invoke(app, ["plan", study, "--budget", "lots"])
    assert done.exit_code != 0


def test_sparkline_rises_to_the_peak_and_ends_low() -> None:
    train = TrainConfig(context=64, tokens=64_000, batch_tokens=64, lr=0.1)
    drawn = sparkline(train)
    assert (drawn[0], max(drawn), len(drawn)) == (BARS[0], BARS[-1], 64)
    assert BARS.index(drawn[-1]) <= 1
    assert len(sparkline(train.model_copy(update={"tokens": 640}))) == 10
