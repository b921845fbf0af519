"""TLS 1.3 over a stream socket, and the facts of it that authentication binds (H1, DESIGN §3).

Law: both ends name the server's certificate as they saw it, since Python's ssl has no exporter to bind a transcript to.
A server is believed because its certificate has the pinned fingerprint, or because the cluster's CA signed it for the
host that was called; with neither there is no connection. Encryption of one link never takes more than `SLICE_BYTES`
of one turn of the loop.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from zeitgeist.core.descriptors.link import LinkFacts, TlsFacts
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.transports.base import Bytes, Hearer
from zeitgeist.transports.stream import PARTS_WAITING_MAX, TURN_BYTES, UNREAD, StreamLink

__all__ = [
    "HANDSHAKE_S",
    "SLICE_BYTES",
    "TlsFiles",
    "TlsLink",
    "client_context",
    "fingerprint",
    "own_fingerprint",
    "server_context",
]

HANDSHAKE_S = 10.0
"""As long as the core waits for the whole negotiation (`Times.handshake_ns`); a silent caller costs one socket."""
HANDSHAKE_BYTES = 16 << 10
RECORD_BYTES = 16 << 10
"""Of TLS: more than this makes two records anyway, so joining saves nothing."""
CIPHER_BYTES = 64 << 10
SLICE_BYTES = 128 << 10
"""128 KiB: under 0.5 ms of AES on a slow core, so that control is not behind a tensor that is being encrypted."""
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
    context.num_tickets = 0  # no resumption: each link proves anew
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
    if files is None:
        return context
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.authority:
            context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        raise LocalProtocolError("zg/transport/bad-certificate", str(error), str(files.certificate)) from error
    return context


class TlsLink(StreamLink):
    """One connection. Made on a connected socket; `handshake` comes before `start`.

    The TLS machine is `ssl` over memory. asyncio's own transport around it is not used: it loses what was written
    before a close when the other side still sends.
    """

    def __init__(
        self,
        sock: socket.socket,
        facts: LinkFacts,
        context: ssl.SSLContext,
        own_certificate: str,
        server_name: str = "",
    ) -> None:
        super().__init__(sock, facts)
        self.own_certificate = own_certificate
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secure = context.wrap_bio(
            self.incoming, self.outgoing, server_side=facts.inbound, server_hostname=server_name or None
        )
        self.plain: deque[memoryview] = deque()
        self.plain_bytes = 0
        self.cipher = memoryview(bytearray(CIPHER_BYTES))
        self.pumping = self.resuming = False

    async def handshake(self, pin: str = "") -> None:
        """Both sides' first words. `zg/transport/tls`, `zg/transport/certificate`; the socket is then closed."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                while not await self.advanced():
                    pass
            self.known = msgspec.structs.replace(self.known, tls=self.tls_facts())
            self.require_pin(pin)
        except (OSError, TimeoutError) as error:
            self.abort()
            text = f"{type(error).__name__}: {error}"
            raise RemoteProtocolError("zg/transport/tls", text, self.known.address) from error
        except BaseException:
            self.abort()
            raise

    async def advanced(self) -> bool:
        """One exchange; True when the handshake is over. Our alert about a refusal still goes out."""
        done = False
        try:
            self.secure.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        finally:
            if self.outgoing.pending:
                await self.loop.sock_sendall(self.sock, self.outgoing.read())
        if not done:
            data = await self.loop.sock_recv(self.sock, HANDSHAKE_BYTES)
            if not data:
                raise ConnectionResetError("the other side ended the handshake")
            self.incoming.write(data)
        return done

    def tls_facts(self) -> TlsFacts:
        """What both sides saw."""
        shown = fingerprint(self.secure.getpeercert(True))
        return TlsFacts(
            version=self.secure.version() or "",
            server_certificate=self.own_certificate if self.known.inbound else shown,
            peer_certificate=shown,
            peer_subject=common_name(self.secure),
        )

    def require_pin(self, pin: str) -> None:
        """Refuse another certificate than the pinned one, before a byte of ours is sent."""
        shown = self.known.tls.server_certificate if self.known.tls else ""
        if pin and shown != pin:
            raise RemoteProtocolError("zg/transport/certificate", f"got {shown}, wanted {pin}", "certificate")

    def start(self, hearer: Hearer) -> None:
        """Begin to read; the handshake's last packet may have brought more than the handshake."""
        super().start(hearer)
        self.loop.call_soon(self.readable)

    def waiting(self) -> int:
        """Bytes not yet taken by the kernel."""
        return self.plain_bytes + self.waits

    # ---- out

    def send(self, parts: Sequence[Bytes], fd: int | None = None) -> None:
        """Queue one frame. A small one is encrypted at once, header and payload in one record."""
        assert fd is None, "no descriptor travels over TLS"
        if self.closing or self.gone:
            return
        views = [memoryview(part).cast("B") for part in parts]
        total = sum(view.nbytes for view in views)
        if not self.plain and not self.queue and total <= RECORD_BYTES:
            self.encrypt(memoryview(b"".join(views)))
            return
        self.plain.extend(view for view in views if view.nbytes)
        self.plain_bytes += total
        if len(self.plain) > PARTS_WAITING_MAX:
            self.lost(UNREAD)
            return
        self.pump_later()

    def encrypt(self, view: memoryview) -> None:
        """Plain bytes to the kernel, or behind what waits for it."""
        while view.nbytes:
            view = view[self.secure.write(view) :]
        super().send([self.outgoing.read()])

    def pump_later(self) -> None:
        if self.plain and not self.pumping and not self.queue:
            self.pumping = True
            self.loop.call_soon(self.pump)

    def pump(self) -> None:
        """Encrypt one slice, then let the loop do something else."""
        self.pumping = False
        if self.gone or not self.plain:
            return
        view = self.plain.popleft()
        if view.nbytes > SLICE_BYTES:
            self.plain.appendleft(view[SLICE_BYTES:])
            view = view[:SLICE_BYTES]
        self.plain_bytes -= view.nbytes
        closing, self.closing = self.closing, False  # what was taken before the close is still sent
        self.encrypt(view)
        self.closing = closing
        if not self.queue:
            self.drained()

    def drained(self) -> None:
        """The kernel took all that is encrypted."""
        if self.plain:
            self.pump_later()
        else:
            super().drained()

    def finish(self) -> None:
        """Say in TLS, too, that this was all; what the other side still sends is thrown away unread."""
        if self.plain:
            self.pump_later()
            return
        with contextlib.suppress(OSError):
            self.secure.unwrap()
        with contextlib.suppress(OSError):
            self.sock.send(self.outgoing.read())
        super().finish()

    # ---- in

    def readable(self) -> None:
        """Decrypt what there is, until the socket is empty or the turn is over."""
        if self.closing:
            super().readable()
            return
        if self.resuming:
            return  # the turn that we asked for comes anyway; a second one in each would soon be ten
        budget = TURN_BYTES
        try:
            while budget > 0 and not self.gone and not self.closing and self.decoder.refusal is None:
                budget -= self.take()
        except (BlockingIOError, InterruptedError):
            return
        except ZeitgeistError as error:
            self.refuse(error)
            return
        except EOFError:
            self.ended()
            return
        except OSError as error:
            self.lost(str(error))
            return
        if budget <= 0:
            self.resuming = True
            self.loop.call_soon(self.resume)

    def resume(self) -> None:
        """The next turn of a reading that was cut: what is decrypted already makes no socket readable."""
        self.resuming = False
        if not self.gone:
            self.readable()

    def decrypt(self, target: memoryview) -> int:
        return cast(int, self.secure.read(len(target), target))  # into target, so it answers a count

    def take(self) -> int:
        """Decrypt into the decoder, else read more; bytes that were worked on."""
        try:
            count = self.decrypt(self.decoder.target())
        except ssl.SSLWantReadError:
            received = self.sock.recv_into(self.cipher)
            if not received:
                raise EOFError from None
            self.incoming.write(self.cipher[:received])
            return received
        except ssl.SSLZeroReturnError:
            raise EOFError from None
        if not count:
            raise EOFError
        if frame := self.decoder.advance(count):
            self.hear(frame)
        return count


def common_name(secure: ssl.SSLObject) -> str:
    """Of a peer that the CA verified; "" for any other: getpeercert() gives an empty dictionary for those."""
    subject = (secure.getpeercert() or {}).get("subject", ())
    return next((str(value) for part in subject for key, value in part if key == "commonName"), "")


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
