"""Jobs in a worker: acknowledged once, tokens in order and within the window, one last word (E4)."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_stand import LINK, Bench, assign

from zeitgeist.core import effects as e
from zeitgeist.core.generate.machine import FENCES_MAX, RUNS_MAX
from zeitgeist.core.generate.states import TRANSITIONS
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m

pytestmark = pytest.mark.requirement("E4")
BAD = m.Reason(id="zg/backend/failed", detail="the engine is unhappy")


def run_until_quiet(bench: Bench, steps: int = 100) -> None:
    """Answer whatever the engine is given, at most steps times."""
    for _ in range(steps):
        if not bench.computes:
            return
        bench.answer()


def last(bench: Bench) -> list[tuple[str, str, int]]:
    return [(f.job, f.outcome, f.token_count) for f in bench.of(m.Finished)]


def test_a_job_is_acknowledged_read_stepped_and_finished() -> None:
    """Acknowledged, prompt, a token a step, the last one says why, its session is closed, nothing stays held."""
    bench = Bench()
    bench.hear(assign(), content=True)
    ops = [bench.answer().op, bench.answer().op, bench.answer(lasts={"a": "stop"}).op, bench.answer().op]
    assert ops == ["prompt", "decode", "decode", "close"]
    kinds = [type(record).__name__ for record in bench.said]
    assert kinds == ["Acknowledged", "Token", "Token", "Finished"]
    assert [token.index for token in bench.of(m.Token)] == [0, 1]
    assert last(bench) == [("a", "stop", 2)]
    assert not bench.held and not bench.computes
    bench.hear(assign(), content=True)
    assert [r.reasons[0].id for r in bench.of(m.Rejected)] == ["zg/worker/stale-attempt"], "an attempt runs once"


def test_a_worker_runs_no_further_ahead_than_the_window() -> None:
    """DESIGN §3: after `window` unacknowledged tokens the engine idles; each acknowledgement moves it as far."""
    bench = Bench()
    bench.hear(assign(window=3), content=True)
    run_until_quiet(bench)
    assert len(bench.of(m.Token)) == 3
    bench.hear(m.TokenAck(job="a", attempt=1, next=2))
    run_until_quiet(bench)
    assert len(bench.of(m.Token)) == 5
    bench.hear(m.TokenAck(job="a", attempt=1, next=1))
    assert not bench.computes, "an acknowledgement that came late takes nothing back"


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    """The window would open for ever."""
    bench = Bench()
    bench.hear(assign(window=1), content=True)
    run_until_quiet(bench)
    bench.hear(m.TokenAck(job="a", attempt=1, next=1000))
    assert not bench.computes
    assert [event.reason.id for event in bench.events if hasattr(event, "reason")] == ["zg/worker/bad-request"]


def test_jobs_take_turns_when_they_do_not_fit_in_one_batch() -> None:
    """Three jobs, batches of two: over six steps each has four tokens, and none waits for two steps."""
    bench = Bench(batch_max=2)
    for job in ("a", "b", "c"):
        bench.hear(assign(job, window=64), content=True)
    while not (bench.computes[0].op == "decode" and len(bench.worker.runs.ring) == 3):
        bench.answer()
    served: Counter[str] = Counter()
    batches = []
    for _ in range(6):
        batches.append(set(bench.answer().jobs))
        served.update(batches[-1])
    assert set(served.values()) == {4}
    assert all(before | after == {"a", "b", "c"} for before, after in pairwise(batches))


def test_a_job_without_window_gives_its_place_to_others_and_does_not_lose_its_turn() -> None:
    """A stalled consumer stalls its own stream only."""
    bench = Bench(batch_max=1)
    bench.hear(assign("a", window=1), content=True)
    bench.hear(assign("b", window=64), content=True)
    for _ in range(12):
        bench.answer()
    counts = Counter(token.job for token in bench.of(m.Token))
    assert counts["a"] == 1 and counts["b"] >= 8
    bench.hear(m.TokenAck(job="a", attempt=1, next=1))
    bench.answer()
    assert bench.computes[0].jobs == ("a",)


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_cancelled_job_ends_where_it_stands(answered: int) -> None:
    """Waiting behind a call, being read, being stepped: one Finished `cancelled`, the engine's session freed."""
    bench = Bench()
    bench.hear(m.Call(number=1), content=True)
    bench.hear(assign(), content=True)
    for _ in range(answered):
        bench.answer()
    computing = bench.computes[0]
    bench.hear(m.CancelJob(job="a"))
    bench.hear(m.CancelJob(job="a", attempt=1))
    assert bench.interrupts == ([computing.ticket] if computing.op == "prompt" else [])
    refusal = m.Reason(id="zg/backend/cancelled", detail="between chunks") if computing.op == "prompt" else None
    bench.answer(refusal)
    run_until_quiet(bench)
    assert last(bench) == [("a", "cancelled", 0)]
    assert bench.worker.runs.runs == {} and not bench.held


def test_a_cancel_of_another_attempt_or_of_nothing_does_nothing() -> None:
    """It crossed on the way."""
    bench = Bench()
    bench.hear(assign(attempt=2), content=True)
    bench.hear(m.CancelJob(job="a", attempt=1))
    bench.hear(m.CancelJob(job="b"))
    assert not bench.of(m.Finished) and not bench.interrupts


def test_a_deadline_ends_a_job_and_wakes_the_worker_in_time() -> None:
    """One waits, one generates; both end `failed` with their reason; then nothing is due."""
    bench = Bench()
    bench.hear(assign("a", deadline_ns=100), content=True)
    bench.answer()
    bench.answer()
    assert bench.wake_at == 101
    bench.hear(assign("b", deadline_ns=50), content=True)
    assert bench.wake_at == 51
    bench.now = Instant(200)
    bench.step(e.TimerFired())
    run_until_quiet(bench)
    assert sorted(last(bench)) == [("a", "failed", 1), ("b", "failed", 0)]
    assert {f.reason.id for f in bench.of(m.Finished)} == {"zg/worker/deadline"}
    assert bench.wake_at is None and not bench.held


def test_a_later_attempt_takes_the_place_of_an_earlier_one_which_ends_in_silence() -> None:
    """Its session is freed before the new prompt is read; tokens of the old one stop; the fence keeps old ones out."""
    bench = Bench()
    bench.hear(assign(attempt=1), content=True)
    bench.answer()
    bench.answer()
    bench.hear(assign(attempt=2), content=True)
    assert [bench.answer().op for _ in range(4)] == ["decode", "close", "prompt", "decode"]
    assert [(t.attempt, t.index) for t in bench.of(m.Token)] == [(1, 0), (2, 0)]
    bench.hear(assign(attempt=1), content=True)
    assert [(r.attempt, r.reasons[0].id) for r in bench.of(m.Rejected)] == [(1, "zg/worker/stale-attempt")]
    bench.hear(assign(attempt=2), content=True)
    assert [a.attempt for a in bench.of(m.Acknowledged)] == [1, 2, 2], "the same one again is the same answer again"
    assert not bench.of(m.Finished)


def test_a_new_epoch_of_the_owner_is_later_than_any_attempt_before() -> None:
    """The owner restarted and counts from 1 again (DESIGN §6)."""
    bench = Bench()
    bench.hear(assign(attempt=7, owner_epoch=1), content=True)
    bench.hear(assign(attempt=1, owner_epoch=2), content=True)
    assert [a.attempt for a in bench.of(m.Acknowledged)] == [7, 1]


def test_two_owners_of_one_job_id_do_not_meet_in_a_worker() -> None:
    """While one runs the other is rejected; afterwards its own count of epochs and attempts says what is late."""
    bench = Bench()
    bench.hear(assign(owner="n1", owner_epoch=9, attempt=5), content=True)
    bench.hear(assign(owner="n2"), content=True)
    assert [r.reasons[0].id for r in bench.of(m.Rejected)] == ["zg/job/id-in-use"]
    bench.hear(m.CancelJob(job="a"))
    run_until_quiet(bench)
    bench.hear(assign(owner="n2"), content=True)
    assert len(bench.of(m.Acknowledged)) == 2


@pytest.mark.parametrize(
    ("changed", "content", "id"),
    [
        ({"model": "blake3:other"}, True, "zg/backend/no-model"),
        ({}, False, "zg/worker/bad-request"),
    ],
)
def test_a_job_that_cannot_run_here_is_rejected(changed: dict[str, object], content: bool, id: str) -> None:
    """It surely did not start."""
    bench = Bench()
    bench.hear(assign(**changed), content=content)
    assert [r.reasons[0].id for r in bench.of(m.Rejected)] == [id]
    assert not bench.computes and not bench.held


def test_a_draining_worker_starts_nothing_and_finishes_what_runs() -> None:
    """Drain: the running job goes on, the next is rejected."""
    bench = Bench()
    bench.hear(assign("a"), content=True)
    bench.step(e.DrainCommand(reason="upgrade"))
    bench.hear(assign("b"), content=True)
    bench.answer()
    bench.answer(lasts={"a": "length"})
    assert [r.reasons[0].id for r in bench.of(m.Rejected)] == ["zg/worker/draining"]
    assert last(bench) == [("a", "length", 1)]


def test_a_full_worker_rejects_and_says_when_to_come_back() -> None:
    """The bound is exact; fences of jobs long gone are forgotten, so that memory stays bounded."""
    bench = Bench()
    for index in range(RUNS_MAX + 1):
        bench.hear(assign(f"j{index}"), content=True)
    bench.hear(assign("j0", attempt=2), content=True)
    rejected = bench.of(m.Rejected)
    assert [(r.job, r.reasons[0].id) for r in rejected] == [(f"j{RUNS_MAX}", "zg/worker/queue-full")]
    assert rejected[0].retry_after_ns > 0
    for index in range(FENCES_MAX + 10):
        bench.hear(m.CancelJob(job=f"j{index % RUNS_MAX}"))
        bench.hear(assign(f"k{index}"), content=True)
        bench.hear(m.CancelJob(job=f"k{index}"))
    assert len(bench.worker.runs.fences) <= FENCES_MAX


@pytest.mark.parametrize("when", ["prompt", "decode", "one", "none"])
def test_an_engine_that_refuses_fails_the_jobs_that_it_computed_for(when: str) -> None:
    """The prompt; the whole batch; one job of it; a job that the answer leaves out: `failed`, with the reason."""
    bench = Bench()
    bench.hear(assign("a", window=64), content=True)
    bench.hear(assign("b", window=64), content=True)
    if when == "prompt":
        bench.answer(BAD)
    while bench.computes and bench.computes[0].op != "decode":
        bench.answer()
    if when != "prompt":
        while set(bench.computes[0].jobs) != {"a", "b"}:
            bench.answer()
        compute = bench.computes.pop()
        a = {"one": (e.TokenOut(job=compute.jobs[0], last="failed", refusal=BAD),), "none": ()}.get(when, ())
        b = e.TokenOut(job=compute.jobs[1], content=bench.content())
        result = e.Computed(refusal=BAD) if when == "decode" else e.Computed(tokens=(*a, b))
        if when == "decode":
            del bench.held[bench.handle]
        bench.step(e.CallDone(ticket=compute.ticket, result=result))
    failed = [f.job for f in bench.of(m.Finished) if f.outcome == "failed"]
    assert len(failed) == (2 if when == "decode" else 1)
    assert all(f.reason is not None for f in bench.of(m.Finished))


def test_a_parent_that_is_gone_takes_its_jobs_with_it() -> None:
    """Waiting, being read, generating: all end, sessions are freed, nothing is said on the dead link."""
    bench = Bench()
    for job in ("a", "b", "c"):
        bench.hear(assign(job), content=True)
    bench.answer()
    said = len(bench.said)
    bench.step(e.LinkDown(link=LINK, reason="closed"))
    run_until_quiet(bench)
    assert len(bench.said) == said and bench.worker.runs.runs == {}
    assert not bench.held and not bench.computes


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "cancel_call", "assign", "ack", "cancel", "answer", "answer", "answer", "refuse", "time"]
        ),
        st.integers(0, 3),
        st.integers(1, 3),
    ),
    max_size=60,
)


def do(bench: Bench, action: str, job: int, number: int, calls: list[int]) -> None:
    """One thing that a parent, the engine or time may do."""
    name = f"j{job}"
    match action:
        case "call":
            calls.append(len(calls) + 1)
            bench.hear(m.Call(number=calls[-1]), content=True)
        case "cancel_call":
            bench.hear(m.CancelCall(number=max(1, len(calls) - job)))
        case "assign":
            bench.hear(assign(name, attempt=number, window=job + 1, deadline_ns=number - 1), content=True)
        case "ack":
            bench.hear(m.TokenAck(job=name, attempt=number, next=job))
        case "cancel":
            bench.hear(m.CancelJob(job=name, attempt=0))
        case "time":
            bench.now = Instant(bench.now + 1)
            bench.step(e.TimerFired())
        case _ if bench.computes and bench.computes[0].op != "close":
            lasts = {name: "stop"} if number == 3 else {}
            bench.answer(BAD if action == "refuse" else None, lasts)
        case _ if bench.computes:
            bench.answer()
        case _:
            pass


@given(ACTIONS)
def test_whatever_happens_each_call_and_each_attempt_has_one_end_and_nothing_leaks(
    actions: list[tuple[str, int, int]],
) -> None:
    """Any order of calls, cancels, attempts, acknowledgements, refusals and time. One reply a call; tokens in order;
    nothing after an attempt's last word; each session that was opened is closed; no handle stays held.
    `Bench` itself asserts one compute at a time, no double release and the window."""
    bench, calls = Bench(), []
    for action, job, number in actions:
        do(bench, action, job, number, calls)
    for job in range(4):
        bench.hear(m.CancelJob(job=f"j{job}"))
    while bench.computes:
        bench.answer()
    assert sorted(r.number for r in bench.of(m.Reply)) == calls
    finished: set[tuple[str, int]] = set()
    indices: dict[tuple[str, int], int] = {}
    for record in bench.said:
        if isinstance(record, m.Token):
            key = record.job, record.attempt
            assert key not in finished and record.index == indices.get(key, 0)
            indices[key] = record.index + 1
        if isinstance(record, m.Finished):
            key = record.job, record.attempt
            assert key not in finished and record.token_count == indices.get(key, 0)
            finished.add(key)
    runs = bench.worker.runs
    assert not (bench.held or runs.runs or runs.ending or runs.ring or runs.prompts or runs.timed)
    moves = [
        (event.before, event.event) for event in bench.events if hasattr(event, "attempt") and hasattr(event, "before")
    ]
    started, freed = (sum(name == wanted for _, name in moves) for wanted in ("start", "freed"))
    assert started == freed and all(move in TRANSITIONS for move in moves)
