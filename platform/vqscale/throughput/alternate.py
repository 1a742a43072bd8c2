"""Timing several pieces of work so that what disturbs the machine disturbs them alike."""

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
    left_out: Callable[[Key], None] = lambda _key: None,
) -> dict[Key, list[float]]:
    """Seconds of every repeat: repeat after repeat goes through all the work in its order.

    Work whose next repeat would end after `budget` seconds of its own gets no further one (the first is always made).
    Work that raises an error which `is_result` is left out of the answer, and `left_out` is called with its key once
    the error, whose traceback holds what the work held, is gone. Any other error is raised.
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
                left_out(key)
    return times


def _done(work: Callable[[], None], is_result: Callable[[BaseException], bool]) -> bool:
    """Whether the work ended without an error that `is_result`."""
    try:
        work()
    except Exception as error:
        if not is_result(error):
            raise
        return False
    return True
