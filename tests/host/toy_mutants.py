"""Planted defects of a worker: each does one bad thing when asked for metrics. `create` reads the option `defect`."""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import xxhash
from toy_backend import Toy

from zeitgeist.core.effects import Send
from zeitgeist.core.formats.canonical import Record, encode
from zeitgeist.core.ids import LinkId
from zeitgeist.core.wire import messages as wire
from zeitgeist.core.wire.frame import Channel as WireChannel
from zeitgeist.core.wire.frame import Flag, Frame, encode_frame
from zeitgeist.core.wire.payload import join_payload
from zeitgeist.core.wire.registry import KINDS
from zeitgeist.host import messages as m
from zeitgeist.host.channel import Channel
from zeitgeist.host.memory import pack_array
from zeitgeist.host.service import Answer, Service

__all__ = ["EARLY", "LIES", "Echo", "Liar", "Mutant", "create", "early", "engine_missing"]


class Mutant(Toy):
    """Does what its option says."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__({})
        self.defect = options["defect"]

    def metrics(self) -> Mapping[str, int]:
        match self.defect:
            case "abort":
                print("about to abort", flush=True)
                os.abort()
            case "exit":
                os._exit(7)
            case "hang":
                ctypes.PyDLL(None).pause()  # holds the interpreter lock: as an engine that hangs does
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise RuntimeError("the engine is unhappy")
            case "flood":
                for _ in range(4000):
                    print("x" * 1000)
            case "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
        return {"tokens_prefilled": 0}


def create(options: Mapping[str, str]) -> Mutant:
    """The factory that the worker names."""
    return Mutant(options)


def engine_missing(options: Mapping[str, str]) -> Mutant:
    """A factory whose engine is not installed."""
    import an_engine_that_nobody_has  # pyright: ignore[reportMissingImports]

    return an_engine_that_nobody_has.create(options)


def early(options: Mapping[str, str]) -> Mutant:
    """A worker that speaks before it is asked, while its engine is made."""
    raw_socket().send(EARLY[options["word"]]())
    return Mutant({"defect": ""})


class Echo(Service):
    """Gives back the array that it was given."""

    def forward_range(self, number: int, ids: Any, hidden: Any) -> Any:
        return hidden


class Liar(Service):
    """Sends something else than the answer of metrics."""

    def answer(self, request: m.Request, array: Any = None, cancelled: Callable[[], bool] = lambda: False) -> Answer:
        if isinstance(request, m.Metrics):
            LIES[self.backend.defect]()  # pyright: ignore[reportAttributeAccessIssue]
            signal.pause()
        return super().answer(request, array, cancelled)


def raw_socket() -> socket.socket:
    return socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index("--fd") + 1])))


SPOKEN = 6
"""Frames that a worker has sent when its session is ready: Challenge, Welcome, Capabilities, Models, Assessment,
PlanAgreed. The next has this number."""


def reply(fds: tuple[int, ...] = (), number: int = 1, refusal: wire.Reason | None = None, **fields: Any) -> None:
    """A well-formed frame that holds a reply, and as its content an answer with these fields."""
    record = wire.Reply(number=number, refusal=refusal)
    content = encode(m.Answered(**{"value": m.write_value({"x": 1}), **fields}))
    send = Send(
        link=LinkId(1),
        channel=WireChannel.JOB,
        kind=KINDS[wire.Reply].kind,
        stream=1,
        sequence=SPOKEN,
        record=encode(record),
    )
    Channel(raw_socket()).send(send, content, fds[0] if fds else None)


def shared(change: Callable[[m.Array], m.Array], fd: int | None = None) -> None:
    record, made = pack_array(np.zeros(1 << 20, np.uint8))
    reply((fd or made or 0,), array=change(record))


def unsealed() -> int:
    fd = os.memfd_create("unsealed")
    os.truncate(fd, 1 << 20)
    return fd


LIES: dict[str, Callable[[], object]] = {
    "garbage": lambda: raw_socket().send(b"HTTP/1.1 200 OK\r\n" * 20),
    "flipped": lambda: raw_socket().send(flipped()),
    "number": lambda: reply(number=99),
    "type": lambda: reply(value=m.write_value("three")),
    "value": lambda: reply(value=b"\xc1"),
    "error-id": lambda: reply(refusal=wire.Reason(id="zg/made/up", detail="")),
    "length": lambda: shared(lambda r: msgspec.structs.replace(r, length=1 << 40, shape=(1 << 40,))),
    "short": lambda: shared(lambda r: msgspec.structs.replace(r, length=2 << 20, shape=(2 << 20,))),
    "shape": lambda: shared(lambda r: msgspec.structs.replace(r, shape=(3,))),
    "negative": lambda: shared(lambda r: msgspec.structs.replace(r, shape=(-1, -(1 << 20)))),
    "digest": lambda: shared(lambda r: msgspec.structs.replace(r, xxh3=1)),
    "unsealed": lambda: shared(lambda r: r, unsealed()),
    "pipe": lambda: shared(lambda r: r, os.pipe()[0]),
    "no-array": lambda: reply(array=m.Array(dtype="f32", shape=(1,), length=4, xxh3=0)),
    "not-canonical": lambda: raw_socket().send(whole_frame(msgspec.msgpack.encode({"refusal": None, "number": 1}))),
    "unknown-field": lambda: raw_socket().send(
        whole_frame(msgspec.msgpack.encode({"more": 1, "number": 1, "refusal": None}, order="sorted"))
    ),
    "channel": lambda: raw_socket().send(whole_frame(channel=WireChannel.CONTROL)),
    "unknown-kind": lambda: raw_socket().send(whole_frame(kind=0x0999)),
    "token": lambda: raw_socket().send(whole_frame(wire.Token(job="a", attempt=1, index=0))),
    "handshake-again": lambda: raw_socket().send(whole_frame(wire.Welcome(proof=b"", session="0" * 32))),
    "unasked": lambda: reply(number=2),
    "kind": lambda: raw_socket().send(whole_frame(wire.Call(number=1))),
    "sequence": lambda: raw_socket().send(whole_frame(sequence=7)),
    "replayed": lambda: raw_socket().send(whole_frame(sequence=0)),
    "no-descriptor": lambda: raw_socket().send(whole_frame(flags=Flag.ATTACHED)),
    "two-descriptors": lambda: socket.send_fds(raw_socket(), [whole_frame(flags=Flag.ATTACHED)], [0, 1]),
    "unannounced-descriptor": lambda: socket.send_fds(raw_socket(), [whole_frame()], [0]),
    "huge": lambda: raw_socket().send(huge()),
}


def whole_frame(
    record: Record | bytes = wire.Reply(number=1),  # noqa: B008 - a constant
    sequence: int = SPOKEN,
    flags: int = 0,
    channel: WireChannel | None = None,
    kind: int = 0,
) -> bytes:
    """A right frame as bytes, the next that this side sends, unless changed."""
    row = KINDS[wire.Reply if isinstance(record, bytes) else type(record)]
    channel = row.channels[0] if channel is None else channel
    raw = record if isinstance(record, bytes) else encode(record)
    payload = join_payload(channel, raw) + encode(m.Answered(value=m.write_value({"x": 1}))) * row.content
    return encode_frame(
        Frame(channel=channel, kind=kind or row.kind, stream=1, sequence=sequence, flags=Flag(flags), payload=payload)
    )


EARLY: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: b"HTTP/1.1 200 OK\r\n" * 20,
    "reply": lambda: whole_frame(sequence=0),
    "welcome": lambda: whole_frame(wire.Welcome(proof=b"", session="0" * 32), sequence=0),
    "challenge-empty": lambda: whole_frame(
        b"\x80", sequence=0, channel=WireChannel.CONTROL, kind=KINDS[wire.Challenge].kind
    ),
    "skipped": lambda: whole_frame(wire.Pong(number=1), sequence=1),
    "no-reason": lambda: whole_frame(
        msgspec.msgpack.encode({"phase": "handshake", "reasons": []}),
        sequence=0,
        channel=WireChannel.CONTROL,
        kind=KINDS[wire.Refused].kind,
    ),
    "made-up": lambda: whole_frame(
        wire.Refused(phase="handshake", reasons=(wire.Reason(id="zg/made/up", detail=""),)), sequence=0
    ),
}


def flipped() -> bytes:
    data = bytearray(whole_frame())
    data[-1] ^= 1
    return bytes(data)


def huge() -> bytes:
    """A header that announces 4 GiB - 1, its own checksum right."""
    head = bytearray(whole_frame()[:40])
    head[12:16] = b"\xff\xff\xff\xff"
    return bytes(head) + xxhash.xxh3_64_intdigest(bytes(head)).to_bytes(8, "little")
