"""The table of a job's states, and the law of its stream (E2, E4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.core.effects import PayloadRef
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Handle, JobId
from zeitgeist.core.job.deadlines import Deadlines
from zeitgeist.core.job.states import ENDS, LIVE, SENTENCES, TERMINAL, TRANSITIONS
from zeitgeist.core.job.stream import Stream
from zeitgeist.core.units import Instant

pytestmark = pytest.mark.requirement("E4")


def test_every_state_is_reached_and_every_end_is_one() -> None:
    """From proposed every state can be had; nothing leaves a terminal one; every live one can fail and be cancelled."""
    reached, last = {"proposed"}, 0
    while len(reached) > last:
        last = len(reached)
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(SENTENCES) == set(LIVE) | set(TERMINAL)
    assert not [key for key in TRANSITIONS if key[0] in TERMINAL]
    assert all((state, event) in TRANSITIONS for state in LIVE for event in ("fail", "cancel"))


def test_no_token_before_somebody_promised_it() -> None:
    """Tokens and good ends only where an attempt, or at the client an admission, stands."""
    allowed = {"admitted", "acknowledged", "executing", "streaming"}
    assert {state for state, event in TRANSITIONS if event in ("token", "finish")} == allowed
    assert set(ENDS) == {"stop", "length", "cancelled", "failed"}


def ref(index: int) -> PayloadRef:
    return PayloadRef(handle=Handle(index), length=1, digest=content_digest(b"t"))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60), st.integers(1, 5))
def test_a_stream_keeps_what_came_and_was_not_taken(moves: list[tuple[bool, int]], window: int) -> None:
    """Any offers and takes against a list: new only when next and within the window; each content freed once."""
    stream, came, taken, freed = Stream(window=window), 0, 0, []
    for offers, number in moves:
        if offers:
            got = stream.offer(number, ref(number))
            wanted = "duplicate" if number < came else "gap" if number > came else ""
            wanted = wanted or ("overrun" if came - taken >= window else "new")
            assert got == wanted
            came += got == "new"
        else:
            done = stream.take(number)
            assert (done is None) == (number > came)
            if done is not None:
                freed += [int(content.handle) for content in done]
                taken = max(taken, number)
        assert (stream.next, stream.taken, list(stream.kept)) == (came, taken, list(range(taken, came)))
    freed += [int(content.handle) for content in stream.drop()]
    assert freed == list(range(came)) and stream.taken == stream.next


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.booleans()), max_size=40))
def test_deadlines_ring_once_in_order_at_their_earliest(moves: list[tuple[str, int, bool]]) -> None:
    """Against a plain dictionary: set keeps the earlier instant, clear forgets, due tells each once."""
    deadlines, model = Deadlines(), {}
    for name, at, keep in moves:
        if keep:
            deadlines.set(JobId(name), Instant(at))
            model[name] = min(at, model.get(name, at))
        else:
            deadlines.clear(JobId(name))
            model.pop(name, None)
        assert deadlines.least() == min(model.values(), default=None)
    due = deadlines.due(Instant(10))
    assert due == [name for at, name in sorted((at, name) for name, at in model.items()) if at <= 10]
    assert deadlines.due(Instant(10)) == []
