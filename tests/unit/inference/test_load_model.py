"""A trained model from its trial's folder: the weights that were trained, the tokenizer of its corpus, a score."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from local_host import LocalHost

import vqscale
from vqscale.costing.facts import failed_result
from vqscale.data.corpus import open_text
from vqscale.errors import CorpusError, StorageError
from vqscale.planning.plan import plan
from vqscale.results.records import write_result
from vqscale.study.spec import RunOptions, parse_study
from vqscale.train.device import device_name
from vqscale.train.finished import finished_result
from vqscale.train.trial import run_trial


@pytest.fixture(scope="module")
def trained(corpus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of two trials of one name but for their seed: one trained, one failed."""
    values = {
        "study": "loaded",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": {
            **{"context": 64, "tokens": 512 * 8, "batch_tokens": 512, "lr": 0.01, "seeds": [0, 1]},
            **{"evaluation_tokens": 2048, "engine": "plain"},
        },
        "storage": str(tmp_path_factory.mktemp("runs")),
    }
    study = parse_study(values, source="test")
    planned = plan(study)
    good, bad = (one.trial for one in planned.trials)
    host = LocalHost(device=torch.device("cpu"))
    outcome = run_trial(good, planned.folder(good), RunOptions(log_every=4), host)
    measured = {"attempts": 1, "workers": 1, "device": device_name(host.device), "seconds_total": 1.0}
    write_result(finished_result("loaded", good, outcome, **measured), planned.folder(good))
    failed = failed_result("loaded", bad, error="no", attempts=1, workers=1, started_at="now")
    write_result(failed, planned.folder(bad))
    return study, good, bad, outcome


def test_model_is_found_by_folder_id_and_name_and_is_in_evaluation_mode(trained: Any) -> None:
    study, good, _, _ = trained
    weights = [
        vqscale.load_model(run, trial).model.state_dict()
        for run, trial in ((f"{study.folder}/trials/{good.id}", None), (study, good.id), (study.folder, good.name))
    ]
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in weights[0])
    loaded = vqscale.load_model(study, good.id)
    assert not loaded.model.training
    assert loaded.config == good.model


def test_score_is_the_mean_over_the_text_and_does_not_depend_on_how_it_is_cut(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, good, _, _ = trained
    loaded = vqscale.load_model(study, good.id)
    text = "the cache holds one mean a code and every query reads it once. " * 5
    whole = loaded.score(text)
    assert (whole.tokens, whole.text_bytes) == (len(text), len(text))
    assert whole.nats == pytest.approx(whole.token_nats.mean(), rel=1e-6)
    assert whole.bpb == pytest.approx(whole.nats / math.log(2))
    monkeypatch.setattr("vqscale.inference.score.SEGMENT", 48)
    assert loaded.score(text).nats == pytest.approx(whole.nats, abs=1e-5)
    assert whole.bpb < loaded.score("qzxjv QZXJV 0123456789" * 14).bpb


def test_score_needs_no_shard_of_the_corpus(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study, good, _, _ = trained
    monkeypatch.setattr("vqscale.data.corpus.local_shards", lambda *_: pytest.fail("shards were fetched"))
    assert vqscale.load_model(study, good.id).score("a").tokens == 1


def test_tokenizer_is_that_of_the_corpus(trained: Any, corpus_uri: str) -> None:
    study, good, _, _ = trained
    ours, theirs = vqscale.load_model(study, good.id).tokenizer, open_text(corpus_uri).tokenizer
    assert ours is not None
    assert list(ours.encode(b"abc")) == list(theirs.encode(b"abc"))


def test_empty_text_and_missing_weights_are_refused_with_the_reason(trained: Any, tmp_path: Path) -> None:
    study, good, bad, _ = trained
    with pytest.raises(CorpusError, match="is empty"):
        vqscale.load_model(study, good.id).score("")
    with pytest.raises(StorageError, match="the trial is failed"):
        vqscale.load_model(study, bad.id)
    with pytest.raises(StorageError, match="name one of its trials"):
        vqscale.load_model(study)
    with pytest.raises(StorageError, match="has no trial 'nobody'"):
        vqscale.load_model(study, "nobody")
    with pytest.raises(StorageError, match="neither a study's folder nor that of a trial"):
        vqscale.load_model(tmp_path)


def test_damaged_weights_are_refused_by_name(trained: Any, tmp_path: Path) -> None:
    study, good, _, _ = trained
    folder = tmp_path / "trial"
    folder.mkdir()
    for name in ("result.json", "model.safetensors"):
        (folder / name).write_bytes(Path(study.folder, "trials", good.id, name).read_bytes())
    (folder / "model.safetensors").write_bytes(b"\x08" + bytes(15))
    with pytest.raises(StorageError, match=r"model\.safetensors: is no model of vqscale, or damaged"):
        vqscale.load_model(folder)
