"""Pairs of links of every kind, and one who writes down what he hears."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.wire.frame import Channel, Frame, frame_header
from zeitgeist.host.dialer import Dialer
from zeitgeist.host.keyring import load_keyring
from zeitgeist.host.keys import make_authority, make_certificate
from zeitgeist.transports.base import Link
from zeitgeist.transports.memory import MemoryHub
from zeitgeist.transports.tls import TlsFiles

KINDS = ("memory", "unix", "tcp", "tls")
WAIT_S = 20.0


class Ear:
    """Hears one link; `until` waits for what is to come."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: list[Frame] = []
        self.errors: list[ZeitgeistError] = []
        self.reason: str | None = None
        self.changed = asyncio.Event()
        link.start(self)

    def frame(self, link: Link, frame: Frame, fd: int | None) -> None:
        self.frames.append(frame)
        self.changed.set()

    def refused(self, link: Link, error: ZeitgeistError) -> None:
        self.errors.append(error)
        self.changed.set()

    def down(self, link: Link, reason: str) -> None:
        assert self.reason is None, "an end is told once"
        self.reason = reason
        self.changed.set()

    async def until_frames(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.frames) < count:
                await self.wait()

    async def until_refused(self) -> ZeitgeistError:
        async with asyncio.timeout(WAIT_S):
            while not self.errors:
                await self.wait()
        return self.errors[0]

    async def until_down(self) -> str:
        async with asyncio.timeout(WAIT_S):
            while self.reason is None:
                await self.wait()
        return self.reason

    async def wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()


def tls_files(folder: Path) -> TlsFiles:
    """A CA and a certificate for loopback."""
    make_authority(folder / "ca", "test")
    make_certificate(folder / "node", "node", ["localhost", "127.0.0.1"], folder / "ca")
    files = load_keyring(folder / "node").tls
    assert files is not None
    return files


@contextlib.asynccontextmanager
async def pair(kind: str, folder: Path, certificate: str = "") -> AsyncIterator[tuple[Link, Link]]:
    """(dialler's link, acceptor's link) over a real listener of that kind."""
    dialer = Dialer(tls_files(folder) if kind == "tls" else None, MemoryHub())
    address = {"memory": "memory:m", "unix": f"unix:{folder}/s", "tcp": "tcp:127.0.0.1:0", "tls": "tcp:127.0.0.1:0"}
    accepted: asyncio.Queue[Link] = asyncio.Queue()
    listening = await dialer.listen(address[kind], accepted.put_nowait)
    ours = await dialer.dial(listening.address, certificate)
    async with asyncio.timeout(WAIT_S):
        theirs = await accepted.get()
    try:
        yield ours, theirs
    finally:
        ours.abort()
        theirs.abort()
        await listening.close()
        await asyncio.sleep(0)


def put(link: Link, sequence: int, payload: bytes | memoryview, channel: Channel = Channel.CONTROL) -> None:
    """One frame, its payload as a part of its own."""
    frame = Frame(channel=channel, kind=7, stream=1, sequence=sequence, payload=payload)
    link.send([frame_header(frame), payload])
