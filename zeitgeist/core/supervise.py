"""What a node keeps alive: its workers, and its connections to those whom it dials (DESIGN §2, §5; L1).

Law: each of these is a line, and a line has one attempt under way at most. What fails is tried again after a pause that
doubles from `redial_first` to `redial_most`, of which a half is drawn; a worker that dies five times quickly is given
up by name. Peers are dialled once the workers have settled, bulk once control is ready; nothing starts in a drain.
"""

from typing import Final, Literal, assert_never

import msgspec

from zeitgeist.core.effects import Boot, Dial, Dialled, Input, KillWorker, Result, StartWorker
from zeitgeist.core.facts import (
    BulkDialled,
    BulkDown,
    BulkUp,
    ControlDialled,
    Draining,
    Fact,
    LinkLost,
    PeerDown,
    PeerUp,
    WorkerReady,
    WorkersSettled,
)
from zeitgeist.core.ids import LinkId, NodeId, Ticket
from zeitgeist.core.machine import Machine
from zeitgeist.core.outbox import Outbox, draw
from zeitgeist.core.trace import PeerRefused, WorkerChanged
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason

__all__ = ["GUARD_FACTOR", "QUICK_DEATHS_MAX", "Line", "Supervisor"]

QUICK_DEATHS_MAX: Final = 5
"""systemd gives up after 5 starts in 10 s. With the default times the fifth death comes after 2 s of pauses."""
GUARD_FACTOR: Final = 60
"""A link that is neither ready nor lost after so many handshake times was forgotten by someone: 10 minutes, so that a
worker may load its model before it answers."""

EARLY_MAX: Final = 64
"""Losses remembered while a call is under way, in case its link was lost before the answer; most are of strangers."""

LineState = Literal["idle", "asked", "linked", "ready", "resting", "given_up"]


class Line(msgspec.Struct, kw_only=True):
    """One thing to keep alive. kind, index: which of the configuration.

    state: idle (not wanted yet, or no more), asked (a call is under way), linked (its link shakes hands), ready,
    resting (until due), given_up. quick: failures in a row without a steady time between; since: of the state.
    control: the session that a bulk link was dialled for.
    """

    kind: Literal["worker", "control", "bulk"]
    index: int
    name: str
    state: LineState = "idle"
    ticket: Ticket = Ticket(0)
    link: LinkId | None = None
    control: LinkId | None = None
    quick: int = 0
    since: Instant = Instant(0)
    due: Instant | None = None


class Supervisor(Machine):
    """Starts, restarts, dials and redials."""

    def __init__(self, boot: Boot) -> None:
        self.config, self.seed = boot.config, boot.seed
        self.workers = [
            Line(kind="worker", index=index, name=worker.name) for index, worker in enumerate(boot.config.workers)
        ]
        self.controls = [
            Line(kind="control", index=index, name=f"control {target.address}")
            for index, target in enumerate(boot.config.dial)
        ]
        self.bulks = [
            Line(kind="bulk", index=index, name=f"bulk {target.address}")
            for index, target in enumerate(boot.config.dial)
        ]
        self.lines = [*self.workers, *self.controls, *self.bulks]
        self.tickets: dict[Ticket, Line] = {}
        self.links: dict[LinkId, Line] = {}
        self.early: dict[LinkId, str] = {}
        self.peers: dict[LinkId, NodeId] = {}
        self.settled = self.draining = False
        self.next_due: Instant | None = None

    # ---- inputs

    def told(self, input: Input, now: Instant, out: Outbox) -> None:
        """The boot: start the workers. Without any they have settled."""
        if isinstance(input, Boot):
            for line in self.workers:
                self.ask(line, now, out)
            self.settle(out)
            self.note_due()

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """A dial or a start ended well or badly; a kill's answer says nothing new."""
        line = self.tickets.pop(ticket, None)
        if line is None:
            return
        if isinstance(result, Dialled):
            self.linked(line, result.link, now, out)
        else:
            self.failed(line, f"{result.id}: {result.detail}" if isinstance(result, Reason) else "no link", now, out)
        if not self.tickets:
            self.early.clear()
        self.note_due()

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """What became of a link."""
        match fact:
            case PeerUp():
                self.peer_up(fact, now, out)
            case BulkUp(link=link):
                line = self.links.get(link)
                if line is not None and line.kind == "bulk":
                    self.ready(line, now)
            case PeerDown(link=link, reason=reason) | LinkLost(link=link, reason=reason):
                self.left(link, now)
                self.gone(link, reason, now, out)
            case BulkDown(link=link):
                self.gone(link, "bulk link down", now, out)
            case WorkersSettled():
                for line in self.controls:
                    self.ask(line, now, out)
            case Draining(peer=""):
                self.drain(now, out)
            case _:
                pass
        self.note_due()

    # ---- one line

    def ask(self, line: Line, now: Instant, out: Outbox) -> None:
        """Begin an attempt."""
        if self.draining or line.state not in ("idle", "resting"):
            return
        if line.kind == "control" and self.config.dial[line.index].node in self.peers.values():
            self.enter(line, "idle", now)  # it dialled us, and one session is enough
            return
        line.ticket = out.ticket()
        self.tickets[line.ticket] = line
        self.enter(line, "asked", now)
        match line.kind:
            case "worker":
                out.events.append(WorkerChanged(name=line.name, state="starting"))
                out.calls.append(StartWorker(ticket=line.ticket, name=line.name))
            case "control" | "bulk":
                target = self.config.dial[line.index]
                out.calls.append(
                    Dial(
                        ticket=line.ticket,
                        address=target.address,
                        lane=line.kind,
                        certificate=target.certificate,
                    )
                )
                if line.kind == "control":
                    out.facts.append(ControlDialled(ticket=line.ticket, node=NodeId(target.node)))
                else:
                    line.control = self.controls[line.index].link
                    assert line.control is not None, "bulk is dialled once control is ready"
                    out.facts.append(BulkDialled(ticket=line.ticket, control=line.control))
            case _:
                assert_never(line.kind)

    def linked(self, line: Line, link: LinkId, now: Instant, out: Outbox) -> None:
        """The connection stands; now it shakes hands. It may be lost already, or no longer be wanted."""
        line.link = link
        self.links[link] = line
        self.enter(line, "linked", now)
        line.due = Instant(now + GUARD_FACTOR * self.config.times.handshake_ns)
        if link in self.early:
            self.gone(link, self.early.pop(link), now, out)
        elif self.draining:
            self.abandon(line, now, out)
        elif line.kind == "bulk" and line.control != self.controls[line.index].link:
            self.drop(line, now, out)
            if self.controls[line.index].state == "ready":
                self.ask(line, now, out)

    def peer_up(self, fact: PeerUp, now: Instant, out: Outbox) -> None:
        """A session of ours is ready; its bulk link is dialled next."""
        if not fact.local:
            self.peers[fact.link] = fact.peer
        line = self.links.get(fact.link)
        if line is None or line.kind == "bulk":
            return
        if line.kind == "worker":
            self.ready(line, now)
            out.events.append(WorkerChanged(name=line.name, state="ready"))
            out.facts.append(WorkerReady(link=fact.link, name=line.name))
            self.settle(out)
            return
        target = self.config.dial[line.index]
        if target.node not in ("", fact.peer):
            detail = f"got {fact.peer}, wanted {target.node}"
            reason = Reason(id="zg/supervise/wrong-node", detail=detail, field=target.address[:200])
            out.events.append(
                PeerRefused(link=fact.link, peer=fact.peer, phase="handshake", ours=True, reasons=(reason,))
            )
            out.close(fact.link, detail)
            self.gone(fact.link, detail, now, out)
            return
        self.ready(line, now)
        if target.bulk:
            self.ask(self.bulks[line.index], now, out)

    def left(self, link: LinkId, now: Instant) -> None:
        """A session that spared us a dial is over."""
        peer = self.peers.pop(link, None)
        for line in self.controls:
            if peer is not None and line.state == "idle" and self.config.dial[line.index].node == peer:
                line.quick += 1
                self.rest(line, now)

    def ready(self, line: Line, now: Instant) -> None:
        """It works."""
        self.enter(line, "ready", now)

    def gone(self, link: LinkId, reason: str, now: Instant, out: Outbox) -> None:
        """The link is lost, and what was behind a worker's is ended, whatever it does. Heard twice it counts once."""
        line = self.links.pop(link, None)
        if line is None:
            if self.tickets:
                self.early[link] = reason
                if len(self.early) > EARLY_MAX:
                    del self.early[next(iter(self.early))]
            return
        if line.kind == "worker":
            out.calls.append(KillWorker(ticket=out.ticket(), link=link))
        self.failed(line, reason, now, out)

    def failed(self, line: Line, reason: str, now: Instant, out: Outbox) -> None:
        """Rest, then try again; give a worker up that dies quickly too often; drop the bulk link of a lost control."""
        steady = line.state == "ready" and now - line.since >= self.config.times.redial_most_ns
        line.quick = 1 if steady else line.quick + 1
        line.link, line.ticket = None, Ticket(0)
        if line.kind == "control":
            self.drop(self.bulks[line.index], now, out)
        given_up = line.kind == "worker" and line.quick >= QUICK_DEATHS_MAX
        if line.kind == "worker":
            word = "stopped" if self.draining else "died"
            out.events.append(WorkerChanged(name=line.name, state=word, reason=reason[:200]))
        if given_up:
            self.enter(line, "given_up", now)
            text = f"died {line.quick} times in a row"
            out.events.append(WorkerChanged(name=line.name, state="given_up", reason=text))
            self.settle(out)
        elif self.draining or (line.kind == "bulk" and self.controls[line.index].state != "ready"):
            self.enter(line, "idle", now)
        else:
            self.rest(line, now)

    def rest(self, line: Line, now: Instant) -> None:
        """Try again after a pause; not in a drain."""
        if not self.draining:
            self.enter(line, "resting", now)
            line.due = Instant(now + self.pause(line))

    def pause(self, line: Line) -> int:
        """Nanoseconds to rest: doubled with each failure, half of it drawn, so that a crowd does not return at once."""
        times = self.config.times
        whole = min(times.redial_first_ns << min(line.quick - 1, 40), times.redial_most_ns)
        half = whole // 2
        drawn = int.from_bytes(draw(self.seed, "backoff", line.name, line.quick, size=8), "little")
        return whole - half + drawn % (half + 1)

    def drop(self, line: Line, now: Instant, out: Outbox) -> None:
        """Not wanted any more, and no failure of its own. A dial under way is waited for: no second one starts."""
        line.quick = 0
        if line.state == "asked":
            return
        if line.link is not None:
            self.links.pop(line.link, None)
            out.close(line.link, "its session is over")
        line.link = None
        self.enter(line, "idle", now)

    def abandon(self, line: Line, now: Instant, out: Outbox) -> None:
        """End an attempt that is not ready: close a dial, kill a worker."""
        assert line.link is not None
        link = line.link
        out.close(link, "not ready in time" if not self.draining else "this node drains")
        self.gone(link, "not ready in time" if not self.draining else "drained", now, out)

    def enter(self, line: Line, state: LineState, now: Instant) -> None:
        """Change the state."""
        line.state, line.since, line.due = state, now, None

    # ---- all lines

    def settle(self, out: Outbox) -> None:
        """Once each worker is ready or given up, say so; once."""
        if not self.settled and all(line.state in ("ready", "given_up") for line in self.workers):
            self.settled = True
            out.facts.append(WorkersSettled())

    def drain(self, now: Instant, out: Outbox) -> None:
        """Start nothing; end what is not ready. What is ready ends when its session has ended its streams."""
        self.draining = True
        for line in self.lines:
            if line.state == "resting":
                self.enter(line, "idle", now)
            elif line.state == "linked":
                self.abandon(line, now, out)

    def expire(self, now: Instant, out: Outbox) -> None:
        """Try again what has rested; end what nobody finished."""
        if self.next_due is None or now < self.next_due:
            return
        for line in self.lines:
            if line.due is None or now < line.due:
                continue
            if line.state == "resting":
                self.ask(line, now, out)
            elif line.state == "linked":
                self.abandon(line, now, out)
        self.note_due()

    def note_due(self) -> None:
        """Lines are few and change seldom; `deadline` is asked after each step."""
        self.next_due = min((line.due for line in self.lines if line.due is not None), default=None)

    def deadline(self) -> Instant | None:
        """When the first line has rested."""
        return self.next_due

    def state(self) -> bytes:
        """All that it holds."""
        lines = [
            [line.name, line.state, line.ticket, line.link, line.control, line.quick, line.since, line.due]
            for line in self.lines
        ]
        return msgspec.msgpack.encode(
            [lines, list(self.early.items()), list(self.peers.items()), self.settled, self.draining]
        )
