"""The owner: admits a job, has it planned, gives it to an executor, delivers each token once (E4, DESIGN §6).

Law: the admission is persisted before anyone is told of it or works on it. One client a job; the same request again
gets the same job. A plan counts only for the snapshot that it was made from. Only the current attempt is heard; each
index passes once. When an executor fails the job fails with the reason: choosing another way is recovery's (L3).
"""

from typing import Literal, TypeAlias

import msgspec

from zeitgeist.core.effects import Boot, PayloadRef, Persist, PlanCall, Planned, Result
from zeitgeist.core.formats.canonical import Record, decode, digest, encode
from zeitgeist.core.ids import Digest, JobId, LinkId, NodeId, Ticket
from zeitgeist.core.job.board import Board, Part, fault, gathered, let_go, move, named
from zeitgeist.core.job.deadlines import Deadlines
from zeitgeist.core.job.states import ENDS, TERMINAL, TRANSITIONS, EventName
from zeitgeist.core.job.stream import Stream
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.plan.planner import Decision, Snapshot, snapshot_digest
from zeitgeist.core.trace import JobEnded, JobMoved, TokenDelivered
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

__all__ = ["ATTEMPTS_KEPT", "JOBS_MAX", "REPLANS_MAX", "Admission", "Owned", "Owners"]

Below: TypeAlias = Acknowledged | Rejected | Token | Finished
"""What an executor says about an attempt. Made once: a union costs as much as the look at it."""

JOBS_MAX = 1024
"""Jobs owned at once. Each keeps a prompt and at most a window of tokens; 1,024 of 64 tokens are 65,536 handles."""
REPLANS_MAX = 3
"""Plans thrown away because the peers changed meanwhile. A peer that comes and goes faster is no candidate."""
ATTEMPTS_KEPT = 4096
"""Ended jobs whose last attempt number is remembered, so that a job of the same name never reuses a fence."""
RETRY_NS = 1_000_000_000
Last = Literal["stop", "length", "cancelled", "failed"]


class Admission(Record, frozen=True, kw_only=True):
    """What is persisted of a job before anything happens: who asked for what, by digest."""

    submit: Submit
    prompt: Digest
    client: NodeId
    epoch: int


class Owned(Part, kw_only=True):
    """A job of ours. client, link: who hears the tokens, link 0 the application here; gone: nobody hears them; prompt:
    until an executor took it; untried: who comes next; below: the executor's link, 0 for none; last: the last word."""

    submit: Submit
    prompt: PayloadRef | None
    content: Digest
    client: NodeId
    link: LinkId
    gone: bool = False
    stream: Stream
    snapshot: Digest = Digest("")
    replans: int = 0
    plan: Digest = Digest("")
    model: Digest = Digest("")
    untried: list[NodeId] = []  # noqa: RUF012 - msgspec copies an empty default
    reasons: list[Reason] = []  # noqa: RUF012
    below: LinkId = LinkId(0)
    due: Instant = Instant(0)
    cancelling: bool = False
    last: Finished | Rejected | None = None


class Owners:
    """All jobs that this node owns."""

    def __init__(self, boot: Boot, board: Board) -> None:
        self.board = board
        self.jobs: dict[JobId, Owned] = {}
        self.tickets: dict[Ticket, JobId] = {}
        self.deadlines = Deadlines()
        self.attempts: dict[JobId, int] = {}

    # ---- from the client

    def submit(self, link: LinkId, client: NodeId, submit: Submit, content: PayloadRef | None, out: Outbox) -> None:
        """A request, new or again."""
        job = self.jobs.get(JobId(submit.job))
        if job is not None:
            self.again(job, link, client, submit, content, out)
            return
        reason = self.refusal(link, submit, content)
        if reason is not None or content is None:
            assert reason is not None, "a job without a prompt is refused"
            let_go(content, out)
            self.reject(link, JobId(submit.job), reason, out)
            return
        job = Owned(
            job=JobId(submit.job),
            attempt=self.attempts.pop(JobId(submit.job), 0),
            submit=submit,
            prompt=content,
            content=content.digest,
            client=client,
            link=link,
            stream=Stream(window=self.board.window),
        )
        self.jobs[job.job] = job
        if link:
            self.board.above[(link, job.job)] = "owner"
        out.events.append(JobMoved(job=job.job, attempt=job.attempt, before="", event="submit", after="proposed"))
        ticket = out.ticket()
        self.tickets[ticket] = job.job
        admission = Admission(submit=submit, prompt=content.digest, client=client, epoch=self.board.epoch)
        out.persists.append(Persist(ticket=ticket, sync=True, key=f"job/{job.job}", value=encode(admission)))

    def refusal(self, link: LinkId, submit: Submit, content: PayloadRef | None) -> Reason | None:
        """Why a new job is not taken."""
        if not self.board.owns:
            return named("zg/job/not-an-owner", f"roles of {self.board.node}", "a node that owns jobs", "roles")
        if self.board.draining:
            return named("zg/job/draining", "a new job", "none: this node drains")
        if len(self.jobs) >= JOBS_MAX:
            return named("zg/job/too-many", f"{len(self.jobs)} jobs", f"at most {JOBS_MAX} at once")
        if link and (link, JobId(submit.job)) in self.board.above:
            return named("zg/job/id-in-use", submit.job, "an id that has no other job on this link")
        if content is None:
            return named("zg/job/no-prompt", "no content", "the prompt beside the record", "content")
        return None

    def reject(self, link: LinkId, job: JobId, reason: Reason, out: Outbox) -> None:
        """A request that became no job."""
        if link:
            late = RETRY_NS if reason.id == "zg/job/too-many" else 0
            out.frame(link, Rejected(job=job, reasons=(reason,), retry_after_ns=late))
        else:
            out.events.append(JobEnded(job=job, attempt=0, outcome="rejected", token_count=0, reason=reason))

    def again(
        self, job: Owned, link: LinkId, client: NodeId, submit: Submit, content: PayloadRef | None, out: Outbox
    ) -> None:
        """The same id while its job lives: its client gets the same job, and every token that it has not taken."""
        let_go(content, out)
        if client != job.client:
            self.reject(link, job.job, named("zg/job/not-yours", job.job, "an id of your own"), out)
            return
        if submit != job.submit or (content is not None and content.digest != job.content):
            self.reject(
                link, job.job, named("zg/job/other-request", job.job, "the request that this id stands for"), out
            )
            return
        if link != job.link:
            if link and (link, job.job) in self.board.above:
                self.reject(link, job.job, named("zg/job/id-in-use", job.job, "an id without another job here"), out)
                return
            self.board.above.pop((job.link, job.job), None)
            job.link = link
            if link:
                self.board.above[(link, job.job)] = "owner"
        if link and job.state != "proposed":
            out.frame(link, Admitted(job=job.job, owner=self.board.node, owner_epoch=self.board.epoch))
        for index, token in job.stream.kept.items():
            self.deliver(job, index, token, out)
        if link and job.last is not None:
            out.frame(link, job.last)

    def taken(self, job: JobId, next: int, out: Outbox) -> Reason | None:
        """The client took every token below next; why that cannot be."""
        owned = self.jobs[job]
        done = owned.stream.take(next)
        if done is None:
            return named("zg/job/bad-ack", next, f"at most {owned.stream.next}", "next")
        let_go(done, out)
        if owned.below and done:
            out.frame(owned.below, TokenAck(job=job, attempt=owned.attempt, next=next))
        self.forget(owned)
        return None

    def cancel(self, job: JobId, now: Instant, out: Outbox) -> None:
        """The client wants no more. An executor that was asked answers with its last word, or loses its say."""
        owned = self.jobs[job]
        if owned.state in TERMINAL or owned.cancelling:
            return
        if not owned.below:
            self.end(owned, "cancel", None, out)
            return
        owned.cancelling = True
        out.frame(owned.below, CancelJob(job=job, attempt=owned.attempt))
        self.deadlines.set(job, Instant(now + self.board.times.silence_ns))

    # ---- admission and plan

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """The admission is persisted, or a plan is made."""
        owned = self.jobs.get(self.tickets.pop(ticket))
        if owned is None or owned.state in TERMINAL:
            return
        match result:
            case None:
                self.admit(owned, now, out)
            case Planned() if owned.state == "admitted":
                self.planned(owned, result, now, out)
            case Reason():
                self.end(owned, "fail", result, out)
            case _:
                raise AssertionError(f"job {owned.job} in {owned.state} asked for no {type(result).__name__}")

    def admit(self, owned: Owned, now: Instant, out: Outbox) -> None:
        move(owned, "admit", out)
        if owned.link:
            out.frame(owned.link, Admitted(job=owned.job, owner=self.board.node, owner_epoch=self.board.epoch))
        if owned.submit.deadline_ns:
            owned.due = Instant(now + owned.submit.deadline_ns)
            self.deadlines.set(owned.job, owned.due)
        self.ask_plan(owned, out)

    def snapshot(self, owned: Owned) -> bytes:
        """What a plan for this job depends on, now."""
        submit = owned.submit
        return encode(
            Snapshot(node=self.board.node, model=submit.model, prompt=submit.prompt, candidates=self.board.candidates())
        )

    def ask_plan(self, owned: Owned, out: Outbox) -> None:
        snapshot, ticket = self.snapshot(owned), out.ticket()
        owned.snapshot = snapshot_digest(snapshot)
        self.tickets[ticket] = owned.job
        out.calls.append(PlanCall(ticket=ticket, snapshot=snapshot))

    def planned(self, owned: Owned, answer: Planned, now: Instant, out: Outbox) -> None:
        """Take a plan that is about things as they are; else ask again, a few times."""
        if answer.snapshot != owned.snapshot or snapshot_digest(self.snapshot(owned)) != owned.snapshot:
            owned.replans += 1
            if owned.replans > REPLANS_MAX:
                self.end(owned, "fail", named("zg/plan/stale", f"{owned.replans} plans", "peers that stay"), out)
            else:
                self.ask_plan(owned, out)
            return
        decision = decode(answer.plan, Decision)
        if decision.plan is None:
            owned.reasons.extend(decision.reasons)
            self.end(owned, "fail", None, out)
            return
        plan = decision.plan
        assert len(plan.stages) == 1, "the planner makes plans of one stage"
        owned.plan, owned.model = digest(plan), plan.stages[0].model
        owned.untried = [plan.stages[0].node, *plan.fallbacks]
        move(owned, "plan", out)
        self.assign(owned, now, out)

    def assign(self, owned: Owned, now: Instant, out: Outbox) -> None:
        """Give the job to the next of the plan; when there is none, say every reason."""
        while owned.untried:
            node = owned.untried.pop(0)
            link = self.board.link_of(node)
            if link is None:
                owned.reasons.append(named("zg/job/executor-lost", f"{node} is gone", "a ready session"))
                continue
            if (link, owned.job) in self.board.below:
                owned.reasons.append(named("zg/job/id-in-use", f"{owned.job} on {node}", "an id free there"))
                continue
            owned.attempt += 1
            owned.below = link
            self.board.begin(link, owned.job, "owner")
            move(owned, "assign", out)
            submit = owned.submit
            assign = Assign(
                job=owned.job,
                owner=self.board.node,
                owner_epoch=self.board.epoch,
                attempt=owned.attempt,
                plan=owned.plan,
                model=owned.model,
                prompt=submit.prompt,
                token_count_max=submit.token_count_max,
                params=submit.params,
                stop_ids=submit.stop_ids,
                window=self.board.window,
                deadline_ns=max(1, owned.due - now) if owned.due else 0,
            )
            out.frame(link, assign, content=owned.prompt)
            return
        self.end(owned, "fail", None, out)

    # ---- from the executor

    def from_below(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """The executor's words about the attempt under way."""
        record = frame.record
        assert isinstance(record, Below)
        owned = self.jobs[JobId(record.job)]
        if record.attempt != owned.attempt:
            fault(frame, named("zg/job/old-attempt", record.attempt, str(owned.attempt), "attempt"), out)
            return
        match record:
            case Token() if (owned.state, "token") in TRANSITIONS:
                self.token(owned, frame, record, out)
            case Acknowledged() if owned.state == "assigned":
                move(owned, "execute" if self.board.is_local(frame.link) else "acknowledge", out)
                let_go(owned.prompt, out)
                owned.prompt = None
            case Rejected() if owned.state == "assigned":
                self.rejected(owned, record, now, out)
            case Finished() if record.token_count != owned.stream.next:
                self.lying(owned, frame, named("zg/job/gap", record.token_count, f"{owned.stream.next} tokens"), out)
            case Finished() if (owned.state, ENDS[record.outcome]) in TRANSITIONS:
                self.board.end(owned.below, owned.job)
                owned.below = LinkId(0)
                self.end(owned, ENDS[record.outcome], record.reason, out, record.outcome)
            case _:
                self.lying(owned, frame, named("zg/job/out-of-turn", type(record).__name__, owned.state), out)

    def token(self, owned: Owned, frame: Heard, token: Token, out: Outbox) -> None:
        if frame.content is None:
            self.lying(owned, frame, named("zg/job/no-content", "no content", "a token beside the record"), out)
            return
        match owned.stream.offer(token.index, frame.content):
            case "new":
                if owned.state != "streaming":
                    move(owned, "token", out)
                self.deliver(owned, token.index, frame.content, out)
            case "duplicate":
                fault(frame, named("zg/job/duplicate", token.index, f"{owned.stream.next}", "index"), out)
            case "gap":
                self.lying(owned, frame, named("zg/job/gap", token.index, f"{owned.stream.next}", "index"), out)
            case "overrun":
                reason = named("zg/job/window-exceeded", token.index, f"less than {owned.stream.window} ahead", "index")
                self.lying(owned, frame, reason, out)

    def deliver(self, owned: Owned, index: int, content: PayloadRef, out: Outbox) -> None:
        """To the client, here or there."""
        if owned.link:
            out.frame(owned.link, Token(job=owned.job, attempt=owned.attempt, index=index), content=content)
            return
        out.events.append(
            TokenDelivered(
                job=owned.job, attempt=owned.attempt, index=index, handle=content.handle, digest=content.digest
            )
        )

    def rejected(self, owned: Owned, record: Rejected, now: Instant, out: Outbox) -> None:
        """It surely did not start there: the next one."""
        self.board.end(owned.below, owned.job)
        owned.below = LinkId(0)
        owned.reasons.extend(record.reasons)
        move(owned, "reject", out)
        if owned.cancelling:
            self.end(owned, "cancel", None, out)
        else:
            self.assign(owned, now, out)

    # ---- ends

    def lying(self, owned: Owned, frame: Heard, reason: Reason, out: Outbox) -> None:
        """The executor broke a rule: the attempt is over, and the job with it."""
        fault(frame, reason, out)
        if isinstance(frame.record, Finished | Rejected):
            self.board.end(owned.below, owned.job)
        self.end(owned, "fail", reason, out)

    def end(
        self, owned: Owned, event: EventName, reason: Reason | None, out: Outbox, outcome: Last | None = None
    ) -> None:
        """The job is over, once. What never reached an executor is rejected, with every reason that was gathered."""
        word = outcome or ("cancelled" if event == "cancel" else "failed")
        count = owned.stream.next
        if event == "fail" and owned.state in ("proposed", "admitted", "planned"):
            reasons = (reason, *owned.reasons) if reason else (*owned.reasons,)
            reason = gathered(reasons)
            owned.last = Rejected(job=owned.job, attempt=owned.attempt, reasons=reasons[:64])
        else:
            attempt = max(1, owned.attempt)
            owned.last = Finished(job=owned.job, attempt=attempt, outcome=word, token_count=count, reason=reason)
        move(owned, event, out)
        let_go(owned.prompt, out)
        owned.prompt = None
        if owned.below:
            self.board.break_off(owned.below, owned.job, owned.attempt, out)
            owned.below = LinkId(0)
        self.deadlines.clear(owned.job)
        if owned.link and not owned.gone:
            out.frame(owned.link, owned.last)
        ended = "rejected" if isinstance(owned.last, Rejected) else word
        out.events.append(
            JobEnded(job=owned.job, attempt=owned.attempt, outcome=ended, token_count=count, reason=reason)
        )
        out.persists.append(Persist(ticket=out.ticket(), sync=False, key=f"job/{owned.job}", value=b""))
        self.forget(owned)

    def forget(self, owned: Owned) -> None:
        """Once it is over and all was taken, only the number of its last attempt is kept."""
        if owned.state not in TERMINAL or owned.stream.taken < owned.stream.next:
            return
        self.jobs.pop(owned.job, None)
        self.board.above.pop((owned.link, owned.job), None)
        self.attempts[owned.job] = owned.attempt
        if len(self.attempts) > ATTEMPTS_KEPT:
            del self.attempts[next(iter(self.attempts))]

    def link_down(self, link: LinkId, out: Outbox) -> None:
        """A client or an executor is gone."""
        for owned in [owned for owned in self.jobs.values() if link in (owned.link, owned.below)]:
            if owned.link == link:
                owned.gone = True
                let_go(owned.stream.drop(), out)
                self.board.break_off(owned.below, owned.job, owned.attempt, out)
                reason = named("zg/job/client-gone", "no client", "someone who listens")
                event: EventName = "cancel"
            else:
                reason = named("zg/job/executor-lost", "its executor's link is down", "an executor that lives")
                event = "fail"
            owned.below = LinkId(0)
            if owned.state in TERMINAL:
                self.forget(owned)
            else:
                self.end(owned, event, reason, out)

    def expire(self, now: Instant, out: Outbox) -> None:
        """Deadlines, and executors that did not answer a cancel in time."""
        for job in self.deadlines.due(now):
            owned = self.jobs[job]
            if owned.cancelling:
                self.end(owned, "cancel", None, out)
            else:
                spent = named("zg/job/deadline", "no end by then", f"one within {owned.submit.deadline_ns} ns")
                self.end(owned, "fail", spent, out)

    def state(self) -> bytes:
        """All of it."""
        own = (list(self.tickets.items()), list(self.deadlines.wanted.items()), list(self.attempts.items()))
        return msgspec.msgpack.encode((list(self.jobs.values()), own))
