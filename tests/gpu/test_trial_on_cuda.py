"""A trial on a GPU; skipped without one."""

from pathlib import Path

import pytest
import torch
from local_host import LocalHost

from vqscale.costing.presets import resolve
from vqscale.data.corpus import open_corpus
from vqscale.study.spec import RunOptions
from vqscale.study.trial import TrainConfig, Trial
from vqscale.train.trial import run_trial

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("arch", ["transformer_vq", "transformer_full", "transformer"])
def test_trial_on_cuda_learns_what_it_learns_on_the_cpu(arch: str, corpus_uri: str, tmp_path: Path) -> None:
    corpus = open_corpus(corpus_uri)
    dims = {"codebook_size": 16, "block_length": 16} if arch == "transformer_vq" else {}
    trial = Trial(
        model=resolve(arch, "pico", corpus.vocab_size, dims),
        train=TrainConfig(
            context=64, tokens=6144, batch_tokens=512, lr=0.01, engine="plain", evaluation_tokens=2048, segment=32
        ),
        corpus=corpus_uri,
        corpus_fingerprint=corpus.fingerprint,
    )
    losses = []
    for name in ("cpu", "cuda"):
        host = LocalHost(device=torch.device(name))
        outcome = run_trial(trial, str(tmp_path / name), RunOptions(log_every=4, checkpoint_every=4), host)
        assert outcome.held_out is not None
        losses.append(outcome.held_out.nats)
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
