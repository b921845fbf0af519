"""Whole frames over a Unix socket, with a deadline, and at most one descriptor beside each.

Law: a header is checked before its payload is allocated, a payload before it is decoded. The socket never blocks on its own:
every wait is a poll with a deadline, so that a stopped peer cannot hold us.
"""

import array
import contextlib
import os
import select
import socket
import struct
import sys
import time

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.canonical import Record, encode

__all__ = ["Channel", "ChannelClosed", "ChannelTimeout"]

HEADER = struct.Struct("<4sIQ")

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
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
        self.sequence = 0

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

    def send(self, record: Record, fd: int | None = None, deadline: float | None = None) -> None:
        """Send one record as a frame, with fd passed beside it. deadline: `time.monotonic` seconds, None for ever."""
        payload = encode(record)
        data = memoryview(header_of(payload, self.sequence) + payload)
        self.sequence += 1
        control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        while data:
            try:
                sent = self.sock.sendmsg([data], control, NO_SIGNAL)
            except BlockingIOError:
                if not self.wait(select.POLLOUT, deadline):
                    raise ChannelTimeout("sending") from None
            except GONE as error:
                raise ChannelClosed("sending") from error
            else:
                data, control = data[sent:], []

    def receive(self, deadline: float | None = None) -> tuple[bytes, int | None]:
        """(payload, descriptor or None) of the next frame. What is no frame is refused before its payload is allocated."""
        fds: list[int] = []
        try:
            header = self.exactly(HEADER.size, deadline, fds)
            length, check = read_header(header)
            payload = self.exactly(length, deadline, fds)
            check(payload)
            if len(fds) > 1:
                raise RemoteProtocolError("zg/worker/lied", f"got {len(fds)} descriptors, wanted at most 1", "descriptors")
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return payload, fds[0] if fds else None

    def exactly(self, length: int, deadline: float | None, fds: list[int]) -> bytes:
        parts: list[bytes] = []
        while length:
            data = self.some(length, deadline, fds)
            if not data:
                raise ChannelClosed("receiving")
            parts.append(data)
            length -= len(data)
        return b"".join(parts)

    def some(self, length: int, deadline: float | None, fds: list[int]) -> bytes:
        while True:
            try:
                data, control, _, _ = self.sock.recvmsg(min(length, 1 << 20), socket.CMSG_SPACE(16), CLOSE_ON_EXEC)
            except BlockingIOError:
                if not self.wait(select.POLLIN, deadline):
                    raise ChannelTimeout("receiving") from None
            except GONE as error:
                raise ChannelClosed("receiving") from error
            else:
                fds.extend(passed(control))
                return data


def passed(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
    if sys.platform != "linux":
        for fd in fds:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
    return list(fds)


def header_of(payload, sequence):
    import xxhash
    return HEADER.pack(b"ZGtm", len(payload), xxhash.xxh3_64_intdigest(payload))


def read_header(data):
    import xxhash
    magic, length, digest = HEADER.unpack(data)
    if magic != b"ZGtm" or length > 1 << 24:
        raise RemoteProtocolError("zg/worker/lied", "bad header", "header")
    def check(payload):
        if xxhash.xxh3_64_intdigest(payload) != digest:
            raise RemoteProtocolError("zg/worker/lied", "bad digest", "payload")
    return length, check
