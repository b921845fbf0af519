"""Calls: a parent asks its worker's engine, one answer a call (I1, I13; `docs/spec/workers.md`).

Law: numbers grow, so that no call is answered twice; each call is answered exactly once, by content or by a refusal;
first come, first served, and never more than `CALLS_MAX` wait. A cancel has no answer of its own: the call it stops is
answered `zg/backend/cancelled`, by the engine when it runs, here when it only waited. A call has no time of its own:
who asked knows how long it wants to wait. What a request says is the driver's business: this file sees a handle.
"""

from collections import deque
from typing import Final

import msgspec

from zeitgeist.core.effects import Compute, Computed, Interrupt, PayloadRef, Release, Result
from zeitgeist.core.facts import Fact, PeerDown
from zeitgeist.core.ids import LinkId, Ticket
from zeitgeist.core.machine import Machine
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.trace import MessageRefused
from zeitgeist.core.turns import Turns
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Call, CancelCall, Reason, Reply
from zeitgeist.core.wire.registry import KINDS

__all__ = ["CALLS_MAX", "Calls"]

CALLS_MAX: Final = 64
"""A parent of ours has one call in flight; 64 is room for a program that pipelines, each at most 1 MiB of content."""

CANCELLED = Reason(id="zg/backend/cancelled", detail="cancelled before the engine began", field="call")


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the engine has not begun."""

    place: int
    link: LinkId
    number: int
    content: PayloadRef


class Calls(Machine):
    """The calls of one worker. The engine runs at most one of them; `running` is its ticket."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.waiting: deque[Waiting] = deque()
        self.current: Waiting | None = None
        self.running = Ticket(0)
        self.interrupted = False
        self.last: dict[LinkId, int] = {}

    # ---- the machine's face

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """A call, or the cancel of one. A reply is what we send, never what we hear."""
        match frame.record:
            case Call():
                self.take(frame, frame.record.number, out)
            case CancelCall():
                self.cancel(frame.link, frame.record.number, out)
            case _:
                refuse_frame(frame, "wanted a call or its cancel", out)

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """Whoever asked is gone: nobody waits for answers any more."""
        if not isinstance(fact, PeerDown):
            return
        for call in [call for call in self.waiting if call.link == fact.link]:
            self.waiting.remove(call)
            out.payloads.append(Release(handle=call.content.handle))
        self.last.pop(fact.link, None)
        if self.current is not None and self.current.link == fact.link:
            self.interrupt(out)

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """The engine answered the running call, well or with its refusal."""
        assert ticket == self.running and self.current is not None, f"ticket {ticket} is not the running call's"
        call, self.current, self.running, self.interrupted = self.current, None, Ticket(0), False
        out.payloads.append(Release(handle=call.content.handle))
        if isinstance(result, Reason):
            result = Computed(refusal=result)
        assert isinstance(result, Computed), f"the engine answered {type(result).__name__}"
        if call.link in self.last:
            content = None if result.refusal is not None else result.content
            reply(call.link, call.number, out, refusal=result.refusal, content=content)
        if result.content is not None:
            out.payloads.append(Release(handle=result.content.handle))

    def state(self) -> bytes:
        """All of it, in the order in which it came."""
        held = [*([self.current] if self.current else []), *self.waiting]
        return msgspec.msgpack.encode((self.running, self.interrupted, held, list(self.last.items())), order="sorted")

    # ---- what the worker asks when the engine is free

    def oldest(self) -> int | None:
        """The place of the call that waits longest."""
        return self.waiting[0].place if self.waiting else None

    def start(self, out: Outbox) -> Ticket:
        """Give the oldest call to the engine."""
        self.current, self.running = self.waiting.popleft(), out.ticket()
        out.calls.append(Compute(ticket=self.running, op="request", content=self.current.content))
        return self.running

    # ---- cases

    def take(self, frame: Heard, number: int, out: Outbox) -> None:
        """Queue a call, or answer why not."""
        fault = ""
        if frame.content is None:
            fault = "no content, wanted a request"
        elif number <= self.last.get(frame.link, 0):
            fault = f"number {number} after {self.last[frame.link]}, wanted a larger one"
        self.last[frame.link] = max(number, self.last.get(frame.link, 0))
        if fault:
            refused = Reason(id="zg/worker/bad-request", detail=f"got {fault}", field="call")
        elif len(self.waiting) >= CALLS_MAX:
            refused = Reason(id="zg/worker/queue-full", detail=f"{CALLS_MAX} calls wait already", field="call")
        else:
            assert frame.content is not None
            place = self.turns.arrive()
            self.waiting.append(Waiting(place=place, link=frame.link, number=number, content=frame.content))
            return
        if frame.content is not None:
            out.payloads.append(Release(handle=frame.content.handle))
        reply(frame.link, number, out, refusal=refused)

    def cancel(self, link: LinkId, number: int, out: Outbox) -> None:
        """Stop the call if it is still here. One that was answered already crossed its answer: nothing to do."""
        if self.current is not None and (self.current.link, self.current.number) == (link, number):
            self.interrupt(out)
            return
        for call in self.waiting:
            if (call.link, call.number) == (link, number):
                self.waiting.remove(call)
                out.payloads.append(Release(handle=call.content.handle))
                reply(link, number, out, refusal=CANCELLED)
                return

    def interrupt(self, out: Outbox) -> None:
        """Ask the engine to stop, once."""
        if not self.interrupted:
            self.interrupted = True
            out.calls.append(Interrupt(ticket=self.running))


def reply(
    link: LinkId, number: int, out: Outbox, refusal: Reason | None = None, content: PayloadRef | None = None
) -> None:
    """Answer call number. An answer whose record would not encode never leaves: the reason was bounded by its type."""
    out.frame(link, Reply(number=number, refusal=refusal), stream=number, content=content)


def refuse_frame(frame: Heard, wanted: str, out: Outbox) -> None:
    """Note a record that a worker does not take, and let go of what came with it."""
    kind = KINDS[type(frame.record)].kind
    detail = f"got a {type(frame.record).__name__}, {wanted}"
    out.events.append(
        MessageRefused(
            link=frame.link,
            peer=frame.peer,
            kind=kind,
            reason=Reason(id="zg/worker/bad-request", detail=detail, field="record"),
        )
    )
    if frame.content is not None:
        out.payloads.append(Release(handle=frame.content.handle))
