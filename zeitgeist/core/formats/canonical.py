"""Canonical bytes of a record: MessagePack, sorted keys, shortest forms, no floats; and its SHA-256 digest.

Law: a decoder refuses bytes that do not re-encode to themselves, and fields that the record does not have
(DESIGN §3; clause A9). Digests of descriptors are SHA-256 over these bytes, so they are equal in every process.
"""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.core.ids import Digest
from zeitgeist.core.limits import CONTROL_BYTES_MAX

__all__ = ["Record", "decode", "digest", "encode", "encode_all"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of every record that is digested or sent: frozen, unknown fields refused. A record holds values and other
    records, never what leads back to it, so the collector of cycles need not look at it.

    A subclass writes `class X(Record, kw_only=True)`: msgspec does not inherit kw_only.
    """


R = TypeVar("R", bound=Record)

ENCODER = msgspec.msgpack.Encoder(order="sorted")
ENCODED = ENCODER.encode
READ = msgspec.msgpack.decode
"""Bound once: every frame and every step comes by here."""


def encode(record: Record) -> bytes:
    """The canonical bytes of record. What MessagePack cannot say (an integer past 64 bits) is the caller's fault."""
    try:
        return ENCODED(record)
    except (OverflowError, UnicodeEncodeError) as error:
        raise LocalProtocolError("zg/wire/bad-record", str(error), type(record).__name__) from error


def encode_all(records: Iterable[Record]) -> list[bytes]:
    """`encode` of each: many of a kind one after another cost half of as many by themselves."""
    try:
        return list(map(ENCODED, records))
    except (OverflowError, UnicodeEncodeError) as error:
        raise LocalProtocolError("zg/wire/bad-record", str(error), "records") from error


def decode(data: bytes | memoryview, kind: type[R], bytes_max: int = CONTROL_BYTES_MAX) -> R:
    """Read canonical bytes as kind; refuse what is longer than bytes_max, is not such a record, or does not re-encode
    to itself (`zg/wire/record-too-large`, `bad-record`, `not-canonical`). No other exception leaves here.

    Depth is bounded by the record's own type, since unknown fields are refused before their value is read. msgspec
    reports text that is not UTF-8 by Python's own error.
    """
    if len(data) > bytes_max:
        raise RemoteProtocolError(
            "zg/wire/record-too-large", f"got {len(data)} bytes, wanted at most {bytes_max}", kind.__name__
        )
    try:
        record = READ(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise RemoteProtocolError("zg/wire/bad-record", f"{kind.__name__}: {error}", kind.__name__) from error
    if ENCODED(record) != (data if type(data) is bytes else bytes(data)):
        raise RemoteProtocolError(
            "zg/wire/not-canonical", f"{kind.__name__} does not re-encode to its bytes", kind.__name__
        )
    return record


def digest(record: Record) -> Digest:
    """`sha256:` of the canonical bytes, prefixed by the record's type name so that two kinds never share a digest."""
    body = type(record).__name__.encode() + b"\x00" + encode(record)
    return Digest("sha256:" + hashlib.sha256(body).hexdigest())
