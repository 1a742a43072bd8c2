"""Order, budget and failures of alternated timing, with a clock that moves only when work is done."""

import sys

import pytest

from vqscale.throughput.alternate import alternate


class Clock:
    """A clock that only `work` advances."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def work(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds

        return run


def test_alternate_three_pieces_goes_through_all_in_every_repeat():
    clock = Clock()
    times = alternate({name: clock.work(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0))}, 3, clock)
    assert clock.log == ["a", "b"] * 3
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_alternate_slow_piece_over_budget_gets_fewer_repeats_but_one():
    clock = Clock()
    work = {"fast": clock.work("fast", 1.0), "slow": clock.work("slow", 4.0), "slowest": clock.work("slowest", 60.0)}
    times = alternate(work, 5, clock, budget=10.0)
    assert [len(taken) for taken in times.values()] == [5, 2, 1]


def test_alternate_error_that_is_a_result_leaves_the_piece_out_and_continues():
    clock = Clock()

    def fail():
        raise MemoryError

    gone = []
    times = alternate(
        {"a": clock.work("a", 1.0), "bad": fail, "b": clock.work("b", 1.0)},
        2,
        clock,
        is_result=lambda error: isinstance(error, MemoryError),
        on_failure=lambda key: gone.append((key, sys.exc_info()[0])),
    )
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert gone == [("bad", None)]  # once, and after the error


def test_alternate_other_error_is_raised():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        alternate({"bad": fail}, 1, Clock(), is_result=lambda error: isinstance(error, MemoryError))
