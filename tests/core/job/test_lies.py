"""What a peer may say of a job and when: fences, order, windows, identities; each lie by its name (E4, A7, H2)."""

import msgspec
import pytest

from tests.core.desk import Desk, assign, submit
from tests.core.pair import offer
from zeitgeist.core import effects as e
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.facts import Draining
from zeitgeist.core.ids import JobId, LinkId, NodeId
from zeitgeist.core.job.owner import JOBS_MAX
from zeitgeist.core.trace import JobEnded, TokenDelivered
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.messages import Reason

pytestmark = pytest.mark.requirement("E4")

CLIENT, WORKER, PEER, OWNER = 1, 2, 3, 4
BUSY = Reason(id="zg/worker/queue-full", detail="too many")


def owner(window: int = 8) -> Desk:
    """A node that owns job j of a client, given to a peer, not yet acknowledged."""
    desk = Desk(("coordinator",), window=window)
    desk.peer(CLIENT, "c", trust=("untrusted_client",))
    desk.peer(PEER, "p", models=(offer(),))
    desk.hear(CLIENT, submit(), b"prompt")
    assert desk.of(PEER, m.Assign)
    return desk


def streaming(window: int = 8) -> Desk:
    """The same, acknowledged, with token 0."""
    desk = owner(window)
    desk.hear(PEER, m.Acknowledged(job="j", attempt=1))
    desk.hear(PEER, m.Token(job="j", attempt=1, index=0), b"t0")
    return desk


def executor() -> Desk:
    """A node whose worker was given an attempt of owner o, window 2."""
    desk = Desk()
    desk.peer(WORKER, "n.w", local=True)
    desk.peer(OWNER, "o")
    desk.hear(OWNER, assign(), b"prompt")
    assert desk.of(WORKER, m.Assign) == [assign()]
    return desk


def client() -> Desk:
    """A client's node whose owner o admitted job j."""
    desk = Desk(("client",))
    desk.peer(OWNER, "o", dialled=True)
    desk.tell(e.SubmitCommand(submit=submit(), content=desk.put()))
    desk.hear(OWNER, m.Admitted(job="j", owner="o", owner_epoch=1))
    return desk


# ---- the owner


def test_nothing_is_said_or_given_before_the_admission_is_persisted() -> None:
    """No Admitted, no plan, no Assign until Persisted; a failed persist rejects the job with its reason."""
    desk = Desk(("coordinator",), persists=False)
    desk.peer(CLIENT, "c")
    desk.peer(PEER, "p", models=(offer(),))
    effects = desk.hear(CLIENT, submit(), b"prompt")
    assert [(p.sync, p.key) for p in effects.persist] == [(True, "job/j")] and not effects.calls and not desk.said
    desk.answer()
    assert desk.of(CLIENT, m.Admitted) == [m.Admitted(job="j", owner="n", owner_epoch=3)]
    desk.hear(CLIENT, submit("k"), b"prompt")
    desk.answer(Reason(id="zg/node/not-persisted", detail="disk full"))
    rejected = desk.of(CLIENT, m.Rejected)[0]
    assert (rejected.job, rejected.reasons[0].id) == ("k", "zg/node/not-persisted")


def test_a_prompt_can_be_sent_again_until_somebody_took_it() -> None:
    """Rejected by the first, the second gets the same content; acknowledged, it is freed."""
    desk = Desk(("coordinator",))
    desk.peer(CLIENT, "c")
    desk.peer(PEER, "p", models=(offer(),))
    desk.peer(5, "q", models=(offer(),))
    desk.hear(CLIENT, submit(), b"prompt")
    desk.hear(PEER, m.Rejected(job="j", attempt=1, reasons=(BUSY,)))
    assert [assigned.attempt for assigned in desk.of(5, m.Assign)] == [2] and len(desk.held) == 1
    desk.hear(5, m.Acknowledged(job="j", attempt=2))
    assert not desk.held


def test_when_everyone_rejects_the_client_has_every_reason() -> None:
    """Never started, so `Rejected`, with what each said."""
    desk = owner()
    desk.hear(PEER, m.Rejected(job="j", attempt=1, reasons=(BUSY, msgspec.structs.replace(BUSY, detail="more"))))
    assert desk.last(CLIENT) == m.Rejected(
        job="j", attempt=1, reasons=(BUSY, msgspec.structs.replace(BUSY, detail="more"))
    )
    assert desk.all(JobEnded)[0].outcome == "rejected" and not desk.held and not desk.jobs.owners.jobs


@pytest.mark.parametrize(
    ("record", "content", "id"),
    [
        (m.Token(job="j", attempt=1, index=2), b"t2", "zg/job/gap"),
        (m.Token(job="j", attempt=1, index=1), None, "zg/job/no-content"),
        (m.Finished(job="j", attempt=1, outcome="stop", token_count=2), None, "zg/job/gap"),
        (m.Finished(job="j", attempt=1, outcome="stop", token_count=0), None, "zg/job/gap"),
        (m.Acknowledged(job="j", attempt=1), None, "zg/job/out-of-turn"),
        (m.Rejected(job="j", attempt=1, reasons=(BUSY,)), None, "zg/job/out-of-turn"),
    ],
)
def test_an_executor_that_breaks_the_order_fails_the_attempt(record: m.Token, content: bytes | None, id: str) -> None:
    """The client is told, the executor is told to stop unless it is done, and nothing more of it is passed on."""
    desk = streaming()
    desk.hear(PEER, record, content)
    last = desk.last(CLIENT)
    assert isinstance(last, m.Finished) and (last.outcome, last.token_count) == ("failed", 1)
    assert last.reason is not None and last.reason.id == id
    done = isinstance(record, m.Finished | m.Rejected)
    assert desk.of(PEER, m.CancelJob) == ([] if done else [m.CancelJob(job="j", attempt=1)])
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"late")
    assert desk.last(CLIENT) is last
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    assert not desk.held and not desk.jobs.owners.jobs


@pytest.mark.parametrize(
    "record",
    [m.Token(job="j", attempt=1, index=0), m.Finished(job="j", attempt=1, outcome="length", token_count=0)],
)
def test_tokens_before_the_acknowledgement_are_out_of_turn(record: m.Token) -> None:
    """An attempt that nobody took gives nothing."""
    desk = owner()
    desk.hear(PEER, record, b"t0" if isinstance(record, m.Token) else None)
    last = desk.last(CLIENT)
    assert isinstance(last, m.Finished) and last.reason is not None and last.reason.id == "zg/job/out-of-turn"


def test_a_token_that_came_already_is_dropped() -> None:
    """Lower than the next: an event, its content freed, the stream goes on."""
    desk = streaming()
    held = len(desk.held)
    desk.hear(PEER, m.Token(job="j", attempt=1, index=0), b"again")
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"t1")
    assert desk.refusals() == ["job/duplicate"] and len(desk.held) == held + 1
    assert [token.index for token in desk.of(CLIENT, m.Token)] == [0, 1]


@pytest.mark.parametrize("attempt", [2, 9])
def test_the_word_of_another_attempt_is_refused(attempt: int) -> None:
    """The fence: (owner, epoch, job, attempt); nothing of the job moves."""
    desk = streaming()
    before = desk.jobs.owners.state()
    desk.hear(PEER, m.Token(job="j", attempt=attempt, index=1), b"x")
    desk.hear(PEER, m.Finished(job="j", attempt=attempt, outcome="stop", token_count=1))
    assert desk.refusals() == ["job/old-attempt"] * 2 and desk.jobs.owners.state() == before


def test_a_job_of_the_same_name_never_reuses_a_fence() -> None:
    """After the end the same id is a new job; its attempt has the next number."""
    desk = streaming()
    desk.hear(PEER, m.Finished(job="j", attempt=1, outcome="stop", token_count=1))
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    desk.hear(CLIENT, submit(), b"prompt")
    assert [assigned.attempt for assigned in desk.of(PEER, m.Assign)] == [1, 2]


def test_another_peer_s_words_about_a_job_are_nobody_s() -> None:
    """A trusted executor that was not asked: unknown on its link."""
    desk = streaming()
    desk.peer(5, "q")
    desk.hear(5, m.Token(job="j", attempt=1, index=1), b"forged")
    desk.hear(5, m.Finished(job="j", attempt=1, outcome="stop", token_count=1))
    assert desk.refusals() == ["job/unknown"] * 2 and len(desk.of(CLIENT, m.Token)) == 1


def test_an_executor_past_its_window_fails_the_attempt() -> None:
    """Window 2: the third token without an acknowledgement is one too many; with one it is not."""
    desk = streaming(window=2)
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"t1")
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    assert desk.last(PEER) == m.TokenAck(job="j", attempt=1, next=1)
    desk.hear(PEER, m.Token(job="j", attempt=1, index=2), b"t2")
    assert desk.jobs.owners.jobs[JobId("j")].state == "streaming"
    desk.hear(PEER, m.Token(job="j", attempt=1, index=3), b"t3")
    assert desk.refusals() == ["job/window-exceeded"]


def test_a_client_cannot_take_what_was_never_sent() -> None:
    """An event; no credit goes to the executor. Taken twice is taken once."""
    desk = streaming()
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=2))
    assert desk.refusals() == ["job/bad-ack"] and not desk.of(PEER, m.TokenAck)
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    assert len(desk.of(PEER, m.TokenAck)) == 1


def test_the_same_request_again_gets_the_same_job_and_what_was_not_taken() -> None:
    """E4, idempotent: admitted again, tokens from the first that was not taken, no second attempt."""
    desk = streaming()
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"t1")
    desk.hear(CLIENT, m.TokenAck(job="j", attempt=1, next=1))
    said = len(desk.said[LinkId(CLIENT)])
    desk.hear(CLIENT, submit(), b"prompt")
    assert desk.said[LinkId(CLIENT)][said:] == [
        m.Admitted(job="j", owner="n", owner_epoch=3),
        m.Token(job="j", attempt=1, index=1),
    ]
    assert len(desk.of(PEER, m.Assign)) == 1
    desk.peer(5, "c", trust=("untrusted_client",))
    desk.hear(5, submit())
    desk.hear(PEER, m.Finished(job="j", attempt=1, outcome="stop", token_count=2))
    assert [type(record) for record in desk.said[LinkId(5)]] == [m.Admitted, m.Token, m.Finished]


@pytest.mark.parametrize(
    ("node", "changed", "content", "id"),
    [
        ("d", {}, b"prompt", "zg/job/not-yours"),
        ("c", {"token_count_max": 5}, b"prompt", "zg/job/other-request"),
        ("c", {}, b"another prompt", "zg/job/other-request"),
    ],
)
def test_an_id_that_lives_is_nobody_else_s(node: str, changed: dict, content: bytes, id: str) -> None:
    """Another client, another request, another prompt: rejected, the job goes on."""
    desk = streaming()
    desk.peer(5, node, trust=("untrusted_client",))
    desk.hear(5, submit(**changed), content)
    rejected = desk.of(5, m.Rejected)[0]
    assert rejected.reasons[0].id == id and len(desk.of(5, m.Token)) == 0
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"t1")
    assert len(desk.of(CLIENT, m.Token)) == 2


def test_a_plan_about_things_as_they_were_is_made_again_a_few_times() -> None:
    """The candidates change before each answer: asked again three times, then rejected as stale."""
    desk = Desk(("coordinator",), plans=False)
    desk.peer(CLIENT, "c")
    desk.hear(CLIENT, submit(), b"prompt")
    for number in range(4):
        assert len(desk.waiting) == 1
        desk.peer(10 + number, f"p{number}", models=(offer(),))
        desk.answer()
    assert not desk.waiting
    last = desk.last(CLIENT)
    assert isinstance(last, m.Rejected) and last.reasons[0].id == "zg/plan/stale"
    desk.hear(CLIENT, submit("k"), b"prompt")
    desk.answer()
    assert desk.of(10, m.Assign), "a plan about things as they are counts"


def test_a_plan_call_that_fails_rejects_the_job() -> None:
    """Its reason is the client's."""
    desk = Desk(("coordinator",), plans=False)
    desk.peer(CLIENT, "c")
    desk.hear(CLIENT, submit(), b"prompt")
    desk.answer(Reason(id="zg/wire/bad-record", detail="planner fell over"))
    last = desk.last(CLIENT)
    assert isinstance(last, m.Rejected) and last.reasons[0].id == "zg/wire/bad-record"


def test_a_client_that_is_gone_frees_its_executor() -> None:
    """Cancelled below; late words find nobody; nothing is kept."""
    desk = streaming()
    desk.down(CLIENT)
    assert desk.last(PEER) == m.CancelJob(job="j", attempt=1)
    desk.hear(PEER, m.Token(job="j", attempt=1, index=1), b"late")
    desk.hear(PEER, m.Finished(job="j", attempt=1, outcome="cancelled", token_count=2))
    assert not desk.held and not desk.jobs.board.below and desk.all(JobEnded)[0].outcome == "cancelled"


def test_a_client_and_executor_on_one_link_that_is_gone_end_the_job_once() -> None:
    """The peer that asked also executes: its one link goes down, nothing is sent on it."""
    desk = Desk(("coordinator",))
    desk.peer(PEER, "p", models=(offer(),))
    desk.hear(PEER, submit(), b"prompt")
    desk.hear(PEER, m.Acknowledged(job="j", attempt=1))
    desk.hear(PEER, m.Token(job="j", attempt=1, index=0), b"t0")
    said = len(desk.said[LinkId(PEER)])
    desk.down(PEER)
    assert len(desk.all(JobEnded)) == 1 and not desk.held and not desk.jobs.owners.jobs
    assert len(desk.said[LinkId(PEER)]) == said


@pytest.mark.requirement("F7")
def test_a_client_node_refuses_work() -> None:
    """F7: it owns nothing for others and executes nothing."""
    desk = Desk(("client",))
    desk.peer(OWNER, "o")
    desk.hear(OWNER, submit(), b"prompt")
    desk.hear(OWNER, assign(), b"prompt")
    ids = [record.reasons[0].id for record in desk.of(OWNER, m.Rejected)]
    assert ids == ["zg/job/not-an-owner", "zg/job/not-executor"] and not desk.held


def test_an_owner_owns_no_more_than_it_may() -> None:
    """One more than the limit is rejected, with a time to come back."""
    desk = Desk(("coordinator",), persists=False)
    desk.peer(CLIENT, "c")
    for number in range(JOBS_MAX):
        desk.hear(CLIENT, submit(f"j{number}"), b"prompt")
    desk.hear(CLIENT, submit("late"), b"prompt")
    last = desk.last(CLIENT)
    assert isinstance(last, m.Rejected) and last.reasons[0].id == "zg/job/too-many" and last.retry_after_ns > 0
    assert len(desk.held) == JOBS_MAX


def test_a_prompt_is_asked_for() -> None:
    """A submit and an attempt without content."""
    desk = Desk()
    desk.peer(OWNER, "o")
    desk.hear(OWNER, submit())
    desk.hear(OWNER, assign())
    assert [record.reasons[0].id for record in desk.of(OWNER, m.Rejected)] == ["zg/job/no-prompt"] * 2


def test_a_peer_that_rests_is_no_candidate() -> None:
    """A peer that said goodbye is not asked; when it comes back it is."""
    desk = Desk(("coordinator",))
    desk.peer(CLIENT, "c")
    desk.peer(PEER, "p", models=(offer(),))
    desk.jobs.fact(Draining(peer=NodeId("p"), reason="leaving"), desk.now, None)  # type: ignore[arg-type]
    desk.hear(CLIENT, submit(), b"prompt")
    last = desk.last(CLIENT)
    assert isinstance(last, m.Rejected) and last.reasons[2].id == "zg/plan/draining"
    desk.peer(5, "p", models=(offer(),))
    desk.hear(CLIENT, submit("k"), b"prompt")
    assert len(desk.of(PEER, m.Assign)) == 1, "asked over its oldest link"


def test_an_id_whose_last_attempt_still_ends_is_not_given_to_the_same_executor() -> None:
    """The deadline ended the job, the executor has not said its last word: until then the same id waits for another."""
    desk = Desk(("coordinator",))
    desk.peer(CLIENT, "c")
    desk.peer(PEER, "p", models=(offer(),))
    desk.hear(CLIENT, submit(deadline_ns=1000), b"prompt")
    assert desk.wake_at is not None
    desk.now = desk.wake_at
    desk.tell(e.TimerFired())
    desk.hear(CLIENT, submit(), b"prompt")
    last = desk.last(CLIENT)
    assert isinstance(last, m.Rejected) and last.reasons[0].id == "zg/job/id-in-use"
    desk.hear(PEER, m.Finished(job="j", attempt=1, outcome="cancelled", token_count=0))
    desk.hear(CLIENT, submit(), b"prompt")
    assert [assigned.attempt for assigned in desk.of(PEER, m.Assign)] == [1, 2]


def test_a_peer_is_what_its_oldest_link_says() -> None:
    """Two ready links to one node: the plan weighs the one over which the job would go."""
    desk = Desk(("coordinator",))
    desk.peer(CLIENT, "c")
    desk.peer(PEER, "p", models=(offer(),))
    desk.peer(5, "p", models=(offer(),), trust=())
    desk.hear(CLIENT, submit(), b"prompt")
    assert len(desk.of(PEER, m.Assign)) == 1


# ---- the executor


def test_an_executor_that_drains_takes_no_attempt() -> None:
    """What it has goes on."""
    desk = executor()
    desk.tell(e.DrainCommand(reason="maintenance"))
    desk.hear(OWNER, assign("k"), b"prompt")
    assert desk.of(OWNER, m.Rejected)[0].reasons[0].id == "zg/job/draining"
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    assert desk.last(OWNER) == m.Acknowledged(job="j", attempt=1)


def test_a_worker_s_word_about_another_attempt_is_refused() -> None:
    """Nothing goes up."""
    desk = executor()
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=2))
    assert desk.refusals() == ["job/old-attempt"] and not desk.said.get(LinkId(OWNER))


def test_an_attempt_names_the_peer_that_sends_it() -> None:
    """Nobody assigns in another's name."""
    desk = executor()
    desk.peer(5, "x")
    desk.hear(5, assign("k"), b"prompt")
    assert desk.of(5, m.Rejected)[0].reasons[0].id == "zg/job/not-owner"


@pytest.mark.parametrize(
    ("changed", "id"),
    [
        ({"owner_epoch": 6, "attempt": 5}, "zg/job/old-epoch"),
        ({"attempt": 1, "token_count_max": 9}, "zg/job/old-attempt"),
        ({"job": "k", "owner_epoch": 6}, "zg/job/old-epoch"),
        ({"job": "k", "model": "blake3:" + "9" * 64}, "zg/job/no-worker"),
    ],
)
def test_an_old_fence_and_a_strange_model_are_rejected(changed: dict, id: str) -> None:
    """Nothing reaches the worker."""
    desk = executor()
    desk.hear(OWNER, assign(**changed), b"prompt")
    assert desk.of(OWNER, m.Rejected)[0].reasons[0].id == id
    assert desk.of(WORKER, m.Assign) == [assign()] and len(desk.held) == 1


def test_a_later_attempt_takes_the_place_of_an_earlier_one() -> None:
    """On another worker: the first is told to stop, and its late tokens find nobody."""
    desk = executor()
    desk.peer(5, "n.v", local=True)
    desk.hear(OWNER, assign(attempt=2), b"prompt")
    assert desk.of(WORKER, m.CancelJob) == [m.CancelJob(job="j", attempt=1)]
    assert desk.of(5, m.Assign) == [assign(attempt=2)]
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    desk.hear(WORKER, m.Token(job="j", attempt=1, index=0), b"late")
    desk.hear(5, m.Acknowledged(job="j", attempt=2))
    desk.hear(5, m.Token(job="j", attempt=2, index=0), b"t0")
    assert desk.said[LinkId(OWNER)] == [m.Acknowledged(job="j", attempt=2), m.Token(job="j", attempt=2, index=0)]
    desk.hear(OWNER, assign(attempt=2), b"prompt")
    assert desk.refusals() == ["job/duplicate"]


def test_one_worker_runs_no_two_jobs_of_one_name() -> None:
    """Two owners chose the same id: the second is rejected while the first runs, and taken afterwards."""
    desk = executor()
    desk.peer(5, "q")
    desk.hear(5, assign(owner="q"), b"prompt")
    assert desk.of(5, m.Rejected)[0].reasons[0].id == "zg/job/id-in-use"
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    desk.hear(WORKER, m.Finished(job="j", attempt=1, outcome="stop", token_count=0))
    desk.hear(5, assign(owner="q"), b"prompt")
    assert len(desk.of(WORKER, m.Assign)) == 2


def test_attempts_go_to_the_worker_with_the_least_to_do() -> None:
    """Two workers with the model, three attempts."""
    desk = executor()
    desk.peer(5, "n.v", local=True)
    desk.hear(OWNER, assign("k"), b"prompt")
    desk.hear(OWNER, assign("l"), b"prompt")
    assert [record.job for record in desk.of(WORKER, m.Assign)] == ["j", "l"]
    assert [record.job for record in desk.of(5, m.Assign)] == ["k"]


@pytest.mark.parametrize(
    ("record", "content", "id"),
    [
        (m.Token(job="j", attempt=1, index=1), b"t1", "zg/job/gap"),
        (m.Token(job="j", attempt=1, index=0), None, "zg/job/no-content"),
        (m.Finished(job="j", attempt=1, outcome="stop", token_count=2), None, "zg/job/gap"),
        (m.Rejected(job="j", attempt=1, reasons=(BUSY,)), None, "zg/job/out-of-turn"),
    ],
)
def test_a_worker_that_breaks_the_order_fails_the_attempt(record: m.Token, content: bytes | None, id: str) -> None:
    """The owner is told by the hop that saw it."""
    desk = executor()
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    desk.hear(WORKER, record, content)
    last = desk.last(OWNER)
    assert isinstance(last, m.Finished) and last.outcome == "failed" and last.reason is not None
    assert last.reason.id == id and not desk.held and not desk.jobs.executors.by_owner


def test_a_worker_past_the_window_fails_the_attempt() -> None:
    """The owner's window of 2 binds the worker, whatever this node's own is."""
    desk = executor()
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    for index in range(3):
        desk.hear(WORKER, m.Token(job="j", attempt=1, index=index), b"t")
    assert desk.refusals() == ["job/window-exceeded"] and not desk.held


def test_an_owner_cannot_take_what_was_never_sent_or_of_another_attempt() -> None:
    """Credit and cancels of the hop above are held to the attempt."""
    desk = executor()
    desk.hear(WORKER, m.Acknowledged(job="j", attempt=1))
    desk.hear(WORKER, m.Token(job="j", attempt=1, index=0), b"t")
    desk.hear(OWNER, m.TokenAck(job="j", attempt=1, next=2))
    desk.hear(OWNER, m.TokenAck(job="j", attempt=2, next=1))
    desk.hear(OWNER, m.CancelJob(job="j", attempt=2))
    assert desk.refusals() == ["job/bad-ack", "job/old-attempt", "job/old-attempt"]
    assert not desk.of(WORKER, m.TokenAck) and not desk.of(WORKER, m.CancelJob)


def test_a_worker_is_no_client_and_no_owner() -> None:
    """What a worker may not say to its node: a job, an attempt."""
    desk = executor()
    desk.hear(WORKER, submit("k"), b"prompt")
    desk.hear(WORKER, assign("k", owner="n.w"), b"prompt")
    assert desk.refusals() == ["job/out-of-turn"]
    assert desk.of(WORKER, m.Rejected)[0].reasons[0].id == "zg/job/not-owner" and len(desk.held) == 1


# ---- the client


@pytest.mark.parametrize(
    ("record", "content", "id"),
    [
        (m.Token(job="j", attempt=1, index=1), b"t1", "zg/job/gap"),
        (m.Token(job="j", attempt=1, index=0), None, "zg/job/no-content"),
        (m.Finished(job="j", attempt=1, outcome="stop", token_count=1), None, "zg/job/gap"),
    ],
)
def test_an_owner_that_breaks_the_order_fails_the_job(record: m.Token, content: bytes | None, id: str) -> None:
    """One end for the application, with the lie's name."""
    desk = client()
    desk.hear(OWNER, record, content)
    assert [(end.outcome, end.reason.id) for end in desk.all(JobEnded)] == [("failed", id)]
    assert not desk.held and not desk.jobs.clients.jobs


def test_an_application_sees_each_token_once() -> None:
    """A duplicate, and a token after the end, are events of the trace and nothing of the application's."""
    desk = client()
    desk.hear(OWNER, m.Token(job="j", attempt=1, index=0), b"t0")
    desk.hear(OWNER, m.Token(job="j", attempt=1, index=0), b"t0")
    desk.hear(OWNER, m.Token(job="j", attempt=2, index=1), b"t1")
    desk.hear(OWNER, m.Token(job="j", attempt=1, index=2), b"old")
    desk.hear(OWNER, m.Finished(job="j", attempt=2, outcome="length", token_count=2))
    desk.hear(OWNER, m.Token(job="j", attempt=2, index=2), b"t2")
    desk.hear(OWNER, m.Finished(job="j", attempt=2, outcome="length", token_count=2))
    assert [event.index for event in desk.all(TokenDelivered)] == [0, 1]
    assert desk.refusals() == ["job/duplicate", "job/old-attempt", "job/unknown", "job/unknown"]
    assert len(desk.all(JobEnded)) == 1
    desk.tell(e.TakenCommand(job=JobId("j"), next=1))
    desk.tell(e.TakenCommand(job=JobId("j"), next=1))
    desk.tell(e.TakenCommand(job=JobId("j"), next=2))
    assert [ack.next for ack in desk.of(OWNER, m.TokenAck)] == [1, 2] and not desk.held


def test_an_application_that_takes_too_much_is_told_so() -> None:
    """The caller's fault; nothing moves. A command about a job that is over does nothing."""
    desk = client()
    with pytest.raises(LocalProtocolError, match="zg/job/bad-ack"):
        desk.tell(e.TakenCommand(job=JobId("j"), next=1))
    desk.tell(e.TakenCommand(job=JobId("gone"), next=1))
    desk.tell(e.CancelCommand(job=JobId("gone")))
    assert JobId("j") in desk.jobs.clients.jobs


def test_an_admitted_job_may_take_its_time() -> None:
    """The time of a handshake binds the admission, not the job."""
    desk = client()
    assert desk.wake_at is None
    desk.hear(OWNER, m.Token(job="j", attempt=1, index=0), b"t0")
    assert not desk.all(JobEnded)


def test_a_cancel_that_the_owner_does_not_answer_ends_the_job() -> None:
    """Twice the time of silence: the application has its end, and the owner's late words find nobody."""
    desk = client()
    desk.tell(e.CancelCommand(job=JobId("j")))
    desk.tell(e.CancelCommand(job=JobId("j")))
    assert len(desk.of(OWNER, m.CancelJob)) == 1 and desk.wake_at is not None
    desk.now = desk.wake_at
    desk.tell(e.TimerFired())
    assert [end.outcome for end in desk.all(JobEnded)] == ["cancelled"]
    desk.hear(OWNER, m.Token(job="j", attempt=1, index=0), b"late")
    desk.hear(OWNER, m.Finished(job="j", attempt=1, outcome="cancelled", token_count=1))
    assert not desk.held and not desk.jobs.board.below and desk.refusals() == []


def test_an_owner_speaks_for_itself() -> None:
    """An admission in another's name is a lie."""
    desk = Desk(("client",))
    desk.peer(OWNER, "o", dialled=True)
    desk.tell(e.SubmitCommand(submit=submit(), content=desk.put()))
    desk.hear(OWNER, m.Admitted(job="j", owner="somebody", owner_epoch=1))
    assert desk.all(JobEnded)[0].reason.id == "zg/job/out-of-turn" and not desk.held


def test_a_client_asks_only_whom_it_dialled() -> None:
    """A peer that called us is no owner of ours; the job waits."""
    desk = Desk(("client",))
    desk.peer(PEER, "p")
    desk.tell(e.SubmitCommand(submit=submit(), content=desk.put()))
    assert not desk.said
    desk.peer(OWNER, "o", dialled=True)
    assert desk.of(OWNER, m.Submit) == [submit()]


def test_a_deadline_past_the_end_of_instants_is_refused() -> None:
    """An untrusted client asks for 584 years: the instant would have no 64 bits, and no digest of the state could be
    made of it. The most that may be asked for is kept."""
    desk = Desk()
    desk.peer(CLIENT, "c", trust=("untrusted_client",))
    desk.peer(WORKER, "w", local=True)
    for deadline in ((1 << 64) - 1, 1 << 62):
        desk.hear(CLIENT, submit(deadline_ns=deadline), b"prompt")
        assert desk.node.state_digest()
    assert desk.refusals() == ["wire/bad-record"] and desk.wake_at == desk.now + (1 << 62)
