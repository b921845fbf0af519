"""What the three roles of a job share: who is ready, who talks with whom about which job, the words of the trace.

Law: on one link, one job has at most one talk in each direction: `below` says who hears what comes from the executor's
side, `above` who hears what comes from the client's side. A talk that was broken off stays below as `ending` until the
other side said its last word, so that late tokens find nobody else.
"""

from typing import Literal

import msgspec

from zeitgeist.core.effects import Boot, PayloadRef, Release
from zeitgeist.core.facts import PeerUp
from zeitgeist.core.ids import JobId, LinkId, NodeId
from zeitgeist.core.job.states import TRANSITIONS, EventName, State
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.plan.planner import Candidate, Offered
from zeitgeist.core.trace import JobMoved, MessageRefused
from zeitgeist.core.wire.messages import CancelJob, Reason
from zeitgeist.core.wire.registry import KINDS

__all__ = ["WINDOW_MAX", "Board", "Part", "Talk", "fault", "gathered", "let_go", "move", "named"]

WINDOW_MAX = 4096
"""What a record can say of a window (`Assign.window`); an owner may not send a client more ahead than that."""

Talk = Literal["owner", "executor", "client", "ending"]


class Part(msgspec.Struct, kw_only=True):
    """What a job is in any role: its id, the attempt under way (0 before the first), its state."""

    job: JobId
    attempt: int = 0
    state: State = "proposed"


class Board:
    """Ready peers by link, and talks by (link, job)."""

    def __init__(self, boot: Boot) -> None:
        config = boot.config
        self.node = config.node
        self.epoch = boot.epoch
        self.times = config.times
        self.window = min(max(1, config.stream_window), WINDOW_MAX)
        self.owns = "executor" in config.roles or "coordinator" in config.roles
        self.executes = "executor" in config.roles
        self.draining = False
        self.resting: dict[NodeId, str] = {}
        self.ready: dict[LinkId, PeerUp] = {}
        self.load: dict[LinkId, int] = {}
        self.below: dict[tuple[LinkId, JobId], Talk] = {}
        self.above: dict[tuple[LinkId, JobId], Talk] = {}
        self.known: tuple[Candidate, ...] | None = None

    # ---- who is there

    def up(self, peer: PeerUp) -> None:
        """A session is ready."""
        self.ready[peer.link] = peer
        self.load[peer.link] = 0
        self.resting.pop(peer.peer, None)
        self.known = None

    def down(self, link: LinkId) -> None:
        """A session is over, and every talk on it."""
        self.ready.pop(link, None)
        self.load.pop(link, None)
        self.known = None
        for talks in (self.below, self.above):
            for key in [key for key in talks if key[0] == link]:
                del talks[key]

    def rest(self, peer: NodeId, reason: str) -> None:
        """peer drains; "" for this node."""
        if peer:
            self.resting[peer] = reason
        else:
            self.draining = True
        self.known = None

    def candidates(self) -> tuple[Candidate, ...]:
        """Everyone who might run a job, by name; one entry a party however many links it has."""
        if self.known is None:
            parties: dict[NodeId, Candidate] = {}
            for link in sorted(self.ready, reverse=True):
                peer = self.ready[link]
                parties[peer.peer] = candidate_of(peer, peer.peer in self.resting)
            self.known = tuple(parties[node] for node in sorted(parties))
        return self.known

    def link_of(self, node: NodeId) -> LinkId | None:
        """The oldest ready link to node."""
        return min((link for link, peer in self.ready.items() if peer.peer == node), default=None)

    def is_local(self, link: LinkId) -> bool:
        """Is link a worker's?"""
        return link in self.ready and self.ready[link].local

    # ---- who talks

    def begin(self, link: LinkId, job: JobId, talk: Talk) -> None:
        """talk hears what link's other side says of job as its executor."""
        assert (link, job) not in self.below, f"job {job} has a talk below on link {link}"
        self.below[(link, job)] = talk
        self.load[link] += 1

    def end(self, link: LinkId, job: JobId) -> None:
        """The last word was said."""
        if self.below.pop((link, job), None) is not None:
            self.load[link] -= 1

    def break_off(self, link: LinkId, job: JobId, attempt: int, out: Outbox) -> None:
        """Nobody listens any more: say so, and wait for the last word."""
        if (link, job) in self.below:
            self.below[(link, job)] = "ending"
            out.frame(link, CancelJob(job=job, attempt=attempt))

    def state(self) -> bytes:
        """All of it."""
        own = (self.draining, list(self.resting.items()), list(self.load.items()))
        talks = [[[*key, talk] for key, talk in talks.items()] for talks in (self.below, self.above)]
        return msgspec.msgpack.encode((own, list(self.ready.values()), talks))


def candidate_of(peer: PeerUp, resting: bool) -> Candidate:
    """What of a ready peer a plan may weigh."""
    return Candidate(
        node=peer.peer,
        local=peer.local,
        outcome=peer.outcome,
        trusted=peer.local or "trusted_executor" in peer.trust,
        draining=resting,
        models=tuple(
            Offered(
                name=offer.descriptor.name,
                model=offer.descriptor.model,
                backend=offer.backend,
                layers=offer.descriptor.config.layer_count,
            )
            for offer in peer.models
        ),
    )


def move(part: Part, event: EventName, out: Outbox) -> None:
    """Change the state by the table; who calls has looked whether it may."""
    before, part.state = part.state, TRANSITIONS[(part.state, event)]
    out.events.append(JobMoved(job=part.job, attempt=part.attempt, before=before, event=event, after=part.state))


def let_go(contents: list[PayloadRef] | PayloadRef | None, out: Outbox) -> None:
    """Nobody here needs these any more."""
    for content in contents if isinstance(contents, list) else [contents]:
        if content is not None:
            out.payloads.append(Release(handle=content.handle))


def named(id: str, got: object, wanted: str, field: str = "job") -> Reason:
    """A reason in the words of all refusals."""
    return Reason(id=id, detail=f"got {str(got)[:200]}, wanted {wanted}"[:1000], field=field)


def fault(frame: Heard, reason: Reason, out: Outbox) -> None:
    """A record is refused: an event, its content freed."""
    kind = KINDS[type(frame.record)].kind
    out.events.append(MessageRefused(link=frame.link, peer=frame.peer, kind=kind, reason=reason))
    let_go(frame.content, out)


def gathered(reasons: tuple[Reason, ...]) -> Reason:
    """Several reasons as one, by the name of the first."""
    if len(reasons) == 1:
        return reasons[0]
    detail = "; ".join(f"{reason.field}: {reason.detail} [{reason.id}]" for reason in reasons)
    return Reason(id=reasons[0].id, detail=detail[:1000], field=reasons[0].field)
