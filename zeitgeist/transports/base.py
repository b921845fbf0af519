"""What a transport is to a driver: links that carry whole frames, and the one who hears them (G1, G4).

Law: a link knows bytes and checksums, never what a kind means. Frames go out in the order of `send`, no part is copied
where the operating system takes several. A peer that nobody knows yet gets little memory: until `trust` is called a
link takes payloads of at most `STRANGER_BYTES_MAX`. What was said before `close` is delivered before the connection
ends, and `down` is the last thing that a hearer hears of a link.
"""

import ipaddress
from collections.abc import Sequence
from typing import Protocol

import msgspec

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError, refuse
from zeitgeist.core.limits import DESCRIPTOR_BYTES_MAX
from zeitgeist.core.wire.frame import Frame, FrameDecoder

__all__ = [
    "STRANGER_BYTES_MAX",
    "Address",
    "Bytes",
    "CarefulDecoder",
    "Hearer",
    "Link",
    "is_loopback",
    "parse_address",
    "require_tls_off_loopback",
]

Bytes = bytes | memoryview
STRANGER_BYTES_MAX = DESCRIPTOR_BYTES_MAX
"""256 KiB: a hello with 16 extensions of 8 KiB takes 128; 1,024 strangers at once hold 256 MiB, not 4 GiB."""


class Hearer(Protocol):
    """Who drives a link. Called on the event loop's thread, never from inside `Link.send`."""

    def frame(self, link: "Link", frame: Frame, fd: int | None) -> None:
        """A whole frame. fd: the descriptor that came beside it; the hearer owns it."""
        ...

    def refused(self, link: "Link", error: ZeitgeistError) -> None:
        """The bytes are no frames. Nothing more will be read."""
        ...

    def down(self, link: "Link", reason: str) -> None:
        """The connection is gone."""
        ...


class Link(Protocol):
    """One connection."""

    @property
    def facts(self) -> LinkFacts:
        """What is known of it."""
        ...

    def start(self, hearer: Hearer) -> None:
        """Begin to read. Before it nothing is read and nothing is heard."""
        ...

    def trust(self) -> None:
        """The other end is known: take payloads as large as their channel allows."""
        ...

    def send(self, parts: Sequence[Bytes], fd: int | None = None) -> None:
        """Put one frame's bytes behind those that wait; the memory must not change until it is sent. Never blocks.
        fd travels beside the first byte, where the transport can (`process`); the link closes it."""
        ...

    def waiting(self) -> int:
        """Bytes that `send` took and the operating system has not."""
        ...

    def close(self) -> None:
        """Send what waits, then end. Nothing is heard any more but `down`."""
        ...

    def abort(self) -> None:
        """End at once."""
        ...


class CarefulDecoder(FrameDecoder):
    """A decoder that takes memory for at most bytes_max of payload, whatever the channel would allow."""

    def __init__(self, bytes_max: int | None = STRANGER_BYTES_MAX) -> None:
        super().__init__(self.little)
        self.bytes_max = bytes_max

    def little(self, length: int) -> bytearray:
        """Asked before a payload's memory is taken."""
        if self.bytes_max is not None and length > self.bytes_max:
            raise refuse("zg/transport/too-early", "length", length, f"at most {self.bytes_max} from a stranger")
        return bytearray(length)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen or whom to call. `tcp`: host and port; `unix`: path in host; `memory`: name in host."""

    scheme: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.scheme != "tcp":
            return f"{self.scheme}:{self.host}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`tcp:host:port`, `tcp:[::1]:port`, `unix:path`, `memory:name`; else `zg/transport/bad-address`."""
    scheme, _, rest = text.partition(":")
    if scheme in ("unix", "memory") and rest and "\x00" not in rest:
        return Address(scheme=scheme, host=rest)
    host, _, port = rest.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if scheme == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 1 << 16:
        return Address(scheme=scheme, host=host, port=int(port))
    raise LocalProtocolError(
        "zg/transport/bad-address", f"got {text[:80]!r}, wanted tcp:host:port, unix:path or memory:name", "address"
    )


def is_loopback(host: str) -> bool:
    """True for a numeric address of this host alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_tls_off_loopback(host: str, tls: bool, field: str) -> None:
    """Refuse a numeric address that other hosts can reach when nothing encrypts (`zg/transport/needs-tls`)."""
    if not tls and not is_loopback(host):
        raise LocalProtocolError(
            "zg/transport/needs-tls", f"{host} can be reached by other hosts, and no certificate is configured", field
        )
