"""Weight decay by role on every engine, and checkpoints of the time when a tensor's dimensions decided it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from local_host import LocalHost

from vqscale.costing.facts import trial_facts
from vqscale.errors import StudyInterruptedError
from vqscale.models.build import build
from vqscale.models.roles import decayed
from vqscale.study.fingerprint import fingerprint
from vqscale.study.spec import RunOptions
from vqscale.study.trial import DECAYED, Trial
from vqscale.train.checkpoint_files import CHECKPOINT_MANIFEST
from vqscale.train.engine import ParameterGroups, import_deepspeed, open_engine
from vqscale.train.trial import run_trial

CPU = torch.device("cpu")
ENGINES: list[dict[str, Any]] = [{"engine": "plain"}, *({"engine": "deepspeed", "zero": zero} for zero in range(4))]
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("longvq", {"structured_memory": "s4d", "codebook_size": 16, "block_length": 16}),
    ("transformer_vq", {"head": "mha"}),
    ("transformer_full", {"bias": "window", "block_length": 16}),
    ("gla", {}),
]
RATE, DECAY = 0.01, 0.5


def updated(trial: Trial) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters before and after one update."""
    model = build(trial.model, device=CPU, seed=0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    engine = open_engine(model, trial.train, 1)
    engine.module.train()
    tokens_BT = torch.randint(0, trial.model.vocab_size, (8, 65), generator=torch.Generator().manual_seed(0))
    logits = engine.forward(tokens_BT[:, :-1])["logits"]
    engine.accumulate(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten()))
    engine.step(RATE)
    after = {name: value for name, value in engine.weights().items() if name in before}
    engine.close()
    return before, after


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: f"{one['engine']}{one.get('zero', '')}")
@pytest.mark.parametrize(("arch", "model"), MODELS, ids=str)
def test_update_decays_matrices_and_embeddings_and_nothing_else(
    arch: str, model: dict[str, Any], engine: dict[str, Any], make_trial: Any, process_group: None
) -> None:
    if engine["engine"] == "deepspeed":
        import_deepspeed()
    trials = [make_trial(arch, model, weight_decay=decay, **engine) for decay in (0.0, DECAY)]
    (before, without), (_, with_decay) = map(updated, trials)
    names = set(decayed(build(trials[0].model, device="meta", seed=None)))
    for name, value in before.items():
        moved = without[name] - (RATE * DECAY * value if name in names else 0.0)
        torch.testing.assert_close(with_decay[name], moved, rtol=1e-5, atol=1e-7, msg=name)


def test_frequencies_of_a_state_space_are_not_pulled_to_zero(make_trial: Any) -> None:
    """A thousand updates at rate 1e-2 with decay 0.1 halved them while their two dimensions made them matrices."""
    trial = make_trial("longvq", {"structured_memory": "s4d"}, weight_decay=0.1)
    model = build(trial.model, device=CPU, seed=0)
    engine = open_engine(model, trial.train, 1)
    frequency = next(value for name, value in model.named_parameters() if name.endswith("a_imag"))
    matrix = next(value for name, value in model.named_parameters() if name.endswith("inputs.weight"))
    before, started = frequency.detach().clone(), matrix.detach().clone()
    for _ in range(1000):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        engine.step(1e-2)
    torch.testing.assert_close(frequency.detach(), before, rtol=0, atol=0)
    torch.testing.assert_close(matrix.detach(), started * (1 - 1e-3) ** 1000, rtol=1e-3, atol=1e-6)


OPTIONS = RunOptions(log_every=2, checkpoint_every=4)


def interrupted(trial: Trial, folder: Path) -> Path:
    """A trial that stopped after 8 updates, with the manifests of an earlier version."""
    with pytest.raises(StudyInterruptedError):
        run_trial(trial, str(folder), OPTIONS, LocalHost(device=CPU, leave_after=8))
    for manifest in folder.glob(f"checkpoints/*/{CHECKPOINT_MANIFEST}"):
        values = json.loads(manifest.read_text())
        names = set(decayed(build(trial.model, device="meta", seed=None)))
        assert values.pop("decayed") == fingerprint(sorted(names))
        manifest.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("engine", ENGINES[:2], ids=lambda one: one["engine"])
def test_checkpoint_with_decay_by_dimension_is_not_used_and_the_trial_starts_again(
    engine: dict[str, Any], make_trial: Any, tmp_path: Path, process_group: None
) -> None:
    if engine["engine"] == "deepspeed":
        import_deepspeed()
    trial = make_trial(**engine)
    folder, host = interrupted(trial, tmp_path / "cut"), LocalHost(device=CPU)
    outcome = run_trial(trial, str(folder), OPTIONS, host)
    whole = run_trial(trial, str(tmp_path / "whole"), OPTIONS, LocalHost(device=CPU))
    assert outcome.held_out == whole.held_out
    for step, warning in zip((8, 4), host.warnings, strict=False):
        assert f"step-{step:08d} is not used: weight decay applied to other parameters when it was written" in warning
        assert warning.endswith("the trial restarts from scratch")
    assert "none of its checkpoints" in host.warnings[2]


def test_checkpoint_of_an_architecture_whose_decay_did_not_change_is_resumed(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial("transformer")
    folder, host = interrupted(trial, tmp_path / "cut"), LocalHost(device=CPU)
    outcome = run_trial(trial, str(folder), OPTIONS, host)
    whole = run_trial(trial, str(tmp_path / "whole"), OPTIONS, LocalHost(device=CPU))
    assert outcome.held_out == whole.held_out
    assert host.warnings == []


def identity_before(trial: Trial) -> str:
    """The fingerprint when dimensions decided."""
    return fingerprint({"model": trial.model, "train": trial.train.identity(), "corpus": trial.corpus_fingerprint})


@pytest.mark.parametrize("arch", ["transformer_vq", "transformer_full", "longvq", "mega"])
def test_identity_changes_where_weight_decay_does(arch: str, make_trial: Any) -> None:
    trial = make_trial(arch, weight_decay=0.01, schedule="wsd")
    assert trial.fingerprint != identity_before(trial)
    expected = {"train": trial.train.identity() | {"decayed": list(DECAYED)}, "model": trial.model}
    assert trial.fingerprint == fingerprint(expected | {"corpus": trial.corpus_fingerprint})
    without = make_trial(arch, schedule="wsd")
    assert without.fingerprint == identity_before(without)
    assert len({one for trial in (trial, without) for one in (trial.setup, trial.shared_prefix)}) == 4


@pytest.mark.parametrize("arch", ["transformer", "transformer_window", "gla"])
def test_identity_stays_where_weight_decay_is_what_it_was(arch: str, make_trial: Any) -> None:
    trial = make_trial(arch, weight_decay=0.01)
    assert trial.fingerprint == identity_before(trial)


def test_groups_hold_every_parameter_once(make_trial: Any) -> None:
    model = build(make_trial("longvq").model, device="meta", seed=None)
    groups = ParameterGroups(model)
    held = [id(value) for value in (*groups.with_decay, *groups.without_decay)]
    assert sorted(held) == sorted(id(value) for value in model.parameters())


def test_record_says_which_parameters_decayed_only_where_any_did(make_trial: Any) -> None:
    assert trial_facts("s", make_trial(weight_decay=0.01))["decayed"] == "matrix, embedding"
    assert trial_facts("s", make_trial())["decayed"] is None
