"""Nodes and workers back to back, all of them real cores: links, payloads, calls and time are played here.

Law: a host holds payloads as a driver does: what is sent must be held, what is released is gone, once. Each link is
ordered; what is ordered by nothing (two links, two answers) is taken in the order that `chooser` says, so that a test
can ask for any interleaving that the door allows.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import assert_never

from tests.core.pair import backend, bundle_of, config_of, member_of, offer
from zeitgeist.core import effects as e
from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import DialTarget, Role, WorkerConfig
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, Handle, JobId, LinkId, NodeId, Ticket
from zeitgeist.core.node import Node
from zeitgeist.core.plan.planner import plan, snapshot_digest
from zeitgeist.core.recording import TraceDigest
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.trace import Event, JobEnded, TokenDelivered
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason, Submit
from zeitgeist.core.worker import Worker

__all__ = ["CORE", "Chooser", "Host", "Mesh", "token_of"]

CORE = Digest("blake3:" + "00" * 32)
NOBODY = bundle_of(member_of("nobody"))
"""No host of a mesh has a key that it would have to prove."""
Chooser = Callable[[Sequence[str]], int]
"""(names of what may come next) → which one does."""
Tap = Callable[["Host", "Host", e.Send], Sequence[e.Send]]


def token_of(job: str, index: int) -> bytes:
    """The token that the scripted engine gives."""
    return f"{job}:{index} ".encode()


class Host:
    """What runs one core. sides: by link, the other host and its link; seen: tokens that the application read."""

    def __init__(self, mesh: "Mesh", name: str, core: Node | Worker, boot: e.Boot) -> None:
        self.mesh, self.name, self.core, self.boot = mesh, name, core, boot
        self.born = mesh.now
        self.held: dict[Handle, bytes] = {}
        self.handle = -1
        self.links = 0
        self.sides: dict[LinkId, tuple[Host, LinkId]] = {}
        self.queues: dict[str, deque[e.Input]] = {}
        self.events: list[Event] = []
        self.inputs: list[tuple[Instant, e.Input]] = []
        self.trace = TraceDigest()
        self.wake_at: Instant | None = None
        self.seen: dict[JobId, list[bytes]] = {}
        self.ends: dict[JobId, list[JobEnded]] = {}
        self.takes = True
        self.made: Counter[JobId] = Counter()
        self.counts: dict[JobId, int] = {}
        self.sent: list[e.Send] = []
        self.stuck = False

    @property
    def now(self) -> Instant:
        return Instant(self.mesh.now - self.born)

    # ---- the loop

    def tell(self, input: e.Input) -> e.Effects:
        """One step, honoured at once."""
        self.inputs.append((self.now, input))
        effects = self.core.step(input, self.now)
        self.trace.add(self.now, effects)
        self.honour(effects)
        return effects

    def honour(self, effects: e.Effects) -> None:
        for persist in effects.persist:
            if persist.sync:
                self.later(f"persist {persist.ticket}", e.Persisted(ticket=persist.ticket))
        for send in effects.send:
            assert isinstance(send, e.Send), "no tensors here"
            self.send(send)
        for op in effects.payloads:
            assert isinstance(op, e.Release), "no tensors here"
            assert op.handle in self.held, f"{self.name} frees {op.handle}, which it does not hold"
            del self.held[op.handle]
        for close in effects.close:
            self.mesh.cut(self, close.link, close.reason)
        for call in effects.calls:
            self.call(call)
        self.wake_at = effects.wake_at
        for event in effects.events:
            self.events.append(event)
            self.application(event)

    def application(self, event: Event) -> None:
        match event:
            case TokenDelivered():
                self.seen.setdefault(event.job, []).append(self.held[event.handle])
                if self.takes:
                    self.later(f"app {event.job}", e.TakenCommand(job=event.job, next=event.index + 1))
            case JobEnded():
                self.ends.setdefault(event.job, []).append(event)
            case _:
                pass

    def later(self, queue: str, input: e.Input) -> None:
        self.queues.setdefault(queue, deque()).append(input)

    def put(self, data: bytes) -> e.PayloadRef:
        """Bytes that this host holds from now on."""
        self.handle += 2
        self.held[Handle(self.handle)] = data
        return e.PayloadRef(handle=Handle(self.handle), length=len(data), digest=content_digest(data))

    # ---- links

    def send(self, send: e.Send) -> None:
        data = self.held[send.content.handle] if send.content is not None else None
        self.sent.append(send)
        if send.link not in self.sides:
            return
        far, link = self.sides[send.link]
        for seen in self.mesh.tap(self, far, send):
            content = far.put(data) if data is not None and seen.content is not None else None
            arrived = e.FrameArrived(
                link=link,
                channel=seen.channel,
                kind=seen.kind,
                flags=seen.flags,
                stream=seen.stream,
                sequence=seen.sequence,
                record=seen.record,
                content=content,
            )
            far.later(f"link {link}", arrived)

    def up(self, lane: Lane, inbound: bool, ticket: int = 0) -> LinkId:
        self.links += 1
        link = LinkId(self.links)
        transport = "process" if lane == "local" else "memory"
        facts = LinkFacts(transport=transport, inbound=inbound, loopback=True, address="mesh")
        self.later(f"link {link}", e.LinkUp(link=link, lane=lane, facts=facts, ticket=Ticket(ticket)))
        if ticket:
            self.later(f"call {ticket}", e.CallDone(ticket=Ticket(ticket), result=e.Dialled(link=link)))
        return link

    # ---- calls

    def call(self, call: e.Call) -> None:
        match call:
            case e.PlanCall():
                made = e.Planned(snapshot=snapshot_digest(call.snapshot), plan=plan(call.snapshot))
                self.later(f"call {call.ticket}", e.CallDone(ticket=call.ticket, result=made))
            case e.Dial():
                far = self.mesh.hosts.get(call.address)
                if far is None:
                    failed = Reason(id="zg/transport/dial-failed", detail="nobody there")
                    self.later(f"call {call.ticket}", e.CallFailed(ticket=call.ticket, reason=failed))
                    return
                here, there = self.up(call.lane, False, call.ticket), far.up("control", True)
                self.sides[here], far.sides[there] = (far, there), (self, here)
            case e.StartWorker():
                far = self.mesh.worker(self.name, call.name)
                here, there = self.up("local", False, call.ticket), far.up("local", True)
                self.sides[here], far.sides[there] = (far, there), (self, here)
            case e.KillWorker():
                self.mesh.cut(self, call.link, "killed")
            case e.Compute():
                if not self.stuck:
                    self.later("engine", e.CallDone(ticket=call.ticket, result=self.compute(call)))
            case e.Interrupt():
                pass
            case e.Sign() | e.Verify():
                raise AssertionError("mode none signs nothing")
            case _:
                assert_never(call)

    def compute(self, call: e.Compute) -> e.Computed:
        """The scripted engine: as many tokens as asked for, each known beforehand."""
        match call.op:
            case "prompt":
                assert call.assign is not None and call.content is not None
                assert self.held[call.content.handle].startswith(b"prompt"), "the prompt came through"
                self.made[call.jobs[0]], self.counts[call.jobs[0]] = 0, call.assign.token_count_max
                return e.Computed(prompt_count=3)
            case "decode":
                tokens: list[e.TokenOut] = []
                for job in call.jobs:
                    content = self.put(token_of(job, self.made[job]))
                    self.made[job] += 1
                    last = "length" if self.made[job] == self.counts[job] else ""
                    tokens.append(e.TokenOut(job=job, content=content, last=last))
                return e.Computed(tokens=tuple(tokens))
            case "close":
                return e.Computed()
            case "request":
                raise AssertionError("nobody calls")


class Mesh:
    """All hosts. Frames, answers and alarms happen when `pump` or `sleep` runs."""

    def __init__(self, chooser: Chooser | None = None, tap: Tap | None = None) -> None:
        self.hosts: dict[str, Host] = {}
        self.now = Instant(1)
        self.chooser: Chooser = chooser or (lambda names: 0)
        self.tap: Tap = tap or (lambda near, far, send: (send,))
        self.models: dict[str, str] = {}

    def node(
        self,
        name: str,
        *,
        dial: tuple[str, ...] = (),
        workers: tuple[str, ...] = (),
        roles: tuple[Role, ...] = ("executor",),
        model: str = "",
        **others: object,
    ) -> Host:
        """A node; each worker of it holds the golden model, or the one made from the name model."""
        config = config_of(
            name,
            ("none",),
            bundle=others.pop("bundle", NOBODY),
            roles=roles,
            dial=tuple(DialTarget(address=peer, bulk=False) for peer in dial),
            workers=tuple(WorkerConfig(name=worker, backend="toy") for worker in workers),
            **others,
        )
        self.models[name] = model
        boot = e.Boot(core=CORE, config=config, epoch=1, seed=name.encode().ljust(32, b"."))
        host = self.hosts[name] = Host(self, name, Node(), boot)
        return host

    def worker(self, node: str, name: str) -> Host:
        """A worker that node starts."""
        config = config_of(f"{node}.{name}", ("none",), bundle=NOBODY)
        boot = e.Boot(
            core=CORE,
            config=config,
            epoch=1,
            seed=name.encode().ljust(32, b"."),
            backends=(backend(),),
            models=(offer(name, model=self.models[node]),),
        )
        host = self.hosts[f"{node}.{name}"] = Host(self, f"{node}.{name}", Worker(Sessions, Transfers), boot)
        host.tell(boot)
        return host

    def start(self) -> None:
        """Boot all nodes, and let them meet."""
        for host in list(self.hosts.values()):
            host.tell(host.boot)
        self.pump()

    def cut(self, host: Host, link: LinkId, reason: str) -> None:
        """A connection ends for both sides, behind what is on its way."""
        if link in host.sides:
            far, there = host.sides.pop(link)
            far.sides.pop(there, None)
            host.later(f"link {link}", e.LinkDown(link=link, reason=reason))
            far.later(f"link {there}", e.LinkDown(link=there, reason=reason))

    def part(self, a: str, b: str) -> None:
        """Every connection between two hosts breaks."""
        for link, (far, _) in list(self.hosts[a].sides.items()):
            if far.name == b:
                self.cut(self.hosts[a], link, "cut")

    def pump(self, most: int = 100_000) -> int:
        """Do what is to be done, one input at a time, until there is nothing; how many."""
        for count in range(most):
            ready = [(host, name) for host in self.hosts.values() for name, queue in host.queues.items() if queue]
            if not ready:
                return count
            host, name = ready[self.chooser([f"{host.name} {name}" for host, name in ready]) % len(ready)]
            queue = host.queues[name]
            input = queue.popleft()
            if not queue:
                del host.queues[name]
            host.tell(input)
        raise AssertionError(f"not quiet after {most} steps")

    def sleep(self, nanoseconds: int) -> None:
        """Time passes; who wants to be woken is."""
        end = self.now + nanoseconds
        while True:
            dues = [host.born + host.wake_at for host in self.hosts.values() if host.wake_at is not None]
            at = max(self.now, min(dues, default=end))
            if at > end:
                self.now = Instant(end)
                return
            self.now = Instant(at)
            for host in list(self.hosts.values()):
                if host.wake_at is not None and host.born + host.wake_at <= self.now:
                    host.tell(e.TimerFired())
            self.pump()
            if not dues:
                return

    # ---- what tests do and see

    def submit(self, node: str, job: str, *, tokens: int = 5, model: str = "", deadline_ns: int = 0) -> None:
        """The application of node asks for a completion."""
        host = self.hosts[node]
        submit = Submit(
            job=job,
            model=model or offer().descriptor.name,
            prompt="text",
            token_count_max=tokens,
            deadline_ns=deadline_ns,
        )
        host.tell(e.SubmitCommand(submit=submit, content=host.put(f"prompt of {job}".encode())))

    def outcome(self, node: str, job: str) -> tuple[str, list[bytes]]:
        """How the job ended at node, and what its application read."""
        host = self.hosts[node]
        ends = host.ends.get(JobId(job), [])
        assert len(ends) <= 1, f"{job} ended {len(ends)} times at {node}"
        return (ends[0].outcome if ends else "", host.seen.get(JobId(job), []))

    def leaks(self) -> dict[str, int]:
        """Payloads that some host still holds."""
        return {name: len(host.held) for name, host in self.hosts.items() if host.held}


def name_of(node: str) -> NodeId:
    return NodeId(node)
