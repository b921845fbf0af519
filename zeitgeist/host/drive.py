"""The loop around a core's step: inputs in, effects out into the world, in their order (DESIGN §2).

Law: it decides nothing. One input is one step, taken at once on the event loop's thread and recorded; whatever a step
causes comes back as an input of its own, after the step. Payloads are released last, so that a step may send what it
lets go. A link that we close ourselves is not told as down. If the core raises, the input is recorded, and the drive
ends: nothing runs on a state that nobody understands.
"""

import asyncio
import os
from collections import deque
from typing import Protocol

from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.effects import (
    Call,
    CallDone,
    Command,
    Dialled,
    Effects,
    Expect,
    FrameArrived,
    FrameRefused,
    Input,
    LinkDown,
    LinkUp,
    Persist,
    Release,
    Send,
    Sending,
    TimerFired,
)
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.ids import Handle, LinkId, Ticket
from zeitgeist.core.recording import Subject
from zeitgeist.core.trace import Event, SessionMoved
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.chunks import Assembler
from zeitgeist.core.wire.frame import BULK, Channel, Flag, Frame, frame_header
from zeitgeist.core.wire.payload import join_payload, split_payload
from zeitgeist.core.wire.registry import CHUNK_KIND
from zeitgeist.host.clock import Clock
from zeitgeist.host.payloads import Payloads, reason_of
from zeitgeist.host.recorder import RecordingFile
from zeitgeist.transports.base import Bytes, Link

__all__ = ["Drive", "World"]

CHANNELS = tuple(Channel)
STRANGERS = ("greeting", "challenged", "proving", "closed")
INLINE_BYTES = 1 << 20
"""Digests of payloads up to 1 MiB (0.25 ms) are made at once, larger ones in a thread: control must not wait."""


class World(Protocol):
    """What a drive cannot do by itself."""

    def call(self, call: Call) -> None:
        """Begin it; its answer is told later."""
        ...

    def persist(self, persist: Persist) -> None:
        """Keep a record; the same."""
        ...

    def event(self, event: Event) -> None:
        """Something happened that an application may want to know."""
        ...

    def ended(self, link: LinkId, reason: str) -> None:
        """A connection ended that we did not close. Tells `LinkDown`, now or when it knows why."""
        ...

    def crashed(self, error: Exception) -> None:
        """The core raised."""
        ...


class Drive:
    """One node or worker that runs."""

    def __init__(
        self, subject: Subject, world: World, payloads: Payloads, recording: RecordingFile | None = None
    ) -> None:
        self.subject, self.world, self.payloads, self.recording = subject, world, payloads, recording
        self.loop = asyncio.get_running_loop()
        self.clock = Clock()
        self.inputs: deque[Input] = deque()
        self.links: dict[LinkId, Link] = {}
        self.numbers: dict[Link, LinkId] = {}
        self.judges: set[asyncio.Task[None]] = set()
        self.last_link = 0
        self.running = self.stopped = False
        self.wake_at: Instant | None = None
        self.alarm: asyncio.TimerHandle | None = None

    # ---- the loop

    def tell(self, input: Input) -> None:
        """One step, now; inside another step, right after it. A command that may not be is raised to who told it."""
        self.inputs.append(input)
        if self.running:
            return
        self.running = True
        try:
            while self.inputs and not self.stopped:
                self.step(self.inputs.popleft())
        finally:
            self.running = False

    def step(self, input: Input) -> None:
        """The input in, its effects out."""
        now = self.clock.now()
        try:
            effects = self.subject.step(input, now)
        except Exception as error:
            if self.recording:
                self.recording.crashed(now, input, error)
            if isinstance(error, LocalProtocolError) and isinstance(input, Command):
                raise  # what the application may not do is its own fault, and changed nothing
            self.stopped = True
            self.world.crashed(error)
            return
        if self.recording:
            self.recording.note(now, input, effects)
        self.honour(effects)

    def honour(self, effects: Effects) -> None:
        """Do what the step wants, in order."""
        for persist in effects.persist:
            self.world.persist(persist)
        for op in effects.payloads:
            if isinstance(op, Expect):
                self.payloads.expect(op)
                if not op.envelope.chunk_count:
                    self.whole(op.link, op.stream)
        for sending in effects.send:
            self.send(sending)
        for op in effects.payloads:
            if isinstance(op, Release):
                self.payloads.release(op)
        for close in effects.close:
            self.close(close.link)
        for call in effects.calls:
            self.world.call(call)
        for event in effects.events:
            if isinstance(event, SessionMoved) and event.after not in STRANGERS and event.link in self.links:
                self.links[event.link].trust()
            self.world.event(event)
        self.wake(effects.wake_at)

    def wake(self, wake_at: Instant | None) -> None:
        """Ring when wake_at has come. One alarm at most: a later wish waits for the earlier alarm."""
        self.wake_at = wake_at
        if wake_at is None:
            return
        when = self.loop.time() + self.clock.seconds_until(wake_at)
        if self.alarm is not None and self.alarm.when() > when:
            self.alarm.cancel()
            self.alarm = None
        if self.alarm is None:
            self.alarm = self.loop.call_at(when, self.rung)

    def rung(self) -> None:
        """The alarm: tell it if it is still wanted, else set the next."""
        self.alarm = None
        if self.wake_at is None or self.stopped:
            return
        if self.wake_at <= self.clock.now():
            self.tell(TimerFired())
        else:
            self.wake(self.wake_at)

    def stop(self) -> None:
        """No further step; connections end at once."""
        self.stopped = True
        if self.alarm:
            self.alarm.cancel()
        for task in self.judges:
            task.cancel()
        for link in list(self.links.values()):
            link.abort()
        if self.recording:
            self.recording.close()

    # ---- links

    def up(self, link: Link, lane: Lane, ticket: Ticket | None = None) -> LinkId:
        """A connection stands. ticket: of the call that made it."""
        self.last_link += 1
        number = LinkId(self.last_link)
        self.links[number], self.numbers[link] = link, number
        self.tell(LinkUp(link=number, lane=lane, facts=link.facts, ticket=ticket or Ticket(0)))
        if ticket:
            self.tell(CallDone(ticket=ticket, result=Dialled(link=number)))
        if number in self.links:
            link.start(self)
        return number

    def down(self, link: Link, reason: str) -> None:
        """A connection is gone."""
        number = self.numbers.pop(link, None)
        if number is not None:
            del self.links[number]
            self.payloads.link_down(number)
            if not self.stopped:
                self.world.ended(number, reason)

    def close(self, number: LinkId) -> None:
        """Close what the core wants closed, once it has sent what it took."""
        link = self.links.pop(number, None)
        if link is not None:
            del self.numbers[link]
            self.payloads.link_down(number)
            link.close()

    def refused(self, link: Link, error: ZeitgeistError) -> None:
        """The link's bytes are no frames."""
        number = self.numbers.get(link)
        if number is not None:
            self.tell(FrameRefused(link=number, reason=reason_of(error)))

    # ---- frames out

    def send(self, sending: Sending) -> None:
        """Put a frame on its link. A link that is gone takes it and says nothing, as a socket's buffer does."""
        link = self.links.get(sending.link)
        if link is None:
            return
        channel, more = CHANNELS[sending.channel], ()
        if isinstance(sending, Send):
            payload, kind, flags = join_payload(channel, sending.record), sending.kind, Flag(sending.flags)
            if sending.content is not None:
                more = (self.payloads.get(sending.content.handle),)
        else:
            payload, view = self.payloads.cut(sending)
            kind, flags, more = CHUNK_KIND, Flag(0), (view,)
        frame = Frame(
            channel=channel, kind=kind, stream=sending.stream, sequence=sending.sequence, flags=flags, payload=payload
        )
        parts: list[Bytes] = [frame_header(frame, *more) + payload, *more]
        link.send(parts)

    # ---- frames in

    def frame(self, link: Link, frame: Frame, fd: int | None) -> None:
        """A whole frame. A descriptor beside it has no meaning between nodes."""
        number = self.numbers.get(link)
        if fd is not None:
            os.close(fd)
        if number is None:
            return
        if frame.channel in BULK and frame.kind == CHUNK_KIND:
            self.chunk(number, frame)
            return
        try:
            record, content = split_payload(frame.channel, frame.payload)
            held = self.payloads.put(content) if content.nbytes else None
        except ZeitgeistError as error:
            self.tell(FrameRefused(link=number, reason=reason_of(error)))
            return
        self.tell(
            FrameArrived(
                link=number,
                channel=int(frame.channel),
                kind=frame.kind,
                flags=int(frame.flags),
                stream=frame.stream,
                sequence=frame.sequence,
                record=bytes(record),
                content=held,
            )
        )

    def chunk(self, number: LinkId, frame: Frame) -> None:
        """A chunk, and the whole when it was the last."""
        self.tell(self.payloads.arrived(number, frame))
        self.whole(number, frame.stream)

    def whole(self, number: LinkId, stream: int) -> None:
        """Judge a payload that has become whole. One without chunks is whole when it is expected."""
        if (whole := self.payloads.completed(number, stream)) is None:
            return
        handle, assembler = whole
        if assembler.envelope.length <= INLINE_BYTES:
            self.judged(handle, finished(assembler))
            return
        task = self.loop.create_task(self.judge(handle, assembler))
        self.judges.add(task)
        task.add_done_callback(self.judges.discard)

    async def judge(self, handle: Handle, assembler: Assembler) -> None:
        self.judged(handle, await asyncio.to_thread(finished, assembler))

    def judged(self, handle: Handle, found: memoryview | ZeitgeistError) -> None:
        if (verdict := self.payloads.judged(handle, found)) is not None:
            self.tell(verdict)

    def link_down(self, number: LinkId, reason: str) -> None:
        """Tell that a connection ended."""
        self.tell(LinkDown(link=number, reason=reason[:1000]))


def finished(assembler: Assembler) -> memoryview | ZeitgeistError:
    """The whole, or what is wrong with it."""
    try:
        return assembler.finish()
    except ZeitgeistError as error:
        return error
