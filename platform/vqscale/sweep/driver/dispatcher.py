"""Which worker group trains which trial: the queue between Ray Tune's trials and the warm Ray Train worker groups.

Starting a worker group costs ten to thirty seconds, a small trial a few; so a group keeps its processes and takes one
trial after another. Each is still a trial of Ray Tune with its own record, checkpoint and retry: Tune submits it here,
reads its events here, and learns here when the group that held it died.

The class is plain asyncio; `ray.remote(Dispatcher)` makes it the actor that all processes share.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

Directive = Literal["continue", "stop", "leave"]
"""What a trial does after an event. stop: end here and be evaluated; leave: write a checkpoint and end unrecorded."""
LEFT = {"kind": "cancelled"}
"""Last event of a trial that nobody wants any more and that has no record."""

DIED = "a worker process died (killed, out of memory, or its node was lost)"


@dataclass
class _Order:
    """One submission of a trial: what a group is to run, and the events it has sent so far."""

    trial_id: str
    payload: Any
    attempt: int
    place: int
    events: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    cancelled: bool = False


@dataclass
class _Group:
    incarnation: str = ""
    turns: list[_Order | None] = field(default_factory=list)
    """What the present incarnation was given, by turn; None: stop."""


class Dispatcher:
    def __init__(self) -> None:
        self._queue: list[_Order] = []
        self._orders: dict[str, _Order] = {}
        self._groups: dict[str, _Group] = {}
        self._closed = False
        self._group_error: str | None = None
        self._changed = asyncio.Condition()

    # Tune's side

    async def submit(self, trial_id: str, payload: Any, place: int = 0) -> None:
        """Queue a trial; a later submission of the same trial (a retry) takes the place of the earlier one.

        Of the trials that wait, a group gets the one of the lowest `place`: Tune's followers start side by side and
        submit in any order.
        """
        async with self._changed:
            before = self._orders.get(trial_id)
            order = _Order(trial_id, payload, before.attempt + 1 if before else 1, place)
            self._orders[trial_id] = order
            if self._closed:
                self._end(order, LEFT)
            elif self._group_error:
                self._end(order, {"kind": "failed", "error": self._group_error})
            else:
                self._queue.append(order)
            self._changed.notify_all()

    async def events(self, trial_id: str, seen: int) -> list[dict[str, Any]]:
        """Events of a trial from number `seen` on; waits until there is one.

        The last is `finished`, `failed` or, when Tune has ended the trial, `cancelled`.
        """
        order = self._orders[trial_id]
        async with self._changed:
            await self._changed.wait_for(lambda: len(order.events) > seen or order.cancelled or self._closed)
            return [LEFT] if order.cancelled or self._closed else order.events[seen:]

    async def final(self, trial_id: str) -> dict[str, Any]:
        """The last event of a trial, once it has one: how a group ended what was cancelled."""
        order = self._orders[trial_id]
        async with self._changed:
            await self._changed.wait_for(lambda: order.ended)
            return order.events[-1]

    async def cancel(self, trial_id: str) -> None:
        """Tune no longer wants this trial: it leaves the queue, or its group is asked to stop it."""
        async with self._changed:
            order = self._orders.get(trial_id)
            if order is None or order.ended:
                return
            order.cancelled = True
            if order in self._queue:
                self._queue.remove(order)
                self._end(order, {"kind": "failed", "error": "cancelled before it began"})
            self._changed.notify_all()

    # the worker groups' side

    async def take(self, group: str, incarnation: str, turn: int) -> dict[str, Any] | None:
        """What a group is to do in its `turn`-th turn; every rank asks and gets the same order. None: stop.

        A new incarnation means that the group's processes were started again: the trial it held has failed.
        """
        async with self._changed:
            state = self._groups.setdefault(group, _Group())
            if state.incarnation != incarnation:
                self._abandon(state)
                self._groups[group] = state = _Group(incarnation)
            if turn == len(state.turns):
                await self._changed.wait_for(
                    lambda: (
                        self._queue or self._closed or self._groups.get(group) is not state or turn < len(state.turns)
                    )
                )
            if self._groups.get(group) is not state:  # asked by processes that have been replaced
                return None
            if turn == len(state.turns):
                state.turns.append(self._next() if self._queue and not self._closed else None)
                self._changed.notify_all()
            order = state.turns[turn]
            if order is None:
                return None
            return {"trial_id": order.trial_id, "payload": order.payload, "attempt": order.attempt}

    async def publish(self, trial_id: str, attempt: int, event: dict[str, Any]) -> Directive:
        """Add an event of a running attempt; events of an earlier attempt are dropped.

        `left` is the last event of an attempt that was told to leave.
        """
        async with self._changed:
            order = self._orders[trial_id]
            if order.attempt != attempt:
                return "leave"
            if event["kind"] == "left":
                self._end(order, LEFT)
            elif event["kind"] in ("finished", "failed"):
                self._end(order, event)
            elif not order.ended:
                order.events.append(event)
            self._changed.notify_all()
            if self._closed:
                return "leave"
            return "stop" if order.cancelled else "continue"

    async def leaving(self, trial_id: str, attempt: int) -> bool:
        """Wait until a running attempt is to leave (True) or has ended (False)."""
        order = self._orders[trial_id]
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or order.ended or order.attempt != attempt)
            return not order.ended

    async def group_lost(self, group: str, error: str) -> None:
        """A group cannot be started any more: the trial it held fails, and without groups so does every other."""
        async with self._changed:
            state = self._groups.pop(group, None)
            if state:
                self._abandon(state)
            if not self._groups:
                self._group_error = error
                while self._queue:
                    self._end(self._queue.pop(0), {"kind": "failed", "error": error})
            self._changed.notify_all()

    async def group_failed(self, group: str) -> None:
        """A process of a group died or raised: the trial it held has failed, and another group may take it at once.

        The group itself may come back at any time, or never, where its node is lost.
        """
        async with self._changed:
            if state := self._groups.get(group):
                self._abandon(state)

    async def expect(self, group: str) -> None:
        """Announce a group before it is started, so that losing another one is not losing the last."""
        self._groups.setdefault(group, _Group())

    async def close(self) -> None:
        """No more trials: every group ends; what still runs writes a checkpoint and ends without a record."""
        async with self._changed:
            self._closed = True
            while self._queue:
                self._end(self._queue.pop(), LEFT)
            self._changed.notify_all()

    async def left(self) -> None:
        """Wait until every trial that a group holds has ended or left."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(order.ended for order in self._orders.values()))

    def _next(self) -> _Order:
        order = min(self._queue, key=lambda waiting: waiting.place)
        self._queue.remove(order)
        return order

    def _abandon(self, group: _Group) -> None:
        for order in group.turns:
            if order is not None and not order.ended:
                self._end(
                    order,
                    {"kind": "failed", "error": DIED},
                )
        self._changed.notify_all()

    def _end(self, order: _Order, event: dict[str, Any]) -> None:
        """Append the final event once: the first cause counts, collateral errors of other ranks do not."""
        if not order.ended:
            order.ended = True
            order.events.append(event)
