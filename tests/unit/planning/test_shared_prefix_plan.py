"""What trials of a warm-up-stable-decay study with several token budgets share, in which order, and what that saves."""

from pathlib import Path
from typing import Any

import pytest

from vqscale.costing.facts import failed_result
from vqscale.planning.budget import check_budget, parse_budget
from vqscale.planning.plan import Plan, PlannedTrial, plan
from vqscale.results.result import Result
from vqscale.sweep.prefixes import SharedPrefixes

UPDATE = 512
WSD = {
    "context": 64, "tokens": 100 * UPDATE, "batch_tokens": UPDATE, "lr": 0.01, "schedule": "wsd", "decay": 0.2,
    "warmup_tokens": 5 * UPDATE, "seeds": [0],
}  # fmt: skip
TOKENS = {"train.tokens": [400 * UPDATE, 100 * UPDATE, 200 * UPDATE]}


def queued(planned: Plan) -> list[tuple[str | None, int, int]]:
    """Of the queue: preset, updates, and those of them that are taken over."""
    return [(one.trial.preset, one.cost.steps, one.shared_steps) for one in planned.queue]


def leave(planned: Plan, index: int, step: int) -> Path:
    """A complete branch-off checkpoint of a trial, as far as its manifest shows."""
    sharing = planned.trials[index].sharing
    assert sharing is not None
    folder = Path(sharing.prefix.folder) / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def record_of(one: PlannedTrial, status: str) -> Result:
    failed = failed_result("p", one.trial, error="no", attempts=1, workers=1, started_at="now")
    return failed.model_copy(update={"status": status})


def test_token_budgets_are_queued_ascending_and_share_up_to_the_decay_of_the_one_before(make: Any) -> None:
    planned = plan(make(train=WSD, sweep=[TOKENS]))
    assert queued(planned) == [("pico", 100, 0), ("pico", 200, 80), ("pico", 400, 160)]
    keeps = [one.sharing.prefix.keep for one in planned.queue if one.sharing]
    assert keeps == [True, True, False]


def test_queue_takes_one_trial_of_every_shared_prefix_before_the_next_of_any(make: Any) -> None:
    sweep = [TOKENS | {"model.preset": ["pico", "nano"]}, {"train.schedule": ["cosine"]}]
    found = queued(plan(make(train=WSD, sweep=sweep)))
    assert found[:3] == [("nano", 100, 0), ("pico", 100, 0), ("pico", 100, 0)]
    assert found[3:] == [("nano", 200, 80), ("pico", 200, 80), ("nano", 400, 160), ("pico", 400, 160)]


def test_study_of_cosines_shares_nothing_and_trains_long_trials_first(make: Any) -> None:
    planned = plan(make(train=WSD | {"schedule": "cosine"}, sweep=[TOKENS]))
    assert queued(planned) == [("pico", 400, 0), ("pico", 200, 0), ("pico", 100, 0)]
    assert all(one.sharing is None for one in planned.trials)


def test_what_is_shared_ends_at_a_reading_of_the_metrics(make: Any) -> None:
    planned = plan(make(train=WSD, sweep=[TOKENS], run={"log_every": 30}))
    assert [shared for _, _, shared in queued(planned)] == [0, 60, 150]


def test_warmups_that_are_shares_of_the_tokens_keep_trials_apart_and_the_plan_says_so(make: Any) -> None:
    planned = plan(make(train={key: value for key, value in WSD.items() if key != "warmup_tokens"}, sweep=[TOKENS]))
    assert [shared for _, _, shared in queued(planned)] == [0, 0, 0]
    assert any("train.warmup_tokens" in note for note in planned.notes)
    assert not any("warmup" in note for note in plan(make(train=WSD, sweep=[TOKENS])).notes)


def test_cost_to_train_leaves_out_what_is_shared_and_the_cost_does_not(make: Any) -> None:
    planned = plan(make(train=WSD, sweep=[TOKENS], resources={"flops_per_second": 1e9, "price_per_device_hour": 2.0}))
    for one in planned.trials:
        share = 1 - one.shared_steps / one.cost.steps
        for name in ("flops", "seconds", "device_hours", "money"):
            assert getattr(one.cost_to_train, name) == pytest.approx(share * getattr(one.cost, name))
    needed = check_budget(planned, parse_budget("1e12", "USD")).needed
    a_token = planned.trials[0].cost.flops / planned.trials[0].cost.tokens
    assert needed == pytest.approx((100 + 120 + 240) * UPDATE * a_token)


def test_pending_trial_shares_what_a_done_one_has_left(make: Any, end: Any) -> None:
    study = make(train=WSD, sweep=[TOKENS])
    first = plan(study)
    leave(first, 1, 80)
    end(first, first.trials[1])
    assert queued(plan(study)) == [("pico", 200, 80), ("pico", 400, 160)]


def test_pending_trial_without_a_shared_prefix_shares_nothing_with_a_done_one(make: Any, end: Any) -> None:
    study = make(train=WSD, sweep=[TOKENS])
    first = plan(study)
    end(first, first.trials[1])
    assert queued(plan(study)) == [("pico", 200, 0), ("pico", 400, 160)]


def test_shared_prefix_stays_while_a_trial_waits_for_it_and_is_removed_after(make: Any, end: Any) -> None:
    study = make(train=WSD, sweep=[TOKENS | {"model.preset": ["pico", "nano"]}])
    first = plan(study)
    pico, nano = (leave(first, index, 80) for index in (0, 1))
    assert first.trials[0].trial.shared_prefix != first.trials[1].trial.shared_prefix
    prefixes = SharedPrefixes(first)
    prefixes.discard_unused()
    assert pico.exists()
    for one in first.trials:
        if one.trial.preset == "pico":
            assert pico.exists()
            prefixes.ended(one.trial, record_of(one, "finished"))
    assert not pico.parent.exists()
    assert nano.exists()
    for one in first.trials:
        end(first, one)
    SharedPrefixes(plan(study)).discard_unused()
    assert not nano.parents[1].exists()


def test_shared_prefix_stays_while_the_last_trial_that_needs_it_has_only_failed(make: Any) -> None:
    planned = plan(make(train=WSD, sweep=[TOKENS]))
    prefix, prefixes = leave(planned, 0, 80), SharedPrefixes(planned)
    *others, last = planned.queue
    for one in others:
        prefixes.ended(one.trial, record_of(one, "finished"))
    prefixes.ended(last.trial, record_of(last, "failed"))
    assert prefix.exists()
    prefixes.ended(last.trial, record_of(last, "stopped"))
    assert not prefix.exists()


def test_prefixes_in_the_folder_of_earlier_versions_are_removed(make: Any) -> None:
    planned = plan(make(train=WSD, sweep=[TOKENS]))
    old, new = Path(planned.study.folder, "trunks", "0123"), leave(planned, 1, 80)
    old.mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    SharedPrefixes(planned).discard_unused()
    assert not old.parent.exists()
    assert new.exists()


def test_shared_prefix_of_a_failed_trial_waits_for_the_next_run(make: Any, end: Any) -> None:
    study = make(train=WSD, sweep=[TOKENS])
    first = plan(study)
    prefix = leave(first, 0, 80)
    for one in first.trials:
        end(first, one, status="failed" if one.cost.steps == 400 else "finished")
    SharedPrefixes(plan(study)).discard_unused()
    assert prefix.exists()


def test_shared_prefix_waits_for_the_trials_of_later_stages(make: Any) -> None:
    sizes = ["d16x2", "d24x2", "pico", "nano"]
    design = {"type": "isoflop", "budgets": [1e11, 3e10], "sizes": sizes, "per_budget": 3, "minimum_steps": 1}
    whole = plan(make(train=WSD, design=[design]))
    stage = whole.stage(set())
    assert stage is not None
    kept = [one for one in stage.pending if one.sharing and one.sharing.prefix.keep]
    assert kept
    prefix = leave(stage, stage.trials.index(kept[0]), 10)
    prefixes = SharedPrefixes(stage)
    prefixes.discard_unused()
    for one in stage.pending:
        prefixes.ended(one.trial, record_of(one, "finished"))
    assert prefix.exists()
