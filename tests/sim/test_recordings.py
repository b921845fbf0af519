"""A recording replays without a difference, and whatever was changed is found at its step (V2, V5)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from toy import Toy, toys, triangle

from sim.cores import Cores, real_cores
from sim.driver import Simulation
from sim.record import TraceFile, TraceReader, decompress
from sim.replay import replay, verify
from sim.run import run
from sim.scenario import walk
from zeitgeist.core.effects import Effects, FrameArrived, Input, TimerFired
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import Digest
from zeitgeist.core.recording import Content, Entry, Header
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.units import Instant
from zeitgeist.core_source import core_digest


def recorded(folder: Path, cores: Cores | None = None, seconds: int = 1) -> Path:
    """The recording of toy `a`."""
    run(triangle(seconds=seconds), cores or toys(), record=folder)
    return folder / "a.zgtrace"


def rewritten(path: Path, change: Callable[[int, Entry], Entry]) -> Path:
    """A whole, sound recording with other entries: what somebody would make who wants to be believed."""
    reader = TraceReader(path)
    changed = path.with_suffix(".other")
    file = TraceFile(changed, Toy(), Header(core=reader.header.core, node="a", kind="node"))
    step = 0
    for item in reader.items():
        if isinstance(item, Entry):
            file.file.write(file.writer.add(change(step, item)) or b"")
            step += 1
        elif isinstance(item, Content):
            raise AssertionError("toys carry no content")
    file.close()
    return changed


@pytest.mark.requirement("V2", "V5")
def test_the_product_replays_its_own_recording_without_a_difference(tmp_path: Path) -> None:
    """Client, owner, executor and worker of the walk: as many steps as were made, every effect the same."""
    report, simulation = run(walk(), real_cores(), record=tmp_path)
    assert report.passed
    for name, party in simulation.parties.items():
        result = replay(tmp_path / f"{name}.zgtrace", real_cores().makers(), core_digest())
        assert result.same and result.steps == party.steps > 50, result
        sound = verify(tmp_path / f"{name}.zgtrace", core_digest())
        assert (sound.steps, sound.trace, sound.same_core) == (party.steps, party.trace.value().hex(), True)


@pytest.mark.requirement("V2")
def test_every_changed_byte_of_a_recording_is_refused(tmp_path: Path) -> None:
    """One byte of the file turned over, at 60 places from its first to its last: `zg/trace/…`, never a difference,
    never a pass."""
    path = recorded(tmp_path)
    sound = path.read_bytes()
    for place in sorted({index * (len(sound) - 1) // 59 for index in range(60)}):
        raw = bytearray(sound)
        raw[place] ^= 1 << place % 8
        path.write_bytes(raw)
        with pytest.raises(ZeitgeistError, match="zg/trace/") as caught:
            verify(path, core_digest())
        assert caught.value.spec.fault == "peer"


@pytest.mark.requirement("V2")
def test_a_cut_recording_is_refused_as_cut(tmp_path: Path) -> None:
    """Any prefix lacks the end record."""
    path = recorded(tmp_path)
    sound = path.read_bytes()
    for count in (0, 5, 8, 60, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:count])
        with pytest.raises(ZeitgeistError, match="zg/trace/truncated"):
            verify(path, core_digest())


@pytest.mark.requirement("V2")
def test_a_changed_input_differs_at_its_step(tmp_path: Path) -> None:
    """A sound file, whose chain is right, in which an arrived frame became a timer: it differs at that step, with
    five entries before and after it."""
    path = recorded(tmp_path)
    entries = [item for item in TraceReader(path).items() if isinstance(item, Entry)]
    place = next(step for step, entry in enumerate(entries) if step > 40 and isinstance(entry.input, FrameArrived))

    def change(step: int, entry: Entry) -> Entry:
        if step != place:
            return entry
        return Entry(now=entry.now, input=TimerFired(), effects=entry.effects)

    result = replay(rewritten(path, change), toys().makers(), core_digest())
    assert not result.same and result.difference is not None
    assert result.difference.step == place == result.steps
    assert len(result.before) == 5 and len(result.after) == 5
    assert result.difference.about == ("effects",)


@pytest.mark.requirement("V2")
def test_another_time_differs_at_the_first_step_that_it_changes(tmp_path: Path) -> None:
    """All times from step 30 on a period later: that step's next wake is another."""

    def change(step: int, entry: Entry) -> Entry:
        if step < 30:
            return entry
        return Entry(now=Instant(entry.now + 10_000_000), input=entry.input, effects=entry.effects)

    result = replay(rewritten(recorded(tmp_path), change), toys().makers(), core_digest())
    assert result.difference is not None and result.difference.step == 30


class Late(Toy):
    """A core that was changed: from its 25th timer on it wants to be woken a nanosecond later."""

    ticks = 0

    def step(self, input: Input, now: Instant) -> Effects:
        effects = super().step(input, now)
        self.ticks += isinstance(input, TimerFired)
        if self.ticks < 25:
            return effects
        return Effects(
            send=effects.send,
            close=effects.close,
            calls=effects.calls,
            events=effects.events,
            wake_at=Instant((effects.wake_at or 0) + 1),
        )


@pytest.mark.requirement("V2")
def test_a_changed_core_differs_at_the_step_where_it_first_acts_otherwise(tmp_path: Path) -> None:
    """Recorded by a toy, replayed by one that changed: the 25th timer."""
    path = recorded(tmp_path)
    timers = [
        step for step, item in enumerate(TraceReader(path).items()) if isinstance(getattr(item, "input", 0), TimerFired)
    ]
    result = replay(path, {"node": Late, "worker": Late}, core_digest())
    assert result.difference is not None and result.difference.step == timers[24]
    assert isinstance(result.difference.input, TimerFired)


@pytest.mark.requirement("V2")
def test_a_patched_machine_of_the_product_is_found_at_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that forget one deadline: the replay of the walk names the first step whose effects that changes."""
    run(walk(), real_cores(), record=tmp_path)
    deadline = Sessions.deadline

    def patched(self: Sessions) -> Instant | None:
        due = deadline(self)
        return None if due is None else Instant(due + 1)

    monkeypatch.setattr(Sessions, "deadline", patched)
    result = replay(tmp_path / "a.zgtrace", real_cores().makers(), core_digest())
    assert result.difference is not None
    entries = [item for item in TraceReader(tmp_path / "a.zgtrace").items() if isinstance(item, Entry)]
    assert entries[result.difference.step].input == result.difference.input
    assert result.difference.got is not None and result.difference.got.wake_at is not None
    assert result.steps == result.difference.step


@pytest.mark.requirement("V2")
def test_a_recording_of_other_sources_is_refused_unless_told_to_be_tolerant(tmp_path: Path) -> None:
    """Strict replay needs the same core; tolerant replay reports the first difference, or none."""
    path, other = recorded(tmp_path), Digest("blake3:" + "0" * 64)
    with pytest.raises(ZeitgeistError, match="zg/trace/other-core"):
        replay(path, toys().makers(), other)
    assert replay(path, toys().makers(), other, tolerant=True).same
    assert verify(path, other).same_core is False


class Dying(Toy):
    """A core with a defect: it raises at its 10th timer."""

    ticks = 0

    def step(self, input: Input, now: Instant) -> Effects:
        self.ticks += isinstance(input, TimerFired)
        assert self.ticks < 10, "ten ticks are too many"
        return super().step(input, now)


@pytest.mark.requirement("V2")
def test_a_crash_is_the_last_entry_and_crashes_again(tmp_path: Path) -> None:
    """The run names step, time and input; the recording holds the input that did it; the replay does the same."""
    cores = Cores(node=Dying, worker=Toy, plan=toys().plan)
    with pytest.raises(ZeitgeistError, match="zg/sim/core-crashed") as caught:
        Simulation(triangle(), cores, record=tmp_path).run()
    assert "TimerFired: AssertionError: ten ticks" in caught.value.detail
    name = caught.value.field
    last = [item for item in TraceReader(tmp_path / f"{name}.zgtrace").items() if isinstance(item, Entry)][-1]
    assert last.crash == "AssertionError: ten ticks are too many" and isinstance(last.input, TimerFired)
    assert replay(tmp_path / f"{name}.zgtrace", cores.makers(), core_digest()).same
    assert not replay(tmp_path / f"{name}.zgtrace", toys().makers(), core_digest()).same


@pytest.mark.requirement("V2")
def test_a_block_unpacks_to_what_it_says_or_not_at_all() -> None:
    """A bomb, a lie and garbage are ValueErrors before memory is taken."""
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    for stored, length in ((bomb, 1000), (b"garbage", 10), (zstandard.ZstdCompressor().compress(b"x" * 10), 11)):
        with pytest.raises(ValueError, match=r".+"):
            decompress(stored, length)


@pytest.mark.requirement("V2")
def test_a_rotated_recording_replays_as_one(tmp_path: Path) -> None:
    """A recording in four parts: all steps, in one go; a part that was changed for another is refused; a later part by
    itself is a usage error."""
    path, parts = tmp_path / "a.zgtrace", 4
    whole = [item for item in TraceReader(recorded(tmp_path / "whole")).items() if isinstance(item, Entry)]
    subject, size = Toy(), -(-len(whole) // parts)
    file = TraceFile(path, subject, Header(core=core_digest(), node="a", kind="node"))
    for step, entry in enumerate(whole):
        if step and step % size == 0:
            file.close()
            part, chain = step // size, file.writer.chain
            header = Header(core=core_digest(), node="a", kind="node", part=part, previous=chain, step=step)
            trace = file.recorder.trace
            file = TraceFile(tmp_path / f"a.zgtrace.{part}", subject, header)
            file.recorder.trace = trace
        file.note(entry.now, entry.input, subject.step(entry.input, entry.now))
    file.close()
    result = replay(path, toys().makers(), core_digest())
    assert result.same and result.steps == len(whole)
    with pytest.raises(ZeitgeistError, match="zg/sim/bad-usage"):
        replay(tmp_path / "a.zgtrace.2", toys().makers(), core_digest())
    (tmp_path / "a.zgtrace.3").write_bytes((tmp_path / "a.zgtrace.2").read_bytes())
    broken = replay(path, toys().makers(), core_digest())
    assert not broken.same and "zg/trace/broken-chain" in broken.refusal and broken.steps == 3 * size
