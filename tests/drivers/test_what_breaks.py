"""What breaks on a real host, and what the nodes make of it (G1, E4, I13, H1)."""

import asyncio
import os
import signal
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from cutter import Cutter
from real_nodes import TINY, WAIT_S, Log, Site, joined

from sim.cores import real_cores
from sim.replay import replay
from zeitgeist.core.descriptors.node import Times
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.trace import PeerGone, PeerJoined, SessionMoved, TransferEnded, WorkerChanged
from zeitgeist.core.units import Nanoseconds
from zeitgeist.core.wire.frame import Channel, Frame, encode_frame, frame_header
from zeitgeist.core_source import core_digest
from zeitgeist.host.application import completion, send_tensor

SHORT = Times(handshake_ns=Nanoseconds(3_000_000_000), silence_ns=Nanoseconds(30_000_000_000))


def announced(length: int, channel: Channel) -> bytes:
    """A sound header before a payload that never comes."""
    return frame_header(Frame(channel=channel, kind=1, payload=bytes(length)))


STRANGE = (
    b"GET / HTTP/1.1\r\nHost: node\r\n\r\n" * 4,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    os.urandom(4096),
    b"",
    b"Z",
    encode_frame(Frame(channel=Channel.CONTROL, kind=1, payload=b"\x80"))[:30],
    announced(1 << 20, Channel.CONTROL),
    announced(4 << 20, Channel.TENSOR),
    announced(200_000, Channel.CONTROL),
    encode_frame(Frame(channel=Channel.CONTROL, kind=1, payload=b"\x80")),
    encode_frame(Frame(channel=Channel.CONTROL, kind=0xFFFF, payload=b"\x80")),
    encode_frame(Frame(channel=Channel.TENSOR, kind=0x2F, payload=b"\x00\x00" + bytes(5000))),
    encode_frame(Frame(channel=Channel.JOB, kind=0x33, payload=b"\xff\xff" + bytes(300))),
    encode_frame(Frame(channel=Channel.CONTROL, kind=7, sequence=9, payload=b"\x81\xa6number\x01")),
)


@pytest.mark.requirement("E4")
@pytest.mark.requirement("G1")
def test_a_tensor_goes_on_where_it_was_when_its_connection_was_cut(tmp_path: Path) -> None:
    """16 MiB through a relay that cuts the bulk connection after 3 MiB; control lives on. What arrives is bit for bit
    what was sent, the receiver asked for what it lacked and no more than a window was carried twice."""

    async def main() -> None:
        site = Site(tmp_path, "ed25519", "tls")
        b = site.runtime(site.config("b"))
        log_b = Log(b)
        async with b, Cutter(b.addresses[0], cut=(1, 3 << 20)) as cutter:
            a = site.runtime(site.config("a", dial=cutter.address))
            log_a = Log(a)
            async with a:
                await joined(log_a, log_b)
                data = os.urandom(16 << 20)
                async with asyncio.timeout(WAIT_S):
                    done = await send_tensor(a, "b", data, dtype="u8", shape=(len(data),))
                    event = await log_b.until(TransferEnded)
                assert cutter.cuts == 1
                assert b.content(event.handle) == data
                assert 16 <= done.chunks <= 16 + a.config.chunk_credit
                joins = [e for e in log_a.rest() if isinstance(e, PeerJoined)]
                assert len(joins) == 1, "control was never lost"

    asyncio.run(main())


@pytest.mark.requirement("I13")
@pytest.mark.engine("reference")
def test_a_killed_worker_ends_its_job_with_the_signal_and_not_the_node(tmp_path: Path) -> None:
    """SIGKILL after the third token: the job fails by a named reason, the worker is started again, and the next job
    runs to its end on the same node."""

    async def main() -> None:
        site = Site(tmp_path, "ed25519", "unix")
        b = site.runtime(site.config("b", worker=True))
        log_b = Log(b)
        async with b:
            a = site.runtime(site.config("a", dial=b.addresses[0], roles=("client",)))
            async with a, asyncio.timeout(WAIT_S):
                with pytest.raises(ZeitgeistError) as failure:
                    async with completion(a, "Once", model=TINY.name, token_count_max=200) as stream:
                        async for token in stream:
                            if token.index == 2:
                                (worker,) = b.calls.running.values()
                                os.kill(worker.pid, signal.SIGKILL)  # type: ignore[attr-defined]
                assert failure.value.id == "zg/job/executor-lost", failure.value
                gone = await log_b.until(PeerGone, lambda event: event.peer == "w")
                assert gone.reason == "the worker was ended by SIGKILL"
                await log_b.until(WorkerChanged, lambda event: event.state == "ready", count=2)
                async with completion(a, "Once", model=TINY.name, token_count_max=5) as stream:
                    assert len([token async for token in stream]) == 5
                assert stream.outcome == "length"

    asyncio.run(main())


@pytest.mark.requirement("H1")
def test_strangers_neither_crash_a_node_nor_fill_its_memory(tmp_path: Path) -> None:
    """Garbage, halves of frames, announced giants, records that are none, silence, and callers who leave at once: 300
    of them. A friend is served all the while, each stranger's link ends, and memory grows by less than 8 MiB."""

    async def main() -> None:
        site = Site(tmp_path, "token", "tcp")
        b = site.runtime(msgspec.structs.replace(site.config("b"), times=SHORT))
        async with b, asyncio.timeout(WAIT_S):
            log_b = Log(b)
            host, port = b.addresses[0].removeprefix("tcp:").rsplit(":", 1)
            tracemalloc.start()
            base = tracemalloc.get_traced_memory()[0]
            writers = []
            for number in range(300):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(STRANGE[number % len(STRANGE)])
                if number % 7 == 0:
                    writer.transport.abort()
                writers.append(writer)
            peak = tracemalloc.get_traced_memory()[1]
            a = site.runtime(site.config("a", dial=b.addresses[0]))
            log_a = Log(a)
            async with a:
                await joined(log_a, log_b)
                data = os.urandom(1 << 20)
                await send_tensor(a, "b", data, dtype="u8", shape=(len(data),))
                assert b.drive is not None
                while len(b.drive.links) > 2:  # those who say nothing are closed when the handshake's time is over
                    await asyncio.sleep(0.05)
            tracemalloc.stop()
            for writer in writers:
                writer.transport.abort()
            assert peak - base < 8 << 20
            assert b.failure is None

    asyncio.run(main())


@pytest.mark.requirement("G1")
@pytest.mark.engine("reference")
def test_what_really_happened_happens_again_in_the_simulator(tmp_path: Path) -> None:
    """Recordings of both nodes over TLS, with a completion, a tensor and a peer that vanishes, replayed step by step:
    every digest of effects and of state is the same (DESIGN §2)."""

    async def main() -> None:
        site = Site(tmp_path, "mtls", "tls")
        b = site.runtime(site.config("b", worker=True), record=tmp_path / "b.zgtrace")
        async with b, asyncio.timeout(WAIT_S):
            log_b = Log(b)
            a = site.runtime(site.config("a", dial=b.addresses[0], roles=("client",)), record=tmp_path / "a.zgtrace")
            log_a = Log(a)
            async with a:
                async with completion(a, "Once upon", model=TINY.name, token_count_max=12) as stream:
                    assert len([token async for token in stream]) == 12
                await send_tensor(a, "b", bytes(3 << 20), dtype="u8", shape=(3 << 20,))
            await log_b.until(SessionMoved, lambda event: event.after == "closed" and event.peer == "a")
            assert log_a.events == []

    asyncio.run(main())
    for node in ("a", "b"):
        path = tmp_path / f"{node}.zgtrace"
        assert path.stat().st_mode & 0o777 == 0o600
        found = replay(path, real_cores().makers(), core_digest())
        assert found.same, found
        assert found.steps > 40
