"""Which recorded progress of a preparation is resumed: only that whose files are all there."""

from pathlib import Path

import pytest

from vqscale.data.shards import SPLITS
from vqscale.data.writer import PreparationState, SplitState, WorkFolder


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[WorkFolder, PreparationState]:
    """Four bytes of the training split's open shard, and nothing yet of the others, which have no files."""
    place = WorkFolder(tmp_path)
    empty = place.resume("request")
    splits = empty.splits | {"train": SplitState(open_bytes=4, words=1, lines=1)}
    state = empty.model_copy(update={"segments": 3, "splits": splits})
    place.raw("train", 0).write_bytes(b"1234" + b"not recorded")
    place.record(state)
    return place, state


def test_recorded_progress_whose_files_are_there_is_resumed(recorded):
    place, state = recorded
    assert place.resume("request") == state
    assert place.raw("train", 0).read_bytes() == b"1234not recorded"  # cut to its recorded length when it is opened
    place.raw("train", 0).write_bytes(b"1234")
    assert place.resume("request") == state


@pytest.mark.parametrize(("request_now", "content"), [("another", b"1234"), ("request", b"123"), ("request", None)])
def test_progress_of_another_request_or_with_files_too_short_or_missing_is_discarded(recorded, request_now, content):
    place, _ = recorded
    raw = place.raw("train", 0)
    raw.unlink() if content is None else raw.write_bytes(content)
    state = place.resume(request_now)
    assert (state.request, state.segments, state.splits) == (request_now, 0, {name: SplitState() for name in SPLITS})
    assert not raw.exists()
    assert place.resume(request_now) == state
