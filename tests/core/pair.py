"""Sessions back to back: parties, keys, clusters, and a pump that carries their frames for real.

A party is a `Sessions` with its gate and outbox; its host is played by a keyed stub (BLAKE3 for ed25519, HMAC-SHA-256
for tokens): without the secret nobody makes a proof, which is all that the core may rely on. A pair joins two parties
by links; each frame is canonical bytes between them, and a `tap` may see, change, drop or add frames on their way.
"""

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import blake3
import msgspec

from fixtures.golden_engines import BACKEND, MODEL
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.link import Lane, LinkFacts, TlsFacts, Transport
from zeitgeist.core.descriptors.node import ModelOffer, NodeConfig, Role
from zeitgeist.core.descriptors.trust import AuthConfig, AuthMode, Member, MemberKey, TrustBundle, TrustLevel
from zeitgeist.core.effects import (
    Boot,
    FrameArrived,
    Input,
    LinkDown,
    LinkUp,
    Send,
    Sign,
    Signed,
    Verified,
    Verify,
    WallClock,
)
from zeitgeist.core.facts import HEARS, BulkDialled, ControlDialled, Fact, PeerUp
from zeitgeist.core.formats.canonical import Record, digest
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.kv import F32_HALF, CacheForm
from zeitgeist.core.gate import Admitted, Gate
from zeitgeist.core.ids import Digest, KeyId, LinkId, NodeId, Ticket
from zeitgeist.core.outbox import Counters, Outbox
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.trace import Event, MessageRefused, PeerRefused
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.wire.registry import KINDS, REGISTRY

__all__ = [
    "CERTIFICATE",
    "CLUSTER",
    "DAY",
    "UTC",
    "Pair",
    "Party",
    "Tap",
    "agreement_digest",
    "backend",
    "boot_of",
    "bundle_of",
    "changed",
    "config_of",
    "decoded",
    "key_of",
    "member_of",
    "offer",
    "prove",
    "public_of",
    "secret_of",
    "token_of",
]

CLUSTER = "home"
UTC = 1_800_000_000_000_000_000
DAY = 86_400_000_000_000
CERTIFICATE = "sha256:" + "5c" * 32
R = TypeVar("R")

Tap = Callable[["Party", "Party", Send], Iterable[Send]]
"""(from, to, frame) → the frames that arrive instead."""


# ---- keys: a secret is derived from a name, so that tests can say whose it is


def secret_of(name: str) -> bytes:
    return blake3.blake3(f"secret of {name}".encode()).digest()


def public_of(name: str) -> bytes:
    return blake3.blake3(secret_of(name)).digest()


def key_of(name: str, first: int = UTC - DAY, last: int = UTC + DAY) -> MemberKey:
    """The key pair of this name, as a bundle lists it."""
    public = public_of(name)
    return MemberKey(key=KeyId(content_digest(public)), public=public, from_utc_ns=first, until_utc_ns=last)


def token_of(name: str, first: int = UTC - DAY, last: int = UTC + DAY) -> MemberKey:
    """The shared token of this name: its fingerprint and window."""
    fingerprint = hmac.new(secret_of(name), b"zg-token-fingerprint", hashlib.sha256).digest()
    return MemberKey(key=KeyId(content_digest(fingerprint)), from_utc_ns=first, until_utc_ns=last)


def prove(mode: AuthMode, secret: bytes, message: bytes) -> bytes:
    if mode == "token":
        return hmac.new(secret, message, hashlib.sha256).digest()
    return blake3.blake3(message, key=secret).digest(length=64)


# ---- what parties are made of


def member_of(
    node: str,
    *keys: MemberKey,
    trust: tuple[TrustLevel, ...] = ("trusted_executor",),
    subject: str = "",
) -> Member:
    """A member; without keys it has the one of its own name."""
    return Member(node=NodeId(node), keys=keys or (key_of(node),), trust=trust, subject=subject)


def bundle_of(*members: Member, version: int = 3, expires: int = UTC + DAY, cluster: str = CLUSTER) -> TrustBundle:
    """A bundle; without members that of nodes a and b."""
    return TrustBundle(
        bundle_version=version,
        cluster=cluster,
        issued_utc_ns=UTC - DAY,
        expires_utc_ns=expires,
        members=members or (member_of("a", subject="a.home"), member_of("b", subject="b.home")),
    )


def config_of(
    node: str,
    modes: tuple[AuthMode, ...] = ("ed25519",),
    *,
    key: str | None = None,
    bundle: TrustBundle | None = None,
    tokens: tuple[MemberKey, ...] = (),
    roles: tuple[Role, ...] = ("executor",),
    **others: Any,
) -> NodeConfig:
    """A node of the cluster with the key of its own name (or of `key`), in the bundle of a and b unless told."""
    own = key_of(key or node)
    return NodeConfig(
        node=NodeId(node),
        cluster=others.pop("cluster", CLUSTER),
        roles=roles,
        auth=AuthConfig(
            modes=modes,
            key=own.key,
            public=own.public,
            tokens=tokens,
            token_trust=others.pop("token_trust", ("trusted_executor",)),
            local_trust=others.pop("local_trust", ("trusted_executor",)),
        ),
        bundle=bundle_of() if bundle is None else bundle,
        **others,
    )


def backend(*forms: CacheForm, name: str = "reference", **others: Any) -> BackendDescriptor:
    """An engine that exports and imports caches, in F32_HALF unless told."""
    fields = {
        "name": name,
        "classes": ("local_serving", "cache_capable"),
        "capabilities": ("prefill", "decode", "cache_export", "cache_import"),
        "cache_forms": forms or (F32_HALF,),
        "sampler": "canonical",
        "prompt": "ids",
    } | others
    return msgspec.structs.replace(BACKEND, **fields)


def offer(
    worker: str = "worker-1", model: str = "", tokenizer: str = "", engine: str = "", **others: Any
) -> ModelOffer:
    """The golden model, or another of the same geometry whose digest is made from a name."""
    fields: dict[str, Any] = {}
    if model:
        fields["model"] = content_digest(model.encode())
    if tokenizer:
        fields["tokenizer"] = content_digest(tokenizer.encode())
    return ModelOffer(backend=worker, descriptor=msgspec.structs.replace(MODEL, **(fields | others)), engine=engine)


def boot_of(
    config: NodeConfig,
    *,
    epoch: int = 1,
    backends: tuple[BackendDescriptor, ...] | None = None,
    models: tuple[ModelOffer, ...] | None = None,
) -> Boot:
    """The first input; an executor has one engine that holds the golden model unless told."""
    serves = "executor" in config.roles
    return Boot(
        core=Digest("blake3:" + "00" * 32),
        config=config,
        epoch=epoch,
        seed=blake3.blake3(f"seed of {config.node} in {epoch}".encode()).digest(),
        backends=((backend(),) if serves else ()) if backends is None else backends,
        models=((offer(),) if serves else ()) if models is None else models,
    )


# ---- a party


class Party:
    """One node's sessions with their gate, their host and what they said. links: by name of the pair."""

    def __init__(self, boot: Boot, *, secrets: tuple[str, ...] = (), clock: bool = True, now: int = 0) -> None:
        self.boot = boot
        self.name = boot.config.node
        self.sessions = Sessions(boot)
        self.gate = Gate(("session", "transfer", "job"))
        self.counters = Counters()
        self.now = Instant(now)
        self.secrets = (str(self.name), *secrets)
        self.events: list[Event] = []
        self.facts: list[Fact] = []
        self.frames: deque[Send] = deque()
        self.closed: dict[LinkId, str] = {}
        self.links = 10 if boot.config.node < "b" else 500
        self.mute = False
        self.told(boot)
        if clock:
            self.told(WallClock(utc_ns=UTC, error_ns=1_000_000_000))

    def run(self, act: Callable[[Outbox], None]) -> None:
        """One step: facts go round, calls are answered, frames wait to be carried."""
        out = Outbox(self.counters)
        act(out)
        heard = 0
        while heard < len(out.facts):
            fact = out.facts[heard]
            heard += 1
            self.facts.append(fact)
            if "session" in HEARS[type(fact)]:
                self.sessions.fact(fact, self.now, out)
        self.events += out.events
        self.frames.extend(frame for frame in out.sends if isinstance(frame, Send))
        self.closed.update({close.link: close.reason for close in out.closes})
        for call in out.calls:
            assert isinstance(call, Sign | Verify), call
            if not self.mute:
                answer = self.host(call)
                self.run(lambda o, ticket=call.ticket, answer=answer: self.sessions.answer(ticket, answer, self.now, o))

    def host(self, call: Sign | Verify) -> Signed | Verified | Reason:
        """Keys live here."""
        mine = {key_of(name).key: name for name in self.secrets} | {token_of(name).key: name for name in self.secrets}
        if isinstance(call, Sign):
            if call.key not in mine:
                return Reason(id="zg/auth/no-proof", detail=f"no key {call.key}")
            return Signed(proof=prove(call.mode, secret_of(mine[call.key]), call.message))
        if call.mode == "ed25519":  # a public key verifies; the stub finds the secret behind it
            secrets = {public_of(name): secret_of(name) for name in PEOPLE}
            secret = secrets.get(call.public)
        else:
            secret = secret_of(mine[call.key]) if call.key in mine else None
        ok = secret is not None and hmac.compare_digest(prove(call.mode, secret, call.message), call.proof)
        return Verified(ok=ok)

    def told(self, input: Input) -> None:
        self.run(lambda out: self.sessions.told(input, self.now, out))

    def fact(self, fact: Fact) -> None:
        self.run(lambda out: out.facts.append(fact))

    def expire(self) -> None:
        self.run(lambda out: self.sessions.expire(self.now, out))

    def hear(self, link: LinkId, frame: Send) -> None:
        """A frame arrives: through the gate to the machine, as a node does it."""
        standing = self.sessions.standing(link)
        if standing is None:
            return
        arrived = FrameArrived(
            link=link,
            channel=frame.channel,
            kind=frame.kind,
            flags=frame.flags,
            stream=frame.stream,
            sequence=frame.sequence,
            record=frame.record,
            content=frame.content,
        )
        admitted = self.gate.frame(arrived, standing)
        if isinstance(admitted, Admitted):
            if admitted.machine == "session":
                self.run(lambda out: self.sessions.hear(admitted.heard, self.now, out))
            return
        self.events.append(MessageRefused(link=link, peer=standing.peer, kind=frame.kind, reason=admitted))
        if standing.state not in ("ready", "draining"):
            self.run(lambda out: self.sessions.break_off(link, admitted, self.now, out))

    # ---- what became of it

    def all(self, kind: type[R]) -> list[R]:
        """Every event and fact of this type, in order."""
        return [item for item in (*self.events, *self.facts) if isinstance(item, kind)]

    def refusals(self, ours: bool | None = None) -> list[str]:
        """Ids of all reasons of all refusals, without the prefix."""
        return [
            reason.id.removeprefix("zg/")
            for event in self.all(PeerRefused)
            if ours is None or event.ours == ours
            for reason in event.reasons
        ]

    def state(self, link: LinkId) -> str:
        """`gone` when the link is not up."""
        standing = self.sessions.standing(link)
        return standing.state if standing else "gone"

    def link(self, link: LinkId) -> Any:
        """What the machine remembers of a link."""
        return self.sessions.book.links[link]


PEOPLE = ("a", "b", "c", "a2", "b2", "mallory")
"""Names with a key pair."""


# ---- a pair


class Pair:
    """Two parties and the links between them. Frames travel in order, one at a time, when `pump` runs."""

    def __init__(self, a: Party, b: Party, tap: Tap | None = None) -> None:
        self.a, self.b = a, b
        self.tap = tap
        self.far: dict[tuple[int, LinkId], tuple[Party, LinkId]] = {}
        self.tickets = 1000
        self.carried: list[tuple[str, Send]] = []

    def connect(
        self,
        dialler: Party | None = None,
        *,
        lane: Lane = "control",
        loopback: bool = True,
        transport: Transport = "tcp",
        tls: bool = False,
        certificates: tuple[str, str] = (CERTIFICATE, CERTIFICATE),
        subjects: tuple[str, str] = ("", ""),
        node: str = "",
        joins: LinkId | None = None,
        pump: bool = True,
    ) -> tuple[LinkId, LinkId]:
        """A connection from dialler (a unless told): its number at a, and at b. certificates: as the dialler and as the
        acceptor saw the server's; subjects: of the peer's certificate, for the dialler and for the acceptor."""
        near = dialler or self.a
        far = self.b if near is self.a else self.a
        self.tickets += 1
        near.links, far.links = near.links + 1, far.links + 1
        here, there = LinkId(near.links), LinkId(far.links)
        self.far[id(near), here] = (far, there)
        self.far[id(far), there] = (near, here)
        if joins is not None:
            near.fact(BulkDialled(ticket=Ticket(self.tickets), control=joins))
        else:
            near.fact(ControlDialled(ticket=Ticket(self.tickets), node=NodeId(node)))
        for party, link, inbound, side in ((far, there, True, 1), (near, here, False, 0)):
            tls_facts = TlsFacts(version="TLSv1.3", server_certificate=certificates[side], peer_subject=subjects[side])
            facts = LinkFacts(
                transport="process" if lane == "local" else transport,
                inbound=inbound,
                loopback=loopback,
                address="address",
                tls=tls_facts if tls else None,
            )
            shown: Lane = "control" if inbound and lane == "bulk" else lane  # a listener cannot know
            ticket = Ticket(0) if inbound else Ticket(self.tickets)
            party.told(LinkUp(link=link, lane=shown, facts=facts, ticket=ticket))
        if pump:
            self.pump()
        return (here, there) if near is self.a else (there, here)

    def pump(self, most: int = 10_000) -> int:
        """Carry frames until there are none (or most of them); how many."""
        for count in range(most):
            sender = next((party for party in (self.a, self.b) if party.frames), None)
            if sender is None:
                return count
            self.carry(sender, sender.frames.popleft())
        return most

    def carry(self, sender: Party, frame: Send) -> None:
        """One frame, through the tap. What a party says on a link of another pair is lost: that far end is gone."""
        if (id(sender), frame.link) not in self.far:
            return
        receiver, link = self.far[id(sender), frame.link]
        for seen in self.tap(sender, receiver, frame) if self.tap else (frame,):
            self.carried.append((sender.name, seen))
            receiver.hear(link, seen)

    def cut(self, here: LinkId, there: LinkId, reason: str = "cut") -> None:
        """The connection breaks, for both."""
        self.a.told(LinkDown(link=here, reason=reason))
        self.b.told(LinkDown(link=there, reason=reason))

    def sleep(self, nanoseconds: int, deaf: bool = False) -> None:
        """Time passes; whoever is due acts at its instant. deaf: frames are lost meanwhile."""
        end = self.a.now + nanoseconds
        while True:
            dues = [due for party in (self.a, self.b) if (due := party.sessions.deadline()) is not None and due <= end]
            now = min(dues, default=Instant(end))
            for party in (self.a, self.b):
                party.now = Instant(max(party.now, now))
                due = party.sessions.deadline()
                if due is not None and due <= party.now:
                    party.expire()
            if deaf:
                self.a.frames.clear()
                self.b.frames.clear()
            self.pump()
            if not dues:
                return

    def ready(self, here: LinkId, there: LinkId) -> bool:
        """Both say so, and mean the same session."""
        if (self.a.state(here), self.b.state(there)) != ("ready", "ready"):
            return False
        return self.a.link(here).session == self.b.link(there).session

    @property
    def ups(self) -> tuple[list[PeerUp], list[PeerUp]]:
        """What each announced."""
        return self.a.all(PeerUp), self.b.all(PeerUp)


def decoded(frame: Send) -> Record:
    """The record of a frame."""
    return msgspec.msgpack.decode(frame.record, type=REGISTRY[frame.kind].record)


def changed(frame: Send, **fields: Any) -> Send:
    """The same frame, its record with other fields, canonical again."""
    record = msgspec.structs.replace(decoded(frame), **fields)
    assert KINDS[type(record)].kind == frame.kind
    return msgspec.structs.replace(frame, record=msgspec.msgpack.encode(record, order="sorted"))


def agreement_digest(party: Party, link: LinkId) -> str:
    """Of what the party concluded on link."""
    return digest(party.link(link).agreement)
