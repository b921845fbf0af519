"""Whole jobs over real nodes and workers: each token once, in any order that is allowed, under faults (E4, F2, F7)."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.desk import Desk, submit
from tests.core.mesh import Host, Mesh, token_of
from tests.core.pair import offer
from zeitgeist.core import effects as e
from zeitgeist.core.ids import Digest, JobId, LinkId
from zeitgeist.core.job.machine import Jobs
from zeitgeist.core.node import Node
from zeitgeist.core.plan.planner import plan
from zeitgeist.core.trace import Drained, JobEnded, JobMoved, MessageRefused, PeerGone, TokenDelivered, WorkerChanged
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.messages import Token
from zeitgeist.core.wire.registry import KINDS

pytestmark = pytest.mark.requirement("E4")

TOKEN = KINDS[Token].kind


def three(**others: object) -> Mesh:
    """A client c, its owner a, an executor b with two workers."""
    mesh = Mesh(**others)  # type: ignore[arg-type]
    mesh.node("c", dial=("a",), roles=("client",), stream_window=4)
    mesh.node("a", dial=("b",), roles=("coordinator",), stream_window=4)
    mesh.node("b", workers=("w", "v"))
    mesh.start()
    return mesh


def tokens(job: str, count: int) -> list[bytes]:
    return [token_of(job, index) for index in range(count)]


def jobs_of(host: Host) -> Jobs:
    """The machine inside: to see that nothing is left."""
    assert isinstance(host.core, Node)
    machine = host.core.machines["job"]
    assert isinstance(machine, Jobs)
    return machine


def assert_nothing_left(mesh: Mesh) -> None:
    """No payload, no job, no talk, no deadline, no question that nobody will answer."""
    assert mesh.leaks() == {}
    for host in mesh.hosts.values():
        if isinstance(host.core, Node):
            jobs = jobs_of(host)
            assert not jobs.owners.jobs and not jobs.clients.jobs and not jobs.executors.by_owner
            assert not jobs.board.below and not jobs.board.above and not any(jobs.board.load.values())
            assert jobs.deadline() is None and not jobs.owners.tickets
            assert not host.core.askers


@pytest.mark.requirement("F2")
@pytest.mark.requirement("F7")
def test_a_client_gets_every_token_of_an_executor_two_hops_away() -> None:
    """c asks a, a gives it to b, b's worker generates; each hop frees what passed through it."""
    mesh = three()
    mesh.submit("c", "j", tokens=9)
    mesh.pump()
    assert mesh.outcome("c", "j") == ("length", tokens("j", 9))
    assert_nothing_left(mesh)
    states = [event.after for event in mesh.hosts["a"].events if isinstance(event, JobMoved)]
    assert states == ["proposed", "admitted", "planned", "assigned", "acknowledged", "streaming", "completed"]
    states = [event.after for event in mesh.hosts["b"].events if isinstance(event, JobMoved)]
    assert states == ["assigned", "executing", "streaming", "completed"]


@pytest.mark.requirement("F1")
def test_a_node_with_a_worker_serves_its_own_application() -> None:
    """Owner and executor in one: the worker is asked without a hop."""
    mesh = Mesh()
    mesh.node("b", workers=("w",))
    mesh.start()
    mesh.submit("b", "j", tokens=3)
    mesh.pump()
    assert mesh.outcome("b", "j") == ("length", tokens("j", 3))
    assert_nothing_left(mesh)
    assert "executing" in [event.after for event in mesh.hosts["b"].events if isinstance(event, JobMoved)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1 << 16), max_size=400), st.integers(1, 3))
def test_any_interleaving_of_links_and_answers_gives_the_same_tokens(order: list[int], count: int) -> None:
    """Each link is ordered, nothing else is: whatever comes next, every client has each token once, in order."""
    drawn = iter(order)
    mesh = three(chooser=lambda names: next(drawn, 0))
    for number in range(count):
        mesh.submit("c", f"j{number}", tokens=6)
        mesh.submit("b", f"own{number}", tokens=3)
    mesh.pump()
    for number in range(count):
        assert mesh.outcome("c", f"j{number}") == ("length", tokens(f"j{number}", 6))
        assert mesh.outcome("b", f"own{number}") == ("length", tokens(f"own{number}", 3))
    assert_nothing_left(mesh)


def test_an_application_that_takes_nothing_stops_the_engine_at_the_window() -> None:
    """Backpressure end to end: 4 tokens of 20 are made, and no more, until the application takes some (G4)."""
    mesh = three()
    mesh.hosts["c"].takes = False
    mesh.submit("c", "j", tokens=20)
    mesh.pump()
    worker = next(host for host in mesh.hosts.values() if host.made)
    assert worker.made[JobId("j")] == 4 and len(mesh.hosts["c"].seen[JobId("j")]) == 4
    mesh.hosts["c"].tell(e.TakenCommand(job=JobId("j"), next=2))
    mesh.pump()
    assert worker.made[JobId("j")] == 6
    mesh.hosts["c"].takes = True
    mesh.hosts["c"].tell(e.TakenCommand(job=JobId("j"), next=6))
    mesh.pump()
    assert mesh.outcome("c", "j") == ("length", tokens("j", 20))
    assert_nothing_left(mesh)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 260), st.lists(st.integers(0, 1 << 16), max_size=300))
def test_a_cancel_at_any_moment_frees_everything(moment: int, order: list[int]) -> None:
    """The application cancels after any number of steps: one end, a prefix of the tokens, nothing left anywhere."""
    drawn = iter(order)
    mesh = three(chooser=lambda names: next(drawn, 0))
    mesh.submit("c", "j", tokens=12)
    for _ in range(moment):
        if not any(host.queues for host in mesh.hosts.values()):
            break
        step(mesh)
    mesh.hosts["c"].tell(e.CancelCommand(job=JobId("j")))
    mesh.pump()
    outcome, seen = mesh.outcome("c", "j")
    assert outcome in ("cancelled", "length") and seen == tokens("j", len(seen))
    assert (outcome == "length") == (len(seen) == 12) or outcome == "cancelled"
    assert_nothing_left(mesh)


def step(mesh: Mesh) -> None:
    """One input."""
    ready = [(host, name) for host in mesh.hosts.values() for name, queue in host.queues.items() if queue]
    host, name = ready[mesh.chooser([name for _, name in ready]) % len(ready)]
    input = host.queues[name].popleft()
    if not host.queues[name]:
        del host.queues[name]
    host.tell(input)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.sampled_from(["ca", "ab", "bw"]), st.lists(st.integers(0, 1 << 16), max_size=300))
def test_a_link_cut_at_any_moment_ends_the_job_once(moment: int, where: str, order: list[int]) -> None:
    """Client from owner, owner from executor, executor from its worker: one end with a reason, and nothing left."""
    drawn = iter(order)
    mesh = three(chooser=lambda names: next(drawn, 0))
    mesh.submit("c", "j", tokens=12)
    for _ in range(moment):
        if not any(host.queues for host in mesh.hosts.values()):
            break
        step(mesh)
    near, far = {"ca": ("c", "a"), "ab": ("a", "b"), "bw": ("b", worker_of(mesh))}[where]
    mesh.part(near, far)
    mesh.pump()
    if not mesh.outcome("c", "j")[0]:
        mesh.sleep(11_000_000_000)
    outcome, seen = mesh.outcome("c", "j")
    assert outcome in ("failed", "length", "rejected") and seen == tokens("j", len(seen))
    assert_nothing_left(mesh)


def worker_of(mesh: Mesh) -> str:
    """The worker that runs something, or any."""
    return next((name for name, host in mesh.hosts.items() if host.made), "b.w")


def test_a_worker_that_dies_fails_its_job_with_that_reason() -> None:
    """The reason travels two hops; the worker is started again, and the next job runs."""
    mesh = three()
    mesh.hosts["c"].takes = False
    mesh.submit("c", "j", tokens=12)
    mesh.pump()
    mesh.part("b", worker_of(mesh))
    mesh.hosts["c"].takes = True
    mesh.hosts["c"].tell(e.TakenCommand(job=JobId("j"), next=4))
    mesh.pump()
    mesh.sleep(2_000_000_000)
    ends = mesh.hosts["c"].ends[JobId("j")]
    assert [(end.outcome, end.reason and end.reason.id) for end in ends] == [("failed", "zg/job/worker-lost")]
    assert [e.state for e in mesh.hosts["b"].events if isinstance(e, WorkerChanged)].count("ready") == 3
    mesh.submit("c", "k", tokens=3)
    mesh.pump()
    assert mesh.outcome("c", "k") == ("length", tokens("k", 3))
    assert_nothing_left(mesh)


def test_a_deadline_ends_a_job_whose_engine_hangs() -> None:
    """The owner's timer: the client is told, the executor is told to stop, whatever the engine does."""
    mesh = three()
    mesh.hosts["b.w"].stuck = mesh.hosts["b.v"].stuck = True
    mesh.submit("c", "j", deadline_ns=1_000_000_000)
    mesh.pump()
    assert mesh.outcome("c", "j") == ("", [])
    mesh.sleep(1_500_000_000)
    end = mesh.hosts["c"].ends[JobId("j")][0]
    assert (end.outcome, end.reason and end.reason.id) == ("failed", "zg/job/deadline")
    assert not jobs_of(mesh.hosts["a"]).owners.jobs


def test_a_cancel_that_the_executor_does_not_answer_ends_the_job() -> None:
    """A hung engine: the application is given its end after the time of silence, and late words find nobody."""
    mesh = three()
    mesh.hosts["b.w"].stuck = mesh.hosts["b.v"].stuck = True
    mesh.submit("c", "j")
    mesh.pump()
    mesh.hosts["c"].tell(e.CancelCommand(job=JobId("j")))
    mesh.pump()
    assert mesh.outcome("c", "j") == ("", [])
    mesh.sleep(4_000_000_000)
    assert mesh.outcome("c", "j") == ("cancelled", [])


def test_a_job_without_an_owner_is_given_back() -> None:
    """No peer in the time of a handshake: failed, the prompt freed. A peer in time is asked."""
    mesh = Mesh()
    mesh.node("c", dial=("nowhere",), roles=("client",))
    mesh.start()
    mesh.submit("c", "j")
    mesh.sleep(11_000_000_000)
    end = mesh.hosts["c"].ends[JobId("j")][0]
    assert (end.outcome, end.reason and end.reason.id) == ("failed", "zg/job/no-owner")
    assert mesh.leaks() == {}


def test_a_job_that_was_asked_for_before_the_peer_was_there_runs_when_it_is() -> None:
    """Submitted at once after boot."""
    mesh = Mesh()
    mesh.node("c", dial=("b",), roles=("client",))
    mesh.node("b", workers=("w",))
    for host in list(mesh.hosts.values()):
        host.tell(host.boot)
    mesh.submit("c", "j", tokens=2)
    mesh.pump()
    assert mesh.outcome("c", "j") == ("length", tokens("j", 2))
    assert_nothing_left(mesh)


def test_a_model_that_nobody_holds_is_rejected_with_every_reason() -> None:
    """The client sees why, of each candidate."""
    mesh = three()
    mesh.submit("c", "j", model="unheard-of")
    mesh.pump()
    end = mesh.hosts["c"].ends[JobId("j")][0]
    assert end.outcome == "rejected" and end.reason is not None and end.reason.id == "zg/plan/no-executor"
    assert "candidate b" in end.reason.detail and "zg/plan/no-model" in end.reason.detail
    assert_nothing_left(mesh)


def test_a_node_that_drains_finishes_what_runs_and_takes_nothing_new() -> None:
    """E4: the job under way ends well, the next is refused by name."""
    mesh = three()
    mesh.hosts["c"].takes = False
    mesh.submit("c", "j", tokens=8)
    mesh.pump()
    mesh.hosts["a"].tell(e.DrainCommand(reason="maintenance"))
    mesh.pump()
    mesh.submit("c", "k")
    mesh.hosts["c"].takes = True
    mesh.hosts["c"].tell(e.TakenCommand(job=JobId("j"), next=4))
    mesh.pump()
    assert mesh.outcome("c", "j") == ("length", tokens("j", 8))
    mesh.sleep(11_000_000_000)
    assert mesh.hosts["c"].ends[JobId("k")][0].outcome in ("failed", "rejected")
    assert mesh.leaks() == {}


def test_a_drained_node_closes_its_links_once_nothing_runs_and_not_before() -> None:
    """The drain's end is an event, said once; until the client has taken its last token the links stay up."""
    mesh = three()
    a = mesh.hosts["a"]
    mesh.hosts["c"].takes = False
    mesh.submit("c", "j", tokens=8)
    mesh.pump()
    assert not [event for event in a.tell(e.DrainCommand(reason="maintenance")).events if isinstance(event, Drained)]
    mesh.pump()
    assert isinstance(a.core, Node) and not [event for event in mesh.hosts["c"].events if isinstance(event, PeerGone)]
    mesh.hosts["c"].takes = True
    mesh.hosts["c"].tell(e.TakenCommand(job=JobId("j"), next=4))
    mesh.pump()
    assert [event.reason for event in a.events if isinstance(event, Drained)] == ["maintenance"]
    for name in ("b", "c"):
        assert [event.peer for event in mesh.hosts[name].events if isinstance(event, PeerGone)] == ["a"]
    assert mesh.outcome("c", "j") == ("length", tokens("j", 8))


def doubled(near: Host, far: Host, send: e.Send) -> Sequence[e.Send]:
    """Every frame twice: not allowed on a link."""
    return (send, send)


def test_a_doubled_frame_ends_the_link_and_never_doubles_a_token() -> None:
    """Replay on an ordered link (H3): the sequence is wrong, the link is closed, the job fails; no token came twice."""
    mesh = three()
    twice = False

    def tap(near: Host, far: Host, send: e.Send) -> Sequence[e.Send]:
        nonlocal twice
        if send.kind == TOKEN and near.name == "a" and not twice:
            twice = True
            return (send, send)
        return (send,)

    mesh.tap = tap
    mesh.submit("c", "j", tokens=9)
    mesh.pump()
    outcome, seen = mesh.outcome("c", "j")
    assert outcome == "failed" and seen == tokens("j", len(seen)) and len(seen) >= 1
    refused = [event.reason.id for event in mesh.hosts["c"].events if isinstance(event, MessageRefused)]
    assert refused[0] == "zg/node/wrong-sequence"
    assert_nothing_left(mesh)


def test_no_event_word_is_missing_for_a_job() -> None:
    """Each job has one first move, one end, and a delivered event for each token."""
    mesh = three()
    mesh.submit("c", "j", tokens=5)
    mesh.pump()
    events = [event for event in mesh.hosts["c"].events if isinstance(event, JobMoved | JobEnded | TokenDelivered)]
    assert [event.index for event in events if isinstance(event, TokenDelivered)] == [0, 1, 2, 3, 4]
    assert isinstance(events[0], JobMoved) and events[0].before == "" and isinstance(events[-1], JobEnded)
    assert LinkId(1) in mesh.hosts["c"].sides


def test_a_plan_for_another_snapshot_than_was_asked_about_does_not_count() -> None:
    """The planner runs off the loop, and its answers are told apart by the snapshot alone: asked again."""
    desk = Desk(("coordinator",), plans=False)
    desk.peer(1, "c", trust=("untrusted_client",))
    desk.peer(3, "p", models=(offer(),))
    desk.hear(1, submit(), b"prompt")
    ask = desk.waiting.pop()
    assert isinstance(ask, e.PlanCall)
    other = e.Planned(snapshot=Digest("blake3:" + "00" * 32), plan=plan(ask.snapshot))
    desk.tell(e.CallDone(ticket=ask.ticket, result=other))
    assert not desk.of(3, m.Assign) and len(desk.waiting) == 1
    desk.answer()
    assert desk.of(3, m.Assign)
