"""The calls of a node: proofs at once, planning in a thread, connections and workers as tasks (DESIGN §2).

Law: every call is answered exactly once, by a result or by a reason, and never inside the step that made it. What fails
for a reason of ours is the core's to hear, not the end of the node.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, assert_never

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.node import NodeConfig, WorkerConfig
from zeitgeist.core.effects import (
    Call,
    CallDone,
    CallFailed,
    Compute,
    Dial,
    Interrupt,
    KillWorker,
    PlanCall,
    Planned,
    Result,
    Sign,
    Signed,
    StartWorker,
    Verified,
    Verify,
)
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.ids import LinkId, Ticket
from zeitgeist.core.plan.planner import plan, snapshot_digest
from zeitgeist.host.dialer import Dialer
from zeitgeist.host.drive import Drive
from zeitgeist.host.keyring import Keyring
from zeitgeist.host.payloads import reason_of
from zeitgeist.host.proofs import prove, verified
from zeitgeist.transports.base import Link
from zeitgeist.transports.stream import StreamLink

__all__ = ["Calls", "Launch", "StartedWorker"]

ENDING_S = 2.0
"""How long a worker whose socket closed may take to be gone before it is killed."""


class StartedWorker(Protocol):
    """A worker process of ours and our end of its socket. Methods may block."""

    @property
    def sock(self) -> socket.socket:
        """Our end; the link owns it."""
        ...

    def kill(self) -> None:
        """SIGKILL and reap."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """True when it ended in time."""
        ...

    def ending(self) -> str:
        """How it ended, in words."""
        ...

    def discard(self) -> None:
        """Kill if alive, reap, close, remove its folder. Idempotent."""
        ...


Launch = Callable[[WorkerConfig, str], StartedWorker]


class Calls:
    """What a node asked for and has not got yet, and the workers that it got."""

    def __init__(self, config: NodeConfig, keyring: Keyring, dialer: Dialer, launch: Launch) -> None:
        self.workers = {worker.name: worker for worker in config.workers}
        self.keyring, self.dialer, self.launch, self.cluster = keyring, dialer, launch, config.cluster
        self.tasks: set[asyncio.Task[None]] = set()
        self.running: dict[LinkId, StartedWorker] = {}
        self.drive: Drive

    def begin(self, call: Call) -> None:
        """Begin a call."""
        match call:
            case Sign():
                self.answer(call.ticket, lambda: Signed(proof=prove(self.keyring, call)))
            case Verify():
                self.answer(call.ticket, lambda: Verified(ok=verified(self.keyring, call)))
            case PlanCall():
                self.task(call.ticket, self.plan(call))
            case Dial():
                self.task(call.ticket, self.dial(call))
            case StartWorker():
                self.task(call.ticket, self.start_worker(call))
            case KillWorker():
                self.task(call.ticket, self.kill_worker(call.link))
            case Compute():
                self.answer(call.ticket, no_engine)
            case Interrupt():
                pass
            case _:
                assert_never(call)

    def answer(self, ticket: Ticket, done: Callable[[], Result]) -> None:
        """Do it now; a drive takes the answer after the step in which it was asked."""
        try:
            self.drive.tell(CallDone(ticket=ticket, result=done()))
        except ZeitgeistError as error:
            self.drive.tell(CallFailed(ticket=ticket, reason=reason_of(error)))

    def task(self, ticket: Ticket, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside the loop. A refusal is the answer; the work tells its own success."""

        async def run() -> None:
            try:
                await work
            except ZeitgeistError as error:
                self.drive.tell(CallFailed(ticket=ticket, reason=reason_of(error)))

        task = asyncio.get_running_loop().create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def plan(self, call: PlanCall) -> None:
        made = await asyncio.to_thread(plan, call.snapshot)
        self.drive.tell(
            CallDone(ticket=call.ticket, result=Planned(snapshot=snapshot_digest(call.snapshot), plan=made))
        )

    async def dial(self, call: Dial) -> None:
        link = await self.dialer.dial(call.address, call.certificate)
        self.came(link, call)

    def came(self, link: Link, call: Dial) -> None:
        if self.drive.stopped:
            link.abort()
        else:
            self.drive.up(link, call.lane, call.ticket)

    async def start_worker(self, call: StartWorker) -> None:
        """Its process; the core judges by its link whether it lives."""
        worker = await asyncio.to_thread(self.launch, self.workers[call.name], self.cluster)
        if self.drive.stopped:
            worker.discard()
            return
        facts = LinkFacts(transport="process", inbound=False, loopback=True, address=f"worker:{call.name}")
        number = self.drive.up(StreamLink(worker.sock, facts, descriptors=True), "local", call.ticket)
        self.running[number] = worker

    async def kill_worker(self, link: LinkId) -> None:
        """The worker behind a link, whatever it does. Its end, heard as that link's, is the answer."""
        worker = self.running.get(link)
        if worker is not None:
            await asyncio.to_thread(worker.kill)
            if link not in self.drive.links and self.running.pop(link, None):  # closed by us: nobody will tell its end
                await asyncio.to_thread(worker.discard)

    def worker_ended(self, link: LinkId, reason: str) -> bool:
        """The connection to a worker ended: reap it, and tell how it went. False for a link of another kind."""
        worker = self.running.pop(link, None)
        if worker is None:
            return False
        self.task(Ticket(0), self.bury(worker, link, reason))
        return True

    async def bury(self, worker: StartedWorker, link: LinkId, reason: str) -> None:
        ended = await asyncio.to_thread(worker.wait, ENDING_S)
        how = worker.ending() if ended else f"closed its socket and did not end ({reason})"
        await asyncio.to_thread(worker.discard)
        self.drive.link_down(link, f"the worker {how}")

    async def close(self) -> None:
        """Drop what is under way; end the workers."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        workers, self.running = list(self.running.values()), {}
        for worker in workers:
            await asyncio.to_thread(worker.discard)


def no_engine() -> Result:
    """A node computes in its workers."""
    raise LocalProtocolError("zg/worker/bad-request", "a node has no engine of its own", "call")
