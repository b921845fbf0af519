"""Whole transfers between two machines with real assemblers: loss, damage, cuts (C1, E4, G4)."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_pump import Pump

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("E4"), pytest.mark.requirement("G4")]


def first(count: int) -> int:
    """Always the first choice: everything in order."""
    return 0


def content_of(size: int) -> bytes:
    return Random(size).randbytes(size)


def received(pump: Pump, side: int = 1) -> list[bytes]:
    """The bytes behind each transfer that side's application was given."""
    me = pump.sides[side]
    return [me.contents[end.handle] for end in me.ends() if end.reason is None and end.handle % 2 == 0]


def reasons(pump: Pump, side: int) -> list[str | None]:
    return [end.reason and end.reason.id for end in pump.sides[side].ends()]


@pytest.mark.parametrize("size", [0, 1, 10, 95, 1000])
def test_a_tensor_is_offered_sent_and_released(size: int) -> None:
    """By credit of 8 in chunks of 10; both applications are told, the sender's content is released once."""
    pump = Pump(first)
    pump.connect()
    pump.send(content_of(size))
    pump.settle()
    assert received(pump) == [content_of(size)] and pump.empty()
    assert reasons(pump, 0) == reasons(pump, 1) == [None]
    assert pump.sides[0].released == [1] and pump.sides[1].released == []
    assert pump.sides[0].chunks_sent == list(range(-(-size // 10)))
    assert pump.now < 10**9, "no timer was needed"


def test_either_side_may_offer_and_numbers_never_meet() -> None:
    """The dialler's are odd, the acceptor's even (E4)."""
    pump = Pump(first)
    pump.connect()
    for number in range(3):
        pump.send(content_of(50 + number), tensor=f"a{number}")
        pump.send(content_of(70 + number), tensor=f"b{number}", side=1)
    pump.settle()
    assert sorted(map(len, received(pump, 1))) == [50, 51, 52] and sorted(map(len, received(pump, 0))) == [70, 71, 72]
    assert {end.transfer for end in pump.sides[1].ends()} == {1, 3, 5, 2, 4, 6}
    assert {end.transfer for end in pump.sides[1].ends() if end.handle % 2 == 0} == {1, 3, 5}


def test_a_transfer_waits_for_the_links_and_then_goes() -> None:
    """No session at all, then no bulk link: queued both times."""
    pump = Pump(first)
    pump.send(content_of(95))
    pump.connect(bulk=False)
    while pump.ready_acts():
        pump.step()
    assert pump.sides[0].machine.sending.all and not pump.sides[0].events
    pump.connect(control=False)
    pump.settle()
    assert received(pump) == [content_of(95)]


def test_without_a_link_a_transfer_ends_by_name() -> None:
    """After a minute, and its content is released."""
    pump = Pump(first)
    pump.send(content_of(95))
    pump.settle()
    assert reasons(pump, 0) == ["zg/transfer/no-link"] and pump.sides[0].released == [1] and pump.empty()


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("before", [1, 7, 40, 99])
def test_after_a_cut_only_what_is_missing_travels(before: int, control: bool) -> None:
    """100 chunks, the link cut once so many arrived: the sum of chunks sent is 100 and those that were on the wire."""
    pump = Pump(first)
    pump.connect()
    pump.send(content_of(1000))
    machine = pump.sides[1].machine
    while sum(transfer.chunks.held for transfer in machine.receiving.all.values()) < before:
        pump.step()
    sent = len(pump.sides[0].chunks_sent)
    pump.cut(control)  # what is on the wire is lost
    pump.connect(control=control)
    pump.settle()
    assert received(pump) == [content_of(1000)] and pump.empty()
    again = pump.sides[0].chunks_sent[sent:]
    assert again == list(range(before, 100)), "each missing chunk once, none that was there"
    assert reasons(pump, 0) == reasons(pump, 1) == [None]


def test_a_receiver_that_has_all_is_not_sent_anything_again() -> None:
    """The link goes before the sender hears Received: offered again, answered at once, delivered once."""
    pump = Pump(first)
    pump.connect()
    pump.send(content_of(95))
    while not pump.sides[1].ends():
        pump.step()
    pump.cut(control=True)
    pump.connect()
    pump.settle()
    assert received(pump) == [content_of(95)] and len(pump.sides[0].chunks_sent) == 10
    assert reasons(pump, 0) == reasons(pump, 1) == [None]


def test_the_same_tensor_sent_twice_on_purpose_is_received_twice() -> None:
    """Only an offer that resumes an interrupted one is answered from memory."""
    pump = Pump(first)
    pump.connect()
    for _ in range(2):
        pump.send(content_of(95))
        pump.settle()
    assert received(pump) == [content_of(95)] * 2 and len(pump.sides[0].chunks_sent) == 20


def test_chunks_that_were_lost_are_asked_for_after_a_stall() -> None:
    """Every third chunk vanishes; the receiver's timer asks, and nothing else is sent twice."""
    rolls = iter(range(10**6))
    pump = Pump(lambda count: next(rolls) % 3 if count == 100 else 0)
    pump.lose = 1
    pump.connect()
    pump.send(content_of(300))
    pump.settle()
    sent = pump.sides[0].chunks_sent
    assert received(pump) == [content_of(300)] and set(sent) == set(range(30))
    assert pump.now >= 10_000_000_000, "it took a stall"
    assert pump.sides[1].ends()[0].resent == 0, "no duplicate arrived"


def test_a_link_that_carries_nothing_ends_the_transfer_on_both_sides() -> None:
    """All chunks lost: the receiver asks, then gives up by name, and the sender hears it."""
    pump = Pump(first)
    pump.lose = 100
    pump.connect()
    pump.send(content_of(300))
    pump.settle()
    assert reasons(pump, 1) == ["zg/transfer/stalled"] and reasons(pump, 0) == ["zg/transfer/stalled"]
    assert pump.empty() and not pump.sides[1].assemblers, "the receiver's memory is freed"


def test_a_corrupt_chunk_is_asked_for_by_its_index() -> None:
    """Damage after the checksum was made: one chunk more is sent, none else."""
    damaged = iter([0] + [99] * 10**4)
    pump = Pump(lambda count: next(damaged) if count == 100 else 0)
    pump.damage = 50
    pump.connect()
    pump.send(content_of(300))
    pump.settle()
    assert received(pump) == [content_of(300)] and len(pump.sides[0].chunks_sent) == 31
    assert pump.sides[0].chunks_sent.count(0) == 2 and pump.sides[1].ends()[0].resent == 1
    assert pump.sides[0].ends()[0].resent == 1 and pump.now < 10**9


def test_a_whole_with_another_digest_is_asked_for_once_more_and_then_refused() -> None:
    """The sender's bytes are not what its envelope says: all chunks twice, then the name."""
    pump = Pump(first)
    pump.connect()
    pump.send(content_of(300), true_content=bytes(300))
    pump.settle()
    assert reasons(pump, 1) == ["zg/tensor/corrupt-content"] and reasons(pump, 0) == ["zg/tensor/corrupt-content"]
    assert sorted(pump.sides[0].chunks_sent) == sorted([*range(30), *range(30)]) and pump.now < 10**9
    assert pump.empty() and received(pump) == []


def test_a_whole_that_was_corrupt_once_is_received_the_second_time() -> None:
    """The bytes are mended between: what is delivered is right."""
    pump = Pump(first)
    pump.connect()
    pump.send(content_of(2000), true_content=bytes(2000))
    while not pump.sides[1].whole:
        pump.step()
    pump.sides[0].contents[1] = content_of(2000)
    pump.settle()
    assert received(pump) == [content_of(2000)] and len(pump.sides[0].chunks_sent) == 400 and pump.now < 10**9


def test_transfers_of_one_link_take_turns() -> None:
    """Of four of the same size each has three quarters when the first is through."""
    pump = Pump(first)
    pump.connect()
    for number in range(4):
        pump.send(content_of(1000 + number), tensor=f"t{number}")
    incoming = pump.sides[1].machine.receiving.all
    while len(incoming) < 4 or not any(transfer.chunks.complete for transfer in incoming.values()):
        pump.step()
    assert min(transfer.chunks.held for transfer in incoming.values()) >= 75
    pump.settle()
    assert len(received(pump)) == 4 and pump.empty()


def chooser(rng: Random):
    return lambda count: rng.randrange(count)


@settings(deadline=None, max_examples=150)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 600), min_size=1, max_size=3), st.data())
def test_cuts_alone_never_cost_a_transfer(rng, sizes, data) -> None:
    """However the two sides see the links go and come: all bytes arrive, once, and no timer is needed (C1)."""
    pump = Pump(chooser(rng))
    pump.connect()
    for number, size in enumerate(sizes):
        pump.send(content_of(size), tensor=f"t{number}", side=number % 2)
    pump.settle(cuts=data.draw(CUTS))
    assert sorted(received(pump, 0) + received(pump, 1)) == sorted(map(content_of, sizes)) and pump.empty()
    assert pump.now < 10**10


CUTS = st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=4)


@settings(deadline=None, max_examples=150)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.integers(0, 600), min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 8]),
    st.tuples(*[st.sampled_from([0, 0, 5, 25]) for _ in range(4)]),
    CUTS,
)
def test_whatever_the_links_do_a_transfer_ends_in_exact_bytes_or_by_name(rng, sizes, credit, chances, cuts) -> None:
    """Loss, doubles, damage, shuffling, cuts at any moment, noticed by each side at its own time: within bounded steps
    each sender is told, the bytes delivered are the bytes sent, none twice, and nothing is kept (C1, E4)."""
    pump = Pump(chooser(rng), credit=credit)
    pump.lose, pump.double, pump.damage, pump.swap = chances
    pump.connect()
    sent = {}
    for number, size in enumerate(sizes):
        side = number % 2
        sent[1 - side, f"t{number}"] = content_of(size)
        pump.send(content_of(size), tensor=f"t{number}", side=side)
    pump.settle(cuts=cuts)
    assert pump.empty()
    for side in (0, 1):
        me = pump.sides[side]
        asked = [end for end in me.ends() if end.handle % 2]
        assert sorted(end.tensor for end in asked) == sorted(name for at, name in sent if at != side)
        got = [end for end in me.ends() if end.handle % 2 == 0 and end.reason is None]
        assert len({end.tensor for end in got}) == len(got), "delivered twice"
        for end in got:
            assert me.contents[end.handle] == sent[side, end.tensor]
        for end in asked:
            if end.reason is None:
                assert any(other.tensor == end.tensor for other in pump.sides[1 - side].ends() if other.reason is None)
            else:
                assert end.reason.id.startswith(("zg/transfer/", "zg/tensor/"))
        assert len(me.machine.desk.alarms.heap) <= 64 + 4 * 4
