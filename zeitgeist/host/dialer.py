"""Addresses to links: one place that knows which scheme is which transport (G1).

Law: this file chooses, the transports refuse. TLS is used on TCP whenever the node has a certificate.
"""

from collections.abc import Callable
from typing import Protocol

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.transports.base import Link, parse_address
from zeitgeist.transports.memory import MemoryHub
from zeitgeist.transports.tcp import dial_tcp, listen_tcp
from zeitgeist.transports.tls import TlsFiles
from zeitgeist.transports.unix import dial_unix, listen_unix

__all__ = ["Dialer", "Listening"]


class Listening(Protocol):
    """Somebody may call us here. address: with the port that was taken."""

    address: str

    async def close(self) -> None:
        """Nobody may any more."""
        ...


class Dialer:
    """tls: this node's certificate, None for a node that stays on its host; hub: where memory links meet."""

    def __init__(self, tls: TlsFiles | None = None, hub: MemoryHub | None = None) -> None:
        self.tls, self.hub = tls, hub

    async def listen(self, text: str, accepted: Callable[[Link], None]) -> Listening:
        """Let others call us."""
        address = parse_address(text)
        match address.scheme:
            case "tcp":
                return await listen_tcp(address, accepted, self.tls)
            case "unix":
                return listen_unix(address, accepted)
            case _:
                return self.memory().listen(address, accepted)

    async def dial(self, text: str, certificate: str) -> Link:
        """Call somebody. certificate: fingerprint to insist on; it makes the call one in TLS."""
        address = parse_address(text)
        match address.scheme:
            case "tcp":
                return await dial_tcp(address, certificate, self.tls, tls=bool(certificate or self.tls))
            case "unix":
                return await dial_unix(address)
            case _:
                return self.memory().dial(address)

    def memory(self) -> MemoryHub:
        if self.hub is None:
            raise ZeitgeistError("zg/transport/dial-failed", "this process shares no memory links", "address")
        return self.hub
