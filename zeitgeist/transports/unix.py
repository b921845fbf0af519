"""Links over Unix sockets: same host, the kernel says who is at the other end (G1).

Law: the socket file belongs to us alone (0600). One that a dead node left is removed, one that somebody answers on is
not.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.transports.base import Address, Link
from zeitgeist.transports.stream import StreamLink
from zeitgeist.transports.tcp import BACKLOG, SocketListener

__all__ = ["dial_unix", "listen_unix", "peer_uid"]

BUFFER_BYTES = 1 << 20
"""1 MiB each way instead of 208 KiB: a chunk goes in one call, and both ends run at once."""


def listen_unix(address: Address, accepted: Callable[[Link], None]) -> SocketListener:
    """Bind and listen. Error: `zg/transport/listen-failed`."""
    path = Path(address.host)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        remove_stale(path)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ZeitgeistError("zg/transport/listen-failed", str(error), str(address)) from error
    finally:
        os.umask(before)
    return UnixListener(sock, str(address), lambda peer: facts_of(peer, True, str(address)), accepted)


class UnixListener(SocketListener):
    """Removes its file at the end."""

    async def close(self) -> None:
        """Accept nobody any more."""
        if self.open:
            Path(self.sock.getsockname()).unlink(missing_ok=True)
        await super().close()


def remove_stale(path: Path) -> None:
    """Remove the socket of a node that is gone. What is no socket, or answers, stays: bind will then say so."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


async def dial_unix(address: Address) -> Link:
    """A connection. Error: `zg/transport/dial-failed`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address.host)
        return StreamLink(sock, facts_of(sock, False, str(address)))
    except OSError as error:
        sock.close()
        raise ZeitgeistError("zg/transport/dial-failed", str(error), str(address)) from error
    except BaseException:
        sock.close()
        raise


def facts_of(sock: socket.socket, inbound: bool, address: str) -> LinkFacts:
    """What the socket tells."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return LinkFacts(transport="unix", inbound=inbound, loopback=True, address=address, peer_uid=peer_uid(sock))


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end, by the kernel's word; -1 where it gives none."""
    if sys.platform == "linux":
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", raw)[1]
    if sys.platform == "darwin":
        raw = sock.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred, version and uid first
        return struct.unpack_from("=II", raw)[1]
    return -1
