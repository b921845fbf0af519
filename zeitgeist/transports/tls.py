"""TLS 1.3 over a stream socket, and the facts of it that authentication binds (H1, DESIGN §3).

Law: both ends name the server's certificate as they saw it, since Python's ssl has no exporter to bind a transcript to.
A server is believed because its certificate has the pinned fingerprint, or because the cluster's CA signed it for the
host that was called; with neither there is no connection. Encryption of one link never takes more than `SLICE_BYTES`
of one turn of the loop.
"""

import asyncio
import hashlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from zeitgeist.core.descriptors.link import LinkFacts, TlsFacts
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.transports.base import STRANGER_BYTES_MAX, Bytes, CarefulDecoder, Hearer

__all__ = [
    "HANDSHAKE_S",
    "SLICE_BYTES",
    "TlsFiles",
    "TlsLink",
    "client_context",
    "fingerprint",
    "own_fingerprint",
    "secured",
    "server_context",
]

HANDSHAKE_S = 10.0
"""As long as the core waits for the whole negotiation (`Times.handshake_ns`); a silent caller costs one socket."""
SHUTDOWN_S = 2.0
SLICE_BYTES = 256 << 10
"""256 KiB: under 1 ms of AES on a slow core, so that control is not behind a tensor that is being encrypted."""
ALPN = ["zeitgeist/1"]


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of this node. certificate, key: its own, for both directions; authority: of the cluster's CA, None
    when there is none and every server is pinned."""

    certificate: Path
    key: Path
    authority: Path | None = None


def fingerprint(der: bytes | None) -> str:
    """`sha256:` of a certificate's DER form; "" for none."""
    return "sha256:" + hashlib.sha256(der).hexdigest() if der else ""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What a listener uses. A caller's certificate is asked for; one that the CA did not sign ends the handshake."""
    context = context_of(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_OPTIONAL if files.authority else ssl.CERT_NONE
    return context


def client_context(files: TlsFiles | None, pinned: bool) -> ssl.SSLContext:
    """What a dialler uses. A pinned certificate needs no host name in it; without a pin the CA decides, and without
    both `zg/transport/no-trust` says so."""
    if not pinned and (files is None or files.authority is None):
        raise LocalProtocolError(
            "zg/transport/no-trust",
            "got neither a certificate's fingerprint nor a cluster CA to judge by",
            "certificate",
        )
    context = context_of(ssl.PROTOCOL_TLS_CLIENT, files)
    context.check_hostname = not pinned
    context.verify_mode = ssl.CERT_REQUIRED if files and files.authority else ssl.CERT_NONE
    return context


def context_of(protocol: int, files: TlsFiles | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(ALPN)
    context.num_tickets = 0 if protocol == ssl.PROTOCOL_TLS_SERVER else context.num_tickets
    if files is None:
        return context
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.authority:
            context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        raise LocalProtocolError("zg/transport/bad-certificate", str(error), str(files.certificate)) from error
    return context


class TlsLink(asyncio.BufferedProtocol):
    """One connection. asyncio decrypts straight into the decoder's memory."""

    def __init__(self, facts: LinkFacts, own_certificate: str, pin: str = "") -> None:
        self.known = facts
        self.own_certificate = own_certificate
        self.pin = pin
        self.decoder = CarefulDecoder(STRANGER_BYTES_MAX)
        self.queue: deque[memoryview] = deque()
        self.waits = 0
        self.hearer: Hearer | None = None
        self.transport: asyncio.Transport | None = None
        self.paused = self.pumping = self.closing = self.gone = False
        self.dead_reason = ""
        self.loop = asyncio.get_running_loop()

    @property
    def facts(self) -> LinkFacts:
        """What is known of this connection."""
        return self.known

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over. A server without the pinned certificate gets no byte of ours."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()
        transport.set_write_buffer_limits(high=SLICE_BYTES)
        secure: ssl.SSLObject = transport.get_extra_info("ssl_object")
        shown = fingerprint(secure.getpeercert(True))
        server = self.own_certificate if self.known.inbound else shown
        tls = TlsFacts(
            version=secure.version() or "",
            server_certificate=server,
            peer_certificate=shown,
            peer_subject=common_name(secure),
        )
        self.known = msgspec.structs.replace(self.known, tls=tls)

    def require_pin(self) -> None:
        """Refuse another certificate than the pinned one (`zg/transport/certificate`)."""
        shown = self.known.tls.server_certificate if self.known.tls else ""
        if self.pin and shown != self.pin:
            self.abort()
            raise RemoteProtocolError("zg/transport/certificate", f"got {shown}, wanted {self.pin}", "certificate")

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next decrypted bytes go."""
        return memoryview(bytearray(1 << 16)) if self.closing or self.decoder.refusal else self.decoder.target()

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        if self.closing or self.decoder.refusal or self.hearer is None:
            return
        try:
            if frame := self.decoder.advance(nbytes):
                self.hearer.frame(self, frame, None)
        except ZeitgeistError as error:
            self.hearer.refused(self, error)

    def eof_received(self) -> bool:
        """The other side ended; inside a frame that is a truncation."""
        try:
            if not self.closing:
                self.decoder.end()
        except ZeitgeistError as error:
            self.dead_reason = str(error)
        return False

    def pause_writing(self) -> None:
        """asyncio has enough."""
        self.paused = True

    def resume_writing(self) -> None:
        """asyncio takes more."""
        self.paused = False
        self.pump_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.gone = True
        self.queue.clear()
        reason = self.dead_reason or (
            str(exc) if exc else "closed here" if self.closing else "closed by the other side"
        )
        if self.hearer:
            self.hearer.down(self, reason)

    # ---- the driver's side

    def start(self, hearer: Hearer) -> None:
        """Begin to read."""
        self.hearer = hearer
        if self.gone:
            self.loop.call_soon(hearer.down, self, self.dead_reason or "closed by the other side")
        elif self.transport:
            self.transport.resume_reading()

    def trust(self) -> None:
        """Take payloads as large as their channel allows."""
        self.decoder.bytes_max = None

    def waiting(self) -> int:
        """Bytes not yet taken by the kernel."""
        return self.waits + (self.transport.get_write_buffer_size() if self.transport and not self.gone else 0)

    def send(self, parts: Sequence[Bytes], fd: int | None = None) -> None:
        """Queue one frame. Small frames are encrypted at once, in one record with their header."""
        assert fd is None, "no descriptor travels over TLS"
        if self.closing or self.gone or self.transport is None:
            return
        views = [memoryview(part).cast("B") for part in parts]
        total = sum(view.nbytes for view in views)
        if not self.queue and not self.paused and total <= SLICE_BYTES:
            self.transport.write(b"".join(views))
            return
        self.waits += total
        self.queue.extend(views)
        self.pump_later()

    def pump_later(self) -> None:
        if self.queue and not self.pumping:
            self.pumping = True
            self.loop.call_soon(self.pump)

    def pump(self) -> None:
        """Encrypt one slice, then let the loop do something else."""
        self.pumping = False
        if self.gone or self.transport is None:
            return
        budget = SLICE_BYTES
        while self.queue and not self.paused and budget > 0:
            view = self.queue.popleft()
            if view.nbytes > budget:
                self.queue.appendleft(view[budget:])
                view = view[:budget]
            budget -= view.nbytes
            self.waits -= view.nbytes
            self.transport.write(view)
        if self.queue and not self.paused:
            self.pump_later()
        elif self.closing and not self.queue:
            self.transport.close()

    def close(self) -> None:
        """Send what waits, then end."""
        if not self.closing and not self.gone and self.transport:
            self.closing = True
            if not self.queue:
                self.transport.close()

    def abort(self) -> None:
        """End at once."""
        if self.transport and not self.gone:
            self.closing = True
            self.transport.abort()


def common_name(secure: ssl.SSLObject) -> str:
    """Of a peer that the CA verified; "" for any other: getpeercert() gives an empty dictionary for those."""
    subject = (secure.getpeercert() or {}).get("subject", ())
    return next((str(value) for part in subject for key, value in part if key == "commonName"), "")


async def secured(sock: socket.socket, link: TlsLink, context: ssl.SSLContext, server_name: str = "") -> TlsLink:
    """The handshake on a connected socket, either side. `zg/transport/tls` when it fails; the socket is then closed."""
    loop = asyncio.get_running_loop()
    try:
        if link.facts.inbound:
            await loop.connect_accepted_socket(
                lambda: link, sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S
            )
        else:
            await loop.create_connection(
                lambda: link,
                sock=sock,
                ssl=context,
                server_hostname=server_name if context.check_hostname else "",
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
    except (OSError, TimeoutError, ssl.SSLError) as error:
        sock.close()
        raise RemoteProtocolError("zg/transport/tls", f"{type(error).__name__}: {error}", link.facts.address) from error
    link.require_pin()
    return link


def own_fingerprint(files: TlsFiles) -> str:
    """Of the certificate in a PEM file."""
    try:
        return fingerprint(ssl.PEM_cert_to_DER_cert(first_certificate(files.certificate)))
    except (OSError, ValueError) as error:
        raise LocalProtocolError("zg/transport/bad-certificate", str(error), str(files.certificate)) from error


def first_certificate(path: Path) -> str:
    """The first block of a PEM file, which is the leaf."""
    text = path.read_text(encoding="ascii")
    end = "-----END CERTIFICATE-----"
    return text[: text.index(end) + len(end)] + os.linesep
