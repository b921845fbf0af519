"""Frames on a blocking socket: one system call for a small frame, no event loop (G4, E4).

For threads of their own: bulk between hosts, and engines that wait for each other's activations. Law: the same bytes
and the same refusals as every other link; a wait has the socket's own timeout. What is read ahead goes into memory that
is there already: a payload's memory is taken after its header was checked, and after one refusal nothing is read.
"""

import socket
from collections.abc import Sequence

import xxhash

from zeitgeist.core.errors import ZeitgeistError, refuse
from zeitgeist.core.limits import FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import Frame, Head, checked_frame, copy_of, frame_header, read_header
from zeitgeist.transports.base import Bytes

__all__ = ["AHEAD_BYTES", "BlockingLink"]

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
AHEAD_BYTES = 64 << 10
"""Read ahead: a decode step's rows with their header come in one call, and little of a large payload is copied."""
JOINED_BYTES = 32 << 10
"""Up to here one copy costs less than a list of parts: 0.5 µs."""
SMALL_BYTES = AHEAD_BYTES - FRAME_HEADER_BYTES
PIECE_BYTES = 256 << 10
"""A large payload comes in pieces of so much: digested from the second-level cache."""


class BlockingLink:
    """One end. Owns the socket. One thread sends, one receives.

    reuse: the payload of a frame is valid until the next `receive` only. Zeroing and faulting in new memory for each
    chunk costs as much as receiving it.
    """

    def __init__(self, sock: socket.socket, *, reuse: bool = False) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.reuse = sock, reuse
        self.view = memoryview(bytearray(AHEAD_BYTES))
        self.spare = memoryview(b"")
        self.begin = self.end = 0
        """What was read ahead: view[begin:end]."""
        self.bulk = False
        """The last payload was large: most likely the next is, and nothing of it is worth a copy."""
        self.refusal: ZeitgeistError | None = None
        self.plain = type(sock) is socket.socket

    # ---- out

    def send(self, frame: Frame, *more: Bytes) -> None:
        """Send frame; its payload goes on with more. `OSError` when the connection is gone, `TimeoutError`."""
        head = frame_header(frame, *more)
        parts = (head, frame.payload, *more)
        total = 0
        for part in parts:
            total += part.nbytes if type(part) is memoryview else len(part)
        if total <= JOINED_BYTES:
            self.sock.sendall(b"".join(parts))
        elif self.plain:
            count = self.sock.sendmsg(parts, (), NO_SIGNAL)
            if count < total:
                self.rest(parts, count)
        else:
            for part in parts:
                self.sock.sendall(part)

    def rest(self, parts: Sequence[Bytes], count: int) -> None:
        """What the first call did not take."""
        for part in parts:
            view = memoryview(part).cast("B")
            if count < view.nbytes:
                self.sock.sendall(view[count:], NO_SIGNAL)
            count = max(0, count - view.nbytes)

    # ---- in

    def receive(self) -> Frame:
        """The next frame. Errors of the decoder; `zg/wire/truncated` or `EOFError` when the other side ended."""
        if self.refusal:
            raise copy_of(self.refusal)
        try:
            return self.next_frame()
        except ZeitgeistError as error:
            self.refusal = copy_of(error)
            raise

    def next_frame(self) -> Frame:
        if self.begin == self.end:
            self.begin = self.end = 0
        if self.end - self.begin < FRAME_HEADER_BYTES:
            self.read_ahead(FRAME_HEADER_BYTES, "header")
        head = read_header(self.view[self.begin :])
        length = head[3]
        self.bulk = length > SMALL_BYTES
        start = self.begin + FRAME_HEADER_BYTES
        if self.bulk:
            return self.large(head, start, length)
        if self.end - start < length:
            self.read_ahead(FRAME_HEADER_BYTES + length, "payload")
            start = self.begin + FRAME_HEADER_BYTES
        self.begin = start + length
        payload = self.view[start : start + length]
        return checked_frame(head, payload.toreadonly() if self.reuse else memoryview(bytes(payload)))

    def read_ahead(self, count: int, inside: str) -> None:
        """Until count bytes from begin on are there; more only where there is room."""
        if self.begin + count > AHEAD_BYTES:
            have = self.end - self.begin
            self.view[:have] = self.view[self.begin : self.end]
            self.begin, self.end = 0, have
        while self.end - self.begin < count:
            got = self.sock.recv_into(self.view[self.end : self.begin + count if self.bulk else AHEAD_BYTES])
            if not got:
                self.ended(self.end - self.begin, inside, count)
            self.end += got

    def large(self, head: Head, start: int, length: int) -> Frame:
        """A payload in memory of its own: what was read ahead is copied (never all of it), the rest comes straight
        into it, each piece digested while the cache still has it."""
        view, receive = self.memory(length), self.sock.recv_into
        have = self.end - start
        view[:have] = self.view[start : self.end]
        self.begin = self.end
        hasher = xxhash.xxh3_64(view[:have])
        while have < length:
            got = receive(view[have : have + PIECE_BYTES])
            if not got:
                self.ended(FRAME_HEADER_BYTES + have, "payload", FRAME_HEADER_BYTES + length)
            hasher.update(view[have : have + got])
            have += got
        return checked_frame(head, view.toreadonly(), hasher.intdigest())

    def memory(self, length: int) -> memoryview:
        """Of a large payload: the last one's again, when it fits."""
        if not self.reuse:
            return memoryview(bytearray(length))
        if self.spare.nbytes != length:
            self.spare = memoryview(bytearray(length))
        return self.spare

    def ended(self, have: int, inside: str, count: int) -> None:
        """The other side sends no more: between two frames that is the end, inside one a refusal."""
        if have:
            raise refuse("zg/wire/truncated", inside, f"{have} bytes", f"{count}")
        raise EOFError("the other side closed the connection")

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
