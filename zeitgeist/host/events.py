"""What a node's applications hear: every event of the core, in order, each subscription by itself.

Law: an event is never dropped in silence. A subscription that is `EVENTS_MAX` behind is ended with an error at its next
take; the node does not wait for it.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.trace import Event

__all__ = ["EVENTS_MAX", "Events", "Subscription"]

EVENTS_MAX = 10_000
"""A stream is held back by its window long before; what is left are a few events a second."""


class Subscription:
    """One listener. `async for event in subscription`; ends when the node does."""

    def __init__(self, wanted: Callable[[Event], bool]) -> None:
        self.wanted = wanted
        self.waiting: deque[Event] = deque()
        self.arrived = asyncio.Event()
        self.error: ZeitgeistError | None = None

    def put(self, event: Event) -> None:
        """Called by the node."""
        if self.error is None and self.wanted(event):
            if len(self.waiting) >= EVENTS_MAX:
                self.waiting.clear()
                self.end(LocalProtocolError("zg/host/slow-listener", f"more than {EVENTS_MAX} events waited", "events"))
                return
            self.waiting.append(event)
            self.arrived.set()

    def end(self, error: ZeitgeistError) -> None:
        """Nothing more comes; error is raised once what waits was taken."""
        self.error = self.error or error
        self.arrived.set()

    async def take(self) -> Event:
        """The next event. Raises what ended the subscription: `zg/host/stopped`, `zg/host/slow-listener`."""
        while not self.waiting:
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived.wait()
        return self.waiting.popleft()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        """The next event, or the end when the node stopped."""
        try:
            return await self.take()
        except LocalProtocolError as error:
            if error.id == "zg/host/stopped":
                raise StopAsyncIteration from None
            raise


class Events:
    """All subscriptions of one node."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []

    def subscribe(self, wanted: Callable[[Event], bool] = lambda event: True) -> Subscription:
        """Hear what is wanted from now on."""
        subscription = Subscription(wanted)
        self.subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hear no more."""
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)

    def put(self, event: Event) -> None:
        """To all."""
        for subscription in self.subscriptions:
            subscription.put(event)

    def end(self, error: ZeitgeistError) -> None:
        """The node stopped."""
        for subscription in self.subscriptions:
            subscription.end(error)
