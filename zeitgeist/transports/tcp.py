"""Links over TCP, in the clear on loopback, in TLS 1.3 anywhere (G1).

Law: an address that other hosts can reach is neither bound nor dialled without TLS. Every address that a name has is
judged; a name is never called loopback, its addresses are.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import ZeitgeistError, refuse
from zeitgeist.transports.base import Address, Link, is_loopback, require_tls_off_loopback
from zeitgeist.transports.stream import StreamLink
from zeitgeist.transports.tls import TlsFiles, TlsLink, client_context, own_fingerprint, server_context

__all__ = ["BACKLOG", "SocketListener", "dial_tcp", "listen_tcp"]

BACKLOG = 128
FULL_PAUSE_S = 0.5
"""No descriptor is left: try again then. Until then callers wait in the backlog, and nobody is told a lie."""
SECURING_MAX = 64
"""TLS handshakes of strangers at once: 6 ms of a core each."""
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class SocketListener:
    """A listening socket; each connection becomes a link, in TLS once its handshake is over, and is handed on."""

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        facts: Callable[[socket.socket], LinkFacts],
        accepted: Callable[[Link], None],
        context: ssl.SSLContext | None = None,
        own_certificate: str = "",
    ) -> None:
        sock.setblocking(False)
        self.sock, self.address, self.facts, self.accepted = sock, address, facts, accepted
        self.context, self.own_certificate = context, own_certificate
        self.loop = asyncio.get_running_loop()
        self.securing: set[asyncio.Task[None]] = set()
        self.open = True
        self.loop.add_reader(sock, self.acceptable)

    def acceptable(self) -> None:
        """Take those who wait."""
        for _ in range(BACKLOG):
            if len(self.securing) >= SECURING_MAX:
                self.pause()
                return
            try:
                sock, _ = self.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self.pause()
                return
            self.take(sock)

    def take(self, sock: socket.socket) -> None:
        try:
            facts = self.facts(sock)
        except OSError:  # gone before we looked
            sock.close()
            return
        if self.context is None:
            self.accepted(StreamLink(sock, facts))
            return
        sock.setblocking(False)
        task = self.loop.create_task(self.secure(sock, facts, self.context))
        self.securing.add(task)
        task.add_done_callback(self.securing.discard)

    async def secure(self, sock: socket.socket, facts: LinkFacts, context: ssl.SSLContext) -> None:
        """A caller whose handshake fails was never a link."""
        link = TlsLink(sock, facts, context, self.own_certificate)
        with contextlib.suppress(ZeitgeistError):
            await link.handshake()
            self.accepted(link)

    def pause(self) -> None:
        self.loop.remove_reader(self.sock)
        self.loop.call_later(FULL_PAUSE_S, self.resume)

    def resume(self) -> None:
        if self.open:
            self.loop.add_reader(self.sock, self.acceptable)

    async def close(self) -> None:
        """Accept nobody any more. Links that are up live on."""
        if self.open:
            self.open = False
            self.loop.remove_reader(self.sock)
            self.sock.close()
        tasks = list(self.securing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def listen_tcp(address: Address, accepted: Callable[[Link], None], files: TlsFiles | None) -> SocketListener:
    """Bind and listen. Errors: `zg/transport/needs-tls`, `listen-failed`."""
    family, found = (await resolve(address, "zg/transport/listen-failed"))[0]
    require_tls_off_loopback(found[0], files is not None, "listen")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ZeitgeistError("zg/transport/listen-failed", str(error), str(address)) from error
    bound = Address(scheme="tcp", host=address.host, port=sock.getsockname()[1])
    context = server_context(files) if files else None
    certificate = own_fingerprint(files) if files else ""
    return SocketListener(sock, str(bound), lambda peer: facts_of(peer, True, ""), accepted, context, certificate)


async def dial_tcp(address: Address, certificate: str, files: TlsFiles | None, tls: bool) -> Link:
    """A connection to address. certificate: the fingerprint that its server must show, "" when the CA decides.

    Errors: `zg/transport/needs-tls`, `no-trust`, `dial-failed`, `tls`, `certificate`.
    """
    context = client_context(files, bool(certificate)) if tls else None
    last: OSError | None = None
    for family, found in await resolve(address, "zg/transport/dial-failed"):
        require_tls_off_loopback(found[0], tls, "dial")
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, found)
            facts = facts_of(sock, False, str(address))
        except OSError as error:
            sock.close()
            last = error
            continue
        except BaseException:
            sock.close()
            raise
        if context is None:
            return StreamLink(sock, facts)
        own = own_fingerprint(files) if files else ""
        link = TlsLink(sock, facts, context, own, address.host if context.check_hostname else "")
        await link.handshake(certificate)
        return link
    raise ZeitgeistError("zg/transport/dial-failed", str(last), str(address))


async def resolve(address: Address, error_id: str) -> list[tuple[int, tuple[Any, ...]]]:
    """(family, numeric address) of all that the name has."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ZeitgeistError(error_id, str(error), str(address)) from error
    if not found:
        raise refuse(error_id, "address", address, "a name that has an address")
    return [(family, where) for family, _, _, _, where in found]


def facts_of(sock: socket.socket, inbound: bool, address: str) -> LinkFacts:
    """What the socket tells. Small frames go at once: a token is not worth 40 ms of waiting for a fuller packet."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer = sock.getpeername()
    return LinkFacts(
        transport="tcp",
        inbound=inbound,
        loopback=is_loopback(peer[0]),
        address=address or str(Address(scheme="tcp", host=peer[0], port=peer[1])),
    )
