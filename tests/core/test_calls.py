"""Calls to a worker: each is answered once, in order; a cancel stops what runs and removes what waits (I1, I13)."""

import pytest
from worker_stand import LINK, Bench

from zeitgeist.core import effects as e
from zeitgeist.core.calls import CALLS_MAX
from zeitgeist.core.wire import messages as m

pytestmark = pytest.mark.requirement("I1")
REFUSED = m.Reason(id="zg/backend/failed", detail="the engine is unhappy")


def test_calls_are_answered_in_the_order_in_which_they_came() -> None:
    """Three are sent at once; the engine sees one at a time; contents travel there and back and are let go."""
    bench = Bench()
    for number in (1, 2, 3):
        bench.hear(m.Call(number=number), content=True)
    for _ in range(3):
        assert bench.answer().op == "request"
    assert [(reply.number, reply.refusal) for reply in bench.of(m.Reply)] == [(1, None), (2, None), (3, None)]
    assert all(content is not None for content in bench.contents)
    assert not bench.held


def test_a_refusal_of_the_engine_is_the_answer_of_its_call_and_the_next_call_runs() -> None:
    """The engine's words come out unchanged; also when the driver could not compute at all."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True)
    bench.hear(m.Call(number=2), content=True)
    bench.answer(REFUSED)
    bench.step(e.CallFailed(ticket=bench.computes.pop().ticket, reason=REFUSED))
    assert [reply.refusal for reply in bench.of(m.Reply)] == [REFUSED, REFUSED]
    assert not bench.held


def test_a_cancel_interrupts_what_runs_once_and_removes_what_waits() -> None:
    """The running call answers through the engine; the waiting one is refused here; the third runs."""
    bench = Bench()
    for number in (1, 2, 3):
        bench.hear(m.Call(number=number), content=True)
    for number in (1, 1, 2):
        bench.hear(m.CancelCall(number=number))
    assert bench.interrupts == [bench.computes[0].ticket]
    assert [reply.number for reply in bench.of(m.Reply)] == [2]
    bench.answer(m.Reason(id="zg/backend/cancelled", detail="between two chunks"))
    bench.answer()
    assert [(r.number, r.refusal and r.refusal.id) for r in bench.of(m.Reply)] == [
        (2, "zg/backend/cancelled"),
        (1, "zg/backend/cancelled"),
        (3, None),
    ]
    assert not bench.held


def test_a_cancel_that_crosses_the_answer_harms_nobody() -> None:
    """Answered, never sent: nothing is said, nothing is interrupted."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True)
    bench.answer()
    bench.hear(m.CancelCall(number=1))
    bench.hear(m.CancelCall(number=9))
    assert len(bench.said) == 1 and not bench.interrupts


def test_a_number_that_does_not_grow_is_refused() -> None:
    """A call is never computed twice: 2, 2, 1 are one computation and two refusals."""
    bench = Bench()
    for number in (2, 2, 1):
        bench.hear(m.Call(number=number), content=True)
    assert [(r.number, r.refusal.id) for r in bench.of(m.Reply)] == [(n, "zg/worker/bad-request") for n in (2, 1)]
    bench.answer()
    assert not bench.computes and not bench.held


def test_a_call_without_a_request_is_refused() -> None:
    """The record alone says nothing to do."""
    bench = Bench()
    bench.hear(m.Call(number=1))
    assert bench.of(m.Reply)[0].refusal.id == "zg/worker/bad-request"
    assert not bench.computes


def test_a_full_queue_refuses_and_takes_again_once_there_is_room() -> None:
    """`zg/worker/queue-full` for the one too many; content let go; the bound is exact."""
    bench = Bench()
    for number in range(1, CALLS_MAX + 3):
        bench.hear(m.Call(number=number), content=True)
    assert [(r.number, r.refusal.id) for r in bench.of(m.Reply)] == [(CALLS_MAX + 2, "zg/worker/queue-full")]
    bench.answer()
    bench.hear(m.Call(number=CALLS_MAX + 3), content=True)
    while bench.computes:
        bench.answer()
    assert len([r for r in bench.of(m.Reply) if r.refusal is None]) == CALLS_MAX + 2
    assert not bench.held


def test_a_parent_that_is_gone_gets_no_answers() -> None:
    """The running call is interrupted, the waiting one forgotten; nothing is said on the dead link."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True)
    bench.hear(m.Call(number=2), content=True)
    bench.step(e.LinkDown(link=LINK, reason="closed"))
    assert bench.interrupts == [bench.computes[0].ticket]
    bench.answer(m.Reason(id="zg/backend/cancelled", detail="between two chunks"))
    assert not bench.said and not bench.computes and not bench.held


@pytest.mark.parametrize("record", [m.Reply(number=1), m.Token(job="a", attempt=1, index=0)])
def test_what_a_worker_says_it_does_not_hear(record: m.Reply | m.Token) -> None:
    """A reply and a token are a worker's own words: noted as refused, content let go, nothing done."""
    bench = Bench()
    bench.hear(record, content=True)
    assert [event.reason.id for event in bench.events] == ["zg/worker/bad-request"]
    assert not bench.said and not bench.computes and not bench.held
