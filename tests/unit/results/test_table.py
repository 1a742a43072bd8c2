from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from vqscale.errors import StorageError
from vqscale.results import (
    AccuracyBucket,
    LossParts,
    PositionLoss,
    Result,
    loss_difference,
    read_table,
    to_results,
    write_table,
)


def make_result(**changes: object) -> Result:
    values: dict[str, object] = {
        "study": "quickstart",
        "trial_id": "ab12",
        "name": "nano-S64-T512",
        "status": "finished",
        "arch": "transformer_vq",
        "head": "shga",
        "preset": "nano",
        "seed": 0,
        "d_model": 64,
        "n_layer": 2,
        "codebook_size": 64,
        "block_length": 64,
        "context": 512,
        "segment": 512,
        "tokens": 2**53 + 1,
        "steps": 122,
        "batch_tokens": 8192,
        "lr": 3e-3,
        "precision": "fp32",
        "engine": "plain",
        "zero": None,
        "workers": 1,
        "parameters": 90_000,
        "parameters_non_embedding": 70_000,
        "parameter_groups": {"embedding": 20_000, "projections": 70_000},
        "flops": 4.2e23,
        "flops_groups": {"projections": 4.2e5, "window": 0.1 + 0.2},
        "loss": 1.2345678901234567,
        "bpb": 1.78,
        "perplexity": 3.44,
        "train_loss": 1.2,
        "loss_by_position": [PositionLoss(start=0, end=64, nats=1.5), PositionLoss(start=64, end=512, nats=1.1)],
        "tokens_per_second": 12_345.6,
        "flops_per_second": 5e9,
        "peak_flops": 6e10,
        "peak_memory_bytes": 123_456_789,
        "state_bytes": 65_536,
        "code_perplexity": 40.5,
        "dead_codes": 0.1,
        "quantisation_error": 0.3,
        "revived": 12,
        "seconds_training": 81.5,
        "seconds_overhead": 3.5,
        "seconds_evaluation": 2.0,
        "attempts": 1,
        "device": "cpu",
        "backend": "blockwise",
        "error": None,
        "corpus": "stdlib",
        "corpus_fingerprint": "f00d",
        "versions": {"torch": "2.13.0"},
        "git": None,
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    return Result.model_validate(values | changes)


def failed() -> Result:
    absent = ("loss", "bpb", "perplexity", "train_loss", "peak_memory_bytes", "revived", "codebook_size", "backend")
    changes: dict[str, object] = dict.fromkeys(absent)
    return make_result(status="failed", error='out of memory, "twice"\n', loss_by_position=[], **changes)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_table_with_missing_measurements_round_trips_exactly(tmp_path, suffix):
    results = [make_result(), failed(), make_result(name="NA", trial_id="00123", git="123e4567")]
    results.append(make_result(schedule="wsd", decay=0.2, shared_steps=80))
    bucket = AccuracyBucket(start=64, end=128, labels=7, accuracy=3 / 7)
    judged = {
        "accuracy": 3 / 7,
        "classes": 2,
        "examples": 7,
        "confusion": [[3, 0], [4, 0]],
        "class_names": ["no", "yes"],
    }
    results.append(make_result(task="classification", bpb=None, accuracy_by_length=[bucket], **judged))
    uri = str(tmp_path / f"results.{suffix}")
    write_table(results, uri)
    assert to_results(read_table(uri)) == results


def test_record_from_before_schedules_were_kept_is_a_cosine_that_shares_nothing():
    old = make_result().model_dump(exclude={"schedule", "decay", "shared_steps"})
    result = Result.model_validate(old)
    assert (result.schedule, result.decay, result.shared_steps) == ("cosine", None, 0)


def test_record_with_the_old_name_of_the_shared_prefix_is_read():
    old = make_result(shared_prefix="123e4567").model_dump()
    old["trunk"] = old.pop("shared_prefix")
    assert Result.model_validate(old).shared_prefix == "123e4567"
    assert Result.model_validate(old).model_dump() == make_result(shared_prefix="123e4567").model_dump()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_table_with_the_old_name_of_the_shared_prefix_is_read(tmp_path, suffix):
    results = [make_result(shared_prefix="123e4567"), make_result()]
    written, old = str(tmp_path / f"results.{suffix}"), tmp_path / f"old.{suffix}"
    write_table(results, written)
    if suffix == "csv":
        old.write_text(Path(written).read_text().replace("shared_prefix", "trunk", 1))
    else:
        pd.read_parquet(written).rename(columns={"shared_prefix": "trunk"}).to_parquet(old, index=False)
    table = read_table(str(old))
    assert list(table.columns) == list(Result.model_fields)
    assert to_results(table) == results


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_table_without_rows_keeps_its_columns(tmp_path, suffix):
    uri = str(tmp_path / f"results.{suffix}")
    write_table([], uri)
    table = read_table(uri)
    assert len(table) == 0
    assert list(table.columns) == list(Result.model_fields)


def test_table_on_another_file_system_round_trips():
    uri = "memory://study/results.parquet"
    write_table([make_result()], uri)
    assert to_results(read_table(uri)) == [make_result()]


def test_table_from_elsewhere_is_read_as_it_is(tmp_path):
    uri = str(tmp_path / "published.csv")
    pd.DataFrame({"loss": [3.0, 2.5], "tokens": [1e9, 2e9], "who": ["a", None]}).to_csv(uri, index=False)
    table = read_table(uri)
    assert table["loss"].tolist() == [3.0, 2.5]
    assert table["tokens"].tolist() == [1e9, 2e9]


@pytest.mark.parametrize("name", ["absent.parquet", "table.xlsx", "broken.parquet", "empty.csv"])
def test_table_that_cannot_be_read_raises_storage_error(tmp_path, name):
    if name != "absent.parquet":
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"no table")
    with pytest.raises(StorageError, match=name):
        read_table(str(tmp_path / name))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1.2"])
def test_result_with_a_loss_that_is_no_number_is_refused(value):
    with pytest.raises(ValidationError):
        make_result(loss=value)


def test_rows_of_a_table_are_compared_as_records_are(tmp_path: Path) -> None:
    parts = [LossParts(units=[2, 1], tokens=[9, 5], bytes=[9, 4], nats=nats) for nats in ([4.5, 2.0], [4.0, 2.5])]
    text = {"evaluation_text": "spread 14", "evaluation_documents": 3, "loss": 0.4}
    rows = [make_result(**text, loss_by_document=one) for one in parts]
    expected = loss_difference(*rows)
    assert expected is not None
    assert expected.paired
    for name in ("results.parquet", "results.csv"):
        write_table(rows, str(tmp_path / name))
        first, second = read_table(str(tmp_path / name)).to_dict("records")
        assert loss_difference(first, second) == expected
