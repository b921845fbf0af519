"""The parent's end of a worker's socket, for programs without a node: negotiate as dialler, then call (I13).

Law: the session is the core's own machine, the gate the core's own gate; here is no second reading of the protocol.
What the worker says wrong is raised as `Lie`; what it refuses in words, as the error that it names. Blocking, with a
deadline for each wait.
"""

import os
import time
from collections.abc import Callable

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.node import NodeConfig, Times
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.effects import Boot, FrameArrived, LinkUp, Send
from zeitgeist.core.errors import REGISTRY, LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.core.facts import PeerUp
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.gate import Gate
from zeitgeist.core.ids import Digest, ErrorId, LinkId, NodeId
from zeitgeist.core.outbox import Counters, Outbox
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.trace import PeerRefused
from zeitgeist.core.units import Instant, Nanoseconds
from zeitgeist.core.wire.messages import Call, CancelCall, Reason, Reply
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.core.wire.registry import Machine
from zeitgeist.host.channel import Channel, ChannelClosed

__all__ = ["Lie", "LocalPort", "rebuilt"]

LINK = LinkId(1)
PARENT = NodeId("parent")


class Lie(Exception):
    """What the worker sent instead of what was due."""


class LocalPort:
    """One session with one worker. Calls and replies are for one thread at a time, cancels for any that locks.

    machines: whose records are heard.
    """

    def __init__(
        self, channel: Channel, cluster: str, handshake_s: float, machines: tuple[Machine, ...] = ("session", "call")
    ) -> None:
        self.channel = channel
        config = NodeConfig(
            node=PARENT,
            cluster=cluster,
            roles=("coordinator",),
            auth=AuthConfig(modes=("none",), local_trust=("trusted_executor",)),
            times=Times(handshake_ns=Nanoseconds(int(handshake_s * 1e9))),
        )
        boot = Boot(core=Digest(""), config=config, epoch=time.time_ns(), seed=os.urandom(32))
        self.sessions = Sessions(boot)
        self.gate = Gate(machines)
        self.counters = Counters()
        self.peer: PeerUp | None = None
        self.began = time.monotonic_ns()

    def shake(self, deadline: float) -> PeerUp:
        """The five phases. What the worker declared, once both are ready.

        Errors: what it refuses, `Lie`, `ChannelClosed`, `ChannelTimeout`.
        """
        facts = LinkFacts(transport="process", inbound=False, loopback=True, address="worker")
        up = LinkUp(link=LINK, lane="local", facts=facts)
        self.step(lambda now, out: self.sessions.told(up, now, out), deadline)
        while self.peer is None:
            if self.hear(deadline) is not None:
                raise Lie("a reply before the session was ready")
        return self.peer

    def call(self, number: int, content: bytes, fd: int | None, deadline: float) -> None:
        """Send a call with its request, and fd beside it. Errors: `zg/wire/frame-too-large` before a byte is sent."""
        sequences = dict(self.counters.sequences)
        try:
            self.say(Call(number=number), number, content, fd, deadline)
        except LocalProtocolError:
            self.counters.sequences = sequences  # the frame was never sent: its number goes to the next
            raise

    def cancel(self, number: int, deadline: float) -> None:
        """Ask to stop a call. It has no reply of its own."""
        self.say(CancelCall(number=number), number, b"", None, deadline)

    def say(self, record: Record, stream: int, content: bytes, fd: int | None, deadline: float) -> None:
        out = Outbox(self.counters)
        out.frame(LINK, record, stream=stream)
        for send in out.sends:
            assert isinstance(send, Send), "frames alone"
            self.channel.send(send, content, fd, deadline)

    def reply(self, deadline: float) -> tuple[Reply, memoryview, int | None]:
        """(record, content, descriptor) of the next reply; the caller closes the descriptor."""
        while (heard := self.hear(deadline)) is None:
            pass
        return heard

    # ---- the session

    def hear(self, deadline: float) -> tuple[Reply, memoryview, int | None] | None:
        """One frame: a reply, or None for a word of the session, which was taken care of."""
        try:
            frame, fd = self.channel.receive(deadline)
        except RemoteProtocolError as error:
            raise Lie(str(error)) from error
        try:
            record, content = split_payload(frame.channel, frame.payload)
            arrived = FrameArrived(
                link=LINK,
                channel=int(frame.channel),
                kind=frame.kind,
                flags=int(frame.flags),
                stream=frame.stream,
                sequence=frame.sequence,
                record=bytes(record),
            )
            heard = self.admitted(arrived, deadline)
            if isinstance(heard, Reply):
                keep, fd = fd, None
                return heard, content, keep
            return None
        except RemoteProtocolError as error:
            raise Lie(str(error)) from error
        finally:
            if fd is not None:
                os.close(fd)

    def admitted(self, arrived: FrameArrived, deadline: float) -> Reply | None:
        """Through the gate, and to the session what is the session's."""
        standing = self.sessions.standing(LINK)
        if standing is None:
            raise ChannelClosed("the session is over")
        admitted = self.gate.frame(arrived, standing)
        if isinstance(admitted, Reason):
            raise Lie(f"{admitted.field}: {admitted.detail} [{admitted.id}]")
        if admitted.machine == "session":
            self.step(lambda now, out: self.sessions.hear(admitted.heard, now, out), deadline)
            return None
        if not isinstance(admitted.heard.record, Reply):
            raise Lie(f"a {type(admitted.heard.record).__name__}, which only a parent says")
        return admitted.heard.record

    def step(self, do: Callable[[Instant, Outbox], None], deadline: float) -> None:
        """One step of the session: what it sends, what it concludes."""
        out = Outbox(self.counters)
        do(Instant(time.monotonic_ns() - self.began), out)
        for send in out.sends:
            assert isinstance(send, Send), "a session sends no chunks"
            self.channel.send(send, deadline=deadline)
        for event in out.events:
            if isinstance(event, PeerRefused):
                raise self.refusal(event)
        for fact in out.facts:
            if isinstance(fact, PeerUp):
                self.peer = fact
        if out.closes:
            raise ChannelClosed(out.closes[0].reason)

    def refusal(self, event: PeerRefused) -> Exception:
        """Ours: the worker said what no session allows. Its own: what it could not do, in its words."""
        if event.ours:
            return Lie("; ".join(f"{reason.field}: {reason.detail} [{reason.id}]" for reason in event.reasons))
        return rebuilt(event.reasons[0])


def rebuilt(refusal: Reason) -> ZeitgeistError:
    """The worker's error, of the class its row says; an id that the registry lacks is a lie."""
    spec = REGISTRY.get(ErrorId(refusal.id))
    if spec is None:
        raise Lie(f"an error id that does not exist: {refusal.id[:80]}")
    kinds = {"peer": RemoteProtocolError, "caller": LocalProtocolError}
    return kinds.get(spec.fault, ZeitgeistError)(refusal.id, refusal.detail, refusal.field)
