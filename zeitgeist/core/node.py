"""The node: one input in, the effects of one step out (DESIGN §2, `docs/spec/door.md`).

Law: `Boot` first and once; time never goes back; the same inputs at the same times give the same effects. The node
decides nothing by itself: it passes frames through the gate, hands inputs, answers and facts to their machines until
all is quiet, and says when it wants to be woken. It is the only class that a driver needs.
"""

from collections.abc import Callable
from typing import assert_never

import blake3
import msgspec

from zeitgeist.core import effects as e
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.facts import HEARS, Draining, Listener
from zeitgeist.core.gate import WRONG_SEQUENCE, Gate, fault_of
from zeitgeist.core.ids import Digest, LinkId, NodeId, Ticket
from zeitgeist.core.job.machine import Jobs
from zeitgeist.core.machine import Links, Machine
from zeitgeist.core.outbox import Counters, Outbox, Standing
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.supervise import Supervisor
from zeitgeist.core.trace import Drained, MessageRefused
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.wire.registry import CHUNK_KIND

__all__ = ["Machines", "Node"]


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a node. Facts know them by these names; a table row's machine has the same."""

    session: Links
    transfer: Machine
    job: Machine
    supervise: Machine


def machines_of(boot: e.Boot) -> Machines:
    """The real ones."""
    return Machines(session=Sessions(boot), transfer=Transfers(boot), job=Jobs(boot), supervise=Supervisor(boot))


class Node:
    """One party of the protocol, mutable and deterministic. make: how a boot becomes machines (tests put others in)."""

    def __init__(self, make: Callable[[e.Boot], Machines] = machines_of) -> None:
        self.make = make
        self.counters = Counters()
        self.gate = Gate(("session", "transfer", "job"))
        self.machines: dict[Listener, Machine] = {}
        self.links: Links | None = None
        self.askers: dict[Ticket, Listener] = {}
        self.due: dict[Listener, Instant | None] = {}
        self.drain_reason: str | None = None
        self.now = Instant(0)

    def step(self, input: e.Input, now: Instant) -> e.Effects:
        """Tell the node one thing at now. What the caller may not do is a `LocalProtocolError` and changes nothing."""
        if (input.__class__ is e.Boot) == bool(self.machines):
            got, wanted = type(input).__name__, "no second Boot" if self.machines else "Boot first"
            raise LocalProtocolError("zg/node/boot-once", f"got {got}, wanted {wanted}", "input")
        if now < self.now:
            raise LocalProtocolError("zg/node/time-went-back", f"got {now}, wanted at least {self.now}", "now")
        self.now = now
        out = Outbox(self.counters)
        self.route(input, now, out)
        self.spread(now, out)
        if self.drain_reason is not None:
            self.rest(now, out)
        for close in out.closes:  # a link that we close is never told as down
            self.forget(close.link)
        return out.effects(self.deadline())

    def state_digest(self) -> Digest:
        """Digest of all that the node holds: equal for two nodes that will do the same from here on."""
        parts = [msgspec.msgpack.encode((name, machine.state())) for name, machine in self.machines.items()]
        counters = (self.counters.ticket, self.counters.handle, sorted(self.counters.sequences.items()))
        own = (self.now, self.drain_reason, counters, sorted(self.gate.next.items()), sorted(self.askers.items()))
        return Digest("blake3:" + blake3.blake3(msgspec.msgpack.encode((own, parts))).hexdigest())

    # ---- one step

    def route(self, input: e.Input, now: Instant, out: Outbox) -> None:
        """Give input to its machine."""
        match input:
            case e.FrameArrived():
                self.frame(input, now, out)
            case e.ChunkArrived():
                self.chunk(input, now, out)
            case e.CallDone(ticket=ticket, result=result):
                self.answer(ticket, result, now, out)
            case e.Persisted(ticket=ticket):
                self.answer(ticket, None, now, out)
            case e.PersistFailed(ticket=ticket, reason=text):
                self.answer(ticket, Reason(id="zg/node/not-persisted", detail=text[:1000]), now, out)
            case e.CallFailed(ticket=ticket, reason=reason):
                self.answer(ticket, reason, now, out)
            case e.TimerFired():
                for name, machine in self.machines.items():
                    machine.expire(now, out)
                    self.claim(name, out)
            case e.SubmitCommand() | e.CancelCommand() | e.TakenCommand():
                self.tell("job", input, now, out)
            case e.SendCommand() | e.PayloadReady() | e.PayloadCorrupt():
                self.tell("transfer", input, now, out)
            case e.LinkUp() | e.WallClock():
                self.tell("session", input, now, out)
            case e.LinkDown():
                self.link_down(input, now, out)
            case e.FrameRefused():
                self.refused(input.link, DAMAGE, input.reason, self.standing(input.link), None, now, out)
            case e.DrainCommand(reason=text):
                self.drain_reason = text[:200]
                out.facts.append(Draining(peer=NodeId(""), reason=text))
            case e.Measured():
                pass  # Nothing weighs a measurement yet; it stands in the recording.
            case e.Boot():
                self.boot(input, now, out)
            case _:
                assert_never(input)

    def spread(self, now: Instant, out: Outbox) -> None:
        """Facts to the machines of their rows, in the order in which they came, until there are none."""
        at = 0
        while at < len(out.facts):
            fact = out.facts[at]
            at += 1
            for name in HEARS[type(fact)]:
                self.machines[name].fact(fact, now, out)
                self.claim(name, out)
        out.facts.clear()

    def rest(self, now: Instant, out: Outbox) -> None:
        """Close all links once no machine has anything under way, and say so."""
        if self.links is None or not all(machine.idle() for machine in self.machines.values()):
            return
        self.links.part(out)
        self.claim("session", out)
        self.spread(now, out)
        out.events.append(Drained(reason=self.drain_reason or ""))
        self.drain_reason = None

    def deadline(self) -> Instant | None:
        """The least of all machines'. Each was asked when it last ran (`claim`)."""
        least: Instant | None = None
        for due in self.due.values():
            if due is not None and (least is None or due < least):
                least = due
        return least

    # ---- inputs

    def boot(self, boot: e.Boot, now: Instant, out: Outbox) -> None:
        """Make the machines; the sessions first, since the others rely on what they say."""
        made = self.make(boot)
        self.links = made.session
        self.machines = {
            "session": made.session,
            "transfer": made.transfer,
            "job": made.job,
            "supervise": made.supervise,
        }
        for name in self.machines:
            self.tell(name, boot, now, out)

    def tell(self, name: Listener, input: e.Input, now: Instant, out: Outbox) -> None:
        self.machines[name].told(input, now, out)
        self.claim(name, out)

    def answer(self, ticket: Ticket, result: e.Result | Reason | None, now: Instant, out: Outbox) -> None:
        name = self.askers.pop(ticket, None)
        if name is None:
            raise LocalProtocolError("zg/node/unknown-ticket", f"got {ticket}, which nobody waits for", "ticket")
        self.machines[name].answer(ticket, result, now, out)
        self.claim(name, out)

    def claim(self, name: Listener, out: Outbox) -> None:
        """This machine ran: when it is due may have changed, and the tickets that appeared are its own."""
        self.due[name] = self.machines[name].deadline()
        if len(out.calls) > out.claimed_calls:
            for call in out.calls[out.claimed_calls :]:
                if not isinstance(call, e.Interrupt | e.KillWorker):
                    self.askers[call.ticket] = name
            out.claimed_calls = len(out.calls)
        if len(out.persists) > out.claimed_persists:
            for persist in out.persists[out.claimed_persists :]:
                if persist.sync:
                    self.askers[persist.ticket] = name
            out.claimed_persists = len(out.persists)

    def link_down(self, down: e.LinkDown, now: Instant, out: Outbox) -> None:
        self.forget(down.link)
        self.tell("session", down, now, out)

    def forget(self, link: LinkId) -> None:
        """Nothing more comes or goes on link: its sequences are of no use."""
        self.gate.forget(link)
        self.counters.sequences.pop(link, None)

    # ---- frames

    def frame(self, frame: e.FrameArrived, now: Instant, out: Outbox) -> None:
        """Through the gate to the machine of its row."""
        standing = self.standing(frame.link)
        if standing is None:
            self.refused(frame.link, frame.kind, UNKNOWN_LINK, None, frame.content, now, out)
            return
        admitted = self.gate.frame(frame, standing)
        if isinstance(admitted, Reason):
            self.refused(frame.link, frame.kind, admitted, standing, frame.content, now, out)
            return
        assert admitted.machine != "call", "a node has no calls"
        self.machines[admitted.machine].hear(admitted.heard, now, out)
        self.claim(admitted.machine, out)

    def chunk(self, chunk: e.ChunkArrived, now: Instant, out: Outbox) -> None:
        """The same for a chunk, whose bytes the driver judged."""
        standing = self.standing(chunk.link)
        fault = UNKNOWN_LINK if standing is None else self.gate.chunk(chunk, standing)
        if fault is None:
            self.tell("transfer", chunk, now, out)
        else:
            self.refused(chunk.link, CHUNK_KIND, fault, standing, None, now, out)

    def standing(self, link: LinkId) -> Standing | None:
        assert self.links is not None, "boot came first"
        return self.links.standing(link)

    def refused(
        self,
        link: LinkId,
        kind: int,
        reason: Reason,
        standing: Standing | None,
        content: e.PayloadRef | None,
        now: Instant,
        out: Outbox,
    ) -> None:
        """Say so; end what cannot go on: a handshake that breaks its rules, an order that is lost, damage."""
        peer = standing.peer if standing else NodeId("")
        out.events.append(MessageRefused(link=link, peer=peer, kind=kind, reason=reason))
        if content is not None:
            out.payloads.append(e.Release(handle=content.handle))
        if standing is None or (standing.state in LIVE and reason.id != WRONG_SEQUENCE and kind != DAMAGE):
            return
        assert self.links is not None, "boot came first"
        self.links.break_off(link, reason, now, out)
        self.claim("session", out)


LIVE = ("ready", "draining")
DAMAGE = 0
"""No kind has this number: what came was no frame."""
UNKNOWN_LINK = fault_of("zg/node/unknown-link", "link", "a frame", "a link that is up")
