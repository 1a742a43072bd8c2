"""A classifier on two processes: the gradient and the measurements of one process that saw the whole batch."""

import dataclasses
import json
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


def _of_rank(rank: int, trial: Trial) -> dict[str, Any]:
    return measured(trial, LocalHost(device=torch.device("cpu"), rank=rank, world=2))


@pytest.fixture(scope="module")
def both(make_classifier: Any, two_ranks: Any) -> dict[str, tuple[Trial, list[Any]]]:
    """By kind: the trial, and what each of two ranks measured."""
    trials = {kind: make_classifier(kind, "transformer", accumulation=2) for kind in KINDS}
    return {kind: (trial, two_ranks.run(_of_rank, trial)) for kind, trial in trials.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_of_two_ranks_has_the_gradient_of_one(kind: str, both: Any) -> None:
    trial, found = both[kind]
    alone = measured(trial, LocalHost(device=torch.device("cpu")))
    for one in found:
        torch.testing.assert_close(one["total"], alone["total"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(one["gradient"], alone["gradient"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_classify_on_two_ranks_measures_what_one_does(kind: str, both: Any) -> None:
    trial, found = both[kind]
    alone = json.loads(measured(trial, LocalHost(device=torch.device("cpu")))["held_out"])
    ours, theirs = (json.loads(one["held_out"]) for one in found)
    assert ours == theirs
    assert ours.pop("nats") == pytest.approx(alone.pop("nats"), rel=1e-9)
    assert ours == alone
