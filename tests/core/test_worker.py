"""The worker's door: Boot first, frames through the gate, each answer to who asked, the same bytes again (I13, V2)."""

import pytest
from worker_stand import LINK, Bench, Idle, Ready, assign, boot_of

from zeitgeist.core import effects as e
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import JobId, Ticket
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.worker import Worker

pytestmark = pytest.mark.requirement("I13")


def test_the_boot_comes_first_and_once_and_time_does_not_go_back() -> None:
    """The caller's mistakes are refused by name and change nothing."""
    worker = Worker(Ready, Idle)
    with pytest.raises(LocalProtocolError) as early:
        worker.step(e.TimerFired(), Instant(0))
    worker.step(boot_of(), Instant(5))
    with pytest.raises(LocalProtocolError) as twice:
        worker.step(boot_of(), Instant(5))
    with pytest.raises(LocalProtocolError) as back:
        worker.step(e.TimerFired(), Instant(4))
    with pytest.raises(LocalProtocolError) as nobody:
        worker.step(e.CallDone(ticket=Ticket(9), result=e.Computed()), Instant(5))
    with pytest.raises(LocalProtocolError) as foreign:
        worker.step(e.CancelCommand(job=JobId("a")), Instant(5))
    ids = [caught.value.id for caught in (early, twice, back, nobody, foreign)]
    assert ids == [
        "zg/node/boot-once",
        "zg/node/boot-once",
        "zg/node/time-went-back",
        "zg/node/unknown-ticket",
        "zg/worker/bad-request",
    ]


@pytest.mark.parametrize(
    ("changed", "id", "closed"),
    [
        ({"sequence": 7}, "zg/node/wrong-sequence", True),
        ({"kind": 0x0999}, "zg/node/unknown-kind", False),
        ({"channel": 0}, "zg/node/wrong-channel", False),
        ({"raw": b"\x81\xa6number\xcc\x01"}, "zg/wire/not-canonical", False),
        ({"raw": b"\xc1"}, "zg/wire/bad-record", False),
        ({"kind": 0x0001, "channel": 0}, "zg/node/wrong-state", False),
    ],
)
def test_a_frame_that_breaks_a_rule_is_named_and_computes_nothing(
    changed: dict[str, object], id: str, closed: bool
) -> None:
    """Each rule of the gate once (H2); content let go; only a broken order ends the link."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True, **changed)
    assert [event.reason.id for event in bench.events] == [id]
    assert bool(bench.closed) is closed
    assert not bench.computes and not bench.said and not bench.held


def test_a_frame_behind_the_end_of_its_link_is_let_go() -> None:
    """The driver read it before it knew."""
    bench = Bench()
    bench.step(e.LinkDown(link=LINK, reason="closed"))
    bench.hear(m.Call(number=1), content=True)
    assert not bench.computes and not bench.held


def test_calls_and_jobs_share_the_engine_by_age() -> None:
    """A call, a prompt, a call: computed in that order, the decode steps between as the rule says (workers.md)."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True)
    bench.hear(assign("a", window=64), content=True)
    bench.hear(m.Call(number=2), content=True)
    assert [bench.answer().op for _ in range(8)] == ["request", "prompt", *["decode"] * 4, "request", "decode"]


def test_the_same_inputs_give_the_same_effects_and_the_same_state() -> None:
    """Law of the door: a second worker, fed the recorded inputs, does and holds the same, byte for byte."""
    bench = Bench()
    bench.hear(assign("a", deadline_ns=50), content=True)
    bench.hear(m.Call(number=1), content=True)
    bench.hear(assign("b", window=1), content=True)
    for _ in range(5):
        bench.answer()
    bench.hear(m.TokenAck(job="b", attempt=1, next=1))
    bench.now = Instant(60)
    bench.step(e.TimerFired())
    again = Worker(Ready, Idle)
    first = Worker(Ready, Idle)
    for now, input in bench.inputs:
        assert again.step(input, now) == first.step(input, now)
        assert again.state_digest() == first.state_digest()
    assert again.state_digest() == bench.worker.state_digest()
    one = again.gate.next[LINK]
    again.step(e.FrameArrived(link=LINK, channel=4, kind=0, flags=0, stream=0, sequence=one, record=b""), Instant(60))
    assert again.state_digest() != bench.worker.state_digest()
