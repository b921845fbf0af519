"""A relay on this host that writes down what passes: a capture without the rights that a packet filter needs (G4).

Law: it changes no byte and decides nothing; bytes go on as they come, an end goes on as an end. Through TLS it sees
what any wire sees: open the capture with tshark and the keys of the session. For tests and demonstrations only.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from zeitgeist.capture.write import Sent

__all__ = ["Relay"]

READ_BYTES = 1 << 16
Ends = tuple[tuple[str, int], tuple[str, int]]


class Relay:
    """Listens on a free port of loopback and passes every connection on to target. `sent`: what passed, in order."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.sent: list[Sent] = []
        self.noting = threading.Lock()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect."""
        host, port = self.listener.getsockname()[:2]
        return str(host), int(port)

    def __enter__(self) -> Self:
        self.spawn(self.accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection and wait for the last byte to be noted."""
        for sock in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for sock in (self.listener, *self.sockets):
            sock.close()

    def accept(self) -> None:
        """Two pumps for each connection, until the listener ends."""
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.listener.accept()
                self.sockets.append(caller)
                answerer = socket.create_connection(self.target)
                self.sockets.append(answerer)
                host, port = caller.getpeername()[:2]
                ends = ((str(host), int(port)), self.target)
                self.spawn(self.pump, caller, answerer, ends)
                self.spawn(self.pump, answerer, caller, (ends[1], ends[0]))

    def pump(self, source: socket.socket, sink: socket.socket, ends: Ends) -> None:
        """One direction, to its end. Noted before it is passed on, so that a question stands before its answer."""
        with contextlib.suppress(OSError):
            while data := source.recv(READ_BYTES):
                with self.noting:
                    self.sent.append(Sent(time=time.time(), ends=ends, data=data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def spawn(self, target: Callable[..., None], *arguments: object) -> None:
        """A thread that `__exit__` waits for."""
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()
