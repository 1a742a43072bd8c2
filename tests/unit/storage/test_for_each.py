"""Many small files: in order, side by side where the store is remote, one after another on a local disk."""

import threading
from pathlib import Path
from typing import Any

import pytest

from vqscale import storage
from vqscale.costing.facts import failed_result
from vqscale.errors import StorageError
from vqscale.planning.plan import plan
from vqscale.results.records import RESULT, read_results, write_result


def test_remote_calls_run_side_by_side_and_keep_their_order(bucket: str) -> None:
    together = threading.Barrier(storage.REMOTE_CALLS, timeout=60)  # nobody passes before all have come
    names = [str(number) for number in range(2 * storage.REMOTE_CALLS)]

    def read(name: str) -> str:
        together.wait()
        return name

    assert storage.for_each(bucket, names, read) == names


def test_local_calls_run_one_after_another(tmp_path: Path) -> None:
    threads = set(storage.for_each(str(tmp_path), list("abc"), lambda _: threading.current_thread().name))
    assert threads == {threading.current_thread().name}


def test_failure_of_a_remote_call_is_raised(bucket: str) -> None:
    def read(name: str) -> bytes:
        return storage.read_bytes(storage.join(bucket, name))

    with pytest.raises(StorageError, match="absent"):
        storage.for_each(bucket, ["absent"], read)


@pytest.mark.parametrize("remote", [False, True])
def test_records_of_many_trials_are_read_in_parallel_as_one_by_one(
    remote: bool, bucket: str, write_study: Any, corpus_uri: str, tmp_path: Path
) -> None:
    study = write_study(tmp_path / "study.yaml", corpus_uri, storage=bucket if remote else str(tmp_path / "runs"))
    planned = plan(study)
    for index, one in enumerate(planned.trials[:12]):
        failed = failed_result(study.study, one.trial, error=f"no {index}", attempts=1, workers=1, started_at="now")
        write_result(failed, planned.folder(one.trial))
    folder = storage.join(study.folder, "trials")
    storage.write_text(storage.join(folder, "damaged", RESULT), "{")
    found = read_results(folder)
    expected = {one.trial.id: f"no {index}" for index, one in enumerate(planned.trials[:12])}
    assert {name: result.error for name, result in found.results.items() if result} == expected
    assert list(found.damaged) == ["damaged"]
