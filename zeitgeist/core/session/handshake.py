"""Phase 1: Hello, Challenge, Proof, Welcome (B1, H1, H3).

Law: before the proof a peer is a claim; nothing that it says is remembered past its link. A refusal raised here ends
the link with `Refused`. The acceptor verifies before it signs, so that a stranger gets no signature to collect.
"""

from collections.abc import Iterator

from zeitgeist.core.auth.modes import choose, modes_allowed
from zeitgeist.core.auth.transcript import message, session_id
from zeitgeist.core.auth.trust import Claim, identify, own_key, require_clock
from zeitgeist.core.effects import LinkUp, Result, Sign, Signed, Verified, Verify
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import KeyId, NodeId, SessionId
from zeitgeist.core.negotiate.declared import own_versions, version_reasons
from zeitgeist.core.outbox import Outbox, draw
from zeitgeist.core.session.book import Book
from zeitgeist.core.session.link import NO_LINK, NOBODY, Link
from zeitgeist.core.trace import PeerStale
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.extensions import check_extensions
from zeitgeist.core.wire.messages import Challenge, Hello, Proof, Reason, Welcome

__all__ = [
    "Unlike",
    "challenged",
    "greet",
    "greeted",
    "joinable",
    "proven",
    "require_new",
    "signed",
    "verified",
    "welcome",
    "welcomed",
]

UNSIGNED = ("none", "mtls")
"""Modes in which nothing is signed in-band: the kernel, or TLS with both certificates, has vouched already."""


# ---- dialler


def greet(book: Book, up: LinkUp, link: Link, now: Instant, out: Outbox) -> None:
    """We dialled: say Hello, if there is any way to prove ourselves on this link."""
    config = book.config
    link.expected = book.control_dials.pop(up.ticket, NOBODY)
    target = next((t for t in config.dial if t.address == up.facts.address), None)
    if target is not None:
        link.expected = link.expected or NodeId(target.node)
        link.certificate = target.certificate
    session = joined_session(book, up, link)
    modes = modes_allowed(config, link.lane, link.facts)
    if not modes:
        got = ", ".join(config.auth.modes) or "nothing"
        raise refuse("zg/auth/no-mode", "auth.modes", got, "a mode that can be carried out on this link")
    if "none" not in modes:
        require_clock(book.wall(now), modes[0])
    book.hellos += 1
    link.counter, link.dialler_epoch = book.hellos, book.boot.epoch
    link.own_key = own_key("token", config, book.wall(now)) if "token" in modes else KeyId("")
    hello = Hello(
        node=config.node,
        cluster=config.cluster,
        epoch=book.boot.epoch,
        counter=link.counter,
        lane=link.lane,
        session=session,
        versions=own_versions(),
        link=draw(book.boot.seed, "link", link.link, size=16),
        nonce=draw(book.boot.seed, "nonce", "dialler", link.link),
        modes=modes,
        key=config.auth.key,
        token=link.own_key,
        bundle_version=book.bundle_version,
        bundle=book.bundle_digest,
        transports=(link.facts.transport,),
    )
    link.hello = encode(hello)
    out.frame(link.link, hello)


def joined_session(book: Book, up: LinkUp, link: Link) -> SessionId:
    """The session that a bulk link joins, "" for any other lane."""
    if link.lane != "bulk":
        return SessionId("")
    control = book.links.get(book.bulk_dials.pop(up.ticket, NO_LINK))
    if control is None or control.state != "ready":
        raise refuse("zg/session/no-such-session", "ticket", up.ticket, "the dial of a bulk link for a ready session")
    link.joins, link.expected = control.link, control.peer
    return control.session


def challenged(book: Book, link: Link, challenge: Challenge, now: Instant, out: Outbox) -> None:
    """The acceptor's choice: is it who we called, may it choose so, and can we prove ourselves?"""
    config = book.config
    book.move(link, "challenge", out)
    link.claimed = NodeId(challenge.node)
    own = modes_allowed(config, link.lane, link.facts)
    if challenge.mode not in own:
        raise refuse("zg/auth/no-common-mode", "mode", challenge.mode, f"one of {', '.join(own)}")
    if link.expected and challenge.node != link.expected:
        raise refuse("zg/auth/wrong-node", "node", challenge.node, link.expected)
    if link.certificate and link.server_certificate != link.certificate:
        raise refuse(
            "zg/auth/wrong-certificate", "tls.server_certificate", link.server_certificate or "none", link.certificate
        )
    if challenge.compression != "none":
        raise refuse("zg/session/unsupported", "compression", challenge.compression, "none")
    require_alike(book, link, challenge)
    link.acceptor_epoch, link.challenge = challenge.epoch, encode(challenge)
    claim(book, link, challenge, now, out)
    if link.mode == "token" and (not link.own_key or challenge.token != link.own_key):
        raise refuse(
            "zg/auth/unknown-token", "token", challenge.token or "none", link.own_key or "a token in its window"
        )
    if link.mode == "ed25519":
        link.own_key = config.auth.key
    link.session = session_id(link.hello, link.challenge, link.server_certificate)
    if link.mode in UNSIGNED:
        out.frame(link.link, Proof(proof=b""))
    else:
        sign(book, link, out)


def welcomed(book: Book, link: Link, said: Welcome, out: Outbox) -> bool:
    """The acceptor's proof. True when phase 1 is over."""
    if link.waiting:
        raise refuse("zg/session/out-of-order", "welcome", "a welcome", "none before our proof, and one only")
    if said.session != link.session:
        raise refuse("zg/auth/other-transcript", "session", said.session, link.session)
    return check_proof(book, link, said.proof, out)


# ---- acceptor


def greeted(book: Book, link: Link, hello: Hello, now: Instant, out: Outbox) -> None:
    """Somebody says Hello: choose a mode, look up the key that its proof must be made with, challenge it."""
    config = book.config
    book.move(link, "hello", out)
    link.claimed = NodeId(hello.node)
    accept_lane(book, link, hello)
    require_alike(book, link, hello)
    link.dialler_epoch, link.counter = hello.epoch, hello.counter
    require_new(book, link)
    link.mode = choose(modes_allowed(config, link.lane, link.facts), hello.modes)
    link.acceptor_epoch, link.hello = book.boot.epoch, encode(hello)
    claim(book, link, hello, now, out)
    if hello.session:
        join(book, link, hello)
    link.own_key = link.key if link.mode == "token" else config.auth.key if link.mode == "ed25519" else KeyId("")
    challenge = Challenge(
        node=config.node,
        cluster=config.cluster,
        epoch=book.boot.epoch,
        versions=own_versions(),
        nonce=draw(book.boot.seed, "nonce", "acceptor", link.link),
        mode=link.mode,
        key=config.auth.key if link.mode == "ed25519" else "",
        token=link.key if link.mode == "token" else "",
        bundle_version=book.bundle_version,
        bundle=book.bundle_digest,
    )
    link.challenge = encode(challenge)
    link.session = session_id(link.hello, link.challenge, link.server_certificate)
    out.frame(link.link, challenge)


def require_new(book: Book, link: Link) -> None:
    """The hello is none that its node has already proven, nor one before it (H3)."""
    hello, seen = (link.dialler_epoch, link.counter), book.seen.get(link.claimed, (-1, -1))
    if hello <= seen:
        raise refuse("zg/auth/replayed", "counter", f"epoch {hello[0]}, counter {hello[1]}", f"past {seen}")


def accept_lane(book: Book, link: Link, hello: Hello) -> None:
    """The driver knows which links are local; whether a socket carries control or bulk, the dialler says."""
    if (hello.lane == "local") != (link.lane == "local"):
        raise refuse("zg/session/wrong-lane", "lane", hello.lane, link.lane)
    if (hello.lane == "bulk") != bool(hello.session):
        raise refuse("zg/session/wrong-lane", "session", hello.session or "none", "a session on bulk links alone")
    if book.draining:
        raise refuse("zg/session/draining", "node", book.config.node, "a node that takes new sessions")
    link.lane = hello.lane
    book.refresh(link)
    if hello.framing != 1 or "none" not in hello.compression:
        raise refuse("zg/session/unsupported", "framing", f"{hello.framing}, {hello.compression}", "1, with none")


def join(book: Book, link: Link, hello: Hello) -> None:
    """A bulk link names a session: it has to be there, ready, of the same node, and proven in the same mode."""
    link.joins = book.sessions.get(SessionId(hello.session), NO_LINK)
    control = joinable(book, link)
    if control.mode != link.mode:
        raise refuse("zg/session/other-mode", "mode", link.mode, f"{control.mode}, as its control link")


def joinable(book: Book, link: Link) -> Link:
    """The control link that a bulk link belongs to; asked again when it is proven, since sessions end meanwhile."""
    control = book.links.get(link.joins)
    if control is None or control.state != "ready" or control.peer != link.claimed:
        raise refuse("zg/session/no-such-session", "session", link.joins, f"a ready session of {link.claimed}")
    return control


def proven(book: Book, link: Link, said: Proof, out: Outbox) -> bool:
    """The dialler's proof. True when it needs no verdict of the host."""
    if not link.challenge or link.waiting:
        raise refuse("zg/session/out-of-order", "proof", "a second proof", "one for each challenge")
    return check_proof(book, link, said.proof, out)


def welcome(link: Link, proof: bytes, out: Outbox) -> None:
    """Our own proof, now that we know who gets it."""
    out.frame(link.link, Welcome(proof=proof, session=link.session))


# ---- both


def require_alike(book: Book, link: Link, said: Hello | Challenge) -> None:
    """What both must say alike, and what nobody may say: all differing versions are named at once (A8)."""
    check_extensions(said.extensions, ())
    reasons = tuple(unlike(book, link, said))
    if reasons:
        raise Unlike(reasons)


def unlike(book: Book, link: Link, said: Hello | Challenge) -> Iterator[Reason]:
    """Each difference."""
    yield from version_reasons(said.versions, own_versions())
    if said.cluster != book.config.cluster:
        yield Reason(
            id="zg/auth/wrong-cluster", detail=f"got {said.cluster}, wanted {book.config.cluster}", field="cluster"
        )
    if said.node == book.config.node:
        yield Reason(
            id="zg/auth/own-name", detail=f"{said.node} is this node's own name (link {link.link})", field="node"
        )


class Unlike(RemoteProtocolError):
    """A refusal with more than one reason."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__(reasons[0].id, reasons[0].detail, reasons[0].field)
        self.reasons = reasons


def claim(book: Book, link: Link, said: Hello | Challenge, now: Instant, out: Outbox) -> None:
    """Who must prove what. The verdict about bundles is an event, whatever becomes of the link."""
    mode = said.mode if isinstance(said, Challenge) else link.mode
    link.mode = mode
    link.bundle_version = said.bundle_version
    claimed = Claim(
        node=link.claimed,
        mode=mode,
        key=said.key,
        token=said.token,
        bundle_version=said.bundle_version,
        bundle=said.bundle,
    )
    if mode in ("ed25519", "mtls") and said.bundle_version != book.bundle_version:
        out.events.append(PeerStale(peer=link.claimed, ours=book.bundle_version, theirs=said.bundle_version))
    identity = identify(claimed, book.config, link.lane, link.facts, book.wall(now))
    link.key, link.public, link.claimed_trust = identity.key, identity.public, identity.trust


def sign(book: Book, link: Link, out: Outbox) -> None:
    """Ask the host for our proof."""
    ticket = out.ticket()
    book.ask(link, ticket)
    text = message(link.role, link.hello, link.challenge, link.server_certificate)
    out.calls.append(Sign(ticket=ticket, mode=link.mode, key=link.own_key, message=text))


def check_proof(book: Book, link: Link, proof: bytes, out: Outbox) -> bool:
    """Ask the host about the peer's proof. True when there is nothing to ask: no proof is due, and none came."""
    if link.mode in UNSIGNED:
        if proof:
            raise refuse("zg/auth/bad-proof", "proof", f"{len(proof)} bytes", f"none in mode {link.mode}")
        return True
    wanted = 64 if link.mode == "ed25519" else 32
    if len(proof) != wanted:
        raise refuse("zg/auth/bad-proof", "proof", f"{len(proof)} bytes", f"{wanted} in mode {link.mode}")
    ticket = out.ticket()
    book.ask(link, ticket)
    text = message(link.other_role, link.hello, link.challenge, link.server_certificate)
    out.calls.append(Verify(ticket=ticket, mode=link.mode, key=link.key, public=link.public, message=text, proof=proof))
    return False


def signed(link: Link, result: Signed, out: Outbox) -> bool:
    """Our proof is there: send it. True when phase 1 is over for us, which is the acceptor's case."""
    if link.dialled:
        out.frame(link.link, Proof(proof=result.proof))
        return False
    welcome(link, result.proof, out)
    return True


def verified(book: Book, link: Link, result: Result, out: Outbox) -> bool:
    """The host's verdict about the peer's proof. The acceptor then signs; the dialler is through (True)."""
    if not isinstance(result, Verified) or not result.ok:
        raise refuse("zg/auth/bad-proof", "proof", "a proof that does not verify", f"one by key {link.key or 'none'}")
    if link.dialled:
        return True
    sign(book, link, out)
    return False
