"""What a choice of a codebook, or of a best trial, says about seeds."""

import io
from typing import Any

import pytest
from rich.console import Console

from vqscale.cli.autotune_view import as_values, show
from vqscale.cli.error_view import error_notes
from vqscale.results.result import Result
from vqscale.workflow.autotune import choose_codebook


def row(size: int, bpb: float, seed: int = 0) -> Result:
    values: dict[str, Any] = {"codebook_size": size, "bpb": bpb, "seed": seed, "status": "finished", "task": "language"}
    values |= {"tokens_per_second": 10.0, "state_bytes": size, "corpus_fingerprint": "f", "setup": f"s{size}"}
    return Result.model_construct(**dict.fromkeys(Result.model_fields) | values | {"name": f"S{size}-seed{seed}"})


def printed(*rows: Result) -> str:
    shown = io.StringIO()
    show(choose_codebook(list(rows), 0.01), Console(file=shown, width=200))
    return shown.getvalue()


def test_choice_by_one_seed_says_that_chance_is_unknown() -> None:
    text = printed(row(16, 2.1), row(32, 2.0))
    assert "of the best (S = 32, 2.0000 bpb); one seed: chance unknown." in text


def test_choice_by_several_seeds_gives_their_pooled_spread() -> None:
    both = [row(16, 2.1), row(16, 2.12, 1), row(32, 2.0), row(32, 2.02, 1)]
    assert "; seeds of one size differ by 0.0141 bpb." in printed(*both)  # 0.02 apart: a deviation of 0.02 / sqrt 2
    assert "differ by 0.0141 bpb (1 of 2 sizes have several)." in printed(*both[:3])
    assert as_values(choose_codebook(both, 0.01))["chance"] == "seeds of one size differ by 0.0141 bpb"


@pytest.mark.parametrize(("seeds", "said"), [(1, True), (2, False)])
def test_best_trial_of_one_seed_says_that_chance_is_unknown(seeds: int, said: bool) -> None:
    rows = [row(16, 2.0 + seed / 100, seed) for seed in range(seeds)]
    notes = " ".join(error_notes([*rows, row(32, 2.5)]))
    assert "Best: S16-seed0; next: S32-seed0" in notes
    assert ("one seed: chance unknown" in notes) == said
