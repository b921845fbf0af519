"""Any sequence of messages, and what a chunk costs (C1, E4, G4)."""

import gc
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_pump import envelope_of
from transfer_stand import BULK, CONTROL, REASON, Stand, offer

from fixtures.golden_parties import NODE_B
from zeitgeist.core.effects import (
    ChunkArrived,
    Expect,
    PayloadRef,
    Release,
)
from zeitgeist.core.facts import BulkDown, BulkUp, PeerDown
from zeitgeist.core.ids import Handle, LinkId, TransferId
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.transfer.states import (
    RESUME_NS,
    STALL_NS,
)
from zeitgeist.core.wire import messages as m

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G4")]

NUMBERS = st.integers(0, 9)
RECORDS = st.one_of(
    st.builds(
        m.Accept,
        transfer=NUMBERS,
        credit=st.integers(1, 1024),
        have=st.lists(st.tuples(st.integers(-1, 31), st.integers(-1, 31)), max_size=3).map(tuple),
    ),
    st.builds(m.Credit, transfer=NUMBERS, count=st.integers(1, 1024)),
    st.builds(m.Resend, transfer=NUMBERS, indices=st.lists(st.integers(-1, 31), min_size=1, max_size=5).map(tuple)),
    st.builds(m.Received, transfer=NUMBERS),
    st.builds(m.Declined, transfer=NUMBERS, reasons=st.just((REASON,))),
    st.builds(m.Withdraw, transfer=NUMBERS, reason=st.just(REASON)),
    st.builds(offer, NUMBERS, st.sampled_from([0, 10, 300]), st.sampled_from("tuv"), resumes=NUMBERS),
)
VERDICTS = st.sampled_from(["accepted", "duplicate", "corrupt", "unexpected", "refused"])
ACTS = st.one_of(
    st.tuples(st.just("hear"), RECORDS),
    st.tuples(st.just("chunk"), st.tuples(st.integers(0, 29), VERDICTS, NUMBERS)),
    st.tuples(st.just("send"), st.tuples(st.sampled_from([0, 10, 300]), st.sampled_from("tuvw"))),
    st.tuples(st.just("later"), st.sampled_from([0, 10**9, STALL_NS, RESUME_NS])),
    st.tuples(st.just("bulk"), st.booleans()),
)


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.lists(ACTS, max_size=60))
def test_no_sequence_of_messages_breaks_the_machine_or_leaves_anything_behind(dialled, acts) -> None:
    """A peer that says anything at any time: no exception, no chunk past the grants, all ends by name or well, and with
    the session gone for a minute nothing is kept and every handle is accounted for."""
    stand = Stand(dialled=dialled)
    bulk, links, held = BULK, 10, []
    for act, what in acts:
        if act == "hear":
            stand.hear(what)
        elif act == "chunk":
            index, verdict, stream = what
            incoming = stand.machine.desk.sessions[CONTROL].incoming.get(TransferId(stream))
            known = incoming is not None and index < incoming.envelope.chunk_count
            if known or verdict in ("unexpected", "refused"):
                stand.chunk(index, verdict, stream, link=bulk)
        elif act == "send":
            held.append(Handle(2 * len(held) + 1))
            length, tensor = what
            digest = envelope_of(bytes(length), 10).checksum
            stand.send(length, tensor, content=PayloadRef(handle=held[-1], length=length, digest=digest))
        elif act == "later":
            stand.later(what)
        else:
            links += 1
            if what:
                bulk = LinkId(links)
                stand.fact(BulkUp(link=bulk, control=CONTROL, peer=NODE_B))
            else:
                stand.fact(BulkDown(link=bulk, control=CONTROL, peer=NODE_B))
        assert len(stand.machine.state()) < 60_000
    stand.fact(PeerDown(link=CONTROL, peer=NODE_B, reason="gone"))
    stand.later(RESUME_NS)
    sending, receiving = stand.machine.sending, stand.machine.receiving
    assert not (sending.all or sending.keys or sending.parked or sending.holds)
    assert not (receiving.all or receiving.keys or receiving.handles or receiving.bytes_promised)
    assert stand.machine.deadline() is None
    expected = [op.handle for e in stand.log for op in e.payloads if isinstance(op, Expect)]
    released = [op.handle for e in stand.log for op in e.payloads if isinstance(op, Release)]
    assert sorted(released) == sorted({*held, *expected}), "each handle is released, and once"


def calls_of(act) -> int:
    """Python and C functions called meanwhile: a measure of work that is the same on every machine."""
    count = 0

    def note(frame, event, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # its callbacks would be counted
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def large(chunk_count: int):
    content = envelope_of(bytes(300), 10)
    return msgspec.structs.replace(content, shape=(chunk_count * 10,), length=chunk_count * 10, chunk_count=chunk_count)


@pytest.mark.parametrize("stride", [1, 4099])
def test_the_last_chunk_costs_what_the_first_did(stride) -> None:
    """Of 65,536, in order and scattered, at receiver and sender: the same count of calls, at one bit a chunk."""
    count = 1 << 16
    stand = Stand(bytes_max=1 << 30)
    stand.hear(m.Offer(transfer=2, channel="tensor", envelope=large(count)))

    def arrive(first: int) -> None:
        for at in range(first, first + 512):
            out = Outbox(stand.counters)
            chunk = ChunkArrived(
                link=BULK, channel=2, stream=2, sequence=at, index=at * stride % count, length=10, verdict="accepted"
            )
            stand.machine.told(chunk, stand.now, out)
            stand.machine.deadline()

    early = calls_of(lambda: arrive(1024))
    for first in range(2048, count - 1024, 512):
        arrive(first)
    assert calls_of(lambda: arrive(count - 1024)) == early
    assert len(stand.machine.state()) < count // 8 + 1024


def test_the_last_chunk_sent_costs_what_the_first_did() -> None:
    """Credit of four at a time, the whole way; nothing grows."""
    count = 1 << 16
    stand = Stand()
    envelope = large(count)
    stand.send(envelope=envelope, content=PayloadRef(handle=Handle(1), length=10 * count, digest=envelope.checksum))
    stand.hear(m.Accept(transfer=1, credit=8))
    heard = Heard(link=CONTROL, peer=NODE_B, stream=1, flags=0, record=m.Credit(transfer=1, count=4))

    def grant(times: int) -> None:
        for _ in range(times):
            stand.machine.hear(heard, stand.now, Outbox(stand.counters))
            stand.machine.deadline()

    early, size = calls_of(lambda: grant(128)), len(stand.machine.state())
    grant(count // 4 - 400)
    assert calls_of(lambda: grant(128)) == early and len(stand.machine.state()) < size + 16
