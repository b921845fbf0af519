"""The worker process: `python -m zeitgeist.host.worker_main --fd N --backend NAME[:variant] --option k=v …`.

Law: started by `host/workers.py` with a socket and a private temporary folder that is its TMPDIR already; it leaves
when the socket closes, and on Linux the kernel kills it when its parent dies, even inside an engine. One thread;
between two prefill chunks the socket is looked at for a cancel.
"""

import argparse
import ctypes
import importlib
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from zeitgeist.backends.registry import create
from zeitgeist.core.errors import DETAIL_CHARACTERS_MAX, FIELD_CHARACTERS_MAX, ZeitgeistError, bounded
from zeitgeist.host.channel import Channel, ChannelClosed
from zeitgeist.host.memory import pack_array, unpack_array
from zeitgeist.host.messages import Call, Cancel, Refusal, Reply, Shutdown, read_call, write_value
from zeitgeist.host.service import Answer, Service

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
FILES_MAX = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one parent until it says shutdown or goes away. Exit code 0, or 1 when the backend could not be made."""
    parser = argparse.ArgumentParser(prog="zeitgeist.host.worker_main", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--service", default="")
    parser.add_argument("--address-bytes-max", type=int, default=0)
    chosen = parser.parse_args(arguments)
    die_with_parent(chosen.parent)
    limit_resources(chosen.address_bytes_max)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=chosen.fd))
    try:
        options = dict(option.split("=", 1) for option in chosen.option)
        return Worker(channel, chosen.backend, options, chosen.service).run()
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        remove_private_folder()


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


class Worker:
    """The loop: read a call, answer it. `early` holds calls that arrived while the engine ran."""

    def __init__(self, channel: Channel, backend: str, options: Mapping[str, str], service: str) -> None:
        self.channel = channel
        self.backend = backend
        self.options = options
        self.service = service
        self.early: deque[tuple[Call, int | None]] = deque()
        self.cancelled: set[int] = set()

    def run(self) -> int:
        """Make the backend, say ready, serve."""
        try:
            service = service_class(self.service)(create(self.backend, self.options))
            ready = Reply(number=0, value=write_value(service.describe()))
        except ZeitgeistError as error:
            self.channel.send(Reply(number=0, refusal=refusal(error)))
            return 1
        self.channel.send(ready)
        while True:
            read = self.early.popleft() if self.early else self.read()
            if read is None or isinstance(read[0].request, Cancel):
                continue
            self.serve(service, *read)
            if isinstance(read[0].request, Shutdown):
                return 0

    def read(self) -> tuple[Call, int | None] | None:
        """The next call; None for one that cannot be read, which was refused. A broken frame ends the worker."""
        frame, fd = self.channel.receive()
        try:
            return read_call(frame), fd
        except ZeitgeistError as error:
            if fd is not None:
                os.close(fd)
            self.channel.send(Reply(number=frame.stream, refusal=refusal(error)))
            return None

    def serve(self, service: Service, call: Call, fd: int | None) -> None:
        try:
            array = None if call.array is None else unpack_array(call.array, fd)
            answer = service.answer(call.request, array, lambda: self.is_cancelled(call.number))
        except ZeitgeistError as error:
            self.channel.send(Reply(number=call.number, refusal=refusal(error)))
            return
        finally:
            self.cancelled.clear()
            if fd is not None:
                os.close(fd)
        self.reply(call.number, answer)

    def reply(self, number: int, answer: Answer) -> None:
        record, fd = (None, None) if answer.array is None else pack_array(answer.array)
        try:
            self.channel.send(Reply(number=number, value=write_value(answer.value), array=record), fd)
        except ZeitgeistError as error:
            self.channel.send(Reply(number=number, refusal=refusal(error)))
        finally:
            if fd is not None:
                os.close(fd)

    def is_cancelled(self, number: int) -> bool:
        """Look at the socket without waiting; other calls that arrive are kept for later."""
        while self.channel.ready():
            read = self.read()
            if read is not None and isinstance(read[0].request, Cancel):
                self.cancelled.add(read[0].request.call)
            elif read is not None:
                self.early.append(read)
        return number in self.cancelled


def service_class(name: str) -> type[Service]:
    """`module:Class`, a subclass of Service; "" is Service itself."""
    if not name:
        return Service
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def refusal(error: ZeitgeistError) -> Refusal:
    """Bounded once more at the door: an error whose texts were changed after it was made must not end the worker."""
    return Refusal(
        id=error.id,
        detail=bounded(error.detail, DETAIL_CHARACTERS_MAX),
        field=bounded(error.field, FIELD_CHARACTERS_MAX),
    )


if __name__ == "__main__":
    sys.exit(main())
