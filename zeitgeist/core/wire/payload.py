"""The payload of a frame: its record, and on job, tensor and cache channels the content after it (DESIGN §2, §3).

Control, capability, metrics and debug: the record alone. Job, tensor, cache: the record's length u16 little-endian, the
record, then content, raw. The channel decides, so that a reader needs no table to find where the content starts.
"""

import struct

from zeitgeist.core.errors import LocalProtocolError, refuse
from zeitgeist.core.limits import CHUNK_RECORD_BYTES_MAX
from zeitgeist.core.wire.frame import BULK, Channel

__all__ = ["CONTENT_CHANNELS", "join_payload", "split_payload"]

CONTENT_CHANNELS = (Channel.TENSOR, Channel.CACHE, Channel.JOB)
PREFIX = struct.Struct("<H")
PREFIX_BYTES = PREFIX.size
UNPACK = PREFIX.unpack_from


def split_payload(channel: Channel, payload: bytes | memoryview) -> tuple[memoryview, memoryview]:
    """(record, content) as views. A length that does not fit is refused (`zg/wire/bad-payload`)."""
    view = memoryview(payload)
    if channel not in CONTENT_CHANNELS:
        return view, view[view.nbytes :]
    if view.nbytes < PREFIX_BYTES:
        raise refuse("zg/wire/bad-payload", "payload", f"{view.nbytes} bytes", "a record's length first")
    (size,) = UNPACK(view)
    end = PREFIX_BYTES + size
    if end > view.nbytes or (end > CHUNK_RECORD_BYTES_MAX and channel in BULK):
        raise refuse("zg/wire/bad-payload", "record", f"{size} bytes", "no more than the payload and its channel hold")
    return view[PREFIX_BYTES:end], view[end:]


def join_payload(channel: Channel, record: bytes) -> bytes:
    """What stands before the content: the record, with its length where content may follow."""
    if channel not in CONTENT_CHANNELS:
        return record
    if len(record) > 0xFFFF:
        raise LocalProtocolError("zg/wire/bad-payload", f"got {len(record)} bytes, wanted at most 65535", "record")
    return PREFIX.pack(len(record)) + record
