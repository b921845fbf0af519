"""The executor's node: between an owner and a worker of ours (E4, F2).

Law: nothing is decided here but which worker takes an attempt. The fence (owner, owner epoch, job, attempt) of an
attempt only grows. What the worker says goes up in its order, what the owner says goes down; a worker that breaks the
order of tokens, and a party that is gone, end the attempt.
"""

from typing import TypeAlias

import msgspec

from zeitgeist.core.effects import PayloadRef
from zeitgeist.core.ids import JobId, LinkId, NodeId
from zeitgeist.core.job.board import Board, Part, fault, let_go, move, named
from zeitgeist.core.job.states import ENDS, TRANSITIONS, EventName
from zeitgeist.core.job.stream import Stream
from zeitgeist.core.outbox import Heard, Outbox
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

__all__ = ["Executors", "Relay"]

Below: TypeAlias = Acknowledged | Rejected | Token | Finished
"""What a worker says about an attempt. Made once: a union costs as much as the look at it."""


class Relay(Part, kw_only=True):
    """An attempt that passes through here. prompt: until the worker has taken it."""

    assign: Assign
    above: LinkId
    below: LinkId
    stream: Stream
    prompt: PayloadRef | None


class Executors:
    """The attempts of all owners that our workers run."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.by_owner: dict[tuple[LinkId, JobId], Relay] = {}
        self.by_worker: dict[tuple[LinkId, JobId], Relay] = {}
        self.epochs: dict[NodeId, int] = {}

    # ---- from above

    def assign(self, frame: Heard, assign: Assign, out: Outbox) -> None:
        """Take an attempt and give it to a worker, or say why not."""
        key = (frame.link, JobId(assign.job))
        relay = self.by_owner.get(key)
        if relay is not None and relay.assign == assign:
            fault(frame, named("zg/job/duplicate", "the same attempt again", "each attempt once"), out)
            return
        worker = self.worker_for(frame, assign, relay)
        if isinstance(worker, Reason):
            let_go(frame.content, out)
            out.frame(frame.link, Rejected(job=assign.job, attempt=assign.attempt, reasons=(worker,)))
            return
        if relay is not None:
            self.drop(relay, out)
        self.epochs[frame.peer] = assign.owner_epoch
        relay = Relay(
            job=key[1],
            attempt=assign.attempt,
            state="planned",
            assign=assign,
            above=frame.link,
            below=worker,
            stream=Stream(window=assign.window),
            prompt=frame.content,
        )
        self.by_owner[key] = self.by_worker[(worker, relay.job)] = relay
        self.board.above[key] = "executor"
        self.board.begin(worker, relay.job, "executor")
        move(relay, "assign", out)
        out.frame(worker, assign, content=frame.content)

    def worker_for(self, frame: Heard, assign: Assign, relay: Relay | None) -> LinkId | Reason:
        """The least busy worker that holds the model, or the first reason against the attempt."""
        board, job = self.board, JobId(assign.job)
        if assign.owner != frame.peer or board.is_local(frame.link):
            return named("zg/job/not-owner", f"{assign.owner} named by {frame.peer}", "the owner itself", "owner")
        if not board.executes:
            return named("zg/job/not-executor", f"roles of {board.node}", "a node that executes", "roles")
        if board.draining:
            return named("zg/job/draining", "a new attempt", "none: this node drains")
        if assign.owner_epoch < self.epochs.get(frame.peer, 0):
            return named("zg/job/old-epoch", assign.owner_epoch, f"at least {self.epochs[frame.peer]}", "owner_epoch")
        if relay is not None and assign.owner_epoch == relay.assign.owner_epoch and assign.attempt <= relay.attempt:
            return named("zg/job/old-attempt", assign.attempt, f"more than {relay.attempt}", "attempt")
        if relay is None and (frame.link, job) in board.above:
            return named("zg/job/id-in-use", job, "an id that has no other job on this link")
        if frame.content is None:
            return named("zg/job/no-prompt", "no content", "the prompt beside the record", "content")
        holders = [
            link
            for link, peer in sorted(board.ready.items())
            if peer.local and any(offer.descriptor.model == assign.model for offer in peer.models)
        ]
        if not holders:
            return named("zg/job/no-worker", assign.model, "a model that a worker here holds", "model")
        free = [link for link in holders if (link, job) not in board.below]
        if not free:
            return named("zg/job/id-in-use", job, "an id that no worker with this model runs for another")
        return min(free, key=lambda link: (board.load[link], link))

    def from_above(self, frame: Heard, out: Outbox) -> None:
        """The owner moves the window, or wants no more."""
        match frame.record:
            case TokenAck(job=job, attempt=attempt, next=taken):
                relay = self.by_owner[(frame.link, JobId(job))]
                if attempt != relay.attempt:
                    fault(frame, named("zg/job/old-attempt", attempt, str(relay.attempt), "attempt"), out)
                    return
                done = relay.stream.take(taken)
                if done is None:
                    fault(frame, named("zg/job/bad-ack", taken, f"at most {relay.stream.next}", "next"), out)
                    return
                let_go(done, out)
                out.frame(relay.below, TokenAck(job=job, attempt=attempt, next=taken))
            case CancelJob(job=job, attempt=attempt):
                relay = self.by_owner[(frame.link, JobId(job))]
                if attempt not in (0, relay.attempt):
                    fault(frame, named("zg/job/old-attempt", attempt, str(relay.attempt), "attempt"), out)
                    return
                out.frame(relay.below, CancelJob(job=job, attempt=relay.attempt))
            case _:
                fault(frame, named("zg/job/out-of-turn", type(frame.record).__name__, "an owner's word"), out)

    # ---- from below

    def from_below(self, frame: Heard, out: Outbox) -> None:
        """The worker's words, each passed on."""
        record = frame.record
        assert isinstance(record, Below)
        relay = self.by_worker[(frame.link, JobId(record.job))]
        if record.attempt != relay.attempt:
            fault(frame, named("zg/job/old-attempt", record.attempt, str(relay.attempt), "attempt"), out)
            return
        match record:
            case Acknowledged() if (relay.state, "execute") in TRANSITIONS:
                move(relay, "execute", out)
                let_go(relay.prompt, out)
                relay.prompt = None
                out.frame(relay.above, record)
            case Rejected() if relay.state == "assigned":
                self.finish(relay, record, "fail", out)
            case Token() if (relay.state, "token") in TRANSITIONS:
                self.token(relay, frame, record, out)
            case Finished() if record.token_count != relay.stream.next:
                self.lying(relay, frame, named("zg/job/gap", record.token_count, f"{relay.stream.next} tokens"), out)
            case Finished() if (relay.state, ENDS[record.outcome]) in TRANSITIONS:
                self.finish(relay, record, ENDS[record.outcome], out)
            case _:
                self.lying(relay, frame, named("zg/job/out-of-turn", type(record).__name__, relay.state), out)

    def token(self, relay: Relay, frame: Heard, token: Token, out: Outbox) -> None:
        if frame.content is None:
            self.lying(relay, frame, named("zg/job/no-content", "no content", "a token beside the record"), out)
            return
        match relay.stream.offer(token.index, frame.content):
            case "new":
                if relay.state != "streaming":
                    move(relay, "token", out)
                out.frame(relay.above, token, content=frame.content)
            case "duplicate":
                fault(frame, named("zg/job/duplicate", token.index, f"{relay.stream.next}", "index"), out)
            case "gap":
                self.lying(relay, frame, named("zg/job/gap", token.index, f"{relay.stream.next}", "index"), out)
            case "overrun":
                reason = named("zg/job/window-exceeded", token.index, f"less than {relay.stream.window} ahead", "index")
                self.lying(relay, frame, reason, out)

    # ---- ends

    def lying(self, relay: Relay, frame: Heard, reason: Reason, out: Outbox) -> None:
        """The worker broke a rule: the attempt fails, the worker is told to stop."""
        fault(frame, reason, out)
        if isinstance(frame.record, Finished):
            self.board.end(relay.below, relay.job)
        self.fail(relay, reason, out)

    def fail(self, relay: Relay, reason: Reason, out: Outbox) -> None:
        """Tell the owner that this attempt gives no more."""
        finished = Finished(
            job=relay.job, attempt=relay.attempt, outcome="failed", token_count=relay.stream.next, reason=reason
        )
        out.frame(relay.above, finished)
        move(relay, "fail", out)
        self.board.break_off(relay.below, relay.job, relay.attempt, out)
        self.forget(relay, out)

    def finish(self, relay: Relay, last: Finished | Rejected, event: EventName, out: Outbox) -> None:
        """The worker's last word."""
        out.frame(relay.above, last)
        move(relay, event, out)
        self.board.end(relay.below, relay.job)
        self.forget(relay, out)

    def drop(self, relay: Relay, out: Outbox) -> None:
        """Nobody above wants it: a later attempt took its place, or the owner is gone."""
        self.board.break_off(relay.below, relay.job, relay.attempt, out)
        move(relay, "cancel", out)
        self.forget(relay, out)

    def forget(self, relay: Relay, out: Outbox) -> None:
        let_go([*([relay.prompt] if relay.prompt else []), *relay.stream.drop()], out)
        self.by_owner.pop((relay.above, relay.job), None)
        self.by_worker.pop((relay.below, relay.job), None)
        self.board.above.pop((relay.above, relay.job), None)

    def link_down(self, link: LinkId, out: Outbox) -> None:
        """A worker or an owner is gone."""
        for relay in [relay for relay in self.by_owner.values() if link in (relay.above, relay.below)]:
            if relay.below == link:
                self.fail(relay, named("zg/job/worker-lost", "its worker's link is down", "a worker that lives"), out)
            else:
                self.drop(relay, out)

    def state(self) -> bytes:
        """All of it."""
        return msgspec.msgpack.encode((list(self.by_owner.values()), list(self.epochs.items())))
