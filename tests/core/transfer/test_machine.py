"""One machine as a transcript: what it says to a peer that is right, wrong, greedy or silent (C1, E4, G4, H2)."""

import gc
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_pump import boot_of, envelope_of, peer_up

from fixtures.golden_parties import NODE_A, NODE_B
from zeitgeist.core.effects import (
    ChunkArrived,
    Effects,
    Expect,
    PayloadReady,
    PayloadRef,
    Release,
    Send,
    SendChunk,
    SendCommand,
)
from zeitgeist.core.facts import BulkDown, BulkUp, Draining, PeerDown
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.ids import Handle, LinkId, NodeId, TransferId
from zeitgeist.core.outbox import Counters, Heard, Outbox
from zeitgeist.core.trace import MessageRefused, TransferEnded
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.transfer.states import (
    CREDIT_UNSPENT_MAX,
    INCOMING_MAX,
    LINK_WINDOW,
    OFFERED_MAX,
    OUTGOING_MAX,
    RESUME_NS,
    STALL_NS,
)
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.frame import Channel
from zeitgeist.core.wire.registry import REGISTRY

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G4")]

CONTROL, BULK = LinkId(1), LinkId(2)
REASON = m.Reason(id="zg/transfer/silent", detail="why not")


class Stand:
    """A machine with one session and one bulk link, and everything it ever did."""

    def __init__(self, *, dialled: bool = True, trust=("trusted_executor",), bulk: bool = True, **config) -> None:
        self.machine = Transfers(boot_of(NODE_A, **config))
        self.counters = Counters()
        self.now = Instant(0)
        self.log: list[Effects] = []
        self.fact(peer_up(CONTROL, NODE_B, dialled, trust))
        if bulk:
            self.fact(BulkUp(link=BULK, control=CONTROL, peer=NODE_B))

    def step(self, act) -> Effects:
        out = Outbox(self.counters)
        act(out)
        effects = out.effects(self.machine.deadline())
        self.log.append(effects)
        return effects

    def fact(self, fact) -> Effects:
        return self.step(lambda out: self.machine.fact(fact, self.now, out))

    def hear(self, record, link: LinkId = CONTROL) -> Effects:
        heard = Heard(link=link, peer=NODE_B, stream=record.transfer, flags=0, record=record)
        return self.step(lambda out: self.machine.hear(heard, self.now, out))

    def send(self, length: int = 300, tensor: str = "t", channel="tensor", **change) -> Effects:
        content = bytes(length)
        envelope = envelope_of(content, 10, tensor)
        command = SendCommand(
            peer=NODE_B,
            channel=channel,
            envelope=envelope,
            content=PayloadRef(handle=Handle(1), length=length, digest=envelope.checksum),
        )
        command = msgspec.structs.replace(command, **change)
        return self.step(lambda out: self.machine.told(command, self.now, out))

    def chunk(self, index: int, verdict="accepted", stream: int = 2, channel=Channel.TENSOR, link=BULK) -> Effects:
        arrived = ChunkArrived(
            link=link, channel=int(channel), stream=stream, sequence=0, index=index, length=10, verdict=verdict
        )
        return self.step(lambda out: self.machine.told(arrived, self.now, out))

    def later(self, ns: int) -> Effects:
        self.now = Instant(self.now + ns)
        return self.step(lambda out: self.machine.expire(self.now, out))


def said(effects: Effects) -> list[m.Record]:
    """The records sent."""
    return [decode(s.record, REGISTRY[s.kind].record) for s in effects.send if isinstance(s, Send)]


def chunks(effects: Effects) -> list[int]:
    return [sending.index for sending in effects.send if isinstance(sending, SendChunk)]


def refusals(effects: Effects) -> list[str]:
    return [event.reason.id for event in effects.events if isinstance(event, MessageRefused)]


def ends(effects: Effects) -> list[str | None]:
    return [event.reason and event.reason.id for event in effects.events if isinstance(event, TransferEnded)]


def offer(number: int, length: int = 300, tensor: str = "t", **change) -> m.Offer:
    made = m.Offer(transfer=number, channel="tensor", envelope=envelope_of(bytes(length), 10, tensor))
    return msgspec.structs.replace(made, **change)


# ---- the sender


def test_an_offer_goes_on_the_control_link_and_chunks_on_the_bulk_link() -> None:
    """No more chunks than credit; more credit, more chunks, in order; Received ends it and frees the content."""
    stand = Stand()
    effects = stand.send()
    assert said(effects) == [offer(1)] and all(s.link == CONTROL for s in effects.send)
    effects = stand.hear(m.Accept(transfer=1, credit=3))
    assert chunks(effects) == [0, 1, 2] and {(s.link, s.channel, s.stream) for s in effects.send} == {(BULK, 2, 1)}
    assert chunks(stand.hear(m.Credit(transfer=1, count=2))) == [3, 4]
    assert chunks(stand.hear(m.Credit(transfer=1, count=1000))) == list(range(5, 30))
    assert chunks(stand.hear(m.Resend(transfer=1, indices=(4, 7)))) == [4, 7]
    effects = stand.hear(m.Received(transfer=1))
    assert ends(effects) == [None] and effects.payloads == (Release(handle=Handle(1)),)
    (end,) = (event for event in effects.events if isinstance(event, TransferEnded))
    assert (end.chunks, end.resent, end.transfer) == (32, 2, 1)


def test_what_the_receiver_has_is_not_sent() -> None:
    """The ranges of Accept are left out, in the middle and at both ends."""
    stand = Stand()
    stand.send()
    effects = stand.hear(m.Accept(transfer=1, credit=1000, have=((0, 3), (5, 20), (29, 1))))
    assert chunks(effects) == [3, 4, 25, 26, 27, 28]


def test_a_chunk_asked_for_that_was_not_sent_yet_is_sent_once() -> None:
    """Resend is credit; the fresh ones come in their order."""
    stand = Stand()
    stand.send()
    stand.hear(m.Accept(transfer=1, credit=2))
    assert chunks(stand.hear(m.Resend(transfer=1, indices=(0, 2, 3)))) == [0, 2, 3]
    assert chunks(stand.hear(m.Credit(transfer=1, count=1))) == [4]


NONSENSE = [
    (m.Accept(transfer=1, credit=8, have=((0, 31),)), "bad-range"),
    (m.Accept(transfer=1, credit=8, have=((3, 1), (1, 1))), "bad-range"),
    (m.Credit(transfer=1, count=1), "wrong-state"),
    (m.Resend(transfer=1, indices=(0,)), "wrong-state"),
    (m.Resend(transfer=1, indices=(30,)), "bad-index"),
    (m.Resend(transfer=1, indices=(-1,)), "bad-index"),
]


@pytest.mark.parametrize(("record", "name"), NONSENSE, ids=lambda value: value if isinstance(value, str) else "")
def test_nonsense_about_an_offer_is_refused_by_name_and_the_transfer_withdrawn(record, name) -> None:
    """The trace names it, the peer hears it, the application too, the content is freed; another transfer still goes."""
    stand = Stand()
    stand.send()
    effects = stand.hear(record)
    assert refusals(effects) == ends(effects) == [f"zg/transfer/{name}"]
    (withdraw,) = said(effects)
    assert isinstance(withdraw, m.Withdraw) and withdraw.reason.id == f"zg/transfer/{name}"
    assert effects.payloads == (Release(handle=Handle(1)),)
    stand.send(tensor="other")
    assert chunks(stand.hear(m.Accept(transfer=3, credit=1))) == [0]


def test_a_second_accept_is_refused_with_state_event_and_who() -> None:
    """`accept is not allowed in sending (transfer 1, peer node.b_2)`."""
    stand = Stand()
    stand.send()
    stand.hear(m.Accept(transfer=1, credit=1))
    effects = stand.hear(m.Accept(transfer=1, credit=1))
    (event,) = (event for event in effects.events if isinstance(event, MessageRefused))
    assert event.reason.detail == f"accept is not allowed in sending (transfer 1, peer {NODE_B})"


def test_credit_without_end_is_refused() -> None:
    """A window that stays full while credit is heaped up."""
    stand = Stand()
    stand.send(length=10_000_000 // 100)
    stand.hear(m.Accept(transfer=1, credit=1))
    seen = []
    for _ in range(CREDIT_UNSPENT_MAX // 1024 + 20):
        effects = stand.hear(m.Credit(transfer=1, count=1024))
        seen += refusals(effects)
        if seen:
            break
    assert seen == ["zg/transfer/bad-credit"]


def test_asking_again_without_end_is_refused() -> None:
    """Eight times each chunk and 1,024 more, then the transfer is withdrawn."""
    stand = Stand()
    stand.send()
    stand.hear(m.Accept(transfer=1, credit=1000))
    sent = 0
    for _ in range(1000):
        effects = stand.hear(m.Resend(transfer=1, indices=tuple(range(30))))
        sent += len(chunks(effects))
        if refusals(effects):
            break
    assert refusals(effects) == ["zg/transfer/too-many-chunks"] and sent <= 8 * 30 + 1024


def test_the_window_of_a_link_is_shared_chunk_by_chunk() -> None:
    """The first receiver's grant is huge: it fills the window; as chunks land the second takes every other place."""
    stand = Stand()
    stand.send(length=10_000)
    stand.send(length=10_000, tensor="u")
    assert len(chunks(stand.hear(m.Accept(transfer=1, credit=1000)))) == LINK_WINDOW
    assert chunks(stand.hear(m.Accept(transfer=3, credit=1000))) == []
    effects = stand.hear(m.Credit(transfer=1, count=10))
    assert [s.stream for s in effects.send] == [1, 3] * 5
    effects = stand.hear(m.Credit(transfer=3, count=2))
    assert [s.stream for s in effects.send] == [1, 3]


def test_no_more_than_sixteen_are_offered_and_the_next_takes_the_place_of_one_that_ended() -> None:
    """The rest waits in the queue, for as long as it takes."""
    stand = Stand()
    offered = [record for n in range(20) for record in said(stand.send(tensor=f"t{n}"))]
    assert [record.transfer for record in offered] == list(range(1, 2 * OFFERED_MAX, 2))
    stand.now = Instant(RESUME_NS - 1)
    effects = stand.hear(m.Declined(transfer=5, reasons=(REASON,)))
    assert ends(effects) == ["zg/transfer/silent"]
    assert [record.envelope.tensor for record in said(effects)] == ["t16"]


def test_a_receiver_that_says_nothing_is_given_up() -> None:
    """A minute after its last word, in each of the three states; a word about any transfer counts."""
    for records in ((), (m.Accept(transfer=1, credit=1),), (m.Accept(transfer=1, credit=1000),)):
        stand = Stand()
        stand.send()
        stand.now = Instant(1000)
        for record in records:
            stand.hear(record)
        began = 0 if not records else 1000
        assert ends(stand.later(RESUME_NS - stand.now)) == ([] if records else ["zg/transfer/silent"])
        if records:
            effects = stand.later(began)
            assert ends(effects) == ["zg/transfer/silent"] and isinstance(said(effects)[0], m.Withdraw)
        assert stand.machine.deadline() is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            {"content": PayloadRef(handle=Handle(1), length=299, digest=envelope_of(bytes(300), 10).checksum)},
            "transfer/wrong-content",
        ),
        (
            {"content": PayloadRef(handle=Handle(1), length=300, digest=envelope_of(b"", 10).checksum)},
            "transfer/wrong-content",
        ),
        ({"envelope": msgspec.structs.replace(envelope_of(bytes(300), 10), chunk_count=7)}, "tensor/bad-envelope"),
    ],
)
def test_a_command_that_contradicts_itself_ends_by_name(change, name) -> None:
    """Nothing is offered, the content is freed, the application is told."""
    effects = Stand().send(**change)
    assert ends(effects) == [f"zg/{name}"] and not effects.send and effects.payloads == (Release(handle=Handle(1)),)


def test_content_sent_to_two_peers_is_freed_when_the_second_is_through() -> None:
    """Handles are counted."""
    stand = Stand()
    stand.fact(peer_up(5, NodeId("c"), True))
    stand.fact(BulkUp(link=LinkId(6), control=LinkId(5), peer=NodeId("c")))
    stand.send()
    stand.send(peer="c")
    assert stand.hear(m.Declined(transfer=1, reasons=(REASON,))).payloads == ()
    assert stand.hear(m.Declined(transfer=1, reasons=(REASON,)), link=LinkId(5)).payloads == (
        Release(handle=Handle(1)),
    )


def test_the_same_tensor_twice_at_once_and_too_many_are_refused() -> None:
    """To one peer; the first goes on."""
    stand = Stand()
    stand.send()
    assert ends(stand.send()) == ["zg/transfer/duplicate"]
    for n in range(OUTGOING_MAX - 1):
        assert ends(stand.send(tensor=f"t{n}")) == []
    assert ends(stand.send(tensor="one more")) == ["zg/transfer/too-many"]


# ---- trust and drain


@pytest.mark.parametrize(
    ("channel", "trust", "may"),
    [
        ("tensor", ("trusted_tensor_peer",), True),
        ("cache", ("trusted_cache_peer",), True),
        ("tensor", ("trusted_executor",), True),
        ("cache", ("trusted_executor",), True),
        ("tensor", ("trusted_cache_peer",), False),
        ("cache", ("trusted_tensor_peer",), False),
        ("cache", ("api_only_peer", "untrusted_client"), False),
    ],
)
@pytest.mark.requirement("H2")
def test_each_channel_needs_its_role_both_ways(channel, trust, may) -> None:
    """A cache goes to and comes from a cache peer only, a tensor a tensor peer; an executor is both."""
    stand = Stand(trust=trust)
    effects = stand.send(channel=channel)
    assert ends(effects) == ([] if may else ["zg/transfer/not-trusted"]) and bool(effects.send) == may
    effects = stand.hear(offer(2, channel=channel))
    (answer,) = said(effects)
    assert isinstance(answer, m.Accept if may else m.Declined)
    assert refusals(effects) == ([] if may else ["zg/transfer/not-trusted"])


@pytest.mark.requirement("H2")
def test_a_command_given_before_the_session_is_held_to_the_role_once_it_is_there() -> None:
    """Queued without a session, refused when the peer turns out not to be trusted."""
    stand = Stand()
    stand.send(peer="c")
    stand.fact(peer_up(5, NodeId("c"), True, ("trusted_cache_peer",)))
    effects = stand.fact(BulkUp(link=LinkId(6), control=LinkId(5), peer=NodeId("c")))
    assert ends(effects) == ["zg/transfer/not-trusted"] and not effects.send


def test_in_a_drain_nothing_new_starts_and_what_runs_goes_on() -> None:
    """Ours: offers are declined, commands refused, the queue ended. The peer's: nothing is offered to it."""
    stand = Stand()
    stand.send()
    stand.hear(m.Accept(transfer=1, credit=1))
    stand.send(peer="c")
    assert ends(stand.fact(Draining(peer=NodeId(""), reason="stop"))) == ["zg/transfer/draining"]
    assert ends(stand.send(tensor="u")) == ["zg/transfer/draining"]
    assert refusals(stand.hear(offer(2))) == ["zg/transfer/draining"]
    assert chunks(stand.hear(m.Credit(transfer=1, count=1))) == [1]
    other = Stand()
    other.fact(Draining(peer=NODE_B, reason="stop"))
    assert other.send().send == ()


# ---- the receiver


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


# ---- anything at all

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


# ---- cost


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
