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

from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire.frame import Channel as WireChannel
from zeitgeist.core.wire.frame import Flag, Frame, encode_frame
from zeitgeist.host import messages as m
from zeitgeist.host.channel import Channel
from zeitgeist.host.memory import pack_array
from zeitgeist.host.service import Answer, Service

__all__ = ["Echo", "Liar", "Mutant", "create", "engine_missing"]


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


def reply(fds: tuple[int, ...] = (), **fields: Any) -> None:
    """A well-formed frame that holds a reply with these fields."""
    channel = Channel(raw_socket())
    channel.sent = 1
    record = m.Reply(**{"number": 1, "value": m.write_value({"x": 1}), **fields})
    channel.send(record, fds[0] if fds else None)


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
    "error-id": lambda: reply(refusal=m.Refusal(id="zg/made/up", detail="", field="")),
    "length": lambda: shared(lambda r: msgspec.structs.replace(r, length=1 << 40, shape=(1 << 40,))),
    "short": lambda: shared(lambda r: msgspec.structs.replace(r, length=2 << 20, shape=(2 << 20,))),
    "shape": lambda: shared(lambda r: msgspec.structs.replace(r, shape=(3,))),
    "negative": lambda: shared(lambda r: msgspec.structs.replace(r, shape=(-1, -(1 << 20)))),
    "digest": lambda: shared(lambda r: msgspec.structs.replace(r, xxh3=1)),
    "unsealed": lambda: shared(lambda r: r, unsealed()),
    "pipe": lambda: shared(lambda r: r, os.pipe()[0]),
    "no-array": lambda: reply(array=m.Array(dtype="f32", shape=(1,), length=4, xxh3=0)),
    "kind": lambda: raw_socket().send(whole_frame(kind=m.KINDS[m.Call])),
    "sequence": lambda: raw_socket().send(whole_frame(sequence=7)),
    "replayed": lambda: raw_socket().send(whole_frame(sequence=0)),
    "no-descriptor": lambda: raw_socket().send(whole_frame(flags=Flag.ATTACHED)),
    "two-descriptors": lambda: socket.send_fds(raw_socket(), [whole_frame(flags=Flag.ATTACHED)], [0, 1]),
    "unannounced-descriptor": lambda: socket.send_fds(raw_socket(), [whole_frame()], [0]),
    "huge": lambda: raw_socket().send(huge()),
}


def whole_frame(kind: int = m.KINDS[m.Reply], sequence: int = 1, flags: int = 0) -> bytes:
    """A right frame as bytes: the second that this side sends, unless changed."""
    payload = encode(m.Reply(number=1, value=m.write_value({"x": 1})))
    return encode_frame(
        Frame(channel=WireChannel.CONTROL, kind=kind, stream=1, sequence=sequence, flags=Flag(flags), payload=payload)
    )


def flipped() -> bytes:
    data = bytearray(whole_frame())
    data[-1] ^= 1
    return bytes(data)


def huge() -> bytes:
    """A header that announces 4 GiB - 1, its own checksum right."""
    head = bytearray(whole_frame()[:40])
    head[12:16] = b"\xff\xff\xff\xff"
    return bytes(head) + xxhash.xxh3_64_intdigest(bytes(head)).to_bytes(8, "little")
