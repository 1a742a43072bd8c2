"""Records of trials: damaged ones are named, and one never takes the place of a better one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vqscale.errors import StorageError
from vqscale.results import Result
from vqscale.results.own_files import DamagedFileError
from vqscale.results.records import read_result, read_results, write_result

Damage = Callable[[Path], object]


def make_result(status: str = "finished", trial_id: str = "a-1", **changes: Any) -> Result:
    absent = (
        *("head", "preset", "codebook_size", "block_length", "zero", "loss", "bpb", "perplexity", "train_loss"),
        *("tokens_per_second", "flops_per_second", "peak_flops", "peak_memory_bytes", "state_bytes", "code_perplexity"),
        *("dead_codes", "quantisation_error", "revived", "seconds_training", "seconds_overhead", "seconds_evaluation"),
        *("device", "backend", "error", "git"),
    )
    counts = ("seed", "d_model", "n_layer", "context", "segment", "tokens", "steps", "batch_tokens", "workers")
    values: dict[str, Any] = dict.fromkeys(absent) | dict.fromkeys((*counts, "parameters", "attempts"), 1)
    values |= {"parameters_non_embedding": 1, "lr": 0.1, "flops": 1.0, "parameter_groups": {}, "flops_groups": {}}
    values |= {"study": "s", "trial_id": trial_id, "name": "a", "status": status, "arch": "transformer"}
    values |= {"precision": "fp32", "engine": "plain", "corpus": "c", "corpus_fingerprint": "f", "versions": {}}
    values |= {"loss_by_position": [], "started_at": "2026-01-01"}
    return Result.model_validate(values | changes)


def edited(**changes: Any) -> Damage:
    def edit(path: Path) -> None:
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))

    return edit


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_bytes(b" \n"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "not UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"study", b"st\xffdy", 1)),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "deeply nested": lambda path: path.write_text('{"a":' * 100_000),
    "list": lambda path: path.write_text("[]"),
    "number": lambda path: path.write_text("3.5"),
    "null": lambda path: path.write_text("null"),
    "text": lambda path: path.write_text('"finished"'),
    "two records": lambda path: path.write_bytes(path.read_bytes() * 2),
    "folder": a_folder,
    "no status": edited(status="absent"),
    "unknown status": edited(status="done"),
    "tokens as text": edited(tokens="1"),
    "loss is NaN": edited(loss=float("nan")),
    "loss is a list": edited(loss=[1.0]),
    "steps are true": edited(steps=True),
    "groups are a list": edited(flops_groups=[1]),
    "newer key and wrong value": edited(invented=1, lr="high"),
    "another trial": edited(trial_id="b-2"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_record_is_named_and_counts_as_absent(damage: Damage, tmp_path: Path) -> None:
    write_result(make_result(), str(tmp_path / "a-1"))
    write_result(make_result(trial_id="b-2"), str(tmp_path / "b-2"))
    damage(tmp_path / "a-1" / "result.json")
    records = read_results(str(tmp_path))
    assert records.results == {"a-1": None, "b-2": make_result(trial_id="b-2")}
    assert list(records.damaged) == ["a-1"]
    assert str(tmp_path / "a-1" / "result.json") in records.damaged["a-1"]
    write_result(make_result(lr=0.2), str(tmp_path / "a-1"))  # trained again
    assert read_results(str(tmp_path)).damaged == {}
    assert read_result(str(tmp_path / "a-1")) == make_result(lr=0.2)


def test_damaged_record_asked_for_alone_is_refused_by_name(tmp_path: Path) -> None:
    write_result(make_result(), str(tmp_path))
    DAMAGES["truncated"](tmp_path / "result.json")
    with pytest.raises(DamagedFileError, match=r"result\.json: is damaged \(Invalid JSON"):
        read_result(str(tmp_path))


def test_record_with_fields_of_a_newer_version_counts_without_them(tmp_path: Path) -> None:
    position = {"start": 0, "end": 8, "nats": 1.5}
    write_result(make_result(loss_by_position=[position]), str(tmp_path / "a-1"))
    newer = edited(invented={"deep": [1]}, loss_by_position=[position | {"bits": 2.0}])
    newer(tmp_path / "a-1" / "result.json")
    records = read_results(str(tmp_path))
    assert records.results["a-1"] == make_result(loss_by_position=[position])
    assert sorted(records.unknown["a-1"]) == ["invented", "loss_by_position.0.bits"]
    assert records.damaged == {}


def test_folder_without_records_and_files_beside_them_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "trials" / "waiting").mkdir(parents=True)
    (tmp_path / "trials" / ".DS_Store").write_bytes(b"\0")
    assert read_results(str(tmp_path / "absent")).results == {}
    assert read_results(str(tmp_path / "trials")).results == {".DS_Store": None, "waiting": None}


def test_record_that_the_store_refuses_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    def refused(self: Any, path: str, *args: Any, **more: Any) -> Any:
        raise PermissionError(13, "Permission denied", path)

    write_result(make_result(), str(tmp_path / "a-1"))
    monkeypatch.setattr(LocalFileSystem, "cat_file", refused)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        read_results(str(tmp_path))
    assert not isinstance(caught.value, DamagedFileError)


WORSE = [("finished", "failed"), ("finished", "stopped"), ("finished", "diverged")]
WORSE += [("diverged", "failed"), ("stopped", "failed")]


@pytest.mark.parametrize(("kept", "late"), WORSE)
def test_record_never_takes_the_place_of_a_better_one(kept: str, late: str, tmp_path: Path) -> None:
    write_result(make_result(kept), str(tmp_path))
    assert write_result(make_result(late), str(tmp_path)) == make_result(kept)
    assert read_result(str(tmp_path)) == make_result(kept)


@pytest.mark.parametrize(("before", "after"), [(late, kept) for kept, late in WORSE])
def test_better_record_takes_the_place_of_a_worse_one(before: str, after: str, tmp_path: Path) -> None:
    write_result(make_result(before), str(tmp_path))
    assert write_result(make_result(after), str(tmp_path)) == make_result(after)
    assert read_result(str(tmp_path)) == make_result(after)


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "diverged"])
def test_record_takes_the_place_of_one_as_good_and_of_another_trials(status: str, tmp_path: Path) -> None:
    write_result(make_result(status), str(tmp_path))
    write_result(make_result(status, lr=0.2), str(tmp_path))
    assert read_result(str(tmp_path)) == make_result(status, lr=0.2)
    write_result(make_result("finished", trial_id="b-2"), str(tmp_path))
    write_result(make_result("failed"), str(tmp_path))
    assert read_result(str(tmp_path)) == make_result("failed")
