"""Studies on the small corpus, and trials that ended as a test says."""

from collections.abc import Callable
from typing import Any

import pytest

from vqscale.costing.facts import failed_result
from vqscale.planning.plan import Plan, PlannedTrial
from vqscale.results.records import write_result
from vqscale.study.spec import Study, parse_study


@pytest.fixture
def make(corpus_uri: str, tmp_path: Any) -> Any:
    def study(**sections: Any) -> Any:
        values = {
            "study": "p",
            "data": {"corpus": corpus_uri},
            "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
            "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0]},
            "storage": str(tmp_path),
        } | sections
        return parse_study(values, source="test")

    return study


@pytest.fixture
def end() -> Callable[..., None]:
    """Leave the record of a trial in its study's folder."""

    def write(planned: Plan, one: PlannedTrial, *, status: str = "finished", **columns: Any) -> None:
        study: Study = planned.study
        failed = failed_result(study.study, one.trial, error="no", attempts=1, workers=1, started_at="now")
        values = {"status": status, "error": "no" if status == "failed" else None} | columns
        write_result(failed.model_copy(update=values), planned.folder(one.trial))

    return write
