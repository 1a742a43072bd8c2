"""A recipe in a study: what it sets, what overrides it, and what is reported to the user."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from vqscale import storage
from vqscale.cli.main import app
from vqscale.cli.plan_view import schedules
from vqscale.errors import FitError, StudyError
from vqscale.laws.recipe_law import fit_recipe
from vqscale.planning.plan import plan
from vqscale.study.spec import load_recipe, load_study
from vqscale.workflow.training import write_study

RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
TRAIN = {"context": 64, "tokens": 8192, "batch_tokens": 512}
SIZES = {"pico": 31_104, "nano": 65_024}
"""N of the small presets of transformer_vq; a test compares them."""


def table(sizes: Any = (31_104, 65_024), **columns: Any) -> pd.DataFrame:
    """A sweep whose best rate is 0.004 at every size."""
    rows = [
        {
            "status": "finished",
            "arch": "transformer_vq",
            "head": "shga",
            "parameters_non_embedding": n,
            "tokens": 8192,
            "batch_tokens": 512,
            "lr": rate,
            "loss": 2.0 + abs(index - 2) ** 2 / 10,
        }
        | columns
        for n in sizes
        for index, rate in enumerate(RATES)
    ]
    return pd.DataFrame(rows)


def recipe_of(frame: pd.DataFrame) -> dict[str, Any]:
    return fit_recipe(frame, study="tuned").model_dump(mode="json")


def test_sizes_of_this_file_are_those_of_the_presets(make: Any) -> None:
    study = make(sweep=[{"model.preset": list(SIZES)}])
    assert [one.cost.parameters_non_embedding for one in plan(study).trials] == list(SIZES.values())


def test_recipe_sets_the_rate_of_every_size_as_a_plain_number(make: Any) -> None:
    frame = table()
    frame.loc[frame["parameters_non_embedding"] == SIZES["nano"], "lr"] /= 2
    study = make(recipe=recipe_of(frame), train=TRAIN, sweep=[{"model.preset": ["pico", "nano"]}])
    planned = plan(study)
    assert [one.trial.train.lr for one in planned.trials] == [0.004, 0.002]
    same = make(train=TRAIN | {"lr": 0.004}, sweep=[{"model.preset": ["pico"]}])
    assert plan(same).trials[0].trial.id == planned.trials[0].trial.id


def test_axis_wins_over_the_recipe(make: Any) -> None:
    study = make(recipe=recipe_of(table()), train=TRAIN, sweep=[{"train.lr": [0.5]}, {}])
    assert [one.trial.train.lr for one in plan(study).trials] == [0.5, 0.004]


def test_rate_beside_a_recipe_is_refused(make: Any) -> None:
    with pytest.raises(StudyError, match=r"test: train\.lr: 0\.01 is set beside recipe"):
        make(recipe=recipe_of(table()), train=TRAIN | {"lr": 0.01})


def test_refused_size_is_an_error_that_names_edge_and_remedy_unless_an_axis_sets_its_rate(make: Any) -> None:
    frame = table((10_000, 20_000, SIZES["pico"]))
    frame = frame[(frame["parameters_non_embedding"] != SIZES["pico"]) | (frame["lr"] >= 0.004)]
    sections = {"recipe": recipe_of(frame), "train": TRAIN}
    with pytest.raises(StudyError, match=r"N = 31104: the best rate 0\.004 is the smallest .* Widen the sweep below"):
        plan(make(**sections))
    assert plan(make(**sections, sweep=[{"train.lr": [0.004]}])).trials
    assert plan(make(**sections, sweep=[{"model.preset": ["nano"]}])).trials


def test_architecture_without_a_rule_is_an_error(make: Any) -> None:
    with pytest.raises(StudyError, match=r"no rule for model\.arch transformer, only for transformer_vq \(shga\)"):
        plan(make(recipe=recipe_of(table()), train=TRAIN, sweep=[{"model.arch": ["transformer"]}]))


def test_recipe_decides_the_batch_that_it_tuned_and_refuses_another_beside_it(make: Any) -> None:
    parts = [table(batch_tokens=batch) for batch in (256, 512, 1024)]
    for part, worse in zip(parts, (0.1, 0.0, 0.1), strict=True):
        part["loss"] += worse
    values = recipe_of(pd.concat(parts, ignore_index=True))
    train = {key: value for key, value in TRAIN.items() if key != "batch_tokens"}
    (one,) = plan(make(recipe=values, train=train)).trials
    assert (one.trial.train.batch_tokens, one.trial.train.lr) == (512, 0.004)
    with pytest.raises(StudyError, match=r"train\.batch_tokens: 512 is set beside recipe"):
        plan(make(recipe=values, train=TRAIN))
    (axis,) = plan(make(recipe=values, train=train, sweep=[{"train.batch_tokens": [256]}])).trials
    assert axis.trial.train.batch_tokens == 256


def test_designs_take_the_rate_from_the_recipe(make: Any) -> None:
    design = {"type": "isoflop", "budgets": [1e10, 2e10], "sizes": ["pico", "nano"]}
    planned = plan(make(recipe=recipe_of(table()), train=TRAIN, design=[design]))
    assert {one.trial.train.lr for one in planned.trials} == {0.004}
    assert len(planned.trials) == 4


def token_budgets() -> pd.DataFrame:
    """A sweep at three sizes and three token budgets whose best rate is 0.004 (N / 31,104)^-1 (D / 8,192)^0.5."""
    parts = []
    for n in (31_104, 65_024, 130_048):
        for tokens in (8_192, 32_768, 131_072):
            part = table((n,), tokens=tokens)
            part["lr"] *= (n / 31_104) ** -1 * (tokens / 8_192) ** 0.5
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_law_in_size_and_tokens_sets_the_rate_of_every_token_budget(make: Any) -> None:
    axes = {"model.preset": ["pico", "nano"], "train.tokens": [8_192, 32_768]}
    planned = plan(make(recipe=recipe_of(token_budgets()), train=TRAIN, sweep=[axes]))
    rates = {(one.trial.preset, one.trial.train.tokens): one.trial.train.lr for one in planned.trials}
    assert rates == {
        ("pico", 8_192): 0.004, ("pico", 32_768): 0.008, ("nano", 8_192): 0.001913, ("nano", 32_768): 0.003827
    }  # fmt: skip
    notes = " ".join(planned.notes)
    assert "lr = 0.003884 (N / 64.1k)^-1.000 (D / 32.8k)^0.500 (exponent of N -1.00 to -1.00" in notes
    assert "from 9 points at 3 sizes (45 runs at D/N 0.063 to 4.21)" in notes


def test_design_takes_the_rate_at_the_tokens_that_it_solves(make: Any) -> None:
    design = {"type": "isoflop", "budgets": [1e10, 2e10], "sizes": ["pico", "nano"]}
    planned = plan(make(recipe=recipe_of(token_budgets()), train=TRAIN, design=[design]))
    for one in planned.trials:
        n, tokens = one.cost.parameters_non_embedding, one.trial.train.tokens
        expected = 0.004 * (n / 31_104) ** -1 * (tokens / 8_192) ** 0.5
        assert one.trial.train.lr == pytest.approx(expected, rel=0.02)  # tokens are whole updates
    assert len({one.trial.train.lr for one in planned.trials}) == 4
    assert any("lr = 0.003884" in note for note in planned.notes)


def test_law_in_compute_counts_exact_flops(make: Any) -> None:
    frame = table()
    frame["flops"] = frame["parameters_non_embedding"] * 6.0 * frame["tokens"]
    frame["lr"] *= (frame["flops"] / frame["flops"].min()) ** -0.25
    recipe = fit_recipe(frame, study="tuned", letters=("C",)).model_dump(mode="json")
    (one,) = plan(make(recipe=recipe, train=TRAIN)).trials
    expected = 0.004 * (one.cost.flops / float(frame["flops"].min())) ** -0.25
    assert one.trial.train.lr == pytest.approx(expected, rel=1e-3)


def test_law_in_tokens_needs_the_tokens_of_the_study(make: Any) -> None:
    train = {key: value for key, value in TRAIN.items() if key != "tokens"}
    with pytest.raises(StudyError, match=r"train\.tokens: None is no positive whole number, and the recipe's law"):
        plan(make(recipe=recipe_of(token_budgets()), train=train))


def test_token_budget_beyond_those_tuned_is_noted(make: Any) -> None:
    notes = plan(make(recipe=recipe_of(token_budgets()), train=TRAIN | {"tokens": 262_144})).notes
    assert any(
        "D = 262k is 2 times above the largest token budget tuned (131k): its lr is extrapolated" in n for n in notes
    )


def test_notes_tell_origin_extrapolation_batch_and_corpus(make: Any) -> None:
    study = make(
        recipe=recipe_of(table()),
        train=TRAIN | {"batch_tokens": 1024},
        sweep=[{"model.preset": ["nano", "micro"]}],
    )
    notes = " ".join(plan(study).notes)
    assert "recipe of tuned, transformer_vq (shga): lr = 0.004 (N / " in notes
    assert "from 2 sizes (10 runs at D/N 0.126 to 0.263)" in notes
    assert "N = 167k is 2.57 times above the largest size tuned (65k): its lr is extrapolated" in notes
    assert "tuned at batch_tokens 512, used at 1024" in notes
    assert "another corpus" in notes


def test_notes_give_the_range_of_what_was_tuned_in_ascending_order_of_the_numbers(make: Any) -> None:
    frame = table(tokens=1)
    frame["tokens"] = frame["parameters_non_embedding"].map({SIZES["pico"]: 316_000, SIZES["nano"]: 618_000})
    notes = plan(make(recipe=recipe_of(frame), train=TRAIN)).notes
    assert "(10 runs at D/N 9.5 to 10.2)" in notes[0]  # as text, 9.5 comes after 10.2


def test_notes_are_silent_about_what_was_tuned(make: Any, corpus_uri: str) -> None:
    plain = make(train=TRAIN | {"lr": 0.004})
    fingerprint = plan(plain).trials[0].trial.corpus_fingerprint
    frame = table(corpus_fingerprint=fingerprint)
    notes = plan(make(recipe=recipe_of(frame), train=TRAIN)).notes
    assert len([note for note in notes if "validation split" not in note]) == 1


def test_schedule_line_says_only_what_is_in_force(make: Any) -> None:
    cosine = schedules(plan(make(train=TRAIN | {"lr": 0.01})).trials)
    assert ["schedule cosine, warmup 0.05, lr_final 0.1," in line for line in cosine] == [True]
    stable = TRAIN | {"lr": 0.01, "schedule": "wsd", "warmup_tokens": 1024}
    lines = schedules(plan(make(train=stable)).trials)
    assert ["schedule wsd, warmup_tokens 1024, decay 0.2, lr_final 0.1," in line for line in lines] == [True]


@pytest.fixture
def files(tmp_path: Path, corpus_uri: str) -> Path:
    """A table and a study that names the recipe beside it."""
    table().to_csv(tmp_path / "sweep.csv", index=False)
    values = {
        "study": "with-recipe",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": TRAIN,
        "recipe": "recipe.yaml",
        "storage": str(tmp_path / "runs"),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_recipe_command_writes_what_a_study_beside_it_names_and_keeps(files: Path) -> None:
    done = CliRunner().invoke(app, ["recipe", str(files / "sweep.csv"), "--out", str(files / "recipe.yaml")])
    assert done.exit_code == 0, done.output
    for text in ("transformer_vq (shga)", "0.001 (2.4000)", "lr = 0.004 (N / 45k)^", "wrote "):
        assert text in done.output, text
    study = load_study(str(files / "study.yaml"))
    assert study.recipe == load_recipe(str(files / "recipe.yaml"))
    write_study(study)
    kept = load_study(storage.join(study.folder, "study.yaml"))
    assert kept == study
    assert [one.trial.id for one in plan(kept).trials] == [one.trial.id for one in plan(study).trials]


def test_recipe_command_as_json_prints_the_recipe_and_without_out_writes_nothing(files: Path) -> None:
    before = sorted(files.iterdir())
    done = CliRunner().invoke(app, ["recipe", str(files / "sweep.csv"), "--json"])
    counted = table().assign(flops=lambda runs: 6.0 * runs["parameters_non_embedding"] * runs["tokens"])
    assert json.loads(done.stdout) == recipe_of(counted) | {"study": "sweep.csv"}
    assert sorted(files.iterdir()) == before


def test_recipe_command_without_a_law_shows_the_sweep_and_writes_nothing(files: Path) -> None:
    table((31_104,)).to_csv(files / "sweep.csv", index=False)
    done = CliRunner().invoke(app, ["recipe", str(files / "sweep.csv"), "--out", str(files / "recipe.yaml")])
    assert isinstance(done.exception, FitError)
    assert "no architecture has a law. transformer_vq (shga): 1 of 1 sizes" in str(done.exception)
    assert "0.001 (2.4000)" in done.output
    assert not (files / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("- 1", "holds a list"),
        ("study: tuned\nrulez: []", r"recipe\.yaml: rulez: is not a known key"),
        ("study: tuned\nrules: []", r"recipe\.yaml: rules: "),
    ],
)
def test_study_refuses_a_recipe_file_that_is_none(files: Path, text: str | None, message: str) -> None:
    if text is not None:
        (files / "recipe.yaml").write_text(text)
    with pytest.raises(StudyError, match=message):
        load_study(str(files / "study.yaml"))


def test_study_refuses_a_rule_with_neither_a_law_nor_a_reason(make: Any) -> None:
    values = recipe_of(table())
    values["rules"][0]["lr"] = None
    with pytest.raises(StudyError, match="either a law `lr` or the reason"):
        make(recipe=values, train=TRAIN)
