"""Frames over a stream socket that the event loop watches: TCP, Unix sockets and a worker's socket pair.

Law: the kernel writes straight into the decoder's memory, and reads straight from the parts that were sent; nothing is
joined or buffered between (asyncio's own transports copy what a socket does not take at once). One turn of the loop
reads at most `TURN_BYTES` of one link, so that a large tensor does not keep control waiting.
"""

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import ZeitgeistError, refuse
from zeitgeist.core.wire.frame import Flag, Frame
from zeitgeist.transports.base import STRANGER_BYTES_MAX, Bytes, CarefulDecoder, Hearer

__all__ = ["LINGER_S", "PARTS_WAITING_MAX", "TURN_BYTES", "UNREAD", "StreamLink"]

TURN_BYTES = 256 << 10
"""256 KiB: under 0.3 ms also where it is decrypted and digested; control waits at most this long for each bulk link."""
AT_ONCE_BYTES = 64 << 10
"""A frame of at most so much goes inside `send`; a larger one in a turn of its own, however many a step sends."""
PARTS_MAX = 8
"""Parts a `sendmsg`: two or three frames, about a turn's worth of chunks."""
LINGER_S = 1.0
"""How long an end waits for the other to have read everything. Closing with unread input makes the kernel throw away
what we said last, which is the reason that we closed."""
PARTS_WAITING_MAX = 1 << 17
"""Who asks and does not read the answers is left: 65,536 frames are the tokens of 1,024 jobs with the default window,
and a thousand times the chunks that may be in flight. Each costs half a KiB while it waits."""
DESCRIPTOR_BYTES = socket.CMSG_SPACE(4 * 4)
"""Room for four descriptors, so that a peer that passes more than one is seen to."""
UNREAD = "the other side does not read"
CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class StreamLink:
    """One connection. Owns the socket. descriptors: frames may carry one (`Flag.ATTACHED`), as a worker's do."""

    def __init__(self, sock: socket.socket, facts: LinkFacts, *, descriptors: bool = False) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.known = facts
        self.descriptors = descriptors
        self.loop = asyncio.get_running_loop()
        self.decoder = CarefulDecoder(None if descriptors else STRANGER_BYTES_MAX)
        self.queue: deque[memoryview] = deque()
        self.passing: deque[tuple[memoryview, int]] = deque()
        self.passed: list[int] = []
        self.waits = 0
        self.hearer: Hearer | None = None
        self.writing = self.closing = self.gone = False
        self.reason = ""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def facts(self) -> LinkFacts:
        """What is known of this connection."""
        return self.known

    def start(self, hearer: Hearer) -> None:
        """Begin to read."""
        self.hearer = hearer
        if not self.gone:
            self.loop.add_reader(self.sock, self.readable)

    def trust(self) -> None:
        """Take payloads as large as their channel allows."""
        self.decoder.bytes_max = None

    def waiting(self) -> int:
        """Bytes not yet taken by the kernel."""
        return self.waits

    # ---- out

    def send(self, parts: Sequence[Bytes], fd: int | None = None) -> None:
        """Queue one frame; what the socket takes at once goes at once."""
        if self.closing or self.gone:
            if fd is not None:
                os.close(fd)
            return
        idle = not self.queue
        views = [flat for part in parts if (flat := memoryview(part).cast("B")).nbytes]
        self.queue.extend(views)
        total = sum([view.nbytes for view in views])
        self.waits += total
        if fd is not None:
            self.passing.append((views[0], fd))
        if len(self.queue) > PARTS_WAITING_MAX:
            self.lost(UNREAD)
            return
        if idle and total <= AT_ONCE_BYTES:
            self.writable()
        elif idle:
            self.watch_writing()

    def writable(self) -> None:
        """Give the kernel what it takes."""
        try:
            self.write_some()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.lost(error.strerror or "sending failed")
            return
        self.watch_writing()
        if not self.queue:
            self.drained()

    def watch_writing(self) -> None:
        """Ask the loop for a turn as long as there is something to write."""
        if bool(self.queue) != self.writing:
            self.writing = bool(self.queue)
            if self.writing:
                self.loop.add_writer(self.sock, self.writable)
            else:
                self.loop.remove_writer(self.sock)

    def drained(self) -> None:
        """The kernel took all."""
        if self.closing:
            self.finish()

    def write_some(self) -> None:
        """One call for as many parts as there are. A descriptor travels with the first byte of its own frame, so a
        call stops before the next frame that has one."""
        budget = TURN_BYTES
        while self.queue and budget > 0:
            parts, control = list(islice(self.queue, PARTS_MAX)), []
            if self.passing:
                parts, control = self.with_descriptor(parts)
            count = self.sock.sendmsg(parts, control, NO_SIGNAL)
            if control:
                os.close(self.passing.popleft()[1])
            total = sum(part.nbytes for part in parts)
            self.taken(count)
            budget -= count
            if count < total:
                return

    def with_descriptor(self, parts: list[memoryview]) -> tuple[list[memoryview], list[tuple[int, int, array.array]]]:
        first, fd = self.passing[0]
        if parts[0] is first:
            later = self.passing[1][0] if len(self.passing) > 1 else None
            stop = next((i for i, part in enumerate(parts) if i and part is later), len(parts))
            return parts[:stop], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        return parts[: next((i for i, part in enumerate(parts) if part is first), len(parts))], []

    def taken(self, count: int) -> None:
        self.waits -= count
        while count:
            part = self.queue[0]
            if part.nbytes > count:
                self.queue[0] = part[count:]
                return
            count -= part.nbytes
            self.queue.popleft()

    # ---- in

    def readable(self) -> None:
        """Read until the socket is empty, the turn is over, or we are closed."""
        budget = TURN_BYTES
        try:
            while budget > 0 and not self.gone:
                target = self.discarded() if self.closing else self.decoder.target()
                count = self.receive(target)
                if not count:
                    self.ended()
                    return
                budget -= count
                if not self.closing and (frame := self.decoder.advance(count)):
                    self.hear(frame)
                if count < len(target):
                    return
        except (BlockingIOError, InterruptedError):
            return
        except ZeitgeistError as error:
            self.refuse(error)
        except OSError as error:
            self.lost(error.strerror or "receiving failed")

    def receive(self, target: memoryview) -> int:
        if not self.descriptors:
            return self.sock.recv_into(target)
        count, control, _, _ = self.sock.recvmsg_into([target], DESCRIPTOR_BYTES, CLOSE_ON_EXEC)
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self.passed.extend(fds)
        return count

    def hear(self, frame: Frame) -> None:
        fds, self.passed = self.passed, []
        if len(fds) != bool(frame.flags & Flag.ATTACHED):
            close_all(fds)
            raise refuse(
                "zg/wire/bad-header", "flags", f"{len(fds)} descriptors with flags {int(frame.flags)}", "as many"
            )
        assert self.hearer is not None
        self.hearer.frame(self, frame, fds[0] if fds else None)

    def discarded(self) -> memoryview:
        """Where bytes go that nobody will read."""
        return memoryview(bytearray(1 << 16))

    # ---- the end

    def refuse(self, error: ZeitgeistError) -> None:
        """Stop reading; what the hearer says now is still sent."""
        if self.hearer and not self.closing:
            self.loop.remove_reader(self.sock)
            self.hearer.refused(self, error)

    def ended(self) -> None:
        try:
            if not self.closing:
                self.decoder.end()
        except ZeitgeistError as error:
            self.lost(str(error))
            return
        self.lost("closed here" if self.closing else "closed by the other side")

    def close(self) -> None:
        """Send what waits, say that this was all, read to the other's end, then go."""
        if self.closing or self.gone:
            return
        self.closing = True
        self.timer = self.loop.call_later(LINGER_S, self.lost, "closed here")
        self.loop.add_reader(self.sock, self.readable)
        if not self.queue:
            self.finish()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End at once."""
        self.lost("aborted here")

    def lost(self, reason: str) -> None:
        if self.gone:
            return
        self.gone = True
        if self.timer:
            self.timer.cancel()
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.sock.close()
        self.queue.clear()
        close_all([*self.passed, *(fd for _, fd in self.passing)])
        self.passing.clear()
        if self.hearer:
            self.loop.call_soon(self.hearer.down, self, reason)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
