"""A capture of TLS 1.3 connections, opened with the keys of their sessions, as a capture in the clear (RFC 8446).

Law: nothing is guessed. A record that the keys do not open is an error that names it; a connection whose keys are not
in the file is left out, and counted. Three cipher suites, key updates; no resumption, no retry of a hello.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from zeitgeist.capture.dissect import segments_of
from zeitgeist.capture.streams import Direction
from zeitgeist.capture.write import Sent, write_capture

__all__ = ["Opened", "open_capture", "read_keys"]

HANDSHAKE, DATA = 22, 23
CLIENT_HELLO, SERVER_HELLO, FINISHED, KEY_UPDATE = 1, 2, 20, 24
SUITES = {
    0x1301: (AESGCM, SHA256, 16),
    0x1302: (AESGCM, SHA384, 32),
    0x1303: (ChaCha20Poly1305, SHA256, 32),
}
Keys = Mapping[bytes, Mapping[str, bytes]]


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """connections: opened; closed: those whose keys are not there; data: bytes in the clear."""

    connections: int
    closed: int
    data: int


def read_keys(path: Path) -> Keys:
    """A file in the format of SSLKEYLOGFILE: label, the client's random, secret."""
    found: dict[bytes, dict[str, bytes]] = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and not line.startswith("#"):
            found.setdefault(bytes.fromhex(words[1]), {})[words[0]] = bytes.fromhex(words[2])
    return found


class Secret:
    """One direction's key of one epoch."""

    def __init__(self, suite: int, secret: bytes) -> None:
        aead, self.hash, key_bytes = SUITES[suite]
        self.suite, self.secret, self.number = suite, secret, 0
        self.aead = aead(self.expand("key", key_bytes))
        self.iv = int.from_bytes(self.expand("iv", 12), "big")

    def expand(self, label: str, length: int) -> bytes:
        """HKDF-Expand-Label of RFC 8446 §7.1, with an empty context."""
        name = b"tls13 " + label.encode()
        info = struct.pack(">HB", length, len(name)) + name + b"\0"
        return HKDFExpand(self.hash(), length, info).derive(self.secret)

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        """(true type, plain bytes) of the next record."""
        nonce = (self.iv ^ self.number).to_bytes(12, "big")
        self.number += 1
        inner = self.aead.decrypt(nonce, body, header).rstrip(b"\0")
        return inner[-1], inner[:-1]

    def next(self) -> "Secret":
        """After a key update (§7.2)."""
        return Secret(self.suite, self.expand("traffic upd", self.hash.digest_size))


class Connection:
    """What both directions must know: the client's random, the cipher suite."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.secrets: Mapping[str, bytes] = {}
        self.suite = 0


class Half:
    """One direction: stream bytes in, plain bytes out."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.side = ""
        self.buffer = bytearray()
        self.messages = bytearray()
        self.secret: Secret | None = None
        self.hidden = False

    def take(self, data: bytes) -> Iterator[bytes]:
        """Application bytes of the records that data completes."""
        self.buffer += data
        while len(self.buffer) >= 5 and len(self.buffer) >= 5 + (size := int.from_bytes(self.buffer[3:5], "big")):
            header, body = bytes(self.buffer[:5]), bytes(self.buffer[5 : 5 + size])
            del self.buffer[: 5 + size]
            if header[0] == HANDSHAKE and not self.secret:
                self.hello(body)
            elif header[0] == DATA and not self.hidden:
                yield from self.opened(header, body)

    def hello(self, body: bytes) -> None:
        """The only words in the clear."""
        random, connection = body[6:38], self.connection
        if body[0] == CLIENT_HELLO:
            self.side, connection.secrets = "CLIENT", connection.keys.get(random, {})
        elif body[0] == SERVER_HELLO:
            self.side = "SERVER"
            start = 39 + body[38]
            connection.suite = int.from_bytes(body[start : start + 2], "big")

    def opened(self, header: bytes, body: bytes) -> Iterator[bytes]:
        """One record."""
        self.secret = self.secret or self.epoch("HANDSHAKE_TRAFFIC_SECRET")
        if self.secret is None:
            self.hidden = True
            return
        try:
            kind, plain = self.secret.open(header, body)
        except InvalidTag:
            number = self.secret.number - 1
            raise ValueError(f"record {number} of the {self.side.lower()} does not open with the keys") from None
        if kind == DATA:
            yield plain
        elif kind == HANDSHAKE:
            self.heard(plain)

    def epoch(self, label: str) -> Secret | None:
        """The key that the file has for this side."""
        connection = self.connection
        secret = connection.secrets.get(f"{self.side}_{label}")
        return Secret(connection.suite, secret) if secret and connection.suite in SUITES else None

    def heard(self, plain: bytes) -> None:
        """Encrypted handshake messages: those after which another key is used."""
        self.messages += plain
        while len(self.messages) >= 4:
            size = 4 + int.from_bytes(self.messages[1:4], "big")
            if len(self.messages) < size:
                return
            kind = self.messages[0]
            del self.messages[:size]
            if kind == FINISHED:
                self.secret = self.epoch("TRAFFIC_SECRET_0")
                self.hidden = self.secret is None
            elif kind == KEY_UPDATE and self.secret:
                self.secret = self.secret.next()


def open_capture(source: Path, keys: Path, target: Path) -> Opened:
    """Write target: the same connections with what was said in them. ValueError when a key is wrong."""
    found = read_keys(keys)
    connections: dict[frozenset[str], Connection] = {}
    halves: dict[tuple[str, str], tuple[Direction, Half]] = {}
    clear: list[Sent] = []
    for segment in segments_of(source):
        connection = connections.setdefault(frozenset(segment.ends), Connection(found))
        stream, half = halves.setdefault(segment.ends, (Direction(), Half(connection)))
        for piece in stream.take(segment):
            if piece.lost:
                raise ValueError(f"{piece.lost} bytes of {segment.ends} are not in the capture")
            data = b"".join(half.take(piece.data))
            if data:
                clear.append(Sent(time=piece.time, ends=(place(segment.ends[0]), place(segment.ends[1])), data=data))
    write_capture(target, clear)
    opened = sum(1 for connection in connections.values() if connection.secrets)
    return Opened(connections=opened, closed=len(connections) - opened, data=total(clear))


def total(sent: Iterable[Sent]) -> int:
    return sum(len(one.data) for one in sent)


def place(text: str) -> tuple[str, int]:
    """`127.0.0.1:7420` in two."""
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)
