"""One simulated party: the loop around a core's step, with links, payloads, disk and calls of a world that is made up.

Law: it decides nothing (DESIGN §2). A step's effects are honoured in their order; payloads are released after sending,
so that a step may send what it lets go. Whatever answers comes back as an input of its own, later. One party never
calls another: between them is the network.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, assert_never

import msgspec
import xxhash

from sim.backend import Engine
from sim.heap import Kernel, Later
from sim.network import Side
from sim.payloads import Payloads, reason_of
from sim.record import TraceFile
from sim.signing import Keyring
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.effects import (
    Boot,
    Call,
    CallDone,
    CallFailed,
    Command,
    Compute,
    Dial,
    Dialled,
    Effects,
    Expect,
    FrameArrived,
    FrameRefused,
    Input,
    Interrupt,
    KillWorker,
    LinkDown,
    LinkUp,
    Persist,
    Persisted,
    PlanCall,
    Release,
    Result,
    Send,
    SendChunk,
    Sending,
    Sign,
    StartWorker,
    TimerFired,
    Verify,
    WallClock,
)
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import LinkId, Ticket
from zeitgeist.core.recording import Subject, TraceDigest
from zeitgeist.core.trace import Event
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import BULK, Channel, Flag, Frame, FrameDecoder, encode_frame
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.wire.payload import join_payload, split_payload
from zeitgeist.core.wire.registry import CHUNK_KIND

__all__ = ["Application", "Durations", "Party", "Step", "World"]

CHANNELS = tuple(Channel)
FLAGS = tuple(Flag(bits) for bits in range(16))
NO_FLAGS = FLAGS[0]
CROWD_MAX = 100_000
"""Steps of one party at one instant. 16 GiB of chunks at once are a sixth of that; a loop without time is more."""


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long a host takes for what is not the network. sync: one fsync; compute: one call of an engine."""

    sign_ns: int = 100_000
    plan_ns: int = 1_000_000
    sync_ns: int = 1_000_000
    start_worker_ns: int = 200_000_000
    compute_ns: int = 2_000_000
    dial_ns: int = 5_000_000_000


class Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One step of a run, as runs are compared. at: simulation time; now: the party's; number from 0; input: its type;
    told: digest of the input; did: digest of the effects."""

    at: int
    party: str
    number: int
    now: int
    input: str
    told: bytes
    did: bytes


class Application(Protocol):
    """Who uses a node: hears its events."""

    def hear(self, event: Event, party: "Party") -> None:
        """One event, in order. May plan commands for later, never now."""
        ...


class World(Protocol):
    """What a party asks of the run it is in."""

    kernel: Kernel
    durations: Durations
    delivered: int
    log: list[Step] | None

    def dial(self, party: "Party", call: Dial) -> None:
        """Open a connection."""
        ...

    def start_worker(self, party: "Party", call: StartWorker) -> None:
        """Start a worker."""
        ...

    def kill_worker(self, side: Side) -> None:
        """End the worker behind side."""
        ...

    def plan(self, snapshot: bytes) -> Result | Reason:
        """Run the planner."""
        ...

    def facts(self, side: Side) -> LinkFacts:
        """What a host would know of this connection."""
        ...


class Party:
    """A node or a worker that runs. Born at a simulated instant, from which its own clock counts."""

    def __init__(
        self,
        world: World,
        name: str,
        config: NodeConfig,
        application: Application | None = None,
        engine: Callable[[Payloads], Engine] | None = None,
    ) -> None:
        self.world = world
        self.kernel = world.kernel
        self.name = name
        self.config = config
        self.application = application
        self.payloads = Payloads(config.transfer_bytes_max)
        self.engine = engine(self.payloads) if engine else None
        self.keys = Keyring(config)
        self.durable: dict[str, bytes] = {}
        self.sides: dict[LinkId, Side] = {}
        self.decoders: dict[LinkId, FrameDecoder] = {}
        self.links = 0
        self.made = 0
        self.born = 0
        self.steps = 0
        self.told_at = -1
        self.crowd = 0
        self.alive = False
        self.refusals: list[tuple[int, LinkId, str]] = []
        self.wake_at: int | None = None
        self.alarm: int | None = None
        self.trace = TraceDigest()
        self.file: TraceFile | None = None
        self.core: Subject

    # ---- the loop

    def boot(self, core: Subject, first: Boot, clock: WallClock, file: TraceFile | None = None) -> None:
        """Start: the boot input, then the wall clock."""
        self.core, self.file, self.alive, self.born = core, file, True, self.kernel.now
        if file:
            self.trace = file.recorder.trace
        self.tell(first)
        self.tell(clock)

    def tell(self, input: Input) -> None:
        """One step: the input in, its effects out into the world."""
        if not self.alive:
            return
        now = Instant(self.kernel.now - self.born)
        self.crowd = self.crowd + 1 if now == self.told_at else 0
        self.told_at = now
        if self.crowd > CROWD_MAX:
            raise ZeitgeistError("zg/sim/stuck", f"{self.crowd} steps at {now} ns, {type(input).__name__}", self.name)
        try:
            effects = self.core.step(input, now)
        except Exception as error:
            self.crashed(now, input, error)
            raise
        if self.file:
            self.file.note(now, input, effects)
        else:
            self.trace.add(now, effects)
        if self.world.log is not None:
            self.world.log.append(self.step_of(now, input, effects))
        self.steps += 1
        self.honour(effects)

    def crashed(self, now: Instant, input: Input, error: Exception) -> None:
        """The step raised. What a command of a caller may not do is the caller's; anything else ends the run."""
        if self.file:
            self.file.crashed(now, input, error)
        if isinstance(error, LocalProtocolError) and isinstance(input, Command):
            return
        self.finish()
        what = f"step {self.steps} at {now} ns, {type(input).__name__}: {type(error).__name__}: {error}"
        raise ZeitgeistError("zg/sim/core-crashed", what, self.name) from error

    def step_of(self, now: Instant, input: Input, effects: Effects) -> Step:
        """The step, for comparisons."""
        return Step(
            at=self.kernel.now,
            party=self.name,
            number=self.steps,
            now=now,
            input=type(input).__name__,
            told=xxhash.xxh3_128_digest(encode(input)),
            did=xxhash.xxh3_128_digest(encode(effects)),
        )

    def honour(self, effects: Effects) -> None:
        """Do what the step wants, in order."""
        for persist in effects.persist:
            self.persist(persist)
        for op in effects.payloads:
            if isinstance(op, Expect):
                self.payloads.apply(op)
                if not op.envelope.chunk_count:
                    self.later(0, partial(self.whole, op.link, op.stream), f"empty {op.stream}")
        for sending in effects.send:
            self.send(sending)
        for op in effects.payloads:
            if op.__class__ is Release:
                self.payloads.apply(op)
        for close in effects.close:
            self.close(close.link, close.reason)
        for call in effects.calls:
            self.call(call)
        if self.application:
            for event in effects.events:
                self.application.hear(event, self)
        self.wake_at = wake_at = effects.wake_at
        if wake_at is not None and (self.alarm is None or wake_at < self.alarm):
            self.wake(wake_at)

    def wake(self, wake_at: int) -> None:
        """Plan an alarm. A later wish than the alarm that is planned waits for that one to ring."""
        now = self.kernel.now - self.born
        alarm = self.alarm = max(wake_at, now)
        self.later(alarm - now, lambda: self.rung(alarm), f"alarm {alarm}")

    def rung(self, alarm: int) -> None:
        """An alarm: tell it if it is still wanted, else plan the next."""
        if self.alarm != alarm:
            return
        self.alarm = None
        if self.wake_at is None:
            return
        if self.wake_at <= alarm:
            self.tell(TimerFired())
        else:
            self.wake(self.wake_at)

    def later(self, after_ns: int, call: Callable[[], None], about: str) -> None:
        """Plan a call of this party's world."""
        self.made += 1
        self.kernel.at(self.kernel.now + after_ns, Later(call, f"{self.name} {about}"))

    # ---- links

    def link_up(self, side: Side) -> None:
        """A connection stands."""
        self.links += 1
        side.link = LinkId(self.links)
        self.sides[side.link] = side
        self.decoders[side.link] = FrameDecoder()
        ticket = Ticket(side.ticket)
        self.tell(LinkUp(link=side.link, lane=side.lane, facts=self.world.facts(side), ticket=ticket))
        if ticket:
            self.tell(CallDone(ticket=ticket, result=Dialled(link=side.link)))

    def link_down(self, side: Side, reason: str) -> None:
        """A connection is gone that we did not close."""
        if self.sides.pop(side.link, None):
            self.decoders.pop(side.link, None)
            self.tell(LinkDown(link=side.link, reason=reason))

    def dial_failed(self, ticket: int, reason: str) -> None:
        """Nobody answered."""
        failure = Reason(id="zg/transport/dial-failed", detail=reason, field="address")
        self.tell(CallFailed(ticket=Ticket(ticket), reason=failure))

    def close(self, link: LinkId, reason: str) -> None:
        """End a connection behind what was sent on it. That it is down is told, as of any other."""
        side = self.sides.pop(link, None)
        if side:
            self.decoders.pop(link, None)
            side.close()
            self.later(0, lambda: self.tell(LinkDown(link=link, reason=f"closed here: {reason}")), f"closed {link}")

    def send(self, sending: Sending) -> None:
        """Put a frame on its link. One that is gone takes it and says nothing, as a socket's buffer does."""
        side = self.sides.get(sending.link)
        if side is None:
            return
        channel = CHANNELS[sending.channel]
        match sending:
            case Send(kind=kind, flags=bits, content=content):
                flags, payload = FLAGS[bits], join_payload(channel, sending.record)
                if content is not None:
                    payload = b"".join((payload, self.payloads.get(content.handle)))
            case SendChunk():
                kind, flags, payload = CHUNK_KIND, NO_FLAGS, self.payloads.cut(sending)
            case _:
                assert_never(sending)
        stream, sequence = sending.stream, sending.sequence
        frame = Frame(channel=channel, kind=kind, flags=flags, stream=stream, sequence=sequence, payload=payload)
        side.send(encode_frame(frame))

    def bytes_in(self, side: Side, data: bytes) -> None:
        """Bytes of a link: whole frames become inputs; damage is told once."""
        decoder = self.decoders.get(side.link)
        if decoder is None or decoder.refusal:
            return
        try:
            for frame in decoder.feed(data):
                if side.open:
                    self.frame_in(side.link, frame)
        except ZeitgeistError as error:
            if not decoder.refusal and error.id != "zg/wire/bad-payload":
                raise
            self.refusals.append((self.kernel.now, side.link, error.id))
            self.tell(FrameRefused(link=side.link, reason=reason_of(error)))

    def whole(self, link: LinkId, stream: int) -> None:
        """Tell about a payload that has become whole. One without chunks is whole when it is expected."""
        if verdict := self.payloads.whole(link, stream):
            self.tell(verdict)

    def frame_in(self, link: LinkId, frame: Frame) -> None:
        """One sound frame."""
        self.world.delivered += 1
        if frame.channel in BULK and frame.kind == CHUNK_KIND:
            self.tell(self.payloads.arrived(link, frame))
            self.whole(link, frame.stream)
            return
        record, content = split_payload(frame.channel, frame.payload)
        self.tell(
            FrameArrived(
                link=link,
                channel=int(frame.channel),
                kind=frame.kind,
                flags=int(frame.flags),
                stream=frame.stream,
                sequence=frame.sequence,
                record=bytes(record),
                content=self.payloads.put(bytes(content)) if content else None,
            )
        )

    # ---- what takes time

    def persist(self, wish: Persist) -> None:
        """Write. What is sync survives when it is told; what is lazy is written at the same pace and told to nobody."""

        def written() -> None:
            self.durable.pop(wish.key, None)
            if wish.value:  # an empty one lets the key go
                self.durable[wish.key] = wish.value
            if wish.sync:
                self.tell(Persisted(ticket=wish.ticket))

        self.later(self.world.durations.sync_ns, written, f"persist {wish.ticket}")

    def answer(self, after_ns: int, ticket: Ticket, result: Result | Reason) -> None:
        """Tell the answer of a call, later."""
        if isinstance(result, Reason):
            told: Input = CallFailed(ticket=ticket, reason=result)
        else:
            told = CallDone(ticket=ticket, result=result)
        self.later(after_ns, lambda: self.tell(told), f"answer {ticket}")

    def call(self, call: Call) -> None:
        """Begin a call."""
        durations = self.world.durations
        match call:
            case Sign():
                self.answer(durations.sign_ns, call.ticket, self.keys.sign(call))
            case Verify():
                self.answer(durations.sign_ns, call.ticket, self.keys.verify(call))
            case PlanCall():
                self.answer(durations.plan_ns, call.ticket, self.world.plan(call.snapshot))
            case Dial():
                self.world.dial(self, call)
            case StartWorker():
                self.world.start_worker(self, call)
            case KillWorker():
                if side := self.sides.get(call.link):
                    self.world.kill_worker(side)
            case Compute():
                assert self.engine, f"{self.name} has no engine"
                engine = self.engine
                self.later(
                    durations.compute_ns,
                    lambda: self.tell(CallDone(ticket=call.ticket, result=engine.compute(call))),
                    f"compute {call.ticket}",
                )
            case Interrupt():
                pass  # The synthetic engine is between two chunks at all times: its answer is on its way.
            case _:
                assert_never(call)

    def finish(self) -> None:
        """The run is over: the recording is whole."""
        file, self.file = self.file, None
        if file:
            file.close()

    def stop(self) -> None:
        """The process is gone: it says nothing more, and its connections end."""
        self.alive = False
        for side in self.sides.values():
            side.close()
        self.sides.clear()
        self.decoders.clear()
