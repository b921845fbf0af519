"""`Jobs`: which role of a job hears what (E4; `docs/spec/jobs.md`).

Law: this file routes. A record is for the role that has a talk about its job on its link (`board.py`); a record that
nobody waits for is refused by name. Commands go to the owner's role when this node may own, else to the client's.
"""

from typing import assert_never

import msgspec

from zeitgeist.core.effects import (
    Boot,
    CancelCommand,
    Input,
    Result,
    SubmitCommand,
    TakenCommand,
)
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.facts import Draining, Fact, PeerDown, PeerUp
from zeitgeist.core.ids import JobId, LinkId, Ticket
from zeitgeist.core.job.board import Board, fault, let_go, named
from zeitgeist.core.job.client import Clients
from zeitgeist.core.job.executor import Executors
from zeitgeist.core.job.owner import Owners
from zeitgeist.core.machine import Machine
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import (
    Acknowledged,
    Admitted,
    Assign,
    CancelJob,
    Finished,
    Reason,
    Rejected,
    Submit,
    Token,
    TokenAck,
)

__all__ = ["Jobs"]


class Jobs(Machine):
    """All jobs that this node asked for, owns, or runs."""

    def __init__(self, boot: Boot) -> None:
        self.board = Board(boot)
        self.owners = Owners(boot, self.board)
        self.executors = Executors(self.board)
        self.clients = Clients(self.board)

    # ---- the machine's face

    def told(self, input: Input, now: Instant, out: Outbox) -> None:
        """Commands. One about a job that is over does nothing: it crossed the end."""
        match input:
            case SubmitCommand() if self.board.owns:
                self.owners.submit(LinkId(0), self.board.node, input.submit, input.content, out)
            case SubmitCommand():
                self.clients.submit(input, now, out)
            case CancelCommand(job=job):
                if job in self.owners.jobs and not self.owners.jobs[job].link:
                    self.owners.cancel(job, now, out)
                elif job in self.clients.jobs:
                    self.clients.cancel(job, now, out)
            case TakenCommand(job=job, next=next):
                reason = None
                if job in self.owners.jobs and not self.owners.jobs[job].link:
                    reason = self.owners.taken(job, next, out)
                elif job in self.clients.jobs:
                    reason = self.clients.taken(job, next, out)
                if reason is not None:
                    raise LocalProtocolError(reason.id, reason.detail, reason.field)
            case Boot():
                pass
            case _:
                raise AssertionError(f"{type(input).__name__} is not for jobs")

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """A record, to the role that waits for it."""
        record = frame.record
        match record:
            case Token() | Acknowledged() | Finished() | Rejected() | Admitted():
                self.from_below(frame, JobId(record.job), now, out)
            case TokenAck() | CancelJob():
                self.from_above(frame, record, now, out)
            case Submit() if not self.board.is_local(frame.link):
                self.owners.submit(frame.link, frame.peer, record, frame.content, out)
            case Assign():
                self.executors.assign(frame, record, out)
            case _:
                fault(frame, named("zg/job/out-of-turn", type(record).__name__, "a word for a node"), out)

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """Who comes, who goes, who rests."""
        match fact:
            case PeerUp():
                self.board.up(fact)
                self.clients.peer_up(out)
            case PeerDown(link=link):
                self.board.down(link)
                self.executors.link_down(link, out)
                self.owners.link_down(link, out)
                self.clients.link_down(link, out)
            case Draining(peer=peer, reason=reason):
                self.board.rest(peer, reason)
            case _:
                pass  # A worker that is ready came as PeerUp, with its models.

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """Only owners ask."""
        self.owners.answer(ticket, result, now, out)

    def expire(self, now: Instant, out: Outbox) -> None:
        """Deadlines of both roles that have some."""
        self.owners.expire(now, out)
        self.clients.expire(now, out)

    def deadline(self) -> Instant | None:
        """The least of both."""
        owned, asked = self.owners.deadlines.least(), self.clients.deadlines.least()
        return owned if asked is None else asked if owned is None else min(owned, asked)

    def idle(self) -> bool:
        """No job in any role, and no last word that is still to come."""
        return not (self.owners.jobs or self.clients.jobs or self.board.below or self.board.above)

    def state(self) -> bytes:
        """All of it."""
        parts = (self.board.state(), self.owners.state(), self.executors.state(), self.clients.state())
        return msgspec.msgpack.encode(parts)

    # ---- records

    def from_below(self, frame: Heard, job: JobId, now: Instant, out: Outbox) -> None:
        """From the executor's side."""
        talk = self.board.below.get((frame.link, job))
        match talk:
            case "owner" if not isinstance(frame.record, Admitted):
                self.owners.from_below(frame, now, out)
            case "executor" if not isinstance(frame.record, Admitted):
                self.executors.from_below(frame, out)
            case "client" if not isinstance(frame.record, Acknowledged):
                self.clients.from_below(frame, out)
            case "ending":
                let_go(frame.content, out)
                if isinstance(frame.record, Finished | Rejected):
                    self.board.end(frame.link, job)
            case None | "owner" | "executor" | "client":
                fault(frame, named("zg/job/unknown", f"{type(frame.record).__name__} of {job}", "a job under way"), out)
            case _:
                assert_never(talk)

    def from_above(self, frame: Heard, record: TokenAck | CancelJob, now: Instant, out: Outbox) -> None:
        """From the client's side."""
        job = JobId(record.job)
        talk = self.board.above.get((frame.link, job))
        if talk == "executor":
            self.executors.from_above(frame, out)
        elif talk == "owner" and isinstance(record, CancelJob):
            self.owners.cancel(job, now, out)
        elif talk == "owner" and isinstance(record, TokenAck):
            reason = self.owners.taken(job, record.next, out)
            if reason is not None:
                fault(frame, reason, out)
        # What nobody waits for crossed the last word: credit and a cancel for a job that is over are no fault.
