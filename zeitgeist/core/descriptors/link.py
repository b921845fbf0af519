"""What a driver knows of a connection when it comes up: the facts that authentication binds and negotiation prices."""

from typing import Literal

from zeitgeist.core.formats.canonical import Record

__all__ = ["Lane", "LinkFacts", "TlsFacts", "Transport"]

Transport = Literal["memory", "tcp", "unix", "process"]
Lane = Literal["control", "bulk", "local"]
"""control and bulk never share a connection (DESIGN §3); local is a worker's socket pair, which carries both."""


class TlsFacts(Record, frozen=True, kw_only=True):
    """version: `TLSv1.3`; server_certificate, peer_certificate: `sha256:` of the DER form, "" when none was shown;
    peer_subject: the common name that the TLS library verified against the cluster's CA, "" when none."""

    version: str
    server_certificate: str
    peer_certificate: str = ""
    peer_subject: str = ""


class LinkFacts(Record, frozen=True, kw_only=True):
    """transport; inbound: the other side dialled; loopback: both ends are this host; address: as dialled or accepted;
    peer_uid: the kernel's word about a Unix socket's other end, -1 when unknown."""

    transport: Transport
    inbound: bool
    loopback: bool
    address: str
    tls: TlsFacts | None = None
    peer_uid: int = -1
