"""Whole frames over a Unix socket, with a deadline, and at most one descriptor beside each.

Law: a header is checked before its payload is allocated, a payload before it is decoded. The socket never blocks on its
own: every wait is a poll with a deadline, so that a stopped peer cannot hold us.
"""

import array
import contextlib
import os
import select
import socket
import sys
import time

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire.frame import Channel as WireChannel
from zeitgeist.core.wire.frame import Flag, Frame, FrameDecoder, encode_frame
from zeitgeist.host import messages as m

__all__ = ["Channel", "ChannelClosed", "ChannelTimeout"]

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
CONTROL_BYTES = socket.CMSG_SPACE(4 * 4)
"""Room for four descriptors, so that a peer that passes more than one is seen to."""
GONE = (BrokenPipeError, ConnectionResetError)


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
        self.sent = 0
        self.received = 0

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.sock.close()

    def ready(self) -> bool:
        """True when a read would not wait."""
        return self.wait(select.POLLIN, time.monotonic())

    def wait(self, events: int, deadline: float | None) -> bool:
        poller = select.poll()
        poller.register(self.sock, events)
        wait_ms = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
        return bool(poller.poll(wait_ms))

    def send(self, record: m.Call | m.Reply, fd: int | None = None, deadline: float | None = None) -> None:
        """Send one record as a frame, with fd passed beside it. deadline: `time.monotonic` seconds, None for ever.

        Errors: `zg/wire/frame-too-large` before a byte is sent, `ChannelClosed`, `ChannelTimeout`.
        """
        frame = Frame(
            channel=WireChannel.CONTROL,
            kind=m.KINDS[type(record)],
            stream=record.number,
            sequence=self.sent,
            flags=Flag(0) if fd is None else Flag.ATTACHED,
            payload=encode(record),
        )
        data = memoryview(encode_frame(frame))
        self.sent += 1
        control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        while data:
            try:
                count = self.sock.sendmsg([data], control, NO_SIGNAL)
            except BlockingIOError:
                if not self.wait(select.POLLOUT, deadline):
                    raise ChannelTimeout("sending") from None
            except GONE as error:
                raise ChannelClosed("sending") from error
            else:
                data, control = data[count:], []

    def receive(self, deadline: float | None = None) -> tuple[Frame, int | None]:
        """(frame, descriptor or None): the next frame; its header was checked before its payload was allocated.

        Errors: `zg/wire/…` of the decoder, `zg/wire/bad-header` for a sequence that is not the next or descriptors that
        are not announced; `ChannelClosed`, `ChannelTimeout`.
        """
        fds: list[int] = []
        try:
            frame = self.next_frame(deadline, fds)
            if frame.sequence != self.received:
                raise refuse("zg/wire/bad-header", "sequence", frame.sequence, self.received)
            if len(fds) != bool(frame.flags & Flag.ATTACHED):
                raise refuse(
                    "zg/wire/bad-header", "flags", f"{len(fds)} descriptors with flags {frame.flags}", "as many"
                )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        self.received += 1
        return frame, fds[0] if fds else None

    def next_frame(self, deadline: float | None, fds: list[int]) -> Frame:
        while True:
            target = self.decoder.target()
            try:
                count, control, _, _ = self.sock.recvmsg_into([target], CONTROL_BYTES, CLOSE_ON_EXEC)
            except BlockingIOError:
                if not self.wait(select.POLLIN, deadline):
                    raise ChannelTimeout("receiving") from None
                continue
            except GONE as error:
                raise ChannelClosed("receiving") from error
            fds.extend(passed(control))
            if not count:
                raise ChannelClosed("receiving")
            if frame := self.decoder.advance(count):
                return frame


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
