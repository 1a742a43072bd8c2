"""Who trains what: the queue between Ray Tune's trials and the warm Ray Train worker groups ("lanes").

Starting a worker group costs ten to thirty seconds, a small trial a few; so a lane keeps its processes and takes one
trial after another. Each is still a trial of Ray Tune with its own record, checkpoint and retry: Tune submits it here,
reads its events here, and is told here when the lane that held it died.

The class is plain asyncio; `ray.remote(Dispatcher)` makes it the actor that everybody shares.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

Answer = Literal["go on", "stop", "abort"]
"""stop: end here and be evaluated; abort: end without a record."""


@dataclass
class _Order:
    """One submission of a trial: what a lane is to run, and what it has told so far."""

    trial_id: str
    payload: Any
    attempt: int
    place: int
    events: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    cancelled: bool = False


@dataclass
class _Lane:
    incarnation: str = ""
    turns: list[_Order | None] = field(default_factory=list)
    """What the present incarnation was given, by turn; None is the order to stop."""


class Dispatcher:
    def __init__(self) -> None:
        self._queue: list[_Order] = []
        self._orders: dict[str, _Order] = {}
        self._lanes: dict[str, _Lane] = {}
        self._closed = False
        self._lane_error: str | None = None
        self._changed = asyncio.Condition()

    # Tune's side

    async def submit(self, trial_id: str, payload: Any, place: int = 0) -> None:
        """Queue a trial; a later submission of the same trial (a retry) takes the place of the earlier one.

        Of the trials that wait, a lane gets the one of the lowest `place`: Tune's followers start side by side and
        submit in any order.
        """
        async with self._changed:
            before = self._orders.get(trial_id)
            order = _Order(trial_id, payload, before.attempt + 1 if before else 1, place)
            self._orders[trial_id] = order
            self._queue.append(order)
            if self._lane_error:
                self._end(order, {"kind": "failed", "error": self._lane_error})
            self._changed.notify_all()

    async def events(self, trial_id: str, seen: int) -> list[dict[str, Any]]:
        """Events of a trial from number `seen` on; waits until there is one.

        The last is `finished`, `failed` or, when nobody wants the trial any more, `cancelled`.
        """
        order = self._orders[trial_id]
        async with self._changed:
            await self._changed.wait_for(lambda: len(order.events) > seen or order.cancelled)
            return [{"kind": "cancelled"}] if order.cancelled else order.events[seen:]

    async def final(self, trial_id: str) -> dict[str, Any]:
        """The last event of a trial, once it has one: how a lane ended what was cancelled."""
        order = self._orders[trial_id]
        async with self._changed:
            await self._changed.wait_for(lambda: order.ended)
            return order.events[-1]

    async def cancel(self, trial_id: str) -> None:
        """Tune no longer wants this trial: it leaves the queue, or its lane is told to stop it."""
        async with self._changed:
            order = self._orders.get(trial_id)
            if order is None or order.ended:
                return
            order.cancelled = True
            if order in self._queue:
                self._queue.remove(order)
                self._end(order, {"kind": "failed", "error": "cancelled before it began"})
            self._changed.notify_all()

    # the lanes' side

    async def take(self, lane: str, incarnation: str, turn: int) -> dict[str, Any] | None:
        """What a lane is to do in its `turn`-th turn; every rank asks and gets the same answer. None: stop.

        A new incarnation means that the lane's processes were started again: the trial it held has failed.
        """
        async with self._changed:
            state = self._lanes.setdefault(lane, _Lane())
            if state.incarnation != incarnation:
                self._abandon(state)
                self._lanes[lane] = state = _Lane(incarnation)
            if turn == len(state.turns):
                await self._changed.wait_for(
                    lambda: self._queue or self._closed or self._lanes.get(lane) is not state or turn < len(state.turns)
                )
            if self._lanes.get(lane) is not state:  # asked by processes that are no more
                return None
            if turn == len(state.turns):
                state.turns.append(self._next() if self._queue and not self._closed else None)
                self._changed.notify_all()
            order = state.turns[turn]
            if order is None:
                return None
            return {"trial_id": order.trial_id, "payload": order.payload, "attempt": order.attempt}

    async def publish(self, trial_id: str, attempt: int, event: dict[str, Any]) -> Answer:
        """Add an event of a running attempt; what an earlier attempt still tells is dropped."""
        async with self._changed:
            order = self._orders[trial_id]
            if order.attempt != attempt:
                return "abort"
            if event["kind"] in ("finished", "failed"):
                self._end(order, event)
            elif not order.ended:
                order.events.append(event)
            self._changed.notify_all()
            if self._closed:
                return "abort"
            return "stop" if order.cancelled else "go on"

    async def lane_lost(self, lane: str, error: str) -> None:
        """A lane cannot be started any more: the trial it held fails, and without lanes so does every other."""
        async with self._changed:
            state = self._lanes.pop(lane, None)
            if state:
                self._abandon(state)
            if not self._lanes:
                self._lane_error = error
                while self._queue:
                    self._end(self._queue.pop(0), {"kind": "failed", "error": error})
            self._changed.notify_all()

    async def expect(self, lane: str) -> None:
        """Announce a lane before it is started, so that losing another one is not losing the last."""
        self._lanes.setdefault(lane, _Lane())

    async def close(self) -> None:
        """No more trials: every lane ends; what still runs is given up without a record and can be gone on with."""
        async with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    def _next(self) -> _Order:
        order = min(self._queue, key=lambda waiting: waiting.place)
        self._queue.remove(order)
        return order

    def _abandon(self, lane: _Lane) -> None:
        for order in lane.turns:
            if order is not None and not order.ended:
                self._end(order, {"kind": "failed", "error": "a worker process died (killed, or out of memory)"})
        self._changed.notify_all()

    def _end(self, order: _Order, event: dict[str, Any]) -> None:
        """Append the final event once: the first cause counts, collateral errors of other ranks do not."""
        if not order.ended:
            order.ended = True
            order.events.append(event)
