"""From a study to priced trials."""

from typing import Any

import pytest

from vqscale.costing.trial_cost import UNMEASURED_SHARE
from vqscale.data.corpus import open_corpus
from vqscale.errors import StudyError
from vqscale.planning.plan import plan


def test_plan_takes_the_product_of_the_axes_of_each_entry(make: Any) -> None:
    sweep = [
        {"model.preset": ["pico", "nano"], "train.context": [32, 64]},
        {"model.arch": ["transformer"], "train.lr": [0.01, 0.02]},
    ]
    names = [planned.trial.name for planned in plan(make(sweep=sweep)).trials]
    assert names == [
        "vq-pico-S16-T32-D8.19k-seed0",
        "vq-pico-S16-T64-D8.19k-seed0",
        "vq-nano-S16-T32-D8.19k-seed0",
        "vq-nano-S16-T64-D8.19k-seed0",
        "transformer-pico-T64-D8.19k-seed0",
        "transformer-pico-T64-D8.19k-seed0",
    ]


def test_plan_trains_a_grid_point_that_two_entries_name_once(make: Any) -> None:
    study = make(sweep=[{"model.preset": ["pico"]}, {"model.preset": ["pico", "nano"]}])
    assert len(plan(study).trials) == 2


def test_plan_makes_one_trial_per_seed(make: Any) -> None:
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0, 1, 2]}
    assert [planned.trial.train.seed for planned in plan(make(train=train)).trials] == [0, 1, 2]


def test_plan_takes_lists_of_seeds_as_an_axis(make: Any) -> None:
    sweep = [{"train.seeds": [[0, 1], [2]]}]
    assert [planned.trial.train.seed for planned in plan(make(sweep=sweep)).trials] == [0, 1, 2]


@pytest.mark.parametrize("corpus", [3, "", ["a"]])
def test_plan_refuses_an_axis_of_corpora_that_are_no_names(make: Any, corpus: Any) -> None:
    with pytest.raises(StudyError, match=r"study: data\.corpus: .*\(in the grid point data\.corpus"):
        plan(make(sweep=[{"data.corpus": [corpus]}]))


def test_plan_refuses_a_backend_that_cannot_run(make: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(StudyError, match=r"train\.backend: got 'triton'.*need a CUDA device.*'blockwise'"):
        plan(make(sweep=[{"train.backend": ["auto", "triton"]}], resources={"gpus_per_worker": 0}))


def test_plan_takes_triton_for_workers_with_gpus(make: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    (planned,) = plan(make(sweep=[{"train.backend": ["triton"]}], resources={"gpus_per_worker": 1})).trials
    assert planned.trial.train.backend == "triton"


@pytest.mark.parametrize("backend", ["auto", "naive", "blockwise"])
def test_plan_takes_a_backend_that_runs(make: Any, backend: str) -> None:
    (planned,) = plan(make(sweep=[{"train.backend": [backend]}])).trials
    assert planned.trial.train.backend == backend


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda"), ("auto", "cuda")])
def test_plan_checks_a_backend_on_the_device_of_the_workers(
    make: Any, monkeypatch: Any, gpus: Any, device: str
) -> None:
    devices = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("vqscale.models.transformer_vq.attention_backend", lambda *given: devices.append(given[-1]))
    plan(make(sweep=[{"train.backend": ["naive"]}], resources={"gpus_per_worker": gpus}))
    assert devices == [device]


@pytest.mark.parametrize("key", ["arch", "preset"])
@pytest.mark.parametrize("value", [None, 3])
def test_plan_refuses_a_model_without_a_name_for_its_architecture_or_size(make: Any, key: str, value: Any) -> None:
    model = {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16} | {key: value}
    with pytest.raises(StudyError, match=rf"study: model\.{key}: is missing or is no text"):
        plan(make(model=model))


def test_plan_refuses_triton_for_a_model_without_vq_attention(make: Any) -> None:
    with pytest.raises(StudyError, match=r"train\.backend: triton belongs to models with quantised keys"):
        plan(make(sweep=[{"model.arch": ["transformer"], "train.backend": ["triton"]}]))


def test_plan_refuses_a_context_longer_than_the_training_split(make: Any, corpus_uri: str) -> None:
    tokens = len(open_corpus(corpus_uri).split("train"))
    train = {"segment": 1, "batch_tokens": 512, "lr": 0.01}
    model = {"arch": "transformer", "preset": "pico"}
    plan(make(model=model, train=train | {"context": tokens - 1, "tokens": 8192}))
    with pytest.raises(StudyError, match=rf"train\.context: .*{tokens} \+ 1 tokens.*has {tokens}\. Use a shorter"):
        plan(make(model=model, train=train | {"context": tokens, "tokens": 8192}))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps: 2 .*train\.accumulation"),
        ({"train_batch_size": 8}, r"train_batch_size: 8 .*train\.batch_tokens"),
        ({"train_micro_batch_size_per_gpu": 8}, r"train_micro_batch_size_per_gpu: 8 .*train\.batch_tokens"),
        ({"zero_optimization": {"stage": 3}}, r"zero_optimization\.stage: 3 .*train\.zero"),
        ({"zero_optimization": True}, r"zero_optimization: True is no mapping.*train\.zero"),
        ({"gradient_clipping": 0.5}, r"gradient_clipping: 0\.5 .*train\.clip"),
        ({"optimizer": {"type": "Adam"}}, r"optimizer: .*train\.lr"),
        ({"scheduler": None}, r"scheduler: None .*train\.warmup"),
        ({"managed_gradient_accumulation": False}, r"managed_gradient_accumulation: False .*Leave it out"),
        ({"zero_optimization": {"compute_grad_norm": False}}, r"zero_optimization\.compute_grad_norm: False .*norm"),
        ({"bf16": {"enabled": True, "check_grad_overflow": False}}, r"bf16\.check_grad_overflow: False .*not finite"),
    ],
)
def test_plan_refuses_deepspeed_settings_that_the_loop_owns(make: Any, overrides: Any, words: str) -> None:
    with pytest.raises(StudyError, match=r"train\.deepspeed: " + words):
        plan(make(sweep=[{"train.deepspeed": [overrides]}]))


def test_plan_refuses_16_bit_parameters_at_stage_0_only(make: Any) -> None:
    axes = {"train.deepspeed": [{"bf16": {"enabled": True}}]}
    with pytest.raises(StudyError, match=r"train\.deepspeed: bf16: .*train\.zero: 1"):
        plan(make(sweep=[axes | {"train.zero": [0]}]))
    assert len(plan(make(sweep=[axes | {"train.zero": [1, 2, 3]}])).trials) == 3


def test_plan_takes_other_deepspeed_settings(make: Any) -> None:
    overrides = {"zero_optimization": {"reduce_bucket_size": 1000}, "steps_per_print": 10}
    (planned,) = plan(make(sweep=[{"train.deepspeed": [overrides]}])).trials
    assert planned.trial.train.deepspeed == overrides


def test_plan_leaves_the_codebook_aside_for_a_quadratic_grid_point(make: Any) -> None:
    (planned,) = plan(make(sweep=[{"model.arch": ["transformer_full"]}])).trials
    assert planned.trial.model.codebook_size is None


def test_plan_costs_grow_with_size_and_training_tokens(make: Any) -> None:
    sweep = [{"model.preset": ["pico", "nano"], "train.tokens": [8192, 16384]}]
    costs = [planned.cost for planned in plan(make(sweep=sweep)).trials]
    assert costs[1].flops == pytest.approx(2 * costs[0].flops)
    assert costs[2].flops > costs[0].flops
    assert costs[2].memory_bytes > costs[0].memory_bytes
    assert all(cost.seconds and cost.seconds > 0 for cost in costs)
    assert costs[0].flops > 6 * costs[0].parameters_non_embedding * costs[0].tokens


def test_plan_does_not_depend_on_hardware(make: Any) -> None:
    one = plan(make()).trials[0].trial
    two = plan(make(resources={"workers": 2, "cpus_per_worker": 3}, storage="/elsewhere")).trials[0].trial
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("seeds", [[], 3, ["a"], [1.5]])
def test_plan_refuses_seeds_that_are_no_list_of_numbers(make: Any, seeds: Any) -> None:
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": seeds}
    with pytest.raises(StudyError, match=r"train\.seeds"):
        plan(make(train=train))


def test_plan_names_the_grid_point_that_is_wrong(make: Any) -> None:
    with pytest.raises(StudyError, match=r"in the grid point train\.context = 40"):
        plan(make(sweep=[{"train.context": [64, 40]}]))


@pytest.mark.parametrize(("cpus", "share"), [(2, 0.25), (16, 1.0)])
def test_time_without_measurements_is_from_the_share_of_the_cores_that_the_workers_have(
    make: Any, monkeypatch: Any, cpus: int, share: float
) -> None:
    monkeypatch.setattr("vqscale.planning.plan.processor_peak_flops", lambda: 1e12)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    (one,) = plan(make(resources={"workers": 2, "cpus_per_worker": cpus})).trials
    assert one.cost.seconds == pytest.approx(one.cost.flops / (2 * 1e12 * share * UNMEASURED_SHARE))


def test_plan_refuses_a_study_that_was_changed_under_the_same_name_unless_allowed(make: Any, end: Any) -> None:
    first = plan(make())
    end(first, first.trials[0], loss=2.0)
    changed = make(sweep=[{"train.context": [32]}])
    with pytest.raises(StudyError, match=r"has 1 finished trials that this file no longer describes \(such as vq-pico"):
        plan(changed)
    assert [one.result for one in plan(changed, allow_changed=True).trials] == [None]
