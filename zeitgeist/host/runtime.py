"""A node on asyncio: sockets, keys, files, threads and workers around one `Node` (DESIGN §2, §10).

Law: it decides nothing. Calls are begun and answered, records are kept, events are handed on; what follows from any of
them is the core's decision. All steps happen on one thread. When the core raises, the node ends and says so.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.effects import Boot, Call, Durable, Input, Persist, Persisted, PersistFailed, Release
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import Handle, LinkId, Ticket
from zeitgeist.core.node import Node
from zeitgeist.core.recording import Subject
from zeitgeist.core.trace import Event
from zeitgeist.core_source import core_digest
from zeitgeist.host.calls import Calls, Launch
from zeitgeist.host.dialer import Dialer, Listening
from zeitgeist.host.drive import Drive
from zeitgeist.host.entropy import boot_seed
from zeitgeist.host.events import Events
from zeitgeist.host.journal import Journal
from zeitgeist.host.keyring import Keyring
from zeitgeist.host.launch import launch_worker
from zeitgeist.host.payloads import Payloads
from zeitgeist.host.recorder import RecordingFile
from zeitgeist.transports.base import Link
from zeitgeist.transports.memory import MemoryHub

__all__ = ["PAYLOAD_BYTES_MAX", "Runtime"]

LOG = logging.getLogger("zeitgeist.host")
PAYLOAD_BYTES_MAX = 4 << 30
"""4 GiB of payloads held or expected at once: four of the largest that a node takes by default."""
CHECK_S = 1.0
"""Between two looks at the wall clock, and two flushes of the recording."""


class Runtime:
    """One node of this process: `async with Runtime(config, …) as runtime`.

    listen: addresses to be called at; keyring: of the keys folder; state: folder of the journal, None for a node that
    remembers nothing; record: file of the recording; hub: where memory links meet.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        listen: Sequence[str] = (),
        keyring: Keyring | None = None,
        state: Path | None = None,
        record: Path | None = None,
        hub: MemoryHub | None = None,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        node: Callable[[], Subject] = Node,
        launch: Launch = launch_worker,
    ) -> None:
        self.config, self.listen, self.keyring = config, listen, keyring or Keyring()
        self.state, self.record, self.node = state, record, node
        self.payloads = Payloads(payload_bytes_max, config.transfer_bytes_max)
        self.dialer = Dialer(self.keyring.tls, hub)
        self.events = Events()
        self.listening: list[Listening] = []
        self.early: list[Link] | None = []
        self.calls = Calls(config, self.keyring, self.dialer, launch)
        self.journal: Journal | None = None
        self.drive: Drive | None = None
        self.failure: Exception | None = None
        self.stopped = asyncio.Event()

    # ---- life

    async def __aenter__(self) -> Self:
        """Listen, boot, tell the time."""
        self.loop = asyncio.get_running_loop()
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if self.failure is not None and error is None:
            raise self.failure

    async def start(self) -> None:
        """Everything that may fail comes before the boot, so that a node that booted runs."""
        durable: tuple[Durable, ...] = ()
        if self.state is not None:
            self.journal = Journal(self.state, self.persisted)
            durable = self.journal.durable
        subject = self.node()
        recording = RecordingFile(self.record, subject, self.config.node) if self.record else None
        self.drive = self.calls.drive = Drive(subject, self, self.payloads, recording)
        for address in self.listen:
            self.listening.append(await self.dialer.listen(address, self.accepted))
        wall = self.drive.clock.wall()
        epoch = self.journal.epoch if self.journal else wall.utc_ns
        boot = Boot(core=core_digest(), config=self.config, epoch=epoch, seed=boot_seed(), durable=durable)
        self.tell(boot)
        self.tell(wall)
        early, self.early = self.early or [], None
        for link in early:
            self.accepted(link)
        self.loop.call_later(CHECK_S, self.check_wall)

    async def close(self) -> None:
        """End everything, now. To leave in peace tell `DrainCommand` first and wait."""
        for listening in self.listening:
            await listening.close()
        if self.drive is not None:
            self.drive.stop()
        await self.calls.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)
        self.events.end(LocalProtocolError("zg/host/stopped", str(self.failure or "the node was stopped"), "node"))
        self.stopped.set()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we can be called, with the ports that were taken."""
        return tuple(listening.address for listening in self.listening)

    # ---- for applications

    def tell(self, input: Input) -> None:
        """One input: a command of an application, or what the world answered."""
        if self.drive is not None:
            self.drive.tell(input)

    def content(self, handle: Handle) -> memoryview:
        """The bytes behind a handle that an event named, while it is held."""
        return self.payloads.get(handle)

    def release(self, handle: Handle) -> None:
        """The application has done with a tensor that it received; the core never asks for it again."""
        self.payloads.release(Release(handle=handle))

    # ---- what a drive asks (`drive.World`)

    def event(self, event: Event) -> None:
        """To every subscription."""
        LOG.debug("%s", event)
        self.events.put(event)

    def crashed(self, error: Exception) -> None:
        """The core raised: end, and raise it where the application waits."""
        LOG.error("the core raised %r; the node ends", error)
        self.failure = error
        self.events.end(LocalProtocolError("zg/host/stopped", f"the core raised {error!r}"[:1000], "node"))
        self.stopped.set()

    def persist(self, persist: Persist) -> None:
        """To the journal. A node without one forgets everything when it ends, so nothing is ever at risk."""
        if self.journal is not None:
            self.journal.put(persist)
        elif persist.sync:
            self.loop.call_soon(self.tell, Persisted(ticket=persist.ticket))

    def persisted(self, tickets: Sequence[Ticket], error: str) -> None:
        """From the journal's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            for ticket in tickets:
                answer = PersistFailed(ticket=ticket, reason=error) if error else Persisted(ticket=ticket)
                self.loop.call_soon_threadsafe(self.tell, answer)

    def call(self, call: Call) -> None:
        """Begin a call."""
        self.calls.begin(call)

    def accepted(self, link: Link) -> None:
        """Somebody called us. Which lane it is, its hello will say."""
        if self.early is not None:
            self.early.append(link)
        elif self.drive is not None and not self.drive.stopped:
            self.drive.up(link, "control")
        else:
            link.abort()

    def ended(self, link: LinkId, reason: str) -> None:
        """A connection ended: a worker's when the process is gone, with how it went."""
        assert self.drive is not None
        if not self.calls.worker_ended(link, reason):
            self.drive.link_down(link, reason)

    def check_wall(self) -> None:
        """Tell the wall clock again when somebody set it; let the recording reach the disk."""
        if self.drive is None or self.drive.stopped:
            return
        if wall := self.drive.clock.wall_when_set():
            self.tell(wall)
        if self.drive.recording:
            self.drive.recording.flush()
        self.loop.call_later(CHECK_S, self.check_wall)
