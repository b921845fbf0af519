"""`Runs`: attempts of jobs that this worker's engine carries out (E4; `docs/spec/workers.md`).

Law: an attempt is acknowledged or rejected once; its tokens leave in order, never more than its window ahead of what
was acknowledged; its last word is `Finished`. A later fence takes the place of an earlier one, which then ends in
silence; an earlier one is refused. Jobs that may step take turns: those served go to the end of the ring.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, assert_never

import msgspec

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.node import ModelOffer
from zeitgeist.core.effects import Compute, Computed, Interrupt, PayloadRef, Release, Result, TokenOut
from zeitgeist.core.facts import Draining, Fact, PeerDown
from zeitgeist.core.generate.run import Outcome, Run
from zeitgeist.core.generate.states import EventName
from zeitgeist.core.ids import Digest, JobId, Ticket
from zeitgeist.core.machine import Machine
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.trace import JobEnded, MessageRefused
from zeitgeist.core.turns import Turns
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import (
    Acknowledged,
    Assign,
    CancelJob,
    Finished,
    Reason,
    Rejected,
    Token,
    TokenAck,
)
from zeitgeist.core.wire.registry import KINDS

__all__ = ["OPEN_MAX", "RUNS_MAX", "Runs"]

RUNS_MAX: Final = 256
"""Attempts in a worker, waiting ones among them: at 20 tokens a second for each of 8 in a batch, minutes of work."""
OPEN_MAX: Final = 64
"""Sessions that jobs hold in the engine at once; each owns a cache."""
FENCES_MAX: Final = 1024
"""Fences of ended attempts that are remembered, the latest: what an older one asks is refused."""
RETRY_NS: Final = 1_000_000_000
"""When to come back to a full queue: a short answer takes about a second on a CPU."""


class Runs(Machine):
    """All attempts of one worker, by job. `flight`: those that the engine computes `op` for under the ticket `running`.

    prompts: waiting for the engine to read them; ring: generating, who is served next stands first; ending: their
    sessions are to be freed.
    """

    def __init__(self, turns: Turns, backends: Sequence[BackendDescriptor], models: Sequence[ModelOffer]) -> None:
        self.turns = turns
        claims = backends[0].capabilities if backends else ()
        self.batch_max = max(1, backends[0].batch_max) if "batched_decode" in claims else 1
        self.models: tuple[Digest, ...] = tuple(offer.descriptor.model for offer in models)
        self.runs: dict[JobId, Run] = {}
        self.timed: dict[int, Run] = {}
        self.fences: dict[tuple[str, JobId], tuple[int, int]] = {}
        self.prompts: deque[Run] = deque()
        self.ring: list[Run] = []
        self.ending: list[Run] = []
        self.flight: tuple[Run, ...] = ()
        self.op: Literal["", "prompt", "decode", "close"] = ""
        self.running = Ticket(0)
        self.draining = False

    # ---- the machine's face

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """An attempt, an acknowledgement of its tokens, a cancel. What only a worker says is refused."""
        match frame.record:
            case Assign():
                self.assign(frame, frame.record, now, out)
            case TokenAck():
                self.acknowledge(frame, frame.record, out)
            case CancelJob():
                run = self.runs.get(JobId(frame.record.job))
                if run is not None and frame.record.attempt in (0, run.assign.attempt):
                    self.stop(run, "cancelled", None, out)
            case _:
                note_refused(frame, f"got a {type(frame.record).__name__}, which a worker says and never hears", out)
                let_go(frame.content, out)

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """Who drains gives no more; who is gone waits for nothing."""
        match fact:
            case Draining():
                self.draining = True
            case PeerDown():
                for run in [run for run in self.runs.values() if run.link == fact.link]:
                    run.silent = True
                    self.stop(run, "cancelled", None, out)
            case _:
                pass

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """The engine read a prompt, made a step, or freed sessions."""
        assert ticket == self.running, f"ticket {ticket} is not the running compute's"
        flight, op, self.flight, self.op, self.running = self.flight, self.op, (), "", Ticket(0)
        computed = Computed(refusal=result) if isinstance(result, Reason) else result
        assert isinstance(computed, Computed), f"the engine answered {type(computed).__name__}"
        if op == "prompt":
            self.prompted(flight[0], computed, out)
        elif op == "decode":
            self.stepped(flight, computed, out)
        else:
            for run in flight:
                run.move("freed", out)

    def expire(self, now: Instant, out: Outbox) -> None:
        """Stop what is past its deadline."""
        for run in [run for run in self.timed.values() if run.deadline is not None and run.deadline <= now]:
            del self.timed[run.place]
            self.stop(run, "failed", Reason(id="zg/worker/deadline", detail="the job's time is up"), out)

    def deadline(self) -> Instant | None:
        """The next deadline of an attempt."""
        return min((run.deadline for run in self.timed.values() if run.deadline is not None), default=None)

    def state(self) -> bytes:
        """All of it; lists in the order in which they are served."""
        places = [[run.place for run in runs] for runs in (self.prompts, self.ring, self.ending, self.flight)]
        own = (self.running, self.op, self.draining, list(self.fences.items()), list(self.timed))
        return msgspec.msgpack.encode((list(self.runs.values()), places, own), order="sorted")

    # ---- what the worker asks when the engine is free

    def oldest(self) -> int | None:
        """The place of the prompt that waits longest, if the engine may hold one more session."""
        return self.prompts[0].place if self.prompts and len(self.ring) < OPEN_MAX else None

    def may_step(self) -> bool:
        """True when some attempt may get its next token."""
        return any(run.may_step for run in self.ring)

    def start(self, turn: Literal["prompt", "decode", "close"], out: Outbox) -> Ticket:
        """Give the engine what its turn is: the oldest prompt, one step of a batch, or what is to be freed."""
        self.running, self.op = out.ticket(), turn
        compute = Compute(ticket=self.running, op=turn)
        match turn:
            case "prompt":
                run = self.prompts.popleft()
                run.move("start", out)
                self.flight = (run,)
                compute = msgspec.structs.replace(compute, assign=run.assign, content=run.content)
            case "decode":
                self.flight = tuple([run for run in self.ring if run.may_step][: self.batch_max])
                self.ring = [*(run for run in self.ring if run not in self.flight), *self.flight]
            case "close":
                self.flight, self.ending = tuple(self.ending), []
            case _:
                assert_never(turn)
        out.calls.append(msgspec.structs.replace(compute, jobs=tuple(run.job for run in self.flight)))
        return self.running

    # ---- what is heard

    def assign(self, frame: Heard, assign: Assign, now: Instant, out: Outbox) -> None:
        """Take an attempt, or say why not."""
        job, fence = JobId(assign.job), (assign.owner_epoch, assign.attempt)
        before = self.runs.get(job)
        taken = Acknowledged(job=assign.job, attempt=assign.attempt)
        if before is not None and (before.assign.owner, before.fence) == (assign.owner, fence):
            let_go(frame.content, out)
            out.frame(frame.link, taken)
            return
        refused = self.refusal(assign, before, frame.content is not None)
        if refused is not None or frame.content is None:
            assert refused is not None, "an attempt without a prompt is refused"
            let_go(frame.content, out)
            late = RETRY_NS if refused.id == "zg/worker/queue-full" else 0
            rejected = Rejected(job=assign.job, attempt=assign.attempt, reasons=(refused,), retry_after_ns=late)
            out.frame(frame.link, rejected)
            return
        if before is not None:
            before.silent = True
            self.stop(before, "cancelled", None, out)
        due = Instant(now + assign.deadline_ns) if assign.deadline_ns else None
        run = Run(link=frame.link, assign=assign, place=self.turns.arrive(), content=frame.content, deadline=due)
        self.runs[job] = run
        self.fences.pop((assign.owner, job), None)
        self.fences[assign.owner, job] = fence
        if len(self.fences) > FENCES_MAX:
            del self.fences[next(iter(self.fences))]
        if due is not None:
            self.timed[run.place] = run
        self.prompts.append(run)
        out.frame(frame.link, taken)

    def refusal(self, assign: Assign, before: Run | None, content: bool) -> Reason | None:
        """Why this worker does not take the attempt; None when it does. before: of that job, and here."""
        fence = (assign.owner_epoch, assign.attempt)
        if before is not None and before.assign.owner != assign.owner:
            return Reason(id="zg/job/id-in-use", detail=f"{before.assign.owner} runs a job of this id", field="job")
        if fence <= self.fences.get((assign.owner, JobId(assign.job)), (-1, -1)):
            return Reason(id="zg/worker/stale-attempt", detail=f"got {fence}, a later one is known", field="attempt")
        if self.draining:
            return Reason(id="zg/worker/draining", detail="nothing new is started")
        if assign.model not in self.models:
            return Reason(id="zg/backend/no-model", detail=f"{assign.model} is not loaded here", field="model")
        if before is None and len(self.runs) >= RUNS_MAX:
            return Reason(id="zg/worker/queue-full", detail=f"{RUNS_MAX} attempts are here already")
        if not content:
            return Reason(id="zg/worker/bad-request", detail="got no content, wanted a prompt", field="content")
        return None

    def acknowledge(self, frame: Heard, ack: TokenAck, out: Outbox) -> None:
        """Move the window. An attempt that ended needs none; more than was sent cannot have been taken."""
        run = self.runs.get(JobId(ack.job))
        if run is None or run.assign.attempt != ack.attempt:
            return
        if ack.next > run.index:
            note_refused(frame, f"got an acknowledgement of {ack.next} tokens, wanted at most {run.index}", out)
            return
        run.acked = max(run.acked, ack.next)

    def stop(self, run: Run, outcome: Outcome, reason: Reason | None, out: Outbox) -> None:
        """End run now, or as soon as the engine lets go of it. A step is a batch with others: it goes on to its end."""
        if run in self.flight:
            if run.state != "stopping":
                run.why = (outcome, reason)
                run.move("interrupt", out)
                if self.op == "prompt":
                    out.calls.append(Interrupt(ticket=self.running))
        elif run.state == "queued":
            self.prompts.remove(run)
            let_go(run.content, out)
            self.finish(run, "stop", outcome, reason, out)
        else:
            self.finish(run, "stop", outcome, reason, out)

    # ---- what the engine answered

    def prompted(self, run: Run, computed: Computed, out: Outbox) -> None:
        """The prompt was read, or could not be."""
        let_go(run.content, out)
        if run.state == "stopping":
            self.finish(run, "answered", *self.reason_of(run), out)
        elif computed.refusal is not None:
            self.finish(run, "failed", "failed", computed.refusal, out)
        else:
            run.move("prompted", out)
            self.ring.append(run)

    def stepped(self, flight: tuple[Run, ...], computed: Computed, out: Outbox) -> None:
        """Each run of the batch has its token, or its end. A token for a run that was told to stop is let go."""
        tokens = {token.job: token for token in computed.tokens}
        for run in flight:
            token = tokens.get(run.job, MISSING)
            if run.state == "stopping":
                let_go(token.content, out)
                self.finish(run, "answered", *self.reason_of(run), out)
            elif computed.refusal is not None or token.refusal is not None or token.last == "failed":
                let_go(token.content, out)
                self.finish(run, "failed", "failed", computed.refusal or token.refusal, out)
            else:
                self.deliver(run, token, out)

    def deliver(self, run: Run, token: TokenOut, out: Outbox) -> None:
        """Send a token; the last one is followed by the attempt's last word."""
        if token.content is not None:
            record = Token(job=run.job, attempt=run.assign.attempt, index=run.index)
            out.frame(run.link, record, content=token.content)
            let_go(token.content, out)
            run.index += 1
        match token.last:
            case "stop" | "length":
                self.finish(run, "last", token.last, None, out)
            case _:
                assert token.content is not None, "a step that gives neither token nor end would never end"

    def reason_of(self, run: Run) -> tuple[Outcome, Reason | None]:
        """Why it was told to stop."""
        assert run.why is not None, "who stops a run says why"
        return run.why

    def finish(self, run: Run, event: EventName, outcome: Outcome, reason: Reason | None, out: Outbox) -> None:
        """Say the last word; the engine's session, if there is one, is freed next."""
        run.move(event, out)
        if run in self.ring:
            self.ring.remove(run)
        if run.state == "ended":
            self.ending.append(run)
        self.timed.pop(run.place, None)
        if self.runs.get(run.job) is run:
            del self.runs[run.job]
        attempt = run.assign.attempt
        if not run.silent:
            last = Finished(job=run.job, attempt=attempt, outcome=outcome, token_count=run.index, reason=reason)
            out.frame(run.link, last)
        out.events.append(JobEnded(job=run.job, attempt=attempt, outcome=outcome, token_count=run.index, reason=reason))


MISSING = TokenOut(
    job=JobId(""),
    last="failed",
    refusal=Reason(
        id="zg/backend/bad-result", detail="got no token for a job of the batch, wanted one", field="decode"
    ),
)


def let_go(content: PayloadRef | None, out: Outbox) -> None:
    """Nobody here needs it any more."""
    if content is not None:
        out.payloads.append(Release(handle=content.handle))


def note_refused(frame: Heard, detail: str, out: Outbox) -> None:
    """Say in the trace that a record was refused."""
    kind = KINDS[type(frame.record)].kind
    reason = Reason(id="zg/worker/bad-request", detail=detail, field="record")
    out.events.append(MessageRefused(link=frame.link, peer=frame.peer, kind=kind, reason=reason))
