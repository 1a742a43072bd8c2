"""A classifier on two processes: the gradient and the measurements of one process that saw the whole batch."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from local_host import LocalHost

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.models.build import build
from vqscale.study.trial import Trial
from vqscale.train.classify import classify
from vqscale.train.objective import open_objective

KINDS = ("sequence", "token")


def measured(trial: Trial, host: LocalHost) -> dict[str, Any]:
    """Loss, accuracy and gradient of an update, means over the workers, and what is measured on held-out examples."""
    corpus = open_corpus(trial.corpus)
    assert isinstance(corpus, LabelledCorpus)
    model = build(trial.model, seed=0).double()
    objective = open_objective(trial, corpus, host)
    parts = objective.batch(0)
    total = torch.zeros(2, dtype=torch.float64)
    for part in parts:
        score = objective.score(model(**part.inputs)["logits"], part)
        torch.autograd.backward(score.loss / len(parts))
        assert score.accuracy is not None
        total += torch.stack([score.loss.detach(), score.accuracy]).double() / len(parts)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for value in (total, gradient):
        if host.world > 1:
            dist.all_reduce(value)
        value /= host.world
    held_out = classify(model.eval(), corpus, "validation", trial.train, host.device)
    values = json.dumps(dataclasses.asdict(held_out), default=lambda bucket: bucket.model_dump())
    return {"total": total, "gradient": gradient, "held_out": values}


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    host = LocalHost(device=torch.device("cpu"), rank=rank, world=2)
    for kind in KINDS:
        trial = Trial.model_validate_json((folder / f"{kind}.json").read_text())
        torch.save(measured(trial, host), folder / f"{kind}-{rank}.pt")
    dist.barrier()  # a rank that leaves while the other one still talks to it may abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(make_classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trial, list[Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    trials = {kind: make_classifier(kind, "transformer", accumulation=2) for kind in KINDS}
    for kind, trial in trials.items():
        (folder / f"{kind}.json").write_text(trial.model_dump_json())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # pytest's own path holds tests/support
    command = (sys.executable, __file__)
    ranks = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=400) for rank in ranks] == [0, 0]
    return {
        kind: (trial, [torch.load(folder / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)])
        for kind, trial in trials.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_of_two_ranks_has_the_gradient_of_one(kind: str, two_ranks: Any) -> None:
    trial, found = two_ranks[kind]
    alone = measured(trial, LocalHost(device=torch.device("cpu")))
    for one in found:
        torch.testing.assert_close(one["total"], alone["total"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(one["gradient"], alone["gradient"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_classify_on_two_ranks_measures_what_one_does(kind: str, two_ranks: Any) -> None:
    trial, found = two_ranks[kind]
    alone = json.loads(measured(trial, LocalHost(device=torch.device("cpu")))["held_out"])
    ours, theirs = (json.loads(one["held_out"]) for one in found)
    assert ours == theirs
    assert ours.pop("nats") == pytest.approx(alone.pop("nats"), rel=1e-9)
    assert ours == alone


if __name__ == "__main__":
    _rank(int(sys.argv[1]), Path(sys.argv[2]))
