"""The receiver as a transcript: offers, chunks, links that come and go (C1, E4, G1, G4)."""

import msgspec
import pytest
from transfer_pump import envelope_of, peer_up
from transfer_stand import BULK, CONTROL, REASON, Stand, ends, offer, refusals, said

from fixtures.golden_parties import NODE_B
from zeitgeist.core.effects import (
    Effects,
    Expect,
    PayloadReady,
    PayloadRef,
    Release,
)
from zeitgeist.core.facts import BulkDown, BulkUp, PeerDown
from zeitgeist.core.ids import Handle, LinkId, NodeId, TransferId
from zeitgeist.core.transfer.states import (
    INCOMING_MAX,
    OFFERED_MAX,
    RESUME_NS,
    STALL_NS,
)
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.frame import Channel

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G4")]


def test_an_offer_is_expected_and_accepted_and_credit_comes_by_half_windows() -> None:
    """Of eight chunks in flight; then the driver's verdict, Received, and the handle is the application's."""
    stand = Stand(credit=8)
    effects = stand.hear(offer(2))
    envelope = envelope_of(bytes(300), 10)
    assert effects.payloads == (Expect(handle=Handle(2), link=BULK, stream=TransferId(2), envelope=envelope),)
    assert said(effects) == [m.Accept(transfer=2, credit=8)]
    answers = {index: said(stand.chunk(index)) for index in range(30)}
    granted = {index: records for index, records in answers.items() if records}
    assert granted == {index: [m.Credit(transfer=2, count=min(4, 30 - 8 - index + 3))] for index in range(3, 22 + 3, 4)}
    assert sum(record.count for records in granted.values() for record in records) == 22
    content = PayloadRef(handle=Handle(2), length=300, digest=envelope.checksum)
    effects = stand.step(lambda out: stand.machine.told(PayloadReady(content=content), stand.now, out))
    assert said(effects) == [m.Received(transfer=2)] and ends(effects) == [None] and effects.payloads == ()
    assert stand.machine.deadline() is None


def test_a_duplicate_is_counted_and_a_corrupt_chunk_asked_for_again() -> None:
    """The corrupt one by its index; one that is there already is not asked for."""
    stand = Stand(credit=8)
    stand.hear(offer(2))
    assert said(stand.chunk(0)) == [] and said(stand.chunk(0, "duplicate")) == []
    assert said(stand.chunk(1, "corrupt")) == [m.Resend(transfer=2, indices=(1,))]
    assert said(stand.chunk(0, "corrupt")) == []
    (incoming,) = stand.machine.receiving.all.values()
    assert (incoming.arrived, incoming.unsound, incoming.chunks.held) == (4, 3, 1)


@pytest.mark.parametrize("verdict", ["unexpected", "refused"])
def test_a_chunk_that_does_not_belong_withdraws_the_transfer(verdict) -> None:
    """The memory is freed, the peer told; chunks still on their way are nobody's and no fault."""
    stand = Stand()
    stand.hear(offer(2))
    effects = stand.chunk(0, verdict)
    assert refusals(effects) == ends(effects) == ["zg/transfer/unexpected-chunk"]
    assert effects.payloads == (Release(handle=Handle(2)),) and isinstance(said(effects)[0], m.Withdraw)
    assert stand.chunk(1) == Effects(wake_at=None)


def test_a_chunk_on_another_channel_than_offered_is_refused() -> None:
    """Else a tensor peer could write caches."""
    stand = Stand()
    stand.hear(offer(2))
    assert refusals(stand.chunk(0, channel=Channel.CACHE)) == ["zg/transfer/wrong-channel"]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (offer(1), "transfer/bad-number"),
        (offer(0, resumes=7), "transfer/bad-number"),
        (offer(2, length=2_000_000), "tensor/too-large"),
        (
            offer(2, envelope=msgspec.structs.replace(envelope_of(bytes(300), 10), chunk_count=31)),
            "tensor/bad-envelope",
        ),
        (offer(2, envelope=msgspec.structs.replace(envelope_of(bytes(300), 10), shape=(7,))), "tensor/bad-envelope"),
    ],
)
def test_an_offer_that_is_none_is_declined_by_name(record, name) -> None:
    """Number of the other side, too large, contradictory: no memory is promised."""
    stand = Stand()
    effects = stand.hear(record)
    assert refusals(effects) == [f"zg/{name}"] and effects.payloads == ()
    assert isinstance(said(effects)[0], m.Declined) and not stand.machine.receiving.all


def test_an_offer_number_is_never_used_twice() -> None:
    """Not after its transfer ended either."""
    stand = Stand()
    stand.hear(offer(4))
    stand.hear(m.Withdraw(transfer=4, reason=REASON))
    for number in (4, 2):
        assert refusals(stand.hear(offer(number))) == ["zg/transfer/bad-number"]
    assert isinstance(said(stand.hear(offer(6)))[0], m.Accept)


def test_promises_are_bounded_in_number_and_in_bytes() -> None:
    """Sixteen of a peer, 64 in all, and four times the largest tensor."""
    stand = Stand(bytes_max=1 << 20)
    for n in range(OFFERED_MAX):
        assert isinstance(said(stand.hear(offer(2 * n + 2, tensor=f"t{n}")))[0], m.Accept)
    assert refusals(stand.hear(offer(100, tensor="x"))) == ["zg/transfer/too-many"]
    for peer in range(10):
        stand.fact(peer_up(10 + peer, NodeId(f"p{peer}"), True))
        for n in range(OFFERED_MAX):
            stand.hear(offer(2 * n + 2, tensor=f"t{n}"), link=LinkId(10 + peer))
    assert len(stand.machine.receiving.all) == INCOMING_MAX
    heavy = Stand(bytes_max=1 << 20)
    verdicts = [said(heavy.hear(offer(2 * n + 2, length=1 << 20, tensor=f"t{n}")))[0] for n in range(5)]
    assert [type(verdict) for verdict in verdicts] == [m.Accept] * 4 + [m.Declined]


def test_an_interrupted_transfer_makes_room_for_a_newer_one_of_its_peer() -> None:
    """A peer that restarted does not wait a minute for its own leftovers."""
    stand = Stand()
    for n in range(OFFERED_MAX):
        stand.hear(offer(2 * n + 2, tensor=f"t{n}"))
    stand.fact(PeerDown(link=CONTROL, peer=NODE_B, reason="gone"))
    stand.fact(peer_up(3, NODE_B, True))
    effects = stand.hear(offer(2, tensor="new"), link=LinkId(3))
    assert ends(effects) == ["zg/transfer/too-many"] and not refusals(effects)
    assert len(stand.machine.receiving.all) == OFFERED_MAX


def test_a_stalled_receiver_asks_twice_as_late_each_time_and_then_gives_up() -> None:
    """After 10, 30 and 70 s of silence; another transfer's chunk on the link means that it is slow, not lossy."""
    stand = Stand(credit=2)
    stand.hear(offer(2))
    stand.hear(offer(4, tensor="u"))
    stand.now = Instant(STALL_NS - 1)
    stand.chunk(0, stream=4)
    assert said(stand.later(1)) == []
    assert said(stand.later(STALL_NS - 1)) == [
        m.Resend(transfer=2, indices=(0, 1)),
        m.Resend(transfer=4, indices=(1, 2)),
    ]
    assert said(stand.later(2 * STALL_NS - 1)) == []
    assert len(said(stand.later(1))) == 2
    assert ends(stand.later(4 * STALL_NS)) == ["zg/transfer/stalled"] * 2


def test_after_a_stall_credit_flows_as_before() -> None:
    """What was in flight counts as lost, so that half a window of arrivals is answered by half a window of credit."""
    stand = Stand(credit=8)
    stand.hear(offer(2))
    assert said(stand.later(STALL_NS)) == [m.Resend(transfer=2, indices=tuple(range(8)))]
    assert [said(stand.chunk(index)) for index in range(4)] == [[], [], [], [m.Credit(transfer=2, count=4)]]


def test_a_duplicate_that_we_did_not_know_counts_as_held() -> None:
    """The driver took it from a link that we had given up already: its assembler has the bytes."""
    stand = Stand()
    stand.hear(offer(2, length=10))
    stand.chunk(0, "duplicate")
    (incoming,) = stand.machine.receiving.all.values()
    assert incoming.state == "checking"


def test_links_may_change_in_another_order_for_the_receiver() -> None:
    """The sender lost the bulk link, has a new one, and offers again; we hear the offer first, then of the old link's
    end, then of the new link: the transfer goes on there, under the number that was accepted, and is accepted once."""
    stand = Stand()
    stand.hear(offer(2))
    stand.chunk(0)
    effects = stand.hear(offer(4, resumes=2))
    assert said(effects) == [m.Accept(transfer=4, credit=8, have=((0, 1),))]
    stand.fact(BulkDown(link=BULK, control=CONTROL, peer=NODE_B))
    effects = stand.fact(BulkUp(link=LinkId(9), control=CONTROL, peer=NODE_B))
    assert [(op.link, op.stream) for op in effects.payloads] == [(9, 4)] and said(effects) == []
    stand.chunk(1, stream=4, link=LinkId(9))
    (incoming,) = stand.machine.receiving.all.values()
    assert incoming.chunks.held == 2


def test_a_second_bulk_link_takes_the_place_of_the_first() -> None:
    """Ours are offered again, oldest first, the peer's are expected there, the first link is nobody's."""
    stand = Stand()
    stand.send(tensor="t0")
    stand.send(tensor="t1")
    stand.hear(offer(2))
    effects = stand.fact(BulkUp(link=LinkId(9), control=CONTROL, peer=NODE_B))
    assert [(record.envelope.tensor, record.transfer, record.resumes) for record in said(effects)] == [
        ("t0", 5, 1),
        ("t1", 7, 3),
    ]
    assert [(op.link, op.stream) for op in effects.payloads] == [(9, 2)]
    assert stand.chunk(0).events == () and stand.machine.receiving.all[3].chunks.held == 0
    assert stand.fact(BulkDown(link=BULK, control=CONTROL, peer=NODE_B)).events == (), "the old link's end is old news"
    stand.chunk(0, link=LinkId(9))
    assert stand.machine.receiving.all[3].chunks.held == 1


def test_an_offer_that_comes_before_its_bulk_link_waits_for_it() -> None:
    """The sender may learn of the link first. Without one it ends by name."""
    stand = Stand(bulk=False)
    assert stand.hear(offer(2)).send == ()
    effects = stand.fact(BulkUp(link=LinkId(9), control=CONTROL, peer=NODE_B))
    assert said(effects) == [m.Accept(transfer=2, credit=8)] and effects.payloads[0].link == 9
    lone = Stand(bulk=False)
    lone.hear(offer(2))
    assert ends(lone.later(RESUME_NS)) == ["zg/transfer/no-link"]


def test_an_interrupted_transfer_is_known_again_and_says_what_it_has() -> None:
    """By peer, tensor and checksum, on another session and under another number; the same memory is expected there."""
    stand = Stand(credit=8)
    stand.hear(offer(2))
    for index in (0, 1, 2, 7, 29):
        stand.chunk(index)
    stand.fact(PeerDown(link=CONTROL, peer=NODE_B, reason="gone"))
    stand.fact(peer_up(3, NODE_B, True))
    stand.fact(BulkUp(link=LinkId(4), control=LinkId(3), peer=NODE_B))
    effects = stand.hear(offer(8, resumes=2), link=LinkId(3))
    assert said(effects) == [m.Accept(transfer=8, credit=8, have=((0, 3), (7, 1), (29, 1)))]
    assert [(op.handle, op.link, op.stream) for op in effects.payloads] == [(2, 4, 8)]
    assert refusals(stand.hear(offer(10, resumes=2, channel="cache"), link=LinkId(3))) == ["zg/transfer/bad-offer"]
    other = msgspec.structs.replace(offer(2).envelope, shape=(3, 100))
    again = stand.hear(offer(12, resumes=2, envelope=other), link=LinkId(3))
    assert refusals(again) == ["zg/transfer/bad-offer"], "the same bytes under another envelope are another tensor"


def test_what_is_interrupted_is_kept_for_a_minute() -> None:
    """Then the memory is freed."""
    stand = Stand()
    stand.hear(offer(2))
    stand.fact(BulkDown(link=BULK, control=CONTROL, peer=NODE_B))
    assert ends(stand.later(RESUME_NS - 1)) == []
    effects = stand.later(1)
    assert ends(effects) == ["zg/transfer/no-link"] and effects.payloads == (Release(handle=Handle(2)),)
    assert isinstance(said(effects)[0], m.Withdraw), "the session still stands, so the sender is told"


def test_messages_about_ended_transfers_are_no_fault_but_about_unknown_ones_are() -> None:
    """They crossed the end on their way; numbers that nobody ever offered did not."""
    stand = Stand()
    stand.send()
    stand.hear(m.Declined(transfer=1, reasons=(REASON,)))
    late = (m.Accept(transfer=1, credit=1), m.Credit(transfer=1, count=1), m.Received(transfer=1))
    for record in (*late, m.Withdraw(transfer=1, reason=REASON)):
        assert stand.hear(record) == Effects(wake_at=None)
    for record in (m.Credit(transfer=3, count=1), m.Received(transfer=2), m.Withdraw(transfer=2, reason=REASON)):
        assert refusals(stand.hear(record)) == ["zg/transfer/unknown"]
    assert refusals(stand.chunk(0, stream=2)) == ["zg/transfer/unknown"]


def test_a_local_link_carries_control_and_chunks() -> None:
    """Its bulk link is itself (G1)."""
    stand = Stand(bulk=False)
    stand.fact(BulkUp(link=CONTROL, control=CONTROL, peer=NODE_B))
    stand.send()
    effects = stand.hear(m.Accept(transfer=1, credit=2))
    assert [(s.link, s.sequence) for s in effects.send] == [(CONTROL, 1), (CONTROL, 2)]
    stand.fact(PeerDown(link=CONTROL, peer=NODE_B, reason="gone"))
    assert not stand.machine.desk.bulks and not stand.machine.desk.sessions and not stand.machine.desk.peers
