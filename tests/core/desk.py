"""One node at a desk: sessions that are ready at once, so that a test says who the peers are and what they say.

The node, its gate and its jobs are real. Payloads are counted as a driver counts them: nothing is freed twice, nothing
is sent that is not held.
"""

from typing import Any

from tests.core.mesh import CORE
from tests.core.pair import config_of, offer
from zeitgeist.core import effects as e
from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import (
    HardwareProfile,
    MemoryProfile,
    ModelOffer,
    NodeDescriptor,
    Role,
    SchemaVersions,
)
from zeitgeist.core.descriptors.plan import Plan
from zeitgeist.core.descriptors.trust import TrustLevel
from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
from zeitgeist.core.facts import PeerDown, PeerUp
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, Handle, LinkId, NodeId
from zeitgeist.core.job.machine import Jobs
from zeitgeist.core.machine import Links, Machine
from zeitgeist.core.node import Machines, Node
from zeitgeist.core.outbox import Outbox, Standing
from zeitgeist.core.plan.planner import plan, snapshot_digest
from zeitgeist.core.trace import Event, MessageRefused
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.registry import KINDS, REGISTRY, SessionState

__all__ = ["ALL", "Desk", "Ready", "assign", "submit"]

ALL: tuple[TrustLevel, ...] = (
    "trusted_executor",
    "trusted_cache_peer",
    "trusted_tensor_peer",
    "api_only_peer",
    "untrusted_client",
)
MODEL = offer().descriptor.model


class Ready(Links):
    """Sessions as the test says they are."""

    def __init__(self, boot: e.Boot) -> None:
        self.up: dict[LinkId, Standing] = {}
        self.announce: PeerUp | None = None
        self.broken: list[tuple[LinkId, m.Reason]] = []
        self.heard: list[Record] = []

    def told(self, input: e.Input, now: Instant, out: Outbox) -> None:
        match input:
            case e.LinkUp() if self.announce is not None:
                out.facts.append(self.announce)
            case e.LinkDown():
                gone = self.up.pop(input.link, None)
                if gone is not None:
                    out.facts.append(PeerDown(link=input.link, peer=gone.peer, reason=input.reason))
            case _:
                pass

    def hear(self, frame: Any, now: Instant, out: Outbox) -> None:
        self.heard.append(frame.record)
        if isinstance(frame.record, m.Ping):
            out.frame(frame.link, m.Pong(number=frame.record.number))

    def standing(self, link: LinkId) -> Standing | None:
        return self.up.get(link)

    def break_off(self, link: LinkId, reason: m.Reason, now: Instant, out: Outbox) -> None:
        self.broken.append((link, reason))
        self.up.pop(link, None)
        out.close(link, str(reason.id))


class Idle(Machine):
    """Nothing to supervise."""

    def __init__(self, boot: e.Boot) -> None:
        pass


class Desk:
    """The node, what it said by link, and what its driver holds. plans: answer plan calls at once."""

    def __init__(
        self, roles: tuple[Role, ...] = ("executor",), *, window: int = 8, plans: bool = True, persists: bool = True
    ) -> None:
        self.node = Node(self.machines)
        self.now = Instant(1)
        self.plans, self.persists = plans, persists
        self.handle = -1
        self.held: set[int] = set()
        self.sequences: dict[LinkId, int] = {}
        self.said: dict[LinkId, list[Record]] = {}
        self.events: list[Event] = []
        self.waiting: list[e.Persist | e.Call] = []
        self.wake_at: Instant | None = None
        config = config_of("n", ("none",), roles=roles, stream_window=window)
        self.tell(e.Boot(core=CORE, config=config, epoch=3, seed=bytes(32)))

    def machines(self, boot: e.Boot) -> Machines:
        self.links = Ready(boot)
        self.jobs = Jobs(boot)
        return Machines(session=self.links, transfer=Transfers(boot), job=self.jobs, supervise=Idle(boot))

    # ---- who is there

    def peer(
        self,
        link: int,
        node: str,
        *,
        trust: tuple[TrustLevel, ...] = ("trusted_executor",),
        local: bool = False,
        dialled: bool = False,
        models: tuple[ModelOffer, ...] | None = None,
        outcome: m.Outcome = "compatible",
        state: SessionState = "ready",
        lane: Lane | None = None,
    ) -> None:
        """A session that is ready, or a link that stands at state."""
        lane = lane or ("local" if local else "control")
        self.links.up[LinkId(link)] = Standing(peer=NodeId(node), state=state, trust=trust, lane=lane)
        held = (offer(),) if models is None and local else models or ()
        up = PeerUp(
            link=LinkId(link),
            peer=NodeId(node),
            local=local,
            dialled=dialled,
            outcome=outcome,
            trust=trust,
            descriptor=descriptor_of(node),
            models=held,
            plan=Plan(mode="solo", stages=()),
        )
        self.links.announce = up if state == "ready" and lane != "bulk" else None
        facts = LinkFacts(transport="memory", inbound=not dialled, loopback=True, address="desk")
        self.tell(e.LinkUp(link=LinkId(link), lane=lane, facts=facts))

    def down(self, link: int) -> None:
        self.tell(e.LinkDown(link=LinkId(link), reason="cut"))
        self.sequences.pop(LinkId(link), None)

    # ---- the loop

    def tell(self, input: e.Input) -> e.Effects:
        effects = self.node.step(input, self.now)
        for send in effects.send:
            assert isinstance(send, e.Send)
            assert send.content is None or send.content.handle in self.held, f"{send} sends what is not held"
            self.said.setdefault(send.link, []).append(decode(send.record, REGISTRY[send.kind].record))
        for op in effects.payloads:
            assert isinstance(op, e.Release) and op.handle in self.held, f"{op} frees what is not held"
            self.held.discard(op.handle)
        self.events += effects.events
        self.wake_at = effects.wake_at
        for ask in (*(persist for persist in effects.persist if persist.sync), *effects.calls):
            self.waiting.append(ask)
        while self.waiting and (self.persists if isinstance(self.waiting[0], e.Persist) else self.plans):
            self.answer()
        return effects

    def answer(self, refusal: m.Reason | None = None) -> e.Persist | e.Call:
        """The oldest persist or plan is done."""
        ask = self.waiting.pop(0)
        match ask:
            case e.Persist() if refusal is None:
                self.tell(e.Persisted(ticket=ask.ticket))
            case e.Persist():
                self.tell(e.PersistFailed(ticket=ask.ticket, reason=refusal.detail))
            case e.PlanCall() if refusal is None:
                made = e.Planned(snapshot=snapshot_digest(ask.snapshot), plan=plan(ask.snapshot))
                self.tell(e.CallDone(ticket=ask.ticket, result=made))
            case e.PlanCall():
                self.tell(e.CallFailed(ticket=ask.ticket, reason=refusal))
            case _:
                raise AssertionError(ask)
        return ask

    def put(self, data: bytes = b"prompt") -> e.PayloadRef:
        self.handle += 2
        self.held.add(self.handle)
        return e.PayloadRef(handle=Handle(self.handle), length=len(data), digest=content_digest(data))

    def hear(self, link: int, record: Record, content: bytes | None = None, /, **changed: Any) -> e.Effects:
        """A frame of link's peer."""
        row = KINDS[type(record)]
        number = self.sequences.get(LinkId(link), 0)
        self.sequences[LinkId(link)] = number + 1
        fields: dict[str, Any] = {
            "link": LinkId(link),
            "channel": int(row.channels[0]),
            "kind": row.kind,
            "flags": 0,
            "stream": 0,
            "sequence": number,
            "record": encode(record),
            "content": None if content is None else self.put(content),
        }
        return self.tell(e.FrameArrived(**(fields | changed)))

    def refusals(self) -> list[str]:
        """Ids of refused messages, without the prefix."""
        return [event.reason.id.removeprefix("zg/") for event in self.events if isinstance(event, MessageRefused)]

    def last(self, link: int) -> Record:
        """What it said last on link."""
        return self.said[LinkId(link)][-1]

    def of(self, link: int, kind: type[Record]) -> list[Any]:
        return [record for record in self.said.get(LinkId(link), []) if isinstance(record, kind)]

    def all(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def descriptor_of(node: str) -> NodeDescriptor:
    return NodeDescriptor(
        node=NodeId(node),
        cluster="home",
        roles=("executor",),
        versions=SchemaVersions(**SCHEMA_VERSIONS),
        transports=(),
        hardware=HardwareProfile(accelerator="unknown"),
        memory=MemoryProfile(),
        auth=("none",),
        bundle_version=0,
        health="ready",
        backends=(),
    )


def submit(job: str = "j", **changed: Any) -> m.Submit:
    return m.Submit(**({"job": job, "model": str(MODEL), "prompt": "text", "token_count_max": 4} | changed))


def assign(job: str = "j", attempt: int = 1, **changed: Any) -> m.Assign:
    fields: dict[str, Any] = {
        "job": job,
        "owner": "o",
        "owner_epoch": 7,
        "attempt": attempt,
        "plan": Digest("sha256:" + "22" * 32),
        "model": MODEL,
        "prompt": "text",
        "token_count_max": 4,
        "window": 2,
    }
    return m.Assign(**(fields | changed))
