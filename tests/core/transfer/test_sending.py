"""The sender as a transcript: what it sends to a receiver that is right, wrong, greedy or silent (C1, E4, G4)."""

import msgspec
import pytest
from transfer_pump import envelope_of, peer_up
from transfer_stand import BULK, CONTROL, REASON, Stand, chunks, ends, offer, refusals, said

from fixtures.golden_parties import NODE_B
from zeitgeist.core.effects import (
    PayloadRef,
    Release,
)
from zeitgeist.core.facts import BulkUp
from zeitgeist.core.ids import Handle, LinkId, NodeId
from zeitgeist.core.trace import MessageRefused, TransferEnded
from zeitgeist.core.transfer.states import (
    CREDIT_UNSPENT_MAX,
    LINK_WINDOW,
    OFFERED_MAX,
    OUTGOING_MAX,
    RESUME_NS,
)
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G4")]


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
