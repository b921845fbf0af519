"""Sets of chunks and ranges against plain Python sets (C1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.transfer.alarms import Alarms
from zeitgeist.core.transfer.ranges import RANGES_MAX, ChunkSet, ranges_outside, require_indices, require_ranges
from zeitgeist.core.units import Instant

pytestmark = pytest.mark.requirement("C1")

SETS = st.integers(0, 10_000).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.tuples(st.integers(0, max(count - 1, 0)), st.integers(1, 5000)), max_size=6)
        if count
        else st.just([]),
    )
)


def filled(count, runs):
    chunks, plain = ChunkSet.of(count), set()
    for first, length in runs:
        for index in range(first, min(first + length, count)):
            assert chunks.add(index) == (index not in plain)
            plain.add(index)
    return chunks, plain


@given(SETS, st.integers(0, 10_000), st.integers(0, 2000))
def test_a_set_of_chunks_is_a_set(drawn, start, most) -> None:
    """Held, missing from any place on, and the ranges, which leave exactly the missing ones outside."""
    chunks, plain = filled(*drawn)
    count = drawn[0]
    assert chunks.held == len(plain) and chunks.complete == (len(plain) == count)
    absent = [index for index in range(count) if index not in plain]
    assert list(chunks.missing(start, most)) == [index for index in absent if index >= start][:most]
    runs = chunks.ranges()
    require_ranges(runs, count)
    assert {index for first, length in runs for index in range(first, first + length)} == plain
    assert [i for first, stop in ranges_outside(runs, count) for i in range(first, stop)] == absent
    assert all(index in chunks for index in plain)
    chunks.clear()
    assert chunks.held == 0 and chunks.ranges() == ()


def test_a_million_chunks_take_one_bit_each_and_a_bounded_answer() -> None:
    """Every second chunk of the most that a tensor may have: 128 KiB, and as many ranges as a message may hold."""
    chunks = ChunkSet.of(1 << 20)
    for index in range(0, 1 << 20, 2):
        chunks.add(index)
    assert len(chunks.bits) == 1 << 17 and len(chunks.ranges()) == RANGES_MAX


@pytest.mark.parametrize(
    "have",
    [((0, 0),), ((-1, 2),), ((5, 6),), ((10, 1),), ((0, 2), (2, 1)), ((4, 1), (0, 1)), ((0, 1 << 70),), ((0, -1),)],
)
def test_ranges_that_are_none_are_refused_by_name(have) -> None:
    """Empty, negative, past the end, touching, backward, huge: of ten chunks."""
    with pytest.raises(RemoteProtocolError, match="zg/transfer/bad-range"):
        require_ranges(have, 10)


@pytest.mark.parametrize("indices", [(-1,), (10,), (3, 3), (4, 2), (0, 1 << 70)])
def test_indices_that_are_none_are_refused_by_name(indices) -> None:
    """Negative, past the end, doubled, backward: of ten chunks."""
    with pytest.raises(RemoteProtocolError, match="zg/transfer/bad-index"):
        require_indices(indices, 10)


@given(
    st.lists(st.tuples(st.sampled_from(["move", "stop", "ring"]), st.integers(0, 5), st.integers(0, 50)), max_size=80)
)
def test_alarms_ring_each_at_its_time_and_least_is_never_late(acts) -> None:
    """Against a dictionary: what rings is what is due, and the heap stays small however often alarms are moved."""
    alarms, plain, now = Alarms(), {}, 0
    for act, key, value in acts:
        if act == "move":
            plain[key] = now + value
            alarms.move(key, Instant(now + value))
        elif act == "stop":
            plain.pop(key, None)
            alarms.stop(key)
        else:
            now += value
            due = {key for key, at in plain.items() if at <= now}
            assert set(alarms.ringing(Instant(now))) == due
            plain = {key: at for key, at in plain.items() if key not in due}
        least = alarms.least()
        assert (least is None) == (not plain) and (least is None or least <= min(plain.values()))
        assert len(alarms.heap) <= 64 + 4 * 6
