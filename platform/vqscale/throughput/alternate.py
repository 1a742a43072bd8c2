"""Timing several pieces of work in turn, so that a disturbance of the machine affects all of them alike."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Key = TypeVar("Key")


def alternate(
    work: Mapping[Key, Callable[[], None]],
    repeats: int,
    clock: Callable[[], float],
    *,
    budget: float = float("inf"),
    is_result: Callable[[BaseException], bool] = lambda _error: False,
    on_failure: Callable[[Key], None] = lambda _key: None,
) -> dict[Key, list[float]]:
    """Seconds of every repeat, by key: each repeat goes through all the work in the given order.

    Work gets no further repeat once that would take its own total beyond `budget` seconds (the first is always made).
    Work that raises an error accepted by `is_result` is left out of the returned times. `on_failure` is then called
    with its key, after the error is gone, because its traceback holds whatever the work held (such as the memory of a
    model). Any other error is raised.
    """
    times: dict[Key, list[float]] = {key: [] for key in work}
    for repeat in range(repeats):
        for key in list(times):
            if repeat and sum(times[key]) + times[key][-1] > budget:
                continue
            start = clock()
            if _done(work[key], is_result):
                times[key].append(clock() - start)
            else:
                del times[key]
                on_failure(key)
    return times


def _done(work: Callable[[], None], is_result: Callable[[BaseException], bool]) -> bool:
    """Whether the work succeeded; False for an error accepted by `is_result`."""
    try:
        work()
    except Exception as error:
        if not is_result(error):
            raise
        return False
    return True
