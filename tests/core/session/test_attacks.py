"""Somebody stands between two nodes, or speaks to one of them: what it may try, and what becomes of it (H1, H3).

Each test is a row of `docs/threat-model.md`.
"""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.pair import (
    CERTIFICATE,
    Pair,
    Party,
    boot_of,
    bundle_of,
    changed,
    config_of,
    decoded,
    member_of,
    token_of,
)
from zeitgeist.core.effects import Send
from zeitgeist.core.facts import PeerUp
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import LinkId
from zeitgeist.core.trace import PeerRefused
from zeitgeist.core.wire.messages import Assessment, Capabilities, Challenge, Hello, Proof, Welcome
from zeitgeist.core.wire.registry import KINDS

pytestmark = pytest.mark.requirement("H1", "H3")

ALONE = bundle_of(member_of("c"))
OTHER_CERTIFICATE = "sha256:" + "66" * 32


def party(name: str, modes=("ed25519",), epoch: int = 1, **config) -> Party:
    if "token" in modes and "bundle" not in config:
        config |= {"tokens": (token_of("shared"),), "bundle": ALONE}
    return Party(boot_of(config_of(name, modes, **config), epoch=epoch), secrets=("shared",))


def on(kind, change):
    """A tap that changes records of one kind."""

    def tap(sender, receiver, frame):
        return change(frame) if isinstance(decoded(frame), kind) else (frame,)

    return tap


def nobody_ready(pair: Pair) -> bool:
    return not pair.a.all(PeerUp) and not pair.b.all(PeerUp)


@pytest.mark.parametrize("modes", [("ed25519",), ("token",)])
def test_a_stranger_who_terminates_tls_is_refused(modes) -> None:
    """Each side saw another server certificate: the transcripts differ, so that relayed proofs do not verify."""
    pair = Pair(party("a", modes), party("b", modes))
    pair.connect(tls=True, loopback=False, certificates=(OTHER_CERTIFICATE, CERTIFICATE))
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == ["auth/bad-proof"]


@pytest.mark.parametrize("modes", [("ed25519",), ("token",)])
def test_our_own_proof_sent_back_is_refused(modes) -> None:
    """Reflection: the dialler's proof comes back as the acceptor's. With one shared token both have the same key; the
    role in the transcript keeps the proofs apart."""
    proofs = []

    def change(frame):
        record = decoded(frame)
        if isinstance(record, Proof):
            proofs.append(record.proof)
            return (frame,)
        return (changed(frame, proof=proofs[0]),)

    pair = Pair(party("a", modes), party("b", modes), on(Proof | Welcome, change))
    pair.connect()
    assert proofs and not pair.a.all(PeerUp) and pair.a.refusals(ours=True) == ["auth/bad-proof"]


def test_our_own_hello_sent_back_is_refused() -> None:
    """Whoever has no key may open a second connection to us and repeat what we say: it bears our name."""
    a, b = party("a", ("token",)), party("b", ("token",))
    pair = Pair(a, b, on(Hello, lambda frame: ()))
    pair.connect()
    hello = Send(link=LinkId(1), channel=0, kind=1, stream=0, sequence=0, record=a.link(LinkId(11)).hello)
    mirror = Pair(b, a, lambda sender, receiver, frame: (frame,))
    here, there = mirror.connect(pump=False)
    b.frames.clear()
    a.hear(there, hello)
    assert a.refusals(ours=True) == ["auth/own-name"] and here


@pytest.mark.parametrize("kind", [Hello, Proof])
def test_a_recorded_handshake_is_refused_when_it_is_played_again(kind) -> None:
    """Hello: its counter was heard. A hello with a later counter and the old proof: the acceptor's nonce is new."""
    a, b = party("a"), party("b")
    pair = Pair(a, b)
    assert pair.ready(*pair.connect())
    recorded = [frame for name, frame in pair.carried if name == "a"]
    here, there = pair.connect(pump=False)
    a.frames.clear()
    for frame in recorded[:2]:
        record = decoded(frame)
        if kind is Proof and isinstance(record, Hello):
            frame = changed(frame, counter=record.counter + 1)
        b.hear(there, frame)
    assert b.refusals(ours=True) == ["auth/replayed" if kind is Hello else "auth/bad-proof"]
    assert len(b.all(PeerUp)) == 1 and here


def test_of_two_handshakes_at_once_the_older_is_a_replay_when_the_newer_is_proven_first() -> None:
    """Both hellos were new when they came; a relay holds the first back. It is asked again when the proof is there."""
    held = []

    def tap(sender, receiver, frame):
        if isinstance(decoded(frame), Proof) and not held:
            held.append(frame)
            return ()
        return (frame,)

    a, b = party("a"), party("b")
    pair = Pair(a, b, tap)
    _, older = pair.connect()
    assert pair.ready(*pair.connect()) and not b.refusals()
    b.hear(older, held[0])
    assert b.refusals(ours=True) == ["auth/replayed"] and len(b.all(PeerUp)) == 1


def test_an_unproven_hello_does_not_block_the_node_that_it_names() -> None:
    """A stranger says Hello in a's name with the greatest counter there is; a itself is still heard."""
    a, b = party("a"), party("b")
    evil = Pair(a, b, on(Hello, lambda frame: (changed(frame, epoch=2**62, counter=2**62),)))
    evil.connect()
    assert b.refusals(ours=True) == ["auth/bad-proof"]
    good = Pair(party("a", epoch=2), b)
    assert good.ready(*good.connect())


@pytest.mark.parametrize("modes", [("ed25519", "token"), ("mtls", "ed25519")])
def test_a_stranger_who_strips_strong_modes_is_refused(modes) -> None:
    """The weaker mode is proven over the Hello that arrived, which is not the one that was sent."""
    how = {"tls": True, "subjects": ("b.home", "a.home")}
    tokens = {"tokens": (token_of("shared"),), "bundle": bundle_of()}
    pair = Pair(
        party("a", modes, **tokens), party("b", modes, **tokens), on(Hello, lambda f: (changed(f, modes=modes[1:]),))
    )
    pair.connect(**how)
    expected = "auth/identity-needs-key" if modes[1] == "token" else "auth/bad-proof"
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == [expected]


def test_modes_stripped_down_to_none_are_noticed_twice() -> None:
    """On loopback with mode none nothing is signed. The session's name gives it away; a stranger who rewrites that too
    is noticed in phase 2, where both lists stand again and the best mode of them was not used."""
    modes = ("token", "none")
    strip = on(Hello, lambda f: (changed(f, modes=("none",)),))
    pair = Pair(party("a", modes), party("b", modes), strip)
    pair.connect()
    assert nobody_ready(pair) and pair.a.refusals(ours=True) == ["auth/other-transcript"]

    def thorough(sender, receiver, frame):
        if isinstance(decoded(frame), Welcome):
            return (changed(frame, session=pair.a.link(LinkId(11)).session),)
        return strip(sender, receiver, frame)

    pair = Pair(party("a", modes), party("b", modes), thorough)
    pair.connect()
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == ["auth/downgraded"]


def test_an_acceptor_that_asks_for_a_mode_we_did_not_offer_is_refused() -> None:
    pair = Pair(party("a"), party("b"), on(Challenge, lambda f: (changed(f, mode="none"),)))
    pair.connect()
    assert nobody_ready(pair) and pair.a.refusals(ours=True) == ["auth/no-common-mode"]


def test_a_proof_cannot_be_moved_to_another_link() -> None:
    """Two links of the same two nodes are open; the proof of one comes on the other."""
    held: list[Send] = []

    def tap(sender, receiver, frame):
        if isinstance(decoded(frame), Proof):
            held.append(frame)
            return ()
        return (frame,)

    a, b = party("a"), party("b")
    pair = Pair(a, b, tap)
    first, second = pair.connect(pump=False), pair.connect(pump=False)
    pair.pump()
    assert len(held) == 2
    b.hear(first[1], held[1])
    b.hear(second[1], held[0])
    assert b.refusals(ours=True) == ["auth/bad-proof"] * 2 and nobody_ready(pair)


def test_a_welcome_before_our_proof_and_a_second_proof_are_refused() -> None:
    """While the host signs or judges, the handshake stands still: nobody gets a second guess on one challenge."""
    a, b = party("a"), party("b")
    a.mute = True
    pair = Pair(a, b)
    here, there = pair.connect()
    early = Welcome(proof=bytes(64), session=a.link(here).session)
    a.hear(here, frame_of(early, 1))
    assert a.refusals(ours=True) == ["session/out-of-order"]

    a, b = party("a"), party("b")
    b.mute = True
    pair = Pair(a, b)
    here, there = pair.connect()
    b.hear(there, frame_of(Proof(proof=bytes(64)), 2))
    assert b.refusals(ours=True) == ["session/out-of-order"] and here


def frame_of(record, sequence: int) -> Send:
    row = KINDS[type(record)]
    return Send(
        link=LinkId(1),
        channel=int(row.channels[0]),
        kind=row.kind,
        stream=0,
        sequence=sequence,
        record=encode(record),
    )


def test_a_proof_for_a_control_link_opens_no_bulk_link() -> None:
    """The lane and the session are in the Hello that is proven."""
    pair = Pair(party("a"), party("b"))
    here, _ = pair.connect()
    session = pair.a.link(here).session
    pair.tap = on(Hello, lambda f: (changed(f, lane="bulk", session=session),))
    pair.connect()
    assert pair.b.refusals(ours=True) == ["auth/bad-proof"]


@pytest.mark.parametrize("field", [{"roles": ("client",)}, {"bundle_version": 9}])
def test_declarations_changed_on_the_way_are_refused(field) -> None:
    """On loopback without TLS a stranger may rewrite phases 2 to 4; what both conclude then differs, even where the
    outcome is the same, and phase 4 ends it."""

    def change(frame):
        return (changed(frame, descriptor=msgspec.structs.replace(decoded(frame).descriptor, **field)),)

    pair = Pair(party("a"), party("b"), on(Capabilities, change))
    pair.connect()
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == ["negotiate/disagreement"]
    assert pair.b.all(PeerRefused)[0].phase == "execution"


def test_a_conclusion_changed_on_the_way_is_refused() -> None:
    pair = Pair(party("a"), party("b"), on(Assessment, lambda f: (changed(f, outcome="incompatible"),)))
    pair.connect()
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == ["negotiate/disagreement"]


def test_a_descriptor_of_another_node_than_the_proven_one_is_refused() -> None:
    def change(frame):
        return (changed(frame, descriptor=msgspec.structs.replace(decoded(frame).descriptor, node="c")),)

    pair = Pair(party("a"), party("b"), on(Capabilities, change))
    pair.connect()
    assert nobody_ready(pair) and pair.b.refusals(ours=True) == ["negotiate/other-node"]


def test_a_key_holder_cannot_prove_itself_as_another_member() -> None:
    """c is a member; it claims to be a, with its own key or with the name of a's."""
    bundle = bundle_of(member_of("a"), member_of("b"), member_of("c"))
    own = config_of("a", key="c", bundle=bundle)
    assert Pair(Party(boot_of(own), secrets=("c",)), b := party("b", bundle=bundle)).connect()
    assert b.refusals() == ["auth/unknown-key"]

    class Liar(Party):
        def host(self, call):
            return super().host(msgspec.structs.replace(call, key=own.auth.key))

    liar = Liar(boot_of(config_of("a", bundle=bundle)), secrets=("c",))
    Pair(liar, b := party("b", bundle=bundle)).connect()
    assert b.refusals() == ["auth/bad-proof"]


def test_a_remote_peer_cannot_take_the_name_of_a_worker() -> None:
    """A worker's local link stays, whoever else proves itself under its name, and with whatever epoch."""
    node, worker, remote = party("a"), party("b", ("none",)), party("b", epoch=9)
    local = Pair(node, worker)
    here, _ = local.connect(lane="local")
    Pair(node, remote).connect(remote)
    assert node.state(here) == "ready" and node.refusals(ours=True) == ["session/duplicate"]
    assert len(node.all(PeerUp)) == 1


def test_a_stranger_cannot_fill_the_table_of_links_for_ever() -> None:
    """One link over the limit is refused; links that do not get ready in time make room."""
    a, b = party("a"), party("b", links_max=2)
    pair = Pair(a, b, on(Hello, lambda f: ()))
    for _ in range(3):
        pair.connect()
    assert b.refusals(ours=True) == ["session/too-many-links"]
    pair.sleep(b.boot.config.times.handshake_ns)
    pair.tap = None
    assert len(b.sessions.book.links) == 0 and pair.ready(*pair.connect())


# ---- anything at all


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 11),  # the frame of the handshake it happens to
        st.sampled_from(["field", "field", "flip", "drop", "double", "swap", "old"]),
        st.integers(0, 1 << 16),
    ),
    min_size=1,
    max_size=4,
)


def another(record, number: int) -> dict:
    """One field of the record with another value of its type; of a plan, one of the plan's own."""
    names = record.__struct_fields__
    name = names[number % len(names)]
    value = getattr(record, name)
    match value:
        case bytes() if value:
            return {name: bytes([value[0] ^ 1]) + value[1:]}
        case int():
            return {name: value + 1}
        case str():
            return {name: value[:-1] if number % 2 else value[:-1] + "0"}
        case tuple():
            return {name: value[:-1]}
        case msgspec.Struct():
            return {name: msgspec.structs.replace(value, **another(value, number // len(names)))}
    return {}


class Meddler:
    """Does what it was told to the n-th frame: changes a field, flips a bit, drops, doubles, swaps with the next, puts
    in a frame of an earlier handshake. What arrives is numbered anew, so that no order gives the meddling away."""

    def __init__(self, operations, earlier: list[Send]) -> None:
        self.operations = operations
        self.earlier = earlier
        self.count = -1
        self.kept: list[Send] = []
        self.sequences: dict[str, int] = {}

    def __call__(self, sender, receiver, frame):
        self.count += 1
        mine = [frame]
        for index, what, number in self.operations:
            if index == self.count and mine:
                mine = self.meddle(what, number, mine)
        for seen in mine:
            sequence = self.sequences.get(receiver.name, 0)
            self.sequences[receiver.name] = sequence + 1
            yield msgspec.structs.replace(seen, sequence=sequence)

    def meddle(self, what: str, number: int, frames: list[Send]) -> list[Send]:
        *others, frame = frames
        match what:
            case "field":
                try:
                    return [*others, changed(frame, **another(decoded(frame), number))]
                except (msgspec.DecodeError, UnicodeDecodeError):  # an earlier change has broken it already
                    return frames
            case "flip":
                at = number % (8 * len(frame.record))
                raw = bytearray(frame.record)
                raw[at // 8] ^= 1 << at % 8
                return [*others, msgspec.structs.replace(frame, record=bytes(raw))]
            case "drop":
                return others
            case "double":
                return [*frames, frame]
            case "swap":
                kept, self.kept = self.kept, [frame]
                return [*others, *kept]
            case _:
                return [*others, self.earlier[number % len(self.earlier)]]


@settings(max_examples=400, deadline=None)
@given(OPERATIONS, st.sampled_from([("ed25519",), ("token",), ("token", "none"), ("none",)]), st.booleans())
def test_no_meddling_makes_two_ready_sides_with_different_transcripts(operations, modes, tls) -> None:
    """Any changed field, bit flip, substitution, replay or reordering of records: when both say ready, both hold the
    same hello, challenge, certificate, agreement and plan; and who is ready with keys has what the other side said."""
    others = {"tokens": (token_of("shared"),), "bundle": bundle_of() if "ed25519" in modes else ALONE}
    a, b = party("a", modes, **others), party("b", modes, **others)
    before = Pair(party("a", modes, epoch=7, **others), party("b", modes, epoch=7, **others))
    before.connect(tls=tls)
    earlier = [frame for _, frame in before.carried]
    pair = Pair(a, b, Meddler(operations, earlier))
    here, there = pair.connect(tls=tls)
    if a.state(here) == "ready" and modes != ("none",):
        assert b.all(PeerUp) or b.state(there) == "finalizing"
        assert same(a, b, here, there)
    if (a.state(here), b.state(there)) == ("ready", "ready"):
        assert same(a, b, here, there)
        assert a.link(here).agreement == b.link(there).agreement and a.link(here).plan == b.link(there).plan


def same(a: Party, b: Party, here: LinkId, there: LinkId) -> bool:
    """One transcript, one session."""
    x, y = a.link(here), b.link(there)
    return (x.hello, x.challenge, x.server_certificate, x.session) == (
        y.hello,
        y.challenge,
        y.server_certificate,
        y.session,
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([("ed25519",), ("token",)]))
def test_no_proof_that_is_made_without_the_key_is_taken(proof, modes) -> None:
    """Any bytes in the place of a proof, on either side."""
    for kind in (Proof, Welcome):
        pair = Pair(party("a", modes), party("b", modes), on(kind, lambda f: (changed(f, proof=proof),)))
        pair.connect()
        refuser = pair.b if kind is Proof else pair.a
        assert refuser.refusals(ours=True) == ["auth/bad-proof"] and not refuser.all(PeerUp)


def test_a_link_without_tls_off_loopback_is_refused_before_anything_is_said() -> None:
    """Both ends, in every mode; nothing of ours was sent but the refusal."""
    pair = Pair(party("a"), party("b"))
    pair.connect(loopback=False)
    assert pair.a.refusals(ours=True) == pair.b.refusals(ours=True) == ["auth/tls-required"]
    assert not any(isinstance(decoded(frame), Hello) for _, frame in pair.carried)


def test_a_proof_of_another_length_never_reaches_the_keys() -> None:
    """The host is not asked; where nothing is to be proven, nothing may be."""
    for modes, proof in ((("ed25519",), bytes(32)), (("token",), bytes(64)), (("none",), b"x")):
        alone = {"bundle": ALONE} if modes == ("none",) else {}
        a, b = party("a", modes, **alone), party("b", modes, **alone)
        b.mute = True
        pair = Pair(a, b, on(Proof, lambda f, proof=proof: (changed(f, proof=proof),)))
        pair.connect()
        assert b.refusals(ours=True) == ["auth/bad-proof"] and not b.sessions.book.waiting


def test_a_challenge_by_another_token_than_ours_is_refused() -> None:
    """Before we prove anything, even when we hold that token too."""
    held = {"tokens": (token_of("old"), token_of("new")), "bundle": ALONE}
    a, b = party("a", ("token",), **held), party("b", ("token",), **held)
    a.secrets = b.secrets = ("old", "new")
    pair = Pair(a, b, on(Challenge, lambda f: (changed(f, token=token_of("old").key),)))
    pair.connect()
    assert pair.a.refusals(ours=True) == ["auth/unknown-token"]
    assert not any(isinstance(decoded(frame), Proof) for _, frame in pair.carried)
