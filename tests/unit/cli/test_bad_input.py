"""Wrong requests through the real entry point: exit code 2, one clear message, no traceback, nothing written."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vqscale.cli.main import main
from vqscale.costing.facts import failed_result
from vqscale.data.corpus import open_corpus
from vqscale.data.prepare import prepare
from vqscale.planning.plan import plan
from vqscale.results.records import write_result
from vqscale.study.spec import load_study

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `vqscale ...` in this process; returns the exit code and what went to stderr."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vqscale", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return (0 if code is None else int(code)), capsys.readouterr().err

    return run


@pytest.fixture
def study_file(tmp_path: Path, corpus_uri: str) -> Callable[..., str]:
    """A good study file with single settings replaced: `{"train.context": 48}`."""

    def write(changes: dict[str, object] | None = None) -> str:
        values: dict[str, dict[str, object]] = {
            "study": "quick",  # type: ignore[dict-item]
            "data": {"corpus": corpus_uri},
            "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
            "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01},
            "resources": {"workers": 1},
            "storage": str(tmp_path / "runs"),  # type: ignore[dict-item]
            "tracking": {"uri": f"sqlite:///{tmp_path}/runs/mlflow.db"},
        }
        for key, value in (changes or {}).items():
            section, _, name = key.partition(".")
            if name:
                values[section][name] = value
            else:
                values[section] = value  # type: ignore[assignment]
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qustion": "?"}, ["qustion", "is not a known key"]),
        ({"train.contxt": 64}, ["train", "'contxt'"]),
        ({"model.width": 64}, ["model.width", "transformer_vq has no such setting"]),
        ({"train.tokens": "many"}, ["train.tokens", "integer", "'many'"]),
        ({"train.context": 40, "train.batch_tokens": 400}, ["train.context", "40", "block_length 16", "multiple"]),
        ({"model.codebook_size": 0}, ["model.codebook_size", "0"]),
        ({"model.codebook_size": 1024}, ["model.codebook_size", "1024", "512 tokens of a batch"]),
        ({"model.preset": "huge"}, ["model.preset", "'huge'", "pico"]),
        ({"model.arch": "mamba"}, ["model.arch", "'mamba'", "transformer_vq"]),
        ({"sweep": []}, ["sweep", "at least 1 item"]),
        ({"sweep": [{"model.preset": []}]}, ["model.preset", "empty sweep"]),
        (
            {"sweep": [{"model.arch": ["transformer"], "model.codebook_size": [8]}]},
            ["codebook_size", "transformer has no"],
        ),
        ({"sweep": [{"train.seed": [0, 1]}]}, ["train.seed", "unknown key 'seed'", "seeds"]),
        ({"sweep": [{"data.anything": [1]}]}, ["data.anything", "unknown key 'anything'", "corpus"]),
        ({"train.backend": "triton", "resources.gpus_per_worker": 0}, ["train.backend", "'triton'", "CUDA", "'auto'"]),
        (
            {"train.context": 2**24, "train.batch_tokens": 2**24, "train.tokens": 2**24},
            ["train.context", "has", "shorter context"],
        ),
        ({"train.deepspeed": {"optimizer": {"type": "Adam"}}}, ["train.deepspeed", "optimizer", "train.lr"]),
        ({"data.corpus": "nowhere"}, ["'nowhere'", "vqscale data prepare"]),
        ({"data.corpus": "/no/such/corpus"}, ["/no/such/corpus"]),
        ({"train.batch_tokens": 500}, ["batch_tokens", "500", "whole sequences"]),
        ({"resources.workers": 3}, ["8 sequences", "3 workers"]),
        (
            {"resources.workers": 4096, "train.batch_tokens": 64 * 4096, "train.tokens": 10**6},
            ["4096", "CPUs", "--address"],
        ),
        ({"tracking.uri": "ftp://somewhere"}, ["tracking.uri", "ftp://somewhere", "sqlite"]),
        ({"tracking.uri": "http://127.0.0.1:9"}, ["http://127.0.0.1:9", "does not answer"]),
        ({"storage": "/dev/null/runs"}, ["storage", "/dev/null", "cannot be written"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_run_of_a_wrong_study_exits_with_2_and_writes_nothing(
    changes: dict[str, object],
    words: list[str],
    call: Call,
    study_file: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code, message = call("run", study_file(changes))
    assert code == 2
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()


def test_run_on_a_corpus_with_a_flipped_byte_names_the_shard(
    call: Call, study_file: Callable[..., str], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for index in range(60):
        (text / f"{index}.txt").write_text(f"document {index} says hello to its readers " * 40)
    corpus = tmp_path / "corpus"
    prepare(str(text), str(corpus))
    shard = next(corpus.rglob("*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    code, message = call("run", study_file({"data.corpus": str(corpus)}))
    assert code == 2
    assert shard.name in message
    assert "sha256" in message


def test_run_on_an_empty_corpus_folder_is_refused(call: Call, study_file: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    code, message = call("run", study_file({"data.corpus": str(tmp_path / "corpus")}))
    assert code == 2
    assert str(tmp_path / "corpus") in message


def test_run_of_a_study_changed_under_the_same_name_says_so(
    call: Call, study_file: Callable[..., str], tmp_path: Path
) -> None:
    before = load_study(study_file())
    (planned,) = plan(before).trials
    finished = failed_result("quick", planned.trial, error="", attempts=1, workers=1, started_at="")
    write_result(finished.model_copy(update={"status": "finished"}), f"{before.folder}/trials/{planned.trial.id}")
    code, message = call("run", study_file({"train.lr": 0.02}))
    assert code == 2
    assert "changed under the same name" in message
    assert planned.trial.id in message
    assert "--allow-changed" in message


@pytest.mark.parametrize("command", ["plan", "run", "throughput", "autotune"])
def test_command_on_a_missing_study_file_exits_with_2(command: str, call: Call, tmp_path: Path) -> None:
    code, message = call(command, str(tmp_path / "nowhere.yaml"))
    assert code == 2
    assert "nowhere.yaml" in message


def test_plan_of_a_good_study_starts_and_writes_nothing(
    call: Call, study_file: Callable[..., str], tmp_path: Path
) -> None:
    code, message = call("plan", study_file())
    assert (code, message) == (0, "")
    assert not (tmp_path / "runs").exists()


def test_unknown_command_exits_with_2(call: Call) -> None:
    code, message = call("trian")
    assert code == 2
    assert "trian" in message


def test_corpus_fixture_is_whole(corpus_uri: str) -> None:
    assert len(open_corpus(corpus_uri).split("train")) > 64 * 8 * 12
