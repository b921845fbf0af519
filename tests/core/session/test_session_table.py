"""The table of states: complete, closed, and the only way in which a session moves (B1)."""

from functools import partial

import pytest

from tests.core.pair import Pair, Party, boot_of, config_of, decoded
from zeitgeist.core.effects import FrameArrived
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.facts import Draining, PeerUp
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import LinkId, NodeId
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.session.states import HEARD_BY, LIVE, PHASES, STATES, TRANSITIONS, EventName, next_state
from zeitgeist.core.trace import SessionMoved
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.registry import REGISTRY, SessionState

pytestmark = pytest.mark.requirement("B1")

EVENTS: tuple[EventName, ...] = EventName.__args__


def test_every_state_is_described_reached_and_left() -> None:
    """Each has a sentence and a phase; all but the first are targets; all but the last can be left, and by either
    side's refusal or a lost connection."""
    assert set(STATES) == set(PHASES) == set(SessionState.__args__)
    assert set(TRANSITIONS.values()) == set(STATES) - {"greeting"}
    for state in STATES:
        ends = {TRANSITIONS.get((state, event)) for event in ("refuse", "refused", "lost")}
        assert ends == ({None} if state == "closed" else {"closed"})
    assert {event for _, event in TRANSITIONS} == set(EVENTS)


def test_ready_is_reached_from_every_state_before_it() -> None:
    """No dead end: a walk over the table, without the three ends."""
    reach = {"ready"}
    for _ in STATES:
        reach |= {before for (before, _), after in TRANSITIONS.items() if after in reach}
    assert reach == set(STATES) - {"closed", "draining"}
    assert set(LIVE) == {"ready", "draining"}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_what_the_table_does_not_hold_is_refused_by_name(state, event) -> None:
    """State, event, role, link and peer stand in the message; the wrong role is refused where the table would allow."""
    for role in ("dialler", "acceptor"):
        allowed = (state, event) in TRANSITIONS and HEARD_BY.get(event, role) == role
        if allowed:
            assert next_state(state, event, role, LinkId(3), NodeId("n2")) == TRANSITIONS[state, event]
            continue
        with pytest.raises(RemoteProtocolError, match=f"{event} is not allowed in {state}.*{role}.*link 3, peer n2"):
            next_state(state, event, role, LinkId(3), NodeId("n2"))


def test_a_session_moves_by_the_table_alone() -> None:
    """Every move of a whole life, of both roles, is a row; and together they are the path of the contract."""
    pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
    here, there = pair.connect()
    pair.connect(lane="bulk", joins=here)
    pair.cut(here, there)
    moves = [*pair.a.all(SessionMoved), *pair.b.all(SessionMoved)]
    assert all(TRANSITIONS[move.before, move.event] == move.after for move in moves)
    path = ["greeting", "describing", "modelling", "assessing", "finalizing", "ready", "closed"]
    for party, link, second in ((pair.a, here, "proving"), (pair.b, there, "challenged")):
        states = [move.after for move in party.all(SessionMoved) if move.link == link]
        assert ["greeting", *states] == [path[0], second, *path[1:]]


def listen(party: Party, heard: Heard, out: Outbox) -> None:
    party.sessions.hear(heard, party.now, out)


RECORDS = [row for row in REGISTRY.values() if row.machine == "session"]


def sample(kind: type) -> object:
    """A record that a handshake really carried."""
    pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
    here, _ = pair.connect()
    pair.a.fact(Draining(peer=NodeId(""), reason="maintenance"))
    pair.pump()
    said = [decoded(frame) for _, frame in pair.carried]
    found = next((record for record in said if type(record) is kind), None)
    extra = {
        m.Refused: m.Refused(phase="plan", reasons=(m.Reason(id="zg/x", detail="y"),)),
        m.Ping: m.Ping(number=1),
        m.Pong: m.Pong(number=1),
    }
    assert here
    return found or extra[kind]


def test_every_record_in_every_state_is_heard_or_refused_and_nothing_else_happens() -> None:
    """A pair is stopped after each frame of its handshake; each record of the session then arrives at each side out of
    turn. No assertion of ours fails, no exception leaves, and nobody becomes ready by it."""
    samples = {row.record: sample(row.record) for row in RECORDS}
    for stop in range(13):
        for row in RECORDS:
            for side in ("a", "b"):
                pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
                here, there = pair.connect(pump=False)
                pair.pump(stop)
                party, link = (pair.a, here) if side == "a" else (pair.b, there)
                standing = party.sessions.standing(link)
                ups = len(party.all(PeerUp))
                arrived = FrameArrived(
                    link=link,
                    channel=int(row.channels[0]),
                    kind=row.kind,
                    flags=0,
                    stream=0,
                    sequence=party.gate.next.get(link, 0),
                    record=encode(samples[row.record]),
                )
                if standing is None:
                    continue
                admitted = party.gate.frame(arrived, standing)
                if isinstance(admitted, m.Reason):
                    continue
                party.run(partial(listen, party, admitted.heard))
                # Where a foreign record could be taken for the right one is the fault of no table: the digests tell.
                assert len(party.all(PeerUp)) == ups or pair.a.link(here).agreement == pair.b.link(there).agreement


def test_a_record_for_a_link_that_is_gone_is_dropped() -> None:
    """The driver read it before it knew."""
    party = Party(boot_of(config_of("a")))
    out = Outbox(party.counters)
    party.sessions.hear(
        Heard(link=LinkId(9), peer=NodeId("b"), stream=0, flags=0, record=m.Ping(number=1)), party.now, out
    )
    assert not out.sends and not out.events
