"""How much work a call does, counted instead of timed: lines and loop turns of Python, and calls of C functions."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_operations(call: Callable[[], object]) -> int:
    """Line events (a turn of a loop or of a comprehension is one, also on a single line) and calls of C functions.

    What a C function does inside is not seen: `min(values)` is one operation, however long `values` is.
    """
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def c_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(line)
    sys.setprofile(c_call)
    try:
        call()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count


def growth(of_size: Callable[[int], Callable[[], object]], small: int) -> float:
    """Operations at twice the size over those at `small`: 2 where work is linear, 4 where it is quadratic.

    `of_size(n)` prepares the work of size n and returns the call to be counted. Work that does not depend on the size
    (first imports, caches) is done once before and not counted.
    """
    of_size(small)()
    return count_operations(of_size(2 * small)) / count_operations(of_size(small))
