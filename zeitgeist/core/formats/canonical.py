"""Canonical bytes of a record: MessagePack, sorted keys, shortest forms, no floats; and its SHA-256 digest.

Law: a decoder refuses bytes that do not re-encode to themselves, and fields that the record does not have
(DESIGN §3; clause A9). Digests of descriptors are SHA-256 over these bytes, so they are equal in every process.
"""

import hashlib
from typing import TypeVar

import msgspec

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.ids import Digest

__all__ = ["Record", "decode", "digest", "encode"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record that is digested or sent: frozen, unknown fields refused.

    A subclass writes `class X(Record, kw_only=True)`: msgspec does not inherit kw_only.
    """


R = TypeVar("R", bound=Record)

ENCODER = msgspec.msgpack.Encoder(order="sorted")


def encode(record: Record) -> bytes:
    """The canonical bytes of record."""
    return ENCODER.encode(record)


def decode(data: bytes | memoryview, kind: type[R]) -> R:
    """Read canonical bytes as kind; refuse what does not re-encode to itself (`zg/wire/not-canonical`)."""
    try:
        record = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError("zg/wire/bad-record", f"{kind.__name__}: {error}", kind.__name__) from error
    if encode(record) != bytes(data):
        raise RemoteProtocolError("zg/wire/not-canonical", f"{kind.__name__} does not re-encode to its bytes",
                                  kind.__name__)
    return record


def digest(record: Record) -> Digest:
    """`sha256:` of the canonical bytes, prefixed by the record's type name so that two kinds never share a digest."""
    body = type(record).__name__.encode() + b"\x00" + encode(record)
    return Digest("sha256:" + hashlib.sha256(body).hexdigest())
