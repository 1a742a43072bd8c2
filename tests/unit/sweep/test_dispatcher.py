"""The queue between Ray Tune and the warm worker groups, without Ray."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from vqscale.sweep.driver.dispatcher import Dispatcher


def play(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, timeout=5))


def test_dispatcher_gives_every_rank_the_same_trial() -> None:
    async def scenario() -> tuple[Any, Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", {"n": 1})
        await dispatcher.submit("b", {"n": 2})
        return await dispatcher.take("group", "i", 0), await dispatcher.take("group", "i", 0)

    first, second = play(scenario())
    assert first == second == {"trial_id": "a", "payload": {"n": 1}, "attempt": 1}


def test_dispatcher_keeps_order_over_turns_and_stops_when_closed() -> None:
    async def scenario() -> list[Any]:
        dispatcher = Dispatcher()
        for name in "ab":
            await dispatcher.submit(name, None)
        taken = [await dispatcher.take("group", "i", turn) for turn in range(2)]
        waiting = asyncio.create_task(dispatcher.take("group", "i", 2))
        await asyncio.sleep(0)
        await dispatcher.close()
        return [order["trial_id"] for order in taken if order] + [await waiting]

    assert play(scenario()) == ["a", "b", None]


def test_dispatcher_gives_the_waiting_trial_of_the_lowest_place_first() -> None:
    async def scenario() -> list[Any]:
        dispatcher = Dispatcher()
        for name, place in (("c", 2), ("a", 0), ("b", 1), ("a", 0)):  # the last is a retry
            await dispatcher.submit(name, None, place)
        return [await dispatcher.take("group", "i", turn) for turn in range(3)]

    assert [order["trial_id"] for order in play(scenario())] == ["a", "a", "b"]


def test_dispatcher_passes_events_to_who_waits() -> None:
    async def scenario() -> list[Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        waiting = asyncio.create_task(dispatcher.events("a", 0))
        await asyncio.sleep(0)
        assert await dispatcher.publish("a", 1, {"kind": "metrics", "row": {}}) == "continue"
        return await waiting

    assert play(scenario()) == [{"kind": "metrics", "row": {}}]


def test_dispatcher_fails_the_trial_of_a_group_that_died() -> None:
    async def scenario() -> tuple[Any, Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.take("group", "before", 0)
        again = asyncio.create_task(dispatcher.take("group", "after", 0))
        events = await dispatcher.events("a", 0)
        await dispatcher.submit("a", None)
        return events[-1], await again

    event, order = play(scenario())
    assert event["kind"] == "failed"
    assert "died" in event["error"]
    assert order == {"trial_id": "a", "payload": None, "attempt": 2}


def test_dispatcher_gives_the_trial_of_a_failed_group_to_another_one() -> None:
    async def scenario() -> tuple[Any, Any, Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.take("lost", "i", 0)
        await dispatcher.group_failed("lost")
        (event,) = await dispatcher.events("a", 0)
        await dispatcher.submit("a", None)
        taken = await dispatcher.take("other", "i", 0)
        late = await dispatcher.publish("a", 1, {"kind": "metrics", "row": {}})
        return event, taken, late

    event, taken, late = play(scenario())
    assert event["kind"] == "failed"
    assert "its node was lost" in event["error"]
    assert (taken["attempt"], late) == (2, "leave")


def test_dispatcher_keeps_the_first_cause_of_a_failure() -> None:
    async def scenario() -> list[Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.publish("a", 1, {"kind": "failed", "error": "the cause"})
        await dispatcher.publish("a", 1, {"kind": "failed", "error": "connection reset by peer"})
        return await dispatcher.events("a", 0)

    assert play(scenario()) == [{"kind": "failed", "error": "the cause"}]


def test_dispatcher_asks_a_cancelled_trial_to_stop() -> None:
    async def scenario() -> str:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.take("group", "i", 0)
        await dispatcher.cancel("a")
        return await dispatcher.publish("a", 1, {"kind": "metrics", "row": {}})

    assert play(scenario()) == "stop"


def test_dispatcher_that_closes_lets_what_runs_leave() -> None:
    async def scenario() -> tuple[str, Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.take("group", "i", 0)
        await dispatcher.submit("b", None)
        await dispatcher.close()
        answer = await dispatcher.publish("a", 1, {"kind": "metrics", "row": {}})
        return answer, await dispatcher.take("group", "i", 1)

    assert play(scenario()) == ("leave", None)


def test_dispatcher_without_groups_fails_what_waits_and_what_comes() -> None:
    async def scenario() -> list[str]:
        dispatcher = Dispatcher()
        await dispatcher.expect("one")
        await dispatcher.expect("two")
        await dispatcher.submit("a", None)
        await dispatcher.group_lost("one", "no room")
        assert not dispatcher._orders["a"].ended
        await dispatcher.group_lost("two", "no room")
        await dispatcher.submit("b", None)
        return [(await dispatcher.events(name, 0))[-1]["error"] for name in "ab"]

    assert play(scenario()) == ["no room", "no room"]


def test_dispatcher_lets_a_second_group_take_the_next_trial() -> None:
    async def scenario() -> list[str]:
        dispatcher = Dispatcher()
        for name in "ab":
            await dispatcher.submit(name, None)
        orders = [await dispatcher.take(group, "i", 0) for group in ("one", "two")]
        return [order["trial_id"] for order in orders if order]

    assert play(scenario()) == ["a", "b"]


def test_dispatcher_drops_what_an_earlier_attempt_still_tells() -> None:
    async def scenario() -> tuple[str, list[Any]]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.publish("a", 1, {"kind": "failed", "error": "the cause"})
        await dispatcher.submit("a", None)
        late = await dispatcher.publish("a", 1, {"kind": "failed", "error": "a collective timed out"})
        await dispatcher.publish("a", 2, {"kind": "metrics", "row": {}})
        return late, await dispatcher.events("a", 0)

    assert play(scenario()) == ("leave", [{"kind": "metrics", "row": {}}])


def test_dispatcher_gives_nothing_to_processes_that_are_no_more() -> None:
    async def scenario() -> tuple[Any, Any]:
        dispatcher = Dispatcher()
        orphan = asyncio.create_task(dispatcher.take("group", "before", 0))
        await asyncio.sleep(0)
        living = asyncio.create_task(dispatcher.take("group", "after", 0))
        await asyncio.sleep(0)
        await dispatcher.submit("a", None)
        return await orphan, await living

    orphan, living = play(scenario())
    assert orphan is None
    assert living["trial_id"] == "a"


def test_dispatcher_tells_how_a_cancelled_trial_ended() -> None:
    async def scenario() -> tuple[list[Any], Any]:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.take("group", "i", 0)
        await dispatcher.cancel("a")
        follower = await dispatcher.events("a", 0)
        await dispatcher.publish("a", 1, {"kind": "finished", "result": {"status": "stopped"}})
        return follower, await dispatcher.final("a")

    follower, final = play(scenario())
    assert follower == [{"kind": "cancelled"}]
    assert final["result"]["status"] == "stopped"


def test_dispatcher_that_closes_waits_for_what_runs_to_leave() -> None:
    async def scenario() -> list[Any]:
        dispatcher = Dispatcher()
        for name in "abc":
            await dispatcher.submit(name, None)
        for turn in range(2):
            await dispatcher.take("group", "i", turn)
        asked = [asyncio.create_task(dispatcher.leaving(name, 1)) for name in "ab"]
        await dispatcher.publish("a", 1, {"kind": "finished"})
        await dispatcher.close()
        left = asyncio.create_task(dispatcher.left())
        await asyncio.sleep(0)
        before = left.done()
        await dispatcher.publish("b", 1, {"kind": "left"})
        await left
        return [before, *[await one for one in asked], *[(await dispatcher.events(name, 0))[-1] for name in "bc"]]

    cancelled = {"kind": "cancelled"}
    assert play(scenario()) == [False, False, True, cancelled, cancelled]


def test_dispatcher_that_is_closed_gives_no_trial_that_comes_later() -> None:
    async def scenario() -> Any:
        dispatcher = Dispatcher()
        await dispatcher.close()
        await dispatcher.submit("a", None)
        await dispatcher.left()
        return await dispatcher.take("group", "i", 0)

    assert play(scenario()) is None


def test_dispatcher_lets_an_attempt_leave_that_has_been_replaced() -> None:
    async def scenario() -> bool:
        dispatcher = Dispatcher()
        await dispatcher.submit("a", None)
        await dispatcher.submit("a", None)
        return await dispatcher.leaving("a", 1)

    assert play(scenario()) is True
