"""The worker process: `python -m zeitgeist.host.worker_main --fd N --backend NAME[:variant] --option k=v …`.

Law: started by `host/child.py` with a socket and a private temporary folder that is its TMPDIR already; it leaves when
the socket closes, and on Linux the kernel kills it when its parent dies, even inside an engine. It is a driver: what is
said and what is computed next is `core/worker.py`'s decision. One thread; between two prefill chunks, and between two
computes, the socket is looked at.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from zeitgeist.backends.registry import create
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.node import ModelOffer, NodeConfig, Role
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.effects import (
    Boot,
    CallDone,
    Compute,
    Effects,
    Expect,
    FrameArrived,
    FrameRefused,
    Input,
    Interrupt,
    LinkDown,
    LinkUp,
    Release,
    Send,
    TimerFired,
)
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import LinkId, NodeId, Ticket
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import BULK, Frame
from zeitgeist.core.wire.messages import Refused
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.core.wire.registry import CHUNK_KIND, KINDS
from zeitgeist.core.worker import Worker
from zeitgeist.core_source import core_digest
from zeitgeist.host.channel import ATTACHED, Channel, ChannelClosed, ChannelTimeout
from zeitgeist.host.clock import Clock
from zeitgeist.host.engine import Engine, reason_of
from zeitgeist.host.service import Service

__all__ = ["Driver", "main"]

PR_SET_PDEATHSIG = 1
FILES_MAX = 4096
REFUSED_S = 30.0
"""How long a worker without an engine waits to be heard and closed: three times a handshake."""
LINK = LinkId(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one parent until it says shutdown or goes away. Exit code 0, or 1 when the backend could not be made."""
    parser = argparse.ArgumentParser(prog="zeitgeist.host.worker_main", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--service", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--address-bytes-max", type=int, default=0)
    chosen = parser.parse_args(arguments)
    die_with_parent(chosen.parent)
    limit_resources(chosen.address_bytes_max)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=chosen.fd))
    try:
        return serve(channel, chosen)
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        remove_private_folder()


def serve(channel: Channel, chosen: argparse.Namespace) -> int:
    """Make the engine, load the model that it is to hold, then speak. What cannot be made is refused in words."""
    options = dict(option.split("=", 1) for option in chosen.option)
    try:
        service = service_class(chosen.service)(create(chosen.backend, options))
        if chosen.model:
            service.load(Path(chosen.model))
    except ZeitgeistError as error:
        os.close(chosen.ready)
        refuse_all(channel, error)
        return 1
    os.close(chosen.ready)
    return Driver(channel, service, boot_of(service, chosen.name, chosen.cluster)).run()


def refuse_all(channel: Channel, error: ZeitgeistError) -> None:
    """There is no core to speak for us: one frame that every handshake hears. We stay until the parent has closed the
    socket, so that its own first word meets no broken pipe before it has read ours."""
    refused, row = Refused(phase="handshake", reasons=(reason_of(error),)), KINDS[Refused]
    frame = Send(link=LINK, channel=int(row.channels[0]), kind=row.kind, stream=0, sequence=0, record=encode(refused))
    channel.send(frame)
    deadline = time.monotonic() + REFUSED_S
    with contextlib.suppress(ChannelTimeout, ZeitgeistError):
        while True:
            channel.receive(deadline)


def boot_of(service: Service, name: str, cluster: str) -> Boot:
    """What this process is. A worker that holds a model executes jobs and declares its engine. One that holds none
    offers nothing: its parent asks the engine by calls, whatever that claims of itself, sense or nonsense."""
    model = service.model
    backends = () if model is None else (service.describe(),)
    models = () if model is None else (ModelOffer(backend=name, descriptor=model),)
    roles: tuple[Role, ...] = ("client",) if model is None else ("executor",)
    config = NodeConfig(
        node=NodeId(name),
        cluster=cluster,
        roles=roles,
        auth=AuthConfig(modes=("none",), local_trust=("trusted_executor",)),
        transfer_bytes_max=0,  # nothing in a worker takes a tensor: a cache comes beside a call
    )
    return Boot(
        core=core_digest(), config=config, epoch=time.time_ns(), seed=os.urandom(32), backends=backends, models=models
    )


def die_with_parent(parent: int) -> None:
    """Linux: SIGKILL when the thread that started us ends. Elsewhere the closed socket is noticed at the next read.

    `OSError` when the kernel does not take the wish: a worker that may outlive its parent must not start.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "the kernel does not let us die with our parent")
    if os.getppid() != parent:
        raise SystemExit(1)


def limit_resources(address_bytes_max: int) -> None:
    """No core files, few descriptors, address space only when asked (engines map far more than they use)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if address_bytes_max:
        resource.setrlimit(resource.RLIMIT_AS, (address_bytes_max, address_bytes_max))


def remove_private_folder() -> None:
    """The parent removes it too; this is for a parent that is gone."""
    folder = Path(tempfile.gettempdir())
    if folder.name.startswith("zg-worker-"):
        shutil.rmtree(folder, ignore_errors=True)


class Driver:
    """The loop around the core: frames in, effects out, computes one at a time."""

    def __init__(self, channel: Channel, service: Service, boot: Boot) -> None:
        self.channel = channel
        self.service = service
        self.engine = Engine(service)
        self.core = Worker()
        self.clock = Clock()
        self.wanted: deque[Compute] = deque()
        self.interrupted = Ticket(0)
        self.wake_at: Instant | None = None
        self.over = False
        self.tell(boot)
        facts = LinkFacts(transport="process", inbound=True, loopback=True, address=f"worker:{boot.config.node}")
        self.tell(LinkUp(link=LINK, lane="local", facts=facts))

    def run(self) -> int:
        """Until the link ends or the engine was shut down."""
        try:
            while not self.over:
                if not self.wanted:
                    self.wait()
                    continue
                self.compute(self.wanted.popleft())
                if self.wanted:
                    self.look()
        except (ChannelClosed, BrokenPipeError, ConnectionResetError):
            self.tell(LinkDown(link=LINK, reason="the parent closed its socket"))
        return 0

    # ---- the door

    def tell(self, input: Input) -> None:
        """One input, its effects: every step of this process passes here."""
        self.honour(self.core.step(input, self.clock.now()))

    def honour(self, effects: Effects) -> None:
        """Do what the step wants, in order; what it lets go it may still send."""
        for op in effects.payloads:
            if isinstance(op, Expect):
                self.engine.payloads.expect(op)
        for send in effects.send:
            assert isinstance(send, Send), "nothing in a worker sends a tensor: a cache leaves beside a reply"
            self.channel.send(send, *self.engine.get(send.content))
        for op in effects.payloads:
            if isinstance(op, Release):
                self.engine.release(op)
        self.over = self.over or bool(effects.close)
        for call in effects.calls:
            if isinstance(call, Interrupt):
                self.interrupted = call.ticket
            else:
                assert isinstance(call, Compute), f"mode none needs no {type(call).__name__}"
                self.wanted.append(call)
        self.wake_at = effects.wake_at

    # ---- the engine

    def compute(self, call: Compute) -> None:
        """Carry it out; its answer is the next input."""
        computed = self.engine.compute(call, lambda: self.is_interrupted(call.ticket))
        self.tell(CallDone(ticket=call.ticket, result=computed))
        self.over = self.over or self.service.ended

    def is_interrupted(self, ticket: Ticket) -> bool:
        """Asked between two chunks: what arrived meanwhile goes to the core, which may want the compute stopped."""
        self.look()
        return self.over or self.interrupted == ticket

    # ---- the socket

    def look(self) -> None:
        """Take what is there, without waiting; ring when it is time."""
        while not self.over and self.channel.ready():
            self.read()
        self.ring()

    def wait(self) -> None:
        """For a frame, or for the time to ring."""
        due = None if self.wake_at is None else time.monotonic() + self.clock.seconds_until(self.wake_at)
        if self.channel.readable(due):
            self.read()
        self.ring()

    def ring(self) -> None:
        """Tell the time when it was asked for."""
        if self.wake_at is not None and self.wake_at <= self.clock.now():
            self.tell(TimerFired())

    def read(self) -> None:
        """One frame to the core. After bytes that are no frames nothing more can be read: the core ends the link."""
        try:
            frame, fd = self.channel.receive()
        except ZeitgeistError as error:
            self.tell(FrameRefused(link=LINK, reason=reason_of(error)))
            self.over = True
            return
        self.arrived(frame, fd)

    def arrived(self, frame: Frame, fd: int | None) -> None:
        """The record as it came, the content in the engine's hands; of a chunk the verdict."""
        if frame.kind == CHUNK_KIND and frame.channel in BULK:
            self.tell(self.engine.payloads.arrived(LINK, frame))
            return
        try:
            record, content = split_payload(frame.channel, frame.payload)
            held = self.engine.put(content, fd) if content.nbytes or fd is not None else None
        except ZeitgeistError as error:
            if fd is not None:
                os.close(fd)
            self.tell(FrameRefused(link=LINK, reason=reason_of(error)))
            self.over = True
            return
        self.tell(
            FrameArrived(
                link=LINK,
                channel=int(frame.channel),
                kind=frame.kind,
                flags=int(frame.flags) & ~ATTACHED,
                stream=frame.stream,
                sequence=frame.sequence,
                record=bytes(record),
                content=held,
            )
        )


def service_class(name: str) -> type[Service]:
    """`module:Class`, a subclass of Service; "" is Service itself."""
    if not name:
        return Service
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
