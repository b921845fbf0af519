"""Workers and connections kept alive, as transcripts with the time set by hand (G1, L1)."""

from random import Random

import msgspec
import pytest

from fixtures.golden_parties import NODE, NODE_A, NODE_B, PLAN
from tests.core.mesh import CORE
from tests.core.pair import config_of
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.node import DialTarget, NodeConfig, Times, WorkerConfig
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.effects import (
    Boot,
    CallDone,
    Dial,
    Dialled,
    Effects,
    FrameArrived,
    KillWorker,
    LinkUp,
    StartWorker,
    TimerFired,
)
from zeitgeist.core.facts import (
    BulkDialled,
    BulkDown,
    BulkUp,
    ControlDialled,
    Draining,
    LinkLost,
    PeerDown,
    PeerUp,
    WorkerReady,
    WorkersSettled,
)
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import Digest, LinkId, NodeId, Ticket
from zeitgeist.core.node import Node
from zeitgeist.core.outbox import Counters, Outbox
from zeitgeist.core.supervise import GUARD_FACTOR, QUICK_DEATHS_MAX, Supervisor
from zeitgeist.core.trace import PeerRefused, WorkerChanged
from zeitgeist.core.units import Instant, Nanoseconds
from zeitgeist.core.wire.messages import Reason, Refused

pytestmark = pytest.mark.requirement("G1")

TIMES = Times(redial_first_ns=Nanoseconds(100), redial_most_ns=Nanoseconds(1000), handshake_ns=Nanoseconds(50))
FAILED = Reason(id="zg/transport/refused", detail="nobody listens")


class Stand:
    """A supervisor whose own facts come back to it, as in a node."""

    def __init__(self, workers: int = 0, targets: tuple[DialTarget, ...] = (), seed: bytes = bytes(32)) -> None:
        config = NodeConfig(
            node=NODE_A,
            cluster="home",
            roles=("executor",),
            auth=AuthConfig(modes=("none",)),
            dial=targets,
            workers=tuple(WorkerConfig(name=f"w{n}", backend="reference") for n in range(workers)),
            times=TIMES,
        )
        boot = Boot(core=Digest("blake3:" + "0" * 64), config=config, epoch=1, seed=seed)
        self.machine = Supervisor(boot)
        self.counters = Counters()
        self.now = Instant(0)
        self.facts: list[object] = []
        self.log: list[Effects] = []
        self.boot = self.step(lambda out: self.machine.told(boot, self.now, out))

    def step(self, act) -> Effects:
        out = Outbox(self.counters)
        act(out)
        at = 0
        while at < len(out.facts):
            if isinstance(out.facts[at], WorkersSettled):
                self.machine.fact(out.facts[at], self.now, out)
            at += 1
        self.facts = out.facts
        effects = out.effects(self.machine.deadline())
        self.log.append(effects)
        return effects

    def fact(self, fact) -> Effects:
        return self.step(lambda out: self.machine.fact(fact, self.now, out))

    def answer(self, ticket: int, result) -> Effects:
        return self.step(lambda out: self.machine.answer(Ticket(ticket), result, self.now, out))

    def linked(self, ticket: int, link: int) -> Effects:
        return self.answer(ticket, Dialled(link=LinkId(link)))

    def up(self, link: int, peer: NodeId = NODE_B, local: bool = False) -> Effects:
        return self.fact(
            PeerUp(
                link=LinkId(link),
                peer=peer,
                local=local,
                dialled=True,
                outcome="compatible",
                trust=(),
                descriptor=NODE,
                models=(),
                plan=PLAN,
            )
        )

    def lost(self, link: int, reason: str = "cut") -> Effects:
        return self.fact(LinkLost(link=LinkId(link), reason=reason))

    def wake(self) -> Effects:
        """At the instant that was asked for; a nanosecond before nothing happens."""
        due = self.machine.deadline()
        assert due is not None
        self.now = Instant(due - 1)
        assert not self.step(lambda out: self.machine.expire(self.now, out)).calls
        self.now = due
        return self.step(lambda out: self.machine.expire(self.now, out))


def words(effects: Effects) -> list[tuple[str, str]]:
    return [(event.name, event.state) for event in effects.events if isinstance(event, WorkerChanged)]


def target(address: str = "tcp:b:1", **change) -> DialTarget:
    return msgspec.structs.replace(DialTarget(address=address), **change)


# ---- workers


def test_workers_start_at_boot_and_peers_are_dialled_once_they_have_settled() -> None:
    """Two workers: the dial comes with the second that is ready, and each is announced to the jobs."""
    stand = Stand(2, (target(),))
    assert stand.boot.calls == (StartWorker(ticket=Ticket(1), name="w0"), StartWorker(ticket=Ticket(2), name="w1"))
    stand.linked(1, 11)
    stand.linked(2, 12)
    effects = stand.up(12, NodeId("w1"), local=True)
    assert words(effects) == [("w1", "ready")] and stand.facts == [WorkerReady(link=LinkId(12), name="w1")]
    effects = stand.up(11, NodeId("w0"), local=True)
    assert effects.calls == (Dial(ticket=Ticket(3), address="tcp:b:1", lane="control"),)
    assert stand.facts == [
        WorkerReady(link=LinkId(11), name="w0"),
        WorkersSettled(),
        ControlDialled(ticket=Ticket(3), node=NodeId("")),
    ]


def test_without_workers_all_is_settled_at_boot() -> None:
    """Dials go out in the boot's own step, in the order of the configuration."""
    stand = Stand(0, (target("tcp:a:1"), target("tcp:b:2", node="b", certificate="sha256:" + "0" * 64)))
    assert [(call.address, call.lane) for call in stand.boot.calls] == [("tcp:a:1", "control"), ("tcp:b:2", "control")]
    assert stand.facts[0] == WorkersSettled() and stand.boot.calls[1].certificate.endswith("0" * 64)


def test_a_worker_that_dies_is_restarted_after_a_pause_and_given_up_after_five_quick_deaths() -> None:
    """Pauses are half to all of 100, 200, 400, 800; what the link led to is killed each time; then all is settled."""
    stand = Stand(1, (target(),))
    for death in range(1, QUICK_DEATHS_MAX + 1):
        ticket = max(stand.machine.tickets)
        stand.linked(ticket, death)
        began = stand.now
        effects = stand.lost(death, "signal 11")
        kills = [call for call in effects.calls if isinstance(call, KillWorker)]
        assert [call.link for call in kills] == [death]
        if death < QUICK_DEATHS_MAX:
            assert words(effects) == [("w0", "died")] and len(effects.calls) == 1
            whole = 100 << (death - 1)
            assert whole // 2 <= stand.machine.deadline() - began <= whole
            assert [type(call) for call in stand.wake().calls] == [StartWorker]
    assert words(effects) == [("w0", "died"), ("w0", "given_up")]
    assert [type(call) for call in effects.calls] == [KillWorker, Dial], "the peers are dialled without it"
    assert stand.machine.deadline() is None


def test_a_worker_that_cannot_be_started_dies_too() -> None:
    """A failed call counts; its reason is told."""
    stand = Stand(1)
    effects = stand.answer(1, FAILED)
    (event,) = effects.events
    assert event == WorkerChanged(name="w0", state="died", reason="zg/transport/refused: nobody listens")
    assert stand.wake().calls == (StartWorker(ticket=Ticket(2), name="w0"),)


def test_a_worker_that_ran_steadily_begins_anew() -> None:
    """Ten deaths, each after the longest pause of service: never given up, always the first pause."""
    stand = Stand(1)
    for death in range(1, 11):
        stand.linked(max(stand.machine.tickets), death)
        stand.up(death, NodeId("w0"), local=True)
        stand.now = Instant(stand.now + TIMES.redial_most_ns)
        began = stand.now
        stand.fact(PeerDown(link=LinkId(death), peer=NodeId("w0"), reason="silent"))
        assert 50 <= stand.machine.deadline() - began <= 100
        assert stand.lost(death).calls == (), "the second word about one link changes nothing"
        stand.wake()
    assert ("w0", "given_up") not in [word for effects in stand.log for word in words(effects)]


def test_a_link_lost_before_its_call_is_answered_counts() -> None:
    """A worker may be dead before its start is reported."""
    stand = Stand(1)
    stand.lost(5, "gone at once")
    effects = stand.linked(1, 5)
    assert words(effects) == [("w0", "died")] and stand.machine.deadline() is not None
    for link in range(100, 1100):
        stand.wake() if link == 100 else stand.lost(link)
    assert len(stand.machine.early) == 64, "strangers that come and go meanwhile do not pile up"


def test_a_worker_that_never_answers_is_ended() -> None:
    """Linked, and neither ready nor lost: closed and killed after sixty handshake times."""
    stand = Stand(1)
    stand.linked(1, 5)
    assert stand.machine.deadline() == GUARD_FACTOR * TIMES.handshake_ns
    stand.now = Instant(GUARD_FACTOR * TIMES.handshake_ns)
    effects = stand.step(lambda out: stand.machine.expire(stand.now, out))
    assert [type(call) for call in effects.calls] == [KillWorker] and effects.close[0].link == 5


def test_pauses_are_drawn_by_what_they_are_for() -> None:
    """The same seed gives the same, another seed or another target another; the longest is the configured one."""

    def pauses(seed: bytes, address: str) -> list[int]:
        stand = Stand(0, (target(address),), seed)
        found = []
        for _ in range(12):
            stand.answer(max(stand.machine.tickets), FAILED)
            found.append(stand.machine.deadline() - stand.now)
            stand.wake()
        return found

    one = pauses(bytes(32), "tcp:a:1")
    assert one == pauses(bytes(32), "tcp:a:1")
    assert one != pauses(bytes([1] * 32), "tcp:a:1") and one != pauses(bytes(32), "tcp:b:1")
    assert all(500 <= pause <= 1000 for pause in one[4:]) and len(set(one[4:])) > 1


# ---- dials


def test_bulk_is_dialled_once_control_is_ready_and_names_its_session() -> None:
    """And not at all where the target wants none."""
    stand = Stand(0, (target(certificate="sha256:" + "1" * 64),))
    stand.linked(1, 7)
    effects = stand.up(7)
    assert effects.calls == (Dial(ticket=Ticket(2), address="tcp:b:1", lane="bulk", certificate="sha256:" + "1" * 64),)
    assert stand.facts == [BulkDialled(ticket=Ticket(2), control=LinkId(7))]
    plain = Stand(0, (target(bulk=False),))
    plain.linked(1, 7)
    assert plain.up(7).calls == ()


def ready_pair() -> Stand:
    stand = Stand(0, (target(),))
    stand.linked(1, 7)
    stand.up(7)
    stand.linked(2, 8)
    stand.fact(BulkUp(link=LinkId(8), control=LinkId(7), peer=NODE_B))
    return stand


def test_a_lost_bulk_link_is_dialled_again_for_the_same_session() -> None:
    """After a pause, and control is left alone."""
    stand = ready_pair()
    assert stand.fact(BulkDown(link=LinkId(8), control=LinkId(7), peer=NODE_B)).calls == ()
    (call,) = stand.wake().calls
    assert call.lane == "bulk" and stand.facts == [BulkDialled(ticket=call.ticket, control=LinkId(7))]


def test_a_lost_control_link_takes_its_bulk_link_along() -> None:
    """Bulk is closed and not dialled until there is a session again, which it then names."""
    stand = ready_pair()
    effects = stand.fact(PeerDown(link=LinkId(7), peer=NODE_B, reason="silent"))
    assert effects.calls == () and [close.link for close in effects.close] == [8]
    assert stand.fact(BulkDown(link=LinkId(8), control=LinkId(7), peer=NODE_B)).calls == ()
    (call,) = stand.wake().calls
    assert call.lane == "control"
    stand.linked(call.ticket, 9)
    (call,) = stand.up(9).calls
    assert call.lane == "bulk" and stand.facts == [BulkDialled(ticket=call.ticket, control=LinkId(9))]


def test_a_bulk_dial_under_way_for_a_lost_session_is_not_doubled() -> None:
    """Its connection comes up for a session that is gone: closed, and only then dialled for the new one."""
    stand = Stand(0, (target(),))
    stand.linked(1, 7)
    stand.up(7)
    stand.lost(7)
    stand.linked(stand.wake().calls[0].ticket, 9)
    assert stand.up(9).calls == (), "one bulk dial is still under way"
    effects = stand.linked(2, 8)
    assert [close.link for close in effects.close] == [8]
    assert [call.lane for call in effects.calls] == ["bulk"]
    assert stand.facts == [BulkDialled(ticket=effects.calls[0].ticket, control=LinkId(9))]


def test_another_node_than_was_named_is_left() -> None:
    """Closed, told, and dialled again later: the name may move back."""
    stand = Stand(0, (target(node="node-x"),))
    stand.linked(1, 7)
    effects = stand.up(7)
    (event,) = (event for event in effects.events if isinstance(event, PeerRefused))
    assert event.reasons[0].id == "zg/supervise/wrong-node" and effects.close[0].link == 7 and not effects.calls
    assert stand.wake().calls[0].lane == "control"


def test_a_peer_that_dialled_us_is_not_dialled_until_it_is_gone() -> None:
    """Both name each other: our dial loses against theirs, and is not repeated while their session stands."""
    stand = Stand(0, (target(node=NODE_B), target("tcp:c:1")))
    stand.up(70)
    stand.answer(1, FAILED)
    stand.now = stand.machine.deadline()
    assert stand.step(lambda out: stand.machine.expire(stand.now, out)).calls == ()
    assert stand.machine.deadline() is None
    began = stand.now
    stand.fact(PeerDown(link=LinkId(70), peer=NODE_B, reason="gone"))
    stand.lost(70)
    assert 100 <= stand.machine.deadline() - began <= 200, "the second pause, since the first dial failed"
    assert [call.address for call in stand.wake().calls] == ["tcp:b:1"]


@pytest.mark.parametrize("seed", range(40))
def test_there_is_never_more_than_one_dial_of_a_kind_under_way(seed) -> None:
    """Whatever fails and comes back in whatever order; and while a target is wanted something is always under way."""
    rng = Random(seed)
    stand = Stand(1, (target("tcp:a:1"), target("tcp:b:1", bulk=False)), bytes([seed] * 32))
    link = 100
    pending: dict[int, object] = {call.ticket: call for call in stand.boot.calls}
    alive: list[tuple[int, str]] = []
    for _ in range(300):
        before = len(stand.log)
        pick = rng.randrange(4)
        if pick == 0 and pending:
            ticket = rng.choice(list(pending))
            call = pending.pop(ticket)
            if rng.random() < 0.6 and not isinstance(call, KillWorker):
                link += 1
                alive.append((link, getattr(call, "lane", "worker")))
                stand.linked(ticket, link)
            else:
                stand.answer(ticket, FAILED)
        elif pick == 1 and alive:
            number, lane = rng.choice(alive)
            if lane == "bulk":
                stand.fact(BulkUp(link=LinkId(number), control=LinkId(1), peer=NODE_B))
            else:
                stand.up(number, local=lane == "worker")
        elif pick == 2 and alive:
            number, _ = alive.pop(rng.randrange(len(alive)))
            stand.lost(number)
        elif stand.machine.deadline() is not None:
            stand.wake()
        for effects in stand.log[before:]:
            for call in effects.calls:
                pending[call.ticket] = call
            for close in effects.close:
                alive = [entry for entry in alive if entry[0] != close.link]
        kinds = [
            (getattr(call, "address", ""), getattr(call, "lane", "start"))
            for call in pending.values()
            if not isinstance(call, KillWorker)
        ]
        assert len(kinds) == len(set(kinds))
        for line in stand.machine.controls if stand.machine.settled else ():
            assert line.state in ("asked", "linked", "ready", "resting")


# ---- drain


def test_in_a_drain_nothing_is_started_or_dialled_and_what_is_half_way_ends() -> None:
    """One worker resting, one shaking hands, one ready; a dial under way is closed when it comes."""
    stand = Stand(3, (target(),))
    stand.answer(1, FAILED)
    stand.linked(2, 12)
    stand.linked(3, 13)
    stand.up(13, NodeId("w2"), local=True)
    effects = stand.fact(Draining(peer=NodeId(""), reason="stop"))
    assert [(call.link) for call in effects.calls] == [12] and isinstance(effects.calls[0], KillWorker)
    assert words(effects) == [("w1", "stopped")] and stand.machine.deadline() is None
    effects = stand.fact(PeerDown(link=LinkId(13), peer=NodeId("w2"), reason="goodbye"))
    assert [(type(call), call.link) for call in effects.calls] == [(KillWorker, 13)]
    assert words(effects) == [("w2", "stopped")] and stand.machine.deadline() is None
    dialling = Stand(0, (target(),))
    dialling.fact(Draining(peer=NodeId(""), reason="stop"))
    effects = dialling.linked(1, 7)
    assert [close.link for close in effects.close] == [7] and dialling.machine.deadline() is None


def test_workers_that_settle_in_a_drain_open_no_connection() -> None:
    """The last worker is given up when the drain has begun."""
    stand = Stand(1, (target(),))
    for _ in range(QUICK_DEATHS_MAX - 1):
        stand.answer(max(stand.machine.tickets), FAILED)
        stand.wake()
    stand.fact(Draining(peer=NodeId(""), reason="stop"))
    effects = stand.answer(max(stand.machine.tickets), FAILED)
    assert words(effects)[-1] == ("w0", "given_up") and effects.calls == ()


def test_a_peer_that_drains_is_dialled_again_when_it_is_gone() -> None:
    """Its goodbye changes nothing by itself."""
    stand = ready_pair()
    assert stand.fact(Draining(peer=NODE_B, reason="stop")).calls == ()
    stand.fact(PeerDown(link=LinkId(7), peer=NODE_B, reason="goodbye"))
    assert stand.wake().calls[0].lane == "control"


def test_the_state_tells_all_that_decides() -> None:
    """Two supervisors with the same inputs hold the same bytes, with other inputs others."""
    one, two = ready_pair(), ready_pair()
    assert one.machine.state() == two.machine.state()
    two.lost(8)
    assert one.machine.state() != two.machine.state()


def test_a_handshake_that_is_refused_is_tried_again_after_a_pause() -> None:
    """The peer says no, for instance because it drains. A link that the core closes is not told as down: its dialler
    calls again after the back-off all the same, not after ten minutes."""
    node, config = Node(), config_of("a", ("none",), dial=(DialTarget(address="tcp:b"),))
    (call,) = node.step(Boot(core=CORE, config=config, epoch=1, seed=bytes(32)), Instant(0)).calls
    facts = LinkFacts(transport="tcp", inbound=False, loopback=True, address="tcp:b")
    node.step(LinkUp(link=LinkId(1), lane="control", facts=facts, ticket=call.ticket), Instant(1))
    node.step(CallDone(ticket=call.ticket, result=Dialled(link=LinkId(1))), Instant(1))
    no = encode(Refused(phase="handshake", reasons=(Reason(id="zg/session/draining", detail="later"),)))
    frame = FrameArrived(link=LinkId(1), channel=0, kind=5, flags=0, stream=0, sequence=0, record=no)
    effects = node.step(frame, Instant(2))
    assert effects.wake_at is not None and effects.wake_at <= config.times.redial_first_ns + 2
    (again,) = node.step(TimerFired(), effects.wake_at).calls
    assert isinstance(again, Dial)
