"""The client's side: a job that a peer owns, and the application that waits for its tokens (E4, F7).

Law: the application sees each token once, in order, and one end. It is asked for nothing but to say what it took, which
goes to the owner as credit. A job that found no owner in the time of a handshake is given back.
"""

from typing import TypeAlias

import msgspec

from zeitgeist.core.effects import PayloadRef, SubmitCommand
from zeitgeist.core.ids import JobId, LinkId
from zeitgeist.core.job.board import WINDOW_MAX, Board, Part, fault, gathered, let_go, move, named
from zeitgeist.core.job.deadlines import Deadlines
from zeitgeist.core.job.states import ENDS, TERMINAL, TRANSITIONS, EventName
from zeitgeist.core.job.stream import Stream
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.trace import JobEnded, JobMoved, TokenDelivered
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import (
    Admitted,
    CancelJob,
    Finished,
    Reason,
    Rejected,
    Submit,
    Token,
    TokenAck,
)

__all__ = ["Asked", "Clients"]

Below: TypeAlias = Admitted | Rejected | Token | Finished
"""What an owner says about a job. Made once: a union costs as much as the look at it."""


class Asked(Part, kw_only=True):
    """A job of this application. link: to its owner, 0 while there is none; prompt: until the owner admitted it."""

    submit: Submit
    prompt: PayloadRef | None
    link: LinkId
    stream: Stream
    cancelling: bool = False


class Clients:
    """All jobs that this node gave to an owner."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.jobs: dict[JobId, Asked] = {}
        self.deadlines = Deadlines()

    # ---- from the application

    def submit(self, command: SubmitCommand, now: Instant, out: Outbox) -> None:
        """A job for an owner: now, or as soon as one is there."""
        job = self.jobs.get(JobId(command.submit.job))
        if job is not None:
            self.again(job, command, out)
            return
        job = Asked(
            job=JobId(command.submit.job),
            submit=command.submit,
            prompt=command.content,
            link=LinkId(0),
            stream=Stream(window=WINDOW_MAX),
        )
        self.jobs[job.job] = job
        out.events.append(JobMoved(job=job.job, attempt=0, before="", event="submit", after="proposed"))
        self.deadlines.set(job.job, Instant(now + self.board.times.handshake_ns))
        self.send(job, out)

    def again(self, job: Asked, command: SubmitCommand, out: Outbox) -> None:
        """The application asks for a job that lives: it gets what it has not taken."""
        if command.content != job.prompt:
            let_go(command.content, out)
        if command.submit != job.submit:
            reason = named("zg/job/other-request", job.job, "the request that this id stands for")
            out.events.append(JobEnded(job=job.job, attempt=0, outcome="rejected", token_count=0, reason=reason))
            return
        for index, content in job.stream.kept.items():
            deliver(job, index, content, out)

    def send(self, job: Asked, out: Outbox) -> None:
        """To the oldest link that we dialled; a client's node calls its owner, never the other way round."""
        links = (link for link, peer in self.board.ready.items() if peer.dialled and not peer.local)
        link = min((link for link in links if (link, job.job) not in self.board.below), default=None)
        if link is None or self.board.ready[link].peer in self.board.resting:
            return
        job.link = link
        self.board.begin(link, job.job, "client")
        out.frame(link, job.submit, content=job.prompt)

    def taken(self, job: JobId, next: int, out: Outbox) -> Reason | None:
        """The application took every token below next; why that cannot be."""
        asked = self.jobs[job]
        done = asked.stream.take(next)
        if done is None:
            return named("zg/job/bad-ack", next, f"at most {asked.stream.next}", "next")
        let_go(done, out)
        if asked.link and done:
            out.frame(asked.link, TokenAck(job=job, attempt=max(1, asked.attempt), next=next))
        self.forget(asked)
        return None

    def cancel(self, job: JobId, now: Instant, out: Outbox) -> None:
        """The application wants no more. The owner answers with the last word, or loses its say."""
        asked = self.jobs[job]
        if asked.state in TERMINAL or asked.cancelling:
            return
        if not asked.link:
            self.end(asked, "cancel", "cancelled", None, out)
            return
        asked.cancelling = True
        out.frame(asked.link, CancelJob(job=job))
        self.deadlines.set(job, Instant(now + 2 * self.board.times.silence_ns))

    # ---- from the owner

    def from_below(self, frame: Heard, out: Outbox) -> None:
        """The owner's words."""
        record = frame.record
        assert isinstance(record, Below)
        asked = self.jobs[JobId(record.job)]
        if asked.state in TERMINAL:
            fault(frame, named("zg/job/unknown", f"{type(record).__name__} after the end", "a job under way"), out)
            return
        match record:
            case Token() if (asked.state, "token") in TRANSITIONS:
                self.token(asked, frame, record, out)
            case Admitted() if asked.state == "proposed" and record.owner == frame.peer:
                move(asked, "admit", out)
                self.deadlines.clear(asked.job)
                let_go(asked.prompt, out)
                asked.prompt = None
            case Admitted() if record.owner == frame.peer:
                pass  # Said again after the same request.
            case Rejected() if (asked.state, "fail") in TRANSITIONS and asked.stream.next == 0:
                self.close(asked)
                self.end(asked, "fail", "rejected", gathered(record.reasons), out)
            case Finished() if record.token_count != asked.stream.next:
                self.lying(asked, frame, named("zg/job/gap", record.token_count, f"{asked.stream.next} tokens"), out)
            case Finished() if (asked.state, ENDS[record.outcome]) in TRANSITIONS:
                asked.attempt = max(asked.attempt, record.attempt)
                self.end(asked, ENDS[record.outcome], record.outcome, record.reason, out)
            case _:
                self.lying(asked, frame, named("zg/job/out-of-turn", type(record).__name__, asked.state), out)

    def token(self, asked: Asked, frame: Heard, token: Token, out: Outbox) -> None:
        if token.attempt < asked.attempt:
            fault(frame, named("zg/job/old-attempt", token.attempt, str(asked.attempt), "attempt"), out)
            return
        if frame.content is None:
            self.lying(asked, frame, named("zg/job/no-content", "no content", "a token beside the record"), out)
            return
        asked.attempt = token.attempt
        match asked.stream.offer(token.index, frame.content):
            case "new":
                if asked.state != "streaming":
                    move(asked, "token", out)
                deliver(asked, token.index, frame.content, out)
            case "duplicate":
                fault(frame, named("zg/job/duplicate", token.index, f"{asked.stream.next}", "index"), out)
            case "gap":
                self.lying(asked, frame, named("zg/job/gap", token.index, f"{asked.stream.next}", "index"), out)
            case "overrun":
                reason = named("zg/job/window-exceeded", token.index, f"less than {WINDOW_MAX} ahead", "index")
                self.lying(asked, frame, reason, out)

    # ---- ends

    def lying(self, asked: Asked, frame: Heard, reason: Reason, out: Outbox) -> None:
        """The owner broke a rule."""
        fault(frame, reason, out)
        if isinstance(frame.record, Finished | Rejected):
            self.close(asked)
        self.break_off(asked, out)
        self.end(asked, "fail", "failed", reason, out)

    def end(self, asked: Asked, event: EventName, outcome: str, reason: Reason | None, out: Outbox) -> None:
        """The job is over for the application; what it has not taken it may still take."""
        move(asked, event, out)
        self.deadlines.clear(asked.job)
        let_go(asked.prompt, out)
        asked.prompt = None
        count = asked.stream.next
        out.events.append(
            JobEnded(job=asked.job, attempt=asked.attempt, outcome=outcome, token_count=count, reason=reason)
        )
        self.forget(asked)

    def close(self, asked: Asked) -> None:
        """The owner said its last word, and wants no credit either."""
        self.board.end(asked.link, asked.job)
        asked.link = LinkId(0)

    def break_off(self, asked: Asked, out: Outbox) -> None:
        """Nobody listens to the owner any more."""
        if asked.link:
            self.board.break_off(asked.link, asked.job, 0, out)
            asked.link = LinkId(0)

    def forget(self, asked: Asked) -> None:
        """Once it is over and all was taken."""
        if asked.state in TERMINAL and asked.stream.taken == asked.stream.next:
            if asked.link:
                self.close(asked)
            self.jobs.pop(asked.job, None)

    def peer_up(self, out: Outbox) -> None:
        """Someone is there: jobs that wait for an owner."""
        for asked in list(self.jobs.values()):
            if asked.state == "proposed" and not asked.link:
                self.send(asked, out)

    def link_down(self, link: LinkId, out: Outbox) -> None:
        """The owner is gone."""
        for asked in [asked for asked in self.jobs.values() if asked.link == link]:
            asked.link = LinkId(0)
            if asked.state in TERMINAL:
                continue
            reason = named("zg/job/owner-lost", "its owner's link is down", "an owner that lives")
            self.end(asked, "fail", "failed", reason, out)

    def expire(self, now: Instant, out: Outbox) -> None:
        """No owner in time, or none that answers a cancel."""
        for job in self.deadlines.due(now):
            asked = self.jobs[job]
            self.break_off(asked, out)
            if asked.cancelling:
                self.end(asked, "cancel", "cancelled", None, out)
            else:
                reason = named("zg/job/no-owner", "no admission", f"one within {self.board.times.handshake_ns} ns")
                self.end(asked, "fail", "failed", reason, out)

    def state(self) -> bytes:
        """All of it."""
        own = list(self.deadlines.wanted.items())
        return msgspec.msgpack.encode((list(self.jobs.values()), own))


def deliver(asked: Asked, index: int, content: PayloadRef, out: Outbox) -> None:
    """To the application."""
    out.events.append(
        TokenDelivered(job=asked.job, attempt=asked.attempt, index=index, handle=content.handle, digest=content.digest)
    )
