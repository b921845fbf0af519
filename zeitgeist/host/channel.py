"""Whole frames over a worker's socket pair, with a deadline, and at most one descriptor beside each.

Law: a header is checked before its payload is allocated, a payload before it is decoded. The socket never blocks on its
own: every wait is a poll with a deadline, so that a stopped peer cannot hold us. What a frame means, and whether it is
the next, is not known here.
"""

import array
import contextlib
import os
import select
import socket
import sys
import time

from zeitgeist.core.effects import Send
from zeitgeist.core.errors import refuse
from zeitgeist.core.wire.frame import CHANNELS, FLAGS, Flag, Frame, FrameDecoder, frame_header
from zeitgeist.core.wire.payload import join_payload

__all__ = ["Channel", "ChannelClosed", "ChannelTimeout"]

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
CONTROL_BYTES = socket.CMSG_SPACE(4 * 4)
"""Room for four descriptors, so that a peer that passes more than one is seen to."""
GONE = (BrokenPipeError, ConnectionResetError)
ATTACHED = int(Flag.ATTACHED)


class ChannelClosed(Exception):
    """The other side closed the socket or is gone."""


class ChannelTimeout(Exception):
    """The deadline passed."""


class Channel:
    """One end. Owns the socket. Two threads may send if they lock; one receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.decoder = FrameDecoder()
        self.reading = select.poll()
        self.reading.register(sock, select.POLLIN)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.sock.close()

    def ready(self) -> bool:
        """True when a read would not wait."""
        return bool(self.reading.poll(0))

    def readable(self, deadline: float | None) -> bool:
        """Wait until a read would not, at most until deadline; True when it would not."""
        return bool(self.reading.poll(milliseconds(deadline)))

    def wait(self, events: int, deadline: float | None) -> bool:
        poller = select.poll()
        poller.register(self.sock, events)
        return bool(poller.poll(milliseconds(deadline)))

    def send(
        self,
        send: Send,
        content: bytes | memoryview = b"",
        fd: int | None = None,
        deadline: float | None = None,
    ) -> None:
        """Put a frame of the core on the socket, with content after its record and fd beside its first byte.

        deadline: `time.monotonic` seconds, None for ever. Errors: `zg/wire/frame-too-large` before a byte is sent,
        `ChannelClosed`, `ChannelTimeout`.
        """
        channel = CHANNELS[send.channel]
        record = join_payload(channel, send.record)
        frame = Frame(
            channel=channel,
            kind=send.kind,
            stream=send.stream,
            sequence=send.sequence,
            flags=FLAGS[send.flags if fd is None else send.flags | ATTACHED],
            payload=record,
        )
        head = frame_header(frame, content) + record
        control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.put([head, content] if len(content) else [head], control, deadline)

    def put(
        self,
        parts: list[bytes | memoryview],
        control: "list[tuple[int, int, array.array[int]]]",
        deadline: float | None,
    ) -> None:
        """All of parts; the operating system may take them piece by piece."""
        while parts:
            try:
                count = self.sock.sendmsg(parts, control, NO_SIGNAL)
            except BlockingIOError:
                if not self.wait(select.POLLOUT, deadline):
                    raise ChannelTimeout("sending") from None
            except GONE as error:
                raise ChannelClosed("sending") from error
            else:
                control = []
                while parts and count >= len(parts[0]):
                    count -= len(parts.pop(0))
                if parts and count:
                    parts[0] = memoryview(parts[0])[count:]

    def receive(self, deadline: float | None = None) -> tuple[Frame, int | None]:
        """(frame, descriptor or None): the next frame; its header was checked before its payload was allocated.

        Errors: `zg/wire/…` of the decoder, `zg/wire/bad-header` for descriptors that are not announced;
        `ChannelClosed`, `ChannelTimeout`.
        """
        fds: list[int] = []
        try:
            frame = self.next_frame(deadline, fds)
            if len(fds) != (int(frame.flags) & ATTACHED) // ATTACHED:
                raise refuse(
                    "zg/wire/bad-header", "flags", f"{len(fds)} descriptors with flags {frame.flags}", "as many"
                )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return frame, fds[0] if fds else None

    def next_frame(self, deadline: float | None, fds: list[int]) -> Frame:
        while True:
            target = self.decoder.target()
            try:
                count, control, _, _ = self.sock.recvmsg_into([target], CONTROL_BYTES, CLOSE_ON_EXEC)
            except BlockingIOError:
                if not self.readable(deadline):
                    raise ChannelTimeout("receiving") from None
                continue
            except GONE as error:
                raise ChannelClosed("receiving") from error
            if control:
                fds.extend(passed(control))
            if not count:
                raise ChannelClosed("receiving")
            if frame := self.decoder.advance(count):
                return frame


def milliseconds(deadline: float | None) -> float | None:
    """As a poll takes them; None for ever."""
    return None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)


def passed(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if sys.platform != "linux":
        for fd in fds:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
    return list(fds)
