"""The client of a walk: a node of this process that asks for a completion and sends a tensor, as a program would.

Law: it uses what every application has (`zeitgeist.host.application`) and nothing else. Only for the captured session a
dialler stands in that writes down the session's keys, which no node does by itself.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from walk_site import OWNER, TINY, Site, WalkFailed

from zeitgeist.backends.reference import create
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.effects import DrainCommand
from zeitgeist.core.trace import PeerJoined
from zeitgeist.host import messages as m
from zeitgeist.host.application import ReceivedToken, completion, send_tensor
from zeitgeist.host.dialer import Dialer
from zeitgeist.host.generation import real
from zeitgeist.host.runtime import Runtime
from zeitgeist.host.service import Service
from zeitgeist.sampling import SamplingParams
from zeitgeist.transports.base import Link, parse_address
from zeitgeist.transports.tls import TlsFiles, TlsLink, client_context, own_fingerprint

__all__ = ["Streamed", "TensorSent", "client", "direct", "random_bytes", "streamed", "tensor_sent"]

JOIN_S = 30.0
STREAM_S = 120.0
TENSOR_S = 120.0
PARAMS = SamplingParams(seed=7, temperature=real(0.8), top_p=real(0.95))


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """A completion as it came: (id, bytes, ln probability) of each token; seconds to the first and to the last."""

    tokens: tuple[tuple[int, bytes, float], ...]
    outcome: str
    first_s: float
    total_s: float


class TensorSent(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer, timed from the command to the receiver's word that all of it is there and right."""

    seconds: float
    chunks: int
    resent: int


class KeyLoggingDialer(Dialer):
    """Calls by TLS only, and appends the keys of each session to a file (the format of SSLKEYLOGFILE)."""

    def __init__(self, tls: TlsFiles, keys: Path) -> None:
        super().__init__(tls)
        self.own, self.keys = tls, keys

    async def dial(self, text: str, certificate: str) -> Link:
        """As the product's, with one line more."""
        address = parse_address(text)
        context = client_context(self.own, bool(certificate))
        context.keylog_filename = str(self.keys)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        facts = LinkFacts(transport="tcp", inbound=False, loopback=True, address=str(address))
        link = TlsLink(sock, facts, context, own_fingerprint(self.own))
        await link.handshake(certificate)
        return link


@asynccontextmanager
async def client(site: Site, address: str, record: Path, keys: Path | None = None) -> AsyncIterator[Runtime]:
    """The client, once a is its peer; it says goodbye at the end. keys: where the session's keys are written down."""
    config, ring = site.client(address)
    runtime = Runtime(config, keyring=ring, record=record)
    if keys is not None:
        assert ring.tls is not None, "every party of a walk has a certificate"
        runtime.calls.dialer = KeyLoggingDialer(ring.tls, keys)
    events = runtime.events.subscribe(lambda event: isinstance(event, PeerJoined) and event.peer == OWNER)
    async with runtime:
        try:
            async with asyncio.timeout(JOIN_S):
                await events.take()
        except TimeoutError:
            raise WalkFailed(f"the client did not join {OWNER} in {JOIN_S:.0f} s") from None
        yield runtime
        runtime.tell(DrainCommand(reason="the walk is over"))


async def streamed(runtime: Runtime, prompt: str, count: int, say: Callable[[ReceivedToken], None]) -> Streamed:
    """A completion of zg-tiny; each token is said as it comes."""
    began = time.perf_counter()
    first = 0.0
    tokens: list[tuple[int, bytes, float]] = []
    try:
        async with asyncio.timeout(STREAM_S):
            async with completion(runtime, prompt, model=TINY.name, token_count_max=count, params=PARAMS) as stream:
                async for token in stream:
                    first = first or time.perf_counter() - began
                    tokens.append((token.id, token.data, token.logprob))
                    say(token)
    except TimeoutError:
        raise WalkFailed(f"{len(tokens)} tokens came in {STREAM_S:.0f} s, and no end") from None
    total = time.perf_counter() - began
    return Streamed(tokens=tuple(tokens), outcome=stream.outcome, first_s=first, total_s=total)


def direct(prompt: str, count: int) -> tuple[tuple[int, bytes, float], ...]:
    """The same engine in this process, with no protocol around it; logarithms with the digits that travel."""
    service = Service(create({}))
    try:
        service.load(TINY)
        asked = m.Generate(ids=tuple(service.tokenize(prompt)), token_count_max=count, params=PARAMS)
        made = service.answer(asked).value.tokens
        return tuple((token.id, token.data, float(real(token.logprob))) for token in made)
    finally:
        service.shutdown()


async def tensor_sent(runtime: Runtime, data: bytes) -> TensorSent:
    """To a, over the bulk connection; whole and verified by a when this returns."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TENSOR_S):
            done = await send_tensor(runtime, OWNER, data, dtype="u8", shape=(len(data),), purpose="the walk's tensor")
    except TimeoutError:
        raise WalkFailed(f"the tensor was not there after {TENSOR_S:.0f} s") from None
    return TensorSent(seconds=time.perf_counter() - began, chunks=done.chunks, resent=done.resent)


def random_bytes(mebibytes: int) -> bytes:
    """A tensor that nobody can guess or compress."""
    return os.urandom(mebibytes << 20)
