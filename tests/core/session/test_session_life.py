"""After the handshake: announcements, silence, draining, workers, bulk links, two links of one pair (B1, G4, H1)."""

import msgspec
import pytest

from tests.core.pair import Pair, Party, backend, boot_of, bundle_of, changed, config_of, decoded, member_of, offer
from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.descriptors.node import Times, WorkerConfig
from zeitgeist.core.effects import LinkDown, Signed
from zeitgeist.core.facts import BulkDown, BulkUp, ControlDialled, Draining, LinkLost, PeerDown, PeerUp, WorkersSettled
from zeitgeist.core.formats.canonical import digest
from zeitgeist.core.ids import LinkId, NodeId, Ticket
from zeitgeist.core.session.book import DIALS_MAX, SEEN_PER_LINK
from zeitgeist.core.trace import PeerGone, PeerJoined, PeerRefused
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m

pytestmark = pytest.mark.requirement("B1")

TIMES = Times()
MS = 1_000_000


def party(name: str, modes=("ed25519",), epoch: int = 1, **config) -> Party:
    return Party(boot_of(config_of(name, modes, **config), epoch=epoch))


def pair_of(**config) -> Pair:
    return Pair(party("a", **config), party("b", **config))


def said(pair: Pair, kind: type) -> list[str]:
    """Who said it."""
    return [name for name, frame in pair.carried if isinstance(decoded(frame), kind)]


# ---- ready


def test_both_sides_announce_each_other_with_what_was_declared() -> None:
    pair = pair_of()
    here, there = pair.connect()
    (a,), (b,) = pair.ups
    assert (a.link, a.peer, a.dialled, a.local) == (here, "b", True, False)
    assert (b.link, b.peer, b.dialled, b.local) == (there, "a", False, False)
    assert a.descriptor.node == "b" and a.models == b.models and a.outcome == "compatible" and a.plan == b.plan


def test_the_handshake_takes_four_frames_and_the_negotiation_eight() -> None:
    """Five rounds: the contract's table."""
    pair = pair_of()
    pair.connect()
    words = [type(decoded(frame)).__name__ for _, frame in pair.carried]
    assert words[:4] == ["Hello", "Challenge", "Proof", "Welcome"]
    rest = ["Capabilities", "Models", "Assessment"]
    assert words[4:] == [word for word in rest for _ in range(2)] + ["PlanProposal", "PlanAgreed"]
    assert [name for name, _ in pair.carried] == ["a", "b"] * 6


def test_incompatible_sides_are_refused_with_every_reason_on_both_ends() -> None:
    """Phase 4 ends it; both hear the same list."""
    client = {"roles": ("client",)}
    pair = Pair(party("a", **client), party("b", **client))
    here, there = pair.connect()
    assert (pair.a.state(here), pair.b.state(there)) == ("gone", "gone")
    (a,), (b,) = pair.a.all(PeerRefused), pair.b.all(PeerRefused)
    assert a.reasons == b.reasons and len(a.reasons) == 2
    assert {a.phase, b.phase} == {"execution"} and {a.ours, b.ours} == {True, False}


@pytest.mark.requirement("A8")
def test_every_differing_version_is_named_in_the_first_answer() -> None:
    """Phase 1: the Hello of another build is answered by one refusal with all schemas that differ."""
    pair = pair_of()

    def tap(sender, receiver, frame):
        record = decoded(frame)
        if isinstance(record, m.Hello):
            other = msgspec.structs.replace(record.versions, tensor=2, kernel=9)
            record = msgspec.structs.replace(record, versions=other)
            frame = msgspec.structs.replace(frame, record=msgspec.msgpack.encode(record, order="sorted"))
        return (frame,)

    pair.tap = tap
    pair.connect()
    (refusal,) = pair.b.all(PeerRefused)
    assert {reason.field: reason.detail for reason in refusal.reasons} == {
        "versions.tensor": "theirs is 2, ours is 1",
        "versions.kernel": "theirs is 9, ours is 1",
    }


@pytest.mark.requirement("B3")
def test_an_executor_without_models_is_refused_by_its_peer() -> None:
    """Nothing is assumed: the field is named at both ends."""
    a = Party(boot_of(config_of("a"), models=()))
    pair = Pair(a, party("b"))
    pair.connect()
    assert [reason.field for reason in a.all(PeerRefused)[0].reasons] == ["a.models"]


def test_a_host_that_cannot_sign_is_refused_by_name() -> None:
    """Its key is not there: the peer hears it at once instead of waiting."""
    a = Party(boot_of(config_of("a")), secrets=())
    a.secrets = ()
    pair = Pair(a, party("b"))
    pair.connect()
    assert a.refusals(ours=True) == ["auth/no-proof"] == pair.b.refusals(ours=False)


# ---- time


def test_a_handshake_that_is_not_over_in_time_is_refused() -> None:
    """At the instant that the times say, in whatever state; a late answer of the host changes nothing."""
    pair = pair_of()
    pair.b.mute = True
    here, there = pair.connect()
    assert pair.b.state(there) == "challenged"
    pair.sleep(TIMES.handshake_ns - 1)
    assert pair.b.state(there) == "challenged"
    pair.sleep(1)
    assert (pair.a.state(here), pair.b.state(there)) == ("gone", "gone")
    assert pair.b.refusals() == ["session/handshake-timeout"] or pair.a.refusals()
    assert pair.a.sessions.deadline() is None and not pair.a.sessions.book.waiting


def test_a_worker_may_take_its_time_to_answer() -> None:
    """It loads its model first; the supervisor and the kernel bound that, not the handshake's deadline."""
    pair = Pair(party("a"), party("w", ("none",)))
    here, there = pair.connect(lane="local", pump=False)
    late = list(pair.a.frames)
    pair.a.frames.clear()
    pair.sleep(30 * TIMES.handshake_ns)
    assert pair.a.state(here) == "greeting" and pair.a.sessions.deadline() is None
    pair.a.frames.extend(late)
    pair.pump()
    assert pair.ready(here, there)


def test_a_quiet_link_is_pinged_and_a_silent_peer_is_given_up() -> None:
    """Both ping after a heartbeat of silence; answers keep the session; without any it ends after the silence."""
    pair = pair_of()
    here, there = pair.connect()
    pair.sleep(20 * TIMES.heartbeat_ns)
    assert pair.ready(here, there)
    pings = said(pair, m.Ping)
    assert 20 <= len(pings) <= 42 and len(pings) == len(said(pair, m.Pong))
    before = pair.a.now
    pair.sleep(2 * TIMES.silence_ns, deaf=True)
    assert (pair.a.state(here), pair.b.state(there)) == ("gone", "gone")
    gone = pair.a.all(PeerDown)[0]
    assert gone.reason.startswith("zg/session/silent") and pair.a.all(PeerGone) and before


def test_pings_travel_on_control_links_alone() -> None:
    """A bulk link follows its control link; a worker's end is the kernel's to tell."""
    pair = pair_of()
    here, there = pair.connect()
    bulk, _ = pair.connect(lane="bulk", joins=here)
    local = Pair(party("a"), party("w", ("none",)))
    local.connect(lane="local")
    pair.sleep(4 * TIMES.heartbeat_ns)
    local.sleep(4 * TIMES.heartbeat_ns)
    links = {frame.link for _, frame in pair.carried if isinstance(decoded(frame), m.Ping)}
    assert links == {here, there} and bulk not in links
    assert not said(local, m.Ping)


def test_a_ready_node_wakes_for_its_next_ping_and_not_before() -> None:
    """One entry for each live link: no timer is left behind."""
    pair = pair_of()
    pair.connect()
    assert pair.a.sessions.deadline() is not None
    pair.sleep(60 * TIMES.heartbeat_ns)
    assert pair.a.sessions.deadline() > pair.a.now
    assert len(pair.a.sessions.book.due) == 1


# ---- ends


def test_a_lost_link_is_told_once_to_all() -> None:
    pair = pair_of()
    here, there = pair.connect()
    pair.cut(here, there)
    assert [fact.link for fact in pair.a.all(PeerDown)] == [here] and len(pair.a.all(LinkLost)) == 1
    pair.a.told(LinkDown(link=here, reason="again"))
    assert len(pair.a.all(PeerDown)) == 1 and len(pair.a.all(LinkLost)) == 2


def test_a_draining_node_says_goodbye_and_takes_nobody_new() -> None:
    """The peer hears it as a fact; both stay up, for what runs; a new session is refused."""
    pair = pair_of()
    here, there = pair.connect()
    pair.a.fact(Draining(peer=NodeId(""), reason="maintenance"))
    pair.pump()
    assert (pair.a.state(here), pair.b.state(there)) == ("draining", "draining")
    assert [fact.peer for fact in pair.b.all(Draining)] == ["a"]
    pair.sleep(4 * TIMES.heartbeat_ns)
    assert pair.a.state(here) == "draining"
    pair.connect(pair.b)
    assert pair.a.refusals(ours=True) == ["session/draining"]
    assert pair.b.link(there).state == "draining"


def test_a_session_that_gets_ready_while_we_drain_drains_too() -> None:
    pair = pair_of()
    here, there = pair.connect(pump=False)
    pair.pump(6)
    pair.b.fact(Draining(peer=NodeId(""), reason="maintenance"))
    pair.pump()
    assert (pair.a.state(here), pair.b.state(there)) == ("draining", "draining")


def test_what_the_host_answers_for_a_link_that_is_gone_is_dropped() -> None:
    """Nothing waits for it, nothing happens."""
    pair = pair_of()
    pair.a.mute = True
    here, there = pair.connect()
    (ticket,) = pair.a.sessions.book.waiting
    pair.cut(here, there)
    assert not pair.a.sessions.book.waiting
    before = (len(pair.a.events), len(pair.a.frames))
    pair.a.run(lambda out: pair.a.sessions.answer(ticket, Signed(proof=bytes(64)), pair.a.now, out))
    assert (len(pair.a.events), len(pair.a.frames)) == before


# ---- workers


def test_a_worker_and_its_node_make_a_session_that_carries_its_own_bulk() -> None:
    """Mode none, no keys, no clock; each grants the other a worker's trust, and the link is its own bulk link."""
    node = Party(boot_of(config_of("a", roles=("coordinator", "executor")), backends=(), models=()), clock=False)
    worker = Party(boot_of(config_of("a.w", ("none",))), clock=False)
    pair = Pair(node, worker)
    here, there = pair.connect(lane="local")
    assert pair.ready(here, there)
    (up,), (down,) = pair.ups
    assert up.local and down.local and up.trust == down.trust == ("trusted_executor",)
    assert node.all(BulkUp) == [BulkUp(link=here, control=here, peer=NodeId("a.w"))]
    assert down.descriptor.roles == ("coordinator",) and down.descriptor.backends == ()
    pair.cut(here, there)
    kinds = [type(fact) for fact in node.facts if isinstance(fact, BulkDown | PeerDown)]
    assert kinds == [BulkDown, PeerDown]


def test_a_node_declares_what_its_workers_hold() -> None:
    """Two workers; the peer learns both engines and which model is held in which."""
    node = party("a", roles=("coordinator", "executor"))
    node.sessions.book.boot = boot_of(node.boot.config, backends=(), models=())
    for name, engine in (("w2", "torch"), ("w1", "reference")):
        boot = boot_of(config_of(f"a.{name}", ("none",)), backends=(backend(name=engine),), models=(offer(name),))
        Pair(node, Party(boot)).connect(lane="local")
    pair = Pair(node, party("b"))
    pair.connect()
    (up,) = pair.b.all(PeerUp)
    assert [engine.name for engine in up.descriptor.backends] == ["reference", "torch"]
    assert [(offer.backend, offer.engine) for offer in up.models] == [
        ("w1", digest(backend(name="reference"))),
        ("w2", digest(backend(name="torch"))),
    ]
    assert up.descriptor.roles == ("coordinator", "executor") and up.descriptor.health == "ready"


def test_phase_two_waits_until_our_workers_have_settled() -> None:
    """A peer that calls early is answered late; then with what is there. Dialler and acceptor alike."""
    config = config_of("b", workers=(WorkerConfig(name="w", backend="reference"),))
    for dialled in (False, True):
        b = Party(boot_of(config))
        pair = Pair(party("a"), b)
        here, there = pair.connect(b if dialled else None)
        assert (pair.a.state(here), b.state(there)) == ("describing", "describing")
        b.fact(WorkersSettled())
        pair.pump()
        assert pair.ready(here, there)
    local = Pair(Party(boot_of(config)), party("w", ("none",)))
    assert local.ready(*local.connect(lane="local"))


def test_a_node_whose_workers_were_given_up_says_so() -> None:
    """It is no executor any more, its health is degraded, and it still takes part."""
    config = config_of("a", roles=("coordinator", "executor"), workers=(WorkerConfig(name="w", backend="x"),))
    a = Party(boot_of(config, backends=(), models=()))
    a.fact(WorkersSettled())
    pair = Pair(a, party("b"))
    assert pair.ready(*pair.connect())
    descriptor = pair.b.all(PeerUp)[0].descriptor
    assert (descriptor.roles, descriptor.health) == (("coordinator",), "degraded")


# ---- bulk links


def test_a_bulk_link_joins_the_session_it_names() -> None:
    """After the same proof; four frames, no phases 2 to 5; its end leaves the session standing."""
    pair = pair_of()
    here, there = pair.connect()
    count = len(pair.carried)
    bulk, far = pair.connect(lane="bulk", joins=here)
    assert len(pair.carried) == count + 4 and pair.b.sessions.standing(far).lane == "bulk"
    assert pair.a.all(BulkUp) == [BulkUp(link=bulk, control=here, peer=NodeId("b"))]
    assert pair.b.all(BulkUp) == [BulkUp(link=far, control=there, peer=NodeId("a"))]
    pair.cut(bulk, far)
    assert pair.a.all(BulkDown) == [BulkDown(link=bulk, control=here, peer=NodeId("b"))]
    assert pair.ready(here, there) and not pair.a.all(PeerDown)
    pair.connect(lane="bulk", joins=here)
    assert len(pair.a.all(BulkUp)) == 2


def test_a_second_bulk_link_takes_the_place_of_the_first() -> None:
    """Its dialler knows that the first is dead, perhaps before we do."""
    pair = pair_of()
    here, _ = pair.connect()
    first, far = pair.connect(lane="bulk", joins=here)
    second, _ = pair.connect(lane="bulk", joins=here)
    assert pair.a.state(first) == pair.b.state(far) == "gone"
    assert pair.a.link(here).bulk == second
    kinds = [type(fact) for fact in pair.b.facts if isinstance(fact, BulkUp | BulkDown)]
    assert kinds in ([BulkUp, BulkDown, BulkUp], [BulkUp, BulkUp])


def test_the_end_of_a_session_ends_its_bulk_link_first() -> None:
    pair = pair_of()
    here, there = pair.connect()
    bulk, far = pair.connect(lane="bulk", joins=here)
    pair.cut(here, there)
    assert (pair.a.state(bulk), pair.b.state(far)) == ("gone", "gone") and far in pair.b.closed
    assert [type(f) for f in pair.b.facts if isinstance(f, BulkDown | PeerDown)] == [BulkDown, PeerDown]


def test_a_bulk_link_of_no_ready_session_is_refused() -> None:
    """Of none, of a session that is over, and of somebody else's."""
    bundle = bundle_of(member_of("a"), member_of("b"), member_of("c"))
    b = party("b", bundle=bundle)
    pair = Pair(party("a", bundle=bundle), b)
    here, there = pair.connect()
    pair.connect(lane="bulk", joins=LinkId(99))
    assert pair.a.refusals(ours=True) == ["session/no-such-session"]
    thief = Pair(party("c", bundle=bundle), b)
    own, _ = thief.connect()
    thief.a.link(own).session = pair.a.link(here).session
    thief.connect(lane="bulk", joins=own)
    assert b.refusals(ours=True) == ["session/no-such-session"]
    b.told(LinkDown(link=there, reason="cut"))
    pair.connect(lane="bulk", joins=here)
    assert b.refusals(ours=True) == ["session/no-such-session"] * 2 and not b.all(BulkUp)


def test_a_draining_session_gets_no_bulk_link() -> None:
    """Nothing new starts."""
    pair = pair_of()
    here, there = pair.connect()
    pair.b.fact(Draining(peer=NodeId(""), reason="maintenance"))
    pair.b.frames.clear()
    pair.b.sessions.book.draining = False  # the session alone drains
    pair.connect(lane="bulk", joins=here)
    assert pair.b.refusals(ours=True) == ["session/no-such-session"] and pair.b.state(there) == "draining"


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (m.Hello, {"lane": "local"}, "session/wrong-lane"),
        (m.Hello, {"lane": "bulk"}, "session/wrong-lane"),
        (m.Hello, {"session": "00" * 16}, "session/wrong-lane"),
        (m.Hello, {"framing": 2}, "session/unsupported"),
        (m.Hello, {"compression": ("zstd",)}, "session/unsupported"),
        (m.Challenge, {"compression": "zstd"}, "session/unsupported"),
        *(
            (kind, {"extensions": {"acme": Extension(critical=True, body=b"")}}, "wire/unknown-critical-extension")
            for kind in (m.Hello, m.Challenge, m.Capabilities)
        ),
    ],
)
def test_what_is_not_spoken_here_is_refused_by_name(kind, fields, reason) -> None:
    """Lanes that the driver contradicts, framings, compressions and critical extensions nobody knows."""
    pair = pair_of()
    pair.tap = lambda s, r, f: (changed(f, **fields),) if isinstance(decoded(f), kind) else (f,)
    pair.connect()
    refuser = pair.a if kind is m.Challenge else pair.b
    assert refuser.refusals(ours=True) == [reason] and not pair.a.all(PeerUp)


def test_a_worker_cannot_be_taken_for_a_peer() -> None:
    """On a socket pair the Hello says local, or it is refused."""
    pair = Pair(party("a"), party("w", ("none",)))
    pair.tap = lambda s, r, f: (changed(f, lane="control"),) if isinstance(decoded(f), m.Hello) else (f,)
    pair.connect(lane="local")
    assert pair.b.refusals(ours=True) == ["session/wrong-lane"]


def test_one_word_is_enough_while_an_answer_is_held_back() -> None:
    """A second Capabilities before our workers have settled is out of order."""
    b = Party(boot_of(config_of("b", workers=(WorkerConfig(name="w", backend="reference"),))))
    pair = Pair(party("a"), b)
    here, there = pair.connect()
    (frame,) = [frame for _, frame in pair.carried if isinstance(decoded(frame), m.Capabilities)]
    b.hear(there, msgspec.structs.replace(frame, sequence=frame.sequence + 1))
    assert b.refusals(ours=True) == ["session/out-of-order"] and here


def test_a_bulk_link_in_a_weaker_mode_than_its_session_is_refused() -> None:
    """The control link proved itself by certificate; a bulk connection without one is another party's, for all we
    know."""
    pair = pair_of(modes=("mtls", "ed25519"))
    here, _ = pair.connect(tls=True, subjects=("b.home", "a.home"))
    assert pair.a.link(here).mode == "mtls"
    pair.connect(lane="bulk", joins=here, tls=True)
    assert pair.b.refusals(ours=True) == ["session/other-mode"] and not pair.a.all(BulkUp)


# ---- two links of one pair


@pytest.mark.parametrize("order", ["a first", "b first", "interleaved", "b ahead"])
def test_two_nodes_that_dial_each_other_keep_the_link_of_the_smaller_id(order) -> None:
    """Whatever the order of events: one session, the same on both sides, dialled by a; nobody sees none or two."""
    pair = pair_of()
    if order == "interleaved":
        first = pair.connect(pair.a, pump=False)
        second = pair.connect(pair.b, pump=False)
        pair.pump()
    elif order == "b ahead":
        second = pair.connect(pair.b, pump=False)
        pair.pump(5)
        first = pair.connect(pair.a)
    elif order == "a first":
        first = pair.connect(pair.a)
        second = pair.connect(pair.b)
    else:
        second = pair.connect(pair.b)
        first = pair.connect(pair.a)
    assert pair.ready(*first)
    assert (pair.a.state(second[0]), pair.b.state(second[1])) == ("gone", "gone")
    for one in (pair.a, pair.b):
        assert len(one.all(PeerUp)) - len(one.all(PeerDown)) == 1
        assert "session/duplicate" in one.refusals()
        assert not one.all(PeerGone) or order == "b first"
        assert len(one.all(PeerUp)) == (2 if order == "b first" else 1)


def test_a_redial_after_a_loss_that_only_the_dialler_saw_takes_over() -> None:
    """The acceptor still holds the dead link: the later Hello of the same dialler wins."""
    pair = pair_of()
    here, there = pair.connect()
    pair.a.told(LinkDown(link=here, reason="reset"))
    again = pair.connect()
    assert pair.ready(*again) and pair.b.state(there) == "gone"
    assert [fact.link for fact in pair.b.all(PeerDown)] == [there]


def test_a_node_that_restarted_takes_over_whoever_dials() -> None:
    """b restarts and dials a before a noticed: the sum of epochs has grown, although a's id is the smaller."""
    pair = pair_of()
    here, _ = pair.connect()
    reborn = Pair(pair.a, party("b", epoch=2))
    again = reborn.connect(reborn.b)
    assert reborn.ready(*again) and pair.a.state(here) == "gone"


# ---- bounds and digests


def test_what_is_remembered_is_bounded() -> None:
    """Hellos of nodes that come and go; dials that never come up."""
    b = party("b", ("none",), links_max=2, bundle=bundle_of(member_of("z")))
    for number in range(3 * 2 * SEEN_PER_LINK):
        pair = Pair(party(f"a{number}", ("none",), bundle=bundle_of(member_of("z"))), b)
        pair.cut(*pair.connect())
    assert len(b.sessions.book.seen) == 2 * SEEN_PER_LINK
    for _ in range(DIALS_MAX + 3):
        pair.tickets += 1
        b.fact(ControlDialled(ticket=Ticket(pair.tickets), node=NodeId("")))
    assert len(b.sessions.book.control_dials) == DIALS_MAX


def test_the_same_inputs_give_the_same_frames_events_and_state() -> None:
    """Two runs of one story: byte for byte."""

    def story() -> tuple:
        pair = pair_of()
        here, there = pair.connect()
        pair.connect(lane="bulk", joins=here)
        pair.sleep(3 * TIMES.heartbeat_ns)
        states = [pair.a.sessions.state(), pair.b.sessions.state()]
        pair.cut(here, there)
        return pair.carried, pair.a.events, pair.b.facts, states, pair.a.sessions.state()

    first, second = story(), story()
    assert first == second and first[3][0] != first[4]


def test_every_joined_peer_is_an_event_with_the_agreements_digest() -> None:
    pair = pair_of()
    here, there = pair.connect()
    (a,), (b,) = pair.a.all(PeerJoined), pair.b.all(PeerJoined)
    assert a.agreement == b.agreement == digest(pair.a.link(here).agreement) and b.link == there
    assert Instant(0) == pair.a.now
