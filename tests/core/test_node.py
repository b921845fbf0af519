"""The door of a node: boot first, time forward, answers to who asked, frames through the gate (H2, A7; `door.md`)."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.desk import ALL, CORE, Desk, Ready, assign, submit
from tests.core.mesh import Mesh
from tests.core.pair import config_of
from zeitgeist.core import effects as e
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.facts import Fact
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import LinkId, Ticket
from zeitgeist.core.machine import Machine
from zeitgeist.core.node import Machines, Node
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.recording import BlockReader, BlockWriter, Entry, Header, Recorder
from zeitgeist.core.replay import Replayer
from zeitgeist.core.trace import MessageRefused
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.messages import Reason

ROOT = Path(__file__).resolve().parents[2]
BOOT = e.Boot(core=CORE, config=config_of("n", ("none",)), epoch=1, seed=bytes(32))
REASON = Reason(id="zg/wire/bad-magic", detail="got nonsense")


def test_a_boot_comes_first_and_once() -> None:
    """Anything else before, and a second boot, are the driver's fault; the node goes on as it was."""
    node = Node()
    with pytest.raises(LocalProtocolError, match="zg/node/boot-once"):
        node.step(e.TimerFired(), Instant(0))
    node.step(BOOT, Instant(0))
    before = node.state_digest()
    with pytest.raises(LocalProtocolError, match="zg/node/boot-once"):
        node.step(BOOT, Instant(0))
    assert node.state_digest() == before


def test_time_does_not_go_back() -> None:
    """An earlier now is refused and changes nothing; the same now is another step."""
    node = Node()
    node.step(BOOT, Instant(5))
    before = node.state_digest()
    with pytest.raises(LocalProtocolError, match="zg/node/time-went-back"):
        node.step(e.TimerFired(), Instant(4))
    assert node.state_digest() == before
    node.step(e.TimerFired(), Instant(5))


def test_an_answer_goes_to_who_asked_and_once() -> None:
    """A sync persist of the jobs is answered; a second answer, and one to a ticket that nobody has, are refused."""
    desk = Desk(persists=False)
    desk.peer(1, "client")
    desk.hear(1, submit(), b"prompt")
    ticket = desk.waiting[0].ticket
    desk.answer()
    assert isinstance(desk.said[LinkId(1)][0], m.Admitted)
    for unknown in (ticket, Ticket(999)):
        with pytest.raises(LocalProtocolError, match="zg/node/unknown-ticket"):
            desk.tell(e.Persisted(ticket=unknown))


class Asks(Machine):
    """Asks for a dial whenever it is woken or given a fact, and writes down what was answered. due: its deadline."""

    def __init__(self, due: int | None = None) -> None:
        self.due = due
        self.asked: list[Ticket] = []
        self.answered: list[Ticket] = []

    def ask(self, out: Outbox) -> None:
        self.asked.append(out.ticket())
        out.calls.append(e.Dial(ticket=self.asked[-1], address="a", lane="control"))
        out.persists.append(e.Persist(ticket=out.ticket(), sync=False, key="k", value=b""))
        out.calls.append(e.KillWorker(ticket=out.ticket(), link=LinkId(1)))

    def expire(self, now: Instant, out: Outbox) -> None:
        self.ask(out)

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        self.ask(out)

    def answer(self, ticket: Ticket, result: e.Result | Reason | None, now: Instant, out: Outbox) -> None:
        self.answered.append(ticket)

    def deadline(self) -> Instant | None:
        return None if self.due is None else Instant(self.due)


def test_who_asks_in_any_way_is_answered_and_the_least_deadline_counts() -> None:
    """Three machines that ask when woken and when given a fact: each answer finds its own; what has no answer waits for
    none."""
    asks = {"transfer": Asks(70), "job": Asks(), "supervise": Asks(50)}
    node = Node(lambda boot: Machines(session=Ready(boot), **asks))
    assert node.step(BOOT, Instant(0)).wake_at == 50
    for input in (e.TimerFired(), e.DrainCommand(reason="x")):
        for call in node.step(input, Instant(1)).calls:
            if isinstance(call, e.Dial):
                node.step(e.CallFailed(ticket=call.ticket, reason=REASON), Instant(1))
    assert [len(machine.asked) for machine in asks.values()] == [2, 2, 2]
    assert all(machine.answered == machine.asked for machine in asks.values())
    assert not node.askers


@pytest.mark.requirement("H2")
@pytest.mark.parametrize("trust", [(), *((level,) for level in ALL)])
def test_a_refused_message_is_an_event_and_no_more(trust: tuple) -> None:
    """An attempt from a peer of each level: all but an executor's is refused, its content freed, the link kept."""
    desk = Desk()
    desk.peer(2, "n.w", local=True)
    desk.peer(1, "o", trust=trust)
    desk.hear(1, assign(), b"prompt")
    allowed = "trusted_executor" in trust
    assert desk.refusals() == ([] if allowed else ["node/not-allowed"])
    assert bool(desk.of(2, m.Assign)) == allowed
    if not allowed:
        assert not desk.held and not desk.links.broken and not desk.said


def test_a_frame_of_a_link_that_is_not_up_is_an_event() -> None:
    """It crossed the end of its link: never a crash, and its content is freed."""
    desk = Desk()
    desk.hear(9, submit(), b"prompt")
    chunk = e.ChunkArrived(link=LinkId(9), channel=2, stream=1, sequence=0, index=0, length=1, verdict="accepted")
    desk.tell(chunk)
    desk.tell(e.FrameRefused(link=LinkId(9), reason=REASON))
    desk.tell(e.LinkDown(link=LinkId(9), reason="twice"))
    assert desk.refusals() == ["node/unknown-link", "node/unknown-link", "wire/bad-magic"]
    assert not desk.held and not desk.links.broken


@pytest.mark.parametrize("state", ["greeting", "proving", "assessing"])
def test_a_handshake_that_breaks_the_rules_is_broken_off(state: str) -> None:
    """A job's record before the session is ready: the sessions answer and close."""
    desk = Desk()
    desk.peer(1, "", state=state, trust=())  # type: ignore[arg-type]
    desk.hear(1, submit(), b"prompt")
    assert [reason.id for _, reason in desk.links.broken] == ["zg/node/wrong-state"]
    assert not desk.held


def test_a_lost_order_and_damage_end_any_link() -> None:
    """A frame out of sequence, and bytes that are no frame, on links that are ready."""
    desk = Desk()
    desk.peer(1, "x")
    desk.peer(2, "y")
    desk.hear(1, m.Ping(number=1))
    desk.hear(1, m.Ping(number=1), sequence=0)
    desk.tell(e.FrameRefused(link=LinkId(2), reason=REASON))
    assert [(link, reason.id) for link, reason in desk.links.broken] == [
        (1, "zg/node/wrong-sequence"),
        (2, "zg/wire/bad-magic"),
    ]
    assert [event.kind for event in desk.all(MessageRefused)] == [7, 0]


def test_a_refused_record_leaves_a_ready_link_alone() -> None:
    """Not canonical, unknown, unexpected content: events; the next sound frame is heard."""
    desk = Desk()
    desk.peer(1, "x")
    desk.hear(1, m.Ping(number=1), record=encode(m.Ping(number=1))[:-1])
    desk.hear(1, m.Ping(number=1), kind=0x7777)
    desk.hear(1, m.Ping(number=1), b"more")
    desk.hear(1, m.Ping(number=4))
    assert desk.refusals() == ["wire/bad-record", "node/unknown-kind", "node/unexpected-content"]
    assert desk.links.heard == [m.Ping(number=4)] and not desk.links.broken and not desk.held


def test_a_link_s_numbers_end_with_it() -> None:
    """After a link is down nothing of it is kept: sequences of both directions begin anew under another number."""
    desk = Desk()
    desk.peer(1, "x")
    desk.hear(1, m.Ping(number=1))
    desk.down(1)
    assert not desk.node.gate.next and not desk.node.counters.sequences


def walk(seed: bytes = b"", nodes: int = 2) -> Mesh:
    """Two nodes, a worker, a client, some jobs; taken in an order that seed draws."""
    count = 0

    def choose(names: list[str]) -> int:
        nonlocal count
        count += 1
        return int.from_bytes(hashlib.sha256(seed + count.to_bytes(4, "little")).digest()[:4], "little")

    mesh = Mesh(chooser=choose if seed else None)  # type: ignore[arg-type]
    mesh.node("c", dial=("a",), roles=("client",))
    mesh.node("a", dial=("b",), roles=("coordinator",))
    mesh.node("b", workers=("w", "v"))
    mesh.start()
    for job in ("j1", "j2", "j3"):
        mesh.submit("c", job, tokens=7)
    mesh.submit("b", "own", tokens=3)
    mesh.pump()
    mesh.sleep(2_000_000_000)
    return mesh


def traces(seed: bytes) -> dict[str, str]:
    """The trace digest of each party of a walk."""
    return {name: host.trace.value().hex() for name, host in walk(seed).hosts.items()}


@pytest.mark.requirement("V1")
def test_the_same_inputs_give_the_same_effects_in_other_processes() -> None:
    """The same walk here and in two processes with other hash seeds: one trace digest a party."""
    code = "from tests.core.test_node import traces; import json; print(json.dumps(traces(b'7'), sort_keys=True))"
    outs = []
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=True
        )
        outs.append(done.stdout)
    here = traces(b"7")
    assert outs[0] == outs[1] and all(digest in outs[0] for digest in here.values())
    assert traces(b"8") != here, "another order is another trace"


@pytest.mark.requirement("V2")
def test_every_state_on_the_way_has_a_digest_and_two_nodes_agree_on_it() -> None:
    """After each step of a walk, jobs and handshakes half done: the digest of a second node that was told the same."""
    mesh = walk(b"5")
    for name in ("a", "b", "c"):
        one, two, last = Node(), Node(), ""
        for now, input in mesh.hosts[name].inputs:
            one.step(input, now)
            two.step(input, now)
            digest = one.state_digest()
            assert digest == two.state_digest()
            assert digest != last or not isinstance(input, e.FrameArrived), "a frame always counts"
            last = digest


@pytest.mark.requirement("V2")
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_recorded_node_replays(name: str) -> None:
    """Inputs of a walk, recorded as blocks, fed to a fresh node: every effect and the state are the same; and one input
    left out is found."""
    mesh = walk(b"3")
    host = mesh.hosts[name]
    assert isinstance(host.core, Node)
    node, out = Node(), bytearray()
    writer = BlockWriter(Header(core=CORE, node=name, kind="node", effects=True))
    recorder = Recorder(node, writer)
    out += writer.start()
    for now, input in host.inputs:
        out += recorder.note(now, input, node.step(input, now)) or b""
    out += writer.end(recorder.trace)
    assert node.state_digest() == host.core.state_digest() and recorder.trace.value() == host.trace.value()
    reader = BlockReader()
    entries = [item for item in reader.feed(bytes(out)) if isinstance(item, Entry)]
    replayer = Replayer(Node())
    assert [found for entry in entries if (found := replayer.feed(entry))] == []
    replayer.finish(reader.finish())
    cut = next(index for index, entry in enumerate(entries) if isinstance(entry.input, e.FrameArrived))
    other = Replayer(Node())
    found = [found for entry in entries[:cut] + entries[cut + 1 :] if (found := other.feed(entry))]
    assert found and found[0].step >= cut and found[0].about


@pytest.mark.requirement("H2")
def test_nothing_is_kept_of_links_that_a_node_closed_itself() -> None:
    """Strangers who break the rules, one link each: a driver never tells such a link as down, so the node forgets both
    sequences when it closes. What is not the next sequence is not kept either: one past 64 bits has no bytes."""
    node = Node()
    node.step(e.Boot(core=CORE, config=config_of("n"), epoch=1, seed=bytes(32)), Instant(0))
    facts = LinkFacts(transport="tcp", inbound=True, loopback=True, address="stranger")
    for number, sequence in enumerate((0, 5, (1 << 64) - 1), 1):
        node.step(e.LinkUp(link=LinkId(number), lane="control", facts=facts), Instant(0))
        frame = {"channel": 0, "kind": 9, "flags": 0, "stream": 0, "record": b"", "content": None}
        effects = node.step(e.FrameArrived(link=LinkId(number), sequence=sequence, **frame), Instant(0))
        assert [close.link for close in effects.close] == [number]
        assert node.state_digest()
    assert not node.gate.next and not node.counters.sequences
