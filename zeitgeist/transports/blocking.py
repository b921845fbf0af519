"""Frames on a blocking socket: two system calls a frame, no event loop, no copy (G4, E4).

For threads of their own: bulk between hosts, and engines that wait for each other's activations. Law: the same bytes
and the same decoder as every other link; a wait has the socket's own timeout.
"""

import socket
from collections.abc import Sequence

from zeitgeist.core.limits import FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import Frame, FrameDecoder, frame_header
from zeitgeist.transports.base import Bytes

__all__ = ["BlockingLink"]

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class BlockingLink:
    """One end. Owns the socket. One thread sends, one receives.

    reuse: the payload of a frame is valid until the next `receive` only. Zeroing and faulting in new memory for each
    chunk costs as much as receiving it.
    """

    def __init__(self, sock: socket.socket, *, reuse: bool = False) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.spare = bytearray()
        self.decoder = FrameDecoder(self.taken) if reuse else FrameDecoder()
        self.gathers = type(sock) is socket.socket

    def taken(self, length: int) -> bytearray:
        """The memory of the last payload again, when it fits."""
        if len(self.spare) != length:
            self.spare = bytearray(length)
        return self.spare

    def send(self, frame: Frame, *more: Bytes) -> None:
        """Send frame; its payload goes on with more. `OSError` when the connection is gone, `TimeoutError`."""
        parts: list[Bytes] = [frame_header(frame, *more), frame.payload, *more]
        if not self.gathers:
            for part in parts:
                self.sock.sendall(part)
            return
        count = self.sock.sendmsg(parts, (), NO_SIGNAL)
        if count < FRAME_HEADER_BYTES + sum([memoryview(part).nbytes for part in parts[1:]]):
            self.rest(parts, count)

    def rest(self, parts: Sequence[Bytes], count: int) -> None:
        """What the first call did not take."""
        for part in parts:
            view = memoryview(part).cast("B")
            if count < view.nbytes:
                self.sock.sendall(view[count:], NO_SIGNAL)
            count = max(0, count - view.nbytes)

    def receive(self) -> Frame:
        """The next frame. Errors of the decoder; `zg/wire/truncated` or `EOFError` when the other side ended."""
        decoder, receive = self.decoder, self.sock.recv_into
        while True:
            target = decoder.target()
            count = receive(target)
            if not count:
                decoder.end()
                raise EOFError("the other side closed the connection")
            if frame := decoder.advance(count):
                return frame

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
