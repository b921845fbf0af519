"""The runtime decides nothing: it does what the core wants, raises what it refuses, keeps what broke it (V2)."""

import asyncio
import resource
from pathlib import Path

import pytest
import zstandard

from sim.cores import real_cores
from sim.replay import replay
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.effects import Boot, Effects, Input, LinkUp, Measured, Persist, Persisted, TakenCommand, TimerFired
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.ids import Digest, JobId, NodeId, Ticket
from zeitgeist.core.recording import BlockReader
from zeitgeist.core.units import Instant
from zeitgeist.core_source import core_digest
from zeitgeist.host.application import completion
from zeitgeist.host.runtime import Runtime

WAIT_S = 20.0


def config(**more: object) -> NodeConfig:
    return NodeConfig(
        node=NodeId("a"), cluster="home", roles=("coordinator",), auth=AuthConfig(modes=("none",)), **more
    )


class Script:
    """A core that writes down what it is told, and wants what the test says."""

    def __init__(self, *answers: Effects) -> None:
        self.told: list[tuple[Instant, Input]] = []
        self.answers = list(answers)
        self.changed = asyncio.Event()

    def step(self, input: Input, now: Instant) -> Effects:
        self.told.append((now, input))
        self.changed.set()
        if isinstance(input, LinkUp):
            raise RuntimeError("a defect")
        return self.answers.pop(0) if self.answers else Effects()

    def state_digest(self) -> Digest:
        return Digest("blake3:")

    async def until(self, kind: type) -> Instant:
        async with asyncio.timeout(WAIT_S):
            while True:
                for now, input in self.told:
                    if isinstance(input, kind):
                        return now
                self.changed.clear()
                await self.changed.wait()


@pytest.mark.requirement("V2")
def test_the_boot_comes_first_and_a_wish_to_be_woken_is_kept(tmp_path: Path) -> None:
    """Boot, wall clock, then the timer not before its instant; a sync record is answered once it is in the file."""

    async def main() -> None:
        later = Instant(50_000_000)
        record = Persist(ticket=Ticket(1), sync=True, key="k", value=b"v")
        script = Script(Effects(persist=(record,), wake_at=later), Effects(wake_at=later), Effects(wake_at=later))
        async with Runtime(config(), state=tmp_path / "state", node=lambda: script):
            await script.until(Persisted)
            assert await script.until(TimerFired) >= later
        assert [type(input).__name__ for _, input in script.told[:2]] == ["Boot", "WallClock"]
        first = script.told[0][1]
        assert isinstance(first, Boot) and first.core == core_digest() and len(first.seed) == 32
        times = [now for now, _ in script.told]
        assert times == sorted(times)

    asyncio.run(main())


def test_a_core_that_raises_ends_the_node_and_leaves_its_input(tmp_path: Path) -> None:
    """The stand-in fails at the first caller: applications hear of it, the error comes out where the node was entered,
    and the recording's last entry is the input with the error."""

    async def main() -> None:
        runtime = Runtime(config(), listen=["tcp:127.0.0.1:0"], node=Script, record=tmp_path / "a.zgtrace")
        heard = runtime.events.subscribe()
        with pytest.raises(RuntimeError, match="a defect"):
            async with runtime:
                host, port = runtime.addresses[0].removeprefix("tcp:").rsplit(":", 1)
                _, writer = await asyncio.open_connection(host, int(port))
                with pytest.raises(ZeitgeistError) as ended:
                    async with asyncio.timeout(WAIT_S):
                        await heard.take()
                assert ended.value.id == "zg/host/stopped"
                writer.transport.abort()

    asyncio.run(main())
    found = replay(tmp_path / "a.zgtrace", {"node": Script, "worker": Script}, core_digest())
    assert found.same, "the same input raises the same error again"


def test_what_an_application_may_not_do_is_raised_to_it_and_ends_nothing(tmp_path: Path) -> None:
    """It takes a token that never came; a job that cannot run is rejected; then the node still answers, and the
    recording replays."""

    async def main() -> None:
        async with Runtime(config(), record=tmp_path / "a.zgtrace") as runtime:
            with pytest.raises(ZeitgeistError) as refusal:
                async with completion(runtime, "x", model="none", token_count_max=1, job="j") as stream:
                    with pytest.raises(LocalProtocolError) as wrong:
                        runtime.tell(TakenCommand(job=JobId("j"), next=7))
                    assert wrong.value.id == "zg/job/bad-ack"
                    async for _ in stream:
                        pass
            assert refusal.value.id.startswith("zg/plan/") or refusal.value.id.startswith("zg/job/")
            assert runtime.failure is None

    asyncio.run(main())
    assert replay(tmp_path / "a.zgtrace", real_cores().makers(), core_digest()).same


def test_a_disk_that_takes_no_more_ends_the_recording_and_not_the_node(tmp_path: Path) -> None:
    """The file may not grow any more, as on a full disk: the next flush ends it, steps go on and are not recorded, and
    what was written before is sound up to there."""

    async def main() -> None:
        path = tmp_path / "a.zgtrace"
        async with Runtime(config(), record=path) as runtime:
            assert runtime.drive is not None and runtime.drive.recording is not None
            recording = runtime.drive.recording
            before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1, most))
            try:
                recording.flush()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
            assert recording.failure and recording.file.closed
            runtime.tell(Measured(name="x", subject="y", value=1))
            recording.flush()
            assert runtime.failure is None and not runtime.drive.stopped
        reader = BlockReader(lambda stored, length: zstandard.ZstdDecompressor().decompress(stored, length))
        assert reader.feed(path.read_bytes()) == [] and reader.header is not None

    asyncio.run(main())
