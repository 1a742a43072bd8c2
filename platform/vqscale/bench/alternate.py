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
) -> dict[Key, list[float]]:
    """Seconds of every repeat: repeat after repeat goes through all the work in its order.

    Work whose next repeat would end after `budget` seconds of its own gets no further one (the first is always made).
    Work that raises an error which `is_result` is left out of the answer; any other error is raised.
    """
    times: dict[Key, list[float]] = {key: [] for key in work}
    for repeat in range(repeats):
        for key in list(times):
            if repeat and sum(times[key]) + times[key][-1] > budget:
                continue
            start = clock()
            try:
                work[key]()
            except Exception as error:
                if not is_result(error):
                    raise
                del times[key]
                continue
            times[key].append(clock() - start)
    return times
