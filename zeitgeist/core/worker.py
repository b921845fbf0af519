"""The worker: what runs beside one engine, behind the same door as a node (DESIGN §2, §5; `docs/spec/workers.md`).

Law: this file routes. An input goes to its machine, a frame through the gate first; facts go round until there are
none; then, if the engine is free, `Turns` says what it computes next, and one compute is given out. A worker dials
nobody and owns no job: whoever holds the other end of its one local link decides what it is for.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

import blake3
import msgspec

from zeitgeist.core import effects as e
from zeitgeist.core.calls import Calls
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.facts import HEARS, Draining, Listener
from zeitgeist.core.gate import WRONG_SEQUENCE, Admitted, Gate
from zeitgeist.core.generate.machine import Runs
from zeitgeist.core.ids import Digest, LinkId, NodeId, Ticket
from zeitgeist.core.machine import Links, Machine
from zeitgeist.core.outbox import Counters, Outbox
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.trace import MessageRefused
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.turns import Turns
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason

__all__ = ["Worker"]


class Worker:
    """One worker, mutable and deterministic. sessions, transfers: how a boot becomes them (tests put others in)."""

    def __init__(
        self, sessions: Callable[[e.Boot], Links] = Sessions, transfers: Callable[[e.Boot], Machine] = Transfers
    ) -> None:
        self.make_sessions, self.make_transfers = sessions, transfers
        self.counters = Counters()
        self.gate = Gate(("session", "transfer", "job", "call"))
        self.turns = Turns()
        self.owners: dict[Ticket, Machine] = {}
        self.computing: Ticket | None = None
        self.booted = False
        self.now = Instant(0)

    def step(self, input: e.Input, now: Instant) -> e.Effects:
        """One input, its effects. The Boot comes first, and once."""
        if isinstance(input, e.Boot) == self.booted:
            got, wanted = type(input).__name__, "no second Boot" if self.booted else "Boot first"
            raise LocalProtocolError("zg/node/boot-once", f"got {got}, wanted {wanted}", "input")
        if now < self.now:
            raise LocalProtocolError("zg/node/time-went-back", f"got {now}, wanted at least {self.now}", "now")
        self.now = now
        out = Outbox(self.counters)
        self.take(input, now, out)
        while out.facts:
            facts, out.facts = out.facts, []
            for fact in facts:
                for listener in HEARS[type(fact)]:
                    for machine in self.hearing.get(listener, ()):
                        machine.fact(fact, now, out)
        if self.computing is None:
            self.give_turn(out)
        if out.calls or out.persists:
            self.note_owners(out)
        return out.effects(self.wake_at())

    def state_digest(self) -> Digest:
        """Of all that it holds."""
        counters = (self.counters.ticket, self.counters.handle, sorted(self.counters.sequences.items()))
        own = (
            self.now,
            counters,
            sorted(self.gate.next.items()),
            self.turns.state(),
            self.computing,
            sorted(self.owners),
        )
        parts = [machine.state() for machine in self.machines]
        return Digest("blake3:" + blake3.blake3(msgspec.msgpack.encode((own, parts), order="sorted")).hexdigest())

    def boot(self, boot: e.Boot, now: Instant, out: Outbox) -> None:
        """Make the machines; the sessions first, since the others rely on what they say."""
        self.booted = True
        self.sessions = self.make_sessions(boot)
        self.transfers = self.make_transfers(boot)
        self.calls = Calls(self.turns)
        self.runs = Runs(self.turns, boot.backends, boot.models)
        self.machines: Sequence[Machine] = (self.sessions, self.transfers, self.runs, self.calls)
        self.hearing: dict[Listener, Sequence[Machine]] = {
            "session": (self.sessions,),
            "transfer": (self.transfers,),
            "job": (self.runs, self.calls),
        }
        self.mouths: dict[str, Machine] = {
            "session": self.sessions,
            "transfer": self.transfers,
            "job": self.runs,
            "call": self.calls,
        }
        for machine in self.machines:
            machine.told(boot, now, out)

    def take(self, input: e.Input, now: Instant, out: Outbox) -> None:
        """Give input to its machine."""
        match input:
            case e.FrameArrived():
                self.frame(input, now, out)
            case e.CallDone():
                self.answered(input.ticket, input.result, now, out)
            case e.CallFailed():
                self.answered(input.ticket, input.reason, now, out)
            case e.TimerFired():
                for machine in self.machines:
                    machine.expire(now, out)
            case e.ChunkArrived():
                self.chunk(input, now, out)
            case e.LinkUp() | e.LinkDown() | e.FrameRefused() | e.WallClock():
                if isinstance(input, e.LinkDown):
                    self.gate.forget(input.link)
                    self.counters.sequences.pop(input.link, None)
                self.sessions.told(input, now, out)
            case e.PayloadReady() | e.PayloadCorrupt() | e.SendCommand():
                self.transfers.told(input, now, out)
            case e.Persisted():
                self.answered(input.ticket, None, now, out)
            case e.PersistFailed():
                refused = Reason(id="zg/node/not-persisted", detail=input.reason[:1000])
                self.answered(input.ticket, refused, now, out)
            case e.DrainCommand():
                out.facts.append(Draining(peer=NodeId(""), reason=input.reason))
            case e.SubmitCommand() | e.CancelCommand() | e.TakenCommand():
                raise LocalProtocolError("zg/worker/bad-request", f"a worker takes no {type(input).__name__}", "input")
            case e.Measured():
                pass
            case e.Boot():
                self.boot(input, now, out)
            case _:
                assert_never(input)

    def frame(self, frame: e.FrameArrived, now: Instant, out: Outbox) -> None:
        """Through the gate to the machine of its row."""
        standing = self.sessions.standing(frame.link)
        if standing is None:  # the driver read it before it knew that the link is gone
            self.release(frame, out)
            return
        admitted = self.gate.frame(frame, standing)
        if isinstance(admitted, Admitted):
            self.mouths[admitted.machine].hear(admitted.heard, now, out)
            return
        self.release(frame, out)
        self.refused(frame.link, standing.peer, frame.kind, standing.state, admitted, now, out)

    def chunk(self, chunk: e.ChunkArrived, now: Instant, out: Outbox) -> None:
        """A chunk's bytes are in the driver's hands already; the gate judges who sent it, transfers what it is."""
        standing = self.sessions.standing(chunk.link)
        if standing is None:
            return
        reason = self.gate.chunk(chunk, standing)
        if reason is None:
            self.transfers.told(chunk, now, out)
        else:
            self.refused(chunk.link, standing.peer, 0, standing.state, reason, now, out)

    def refused(
        self, link: LinkId, peer: NodeId, kind: int, state: str, reason: Reason, now: Instant, out: Outbox
    ) -> None:
        """Note it. Before the session is ready, and when the order of frames is broken, the link ends."""
        out.events.append(MessageRefused(link=link, peer=peer, kind=kind, reason=reason))
        if state not in ("ready", "draining", "closed"):
            self.sessions.break_off(link, reason, now, out)
        elif reason.id == WRONG_SEQUENCE:
            out.close(link, reason.detail)

    def release(self, frame: e.FrameArrived, out: Outbox) -> None:
        """Nobody hears the frame, so nobody needs its content."""
        if frame.content is not None:
            out.payloads.append(e.Release(handle=frame.content.handle))

    def answered(self, ticket: Ticket, result: e.Result | Reason | None, now: Instant, out: Outbox) -> None:
        """To the machine that asked."""
        owner = self.owners.pop(ticket, None)
        if owner is None:
            raise LocalProtocolError("zg/node/unknown-ticket", f"got {ticket}, which nobody waits for", "ticket")
        if ticket == self.computing:
            self.computing = None
        owner.answer(ticket, result, now, out)

    def give_turn(self, out: Outbox) -> None:
        """The engine is free: what it computes next."""
        turn = self.turns.choose(
            closing=bool(self.runs.ending),
            request=self.calls.oldest(),
            prompt=self.runs.oldest(),
            decode=self.runs.may_step(),
        )
        match turn:
            case None:
                return
            case "request":
                self.computing, machine = self.calls.start(out), self.calls
            case "prompt" | "decode" | "close":
                self.computing, machine = self.runs.start(turn, out), self.runs
            case _:
                assert_never(turn)
        self.owners[self.computing] = machine

    def note_owners(self, out: Outbox) -> None:
        """Who hears this step's answers: the computes were noted in their turn, only sessions ask for anything else."""
        for call in out.calls:
            if not isinstance(call, e.Compute | e.Interrupt):
                self.owners[call.ticket] = self.sessions
        for persist in out.persists:
            if persist.sync:
                self.owners[persist.ticket] = self.sessions

    def wake_at(self) -> Instant | None:
        """The least deadline of all machines."""
        least: Instant | None = None
        for machine in self.machines:
            due = machine.deadline()
            if due is not None and (least is None or due < least):
                least = due
        return least
