"""Recordings: whole ones read back in any pieces, damaged ones are refused by name, a replay names its first difference
(V2, V5)."""

import struct
import zlib

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.core.effects import Effects, Input, LinkDown, Measured, TimerFired
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import Record, encode
from zeitgeist.core.ids import Digest, Handle, LinkId
from zeitgeist.core.limits import TRACE_BLOCK_BYTES, TRACE_BLOCK_BYTES_MAX, TRACE_ITEM_BYTES_MAX
from zeitgeist.core.recording import (
    STATE_EVERY,
    BlockReader,
    BlockWriter,
    Content,
    End,
    Entry,
    Header,
    Item,
    Recorder,
    TraceDigest,
)
from zeitgeist.core.replay import Replayer, require_core
from zeitgeist.core.trace import PeerGone
from zeitgeist.core.units import Instant

pytestmark = pytest.mark.requirement("V2")

CORE = Digest("blake3:" + "1" * 64)
PREAMBLE_BYTES = 8
BLOCK_BYTES = 40


class Sum:
    """A subject: adds what is measured, wakes at the sum, says who is gone; a negative sum is a defect that raises."""

    def __init__(self, drift_at: int = -1, lie_at: int = -1) -> None:
        self.total, self.steps, self.drift_at, self.lie_at = 0, 0, drift_at, lie_at

    def step(self, input: Input, now: Instant) -> Effects:
        if isinstance(input, Measured):
            self.total += input.value + (self.steps == self.drift_at)
        assert self.total >= 0, f"sum is {self.total}"
        self.steps += 1
        gone = isinstance(input, LinkDown) or self.steps == self.lie_at
        events = (PeerGone(link=LinkId(1), peer="p", reason="down"),) if gone else ()  # pyright: ignore
        return Effects(events=events, wake_at=Instant(now + 1))

    def state_digest(self) -> Digest:
        return Digest(f"blake3:{blake3.blake3(str(self.total).encode()).hexdigest()}")


def number(value: int) -> Measured:
    return Measured(name="bytes", subject="1", value=value)


def recorded(
    inputs: list[Input], *, effects: bool = False, compress: bool = False, subject: Sum | None = None
) -> bytes:
    """The bytes of a whole recording of inputs, one a millisecond."""
    subject = subject or Sum()
    header = Header(core=CORE, node="a", kind="node", effects=effects)
    writer = BlockWriter(header, zlib.compress) if compress else BlockWriter(header)
    recorder = Recorder(subject, writer)
    out = writer.start()
    for at, input in enumerate(inputs):
        now = Instant(at * 1_000_000)
        out += recorder.note(now, input, subject.step(input, now)) or b""
    return out + writer.end(recorder.trace)


def bounded_unzip(stored: bytes, size: int) -> bytes:
    """What a driver gives: at most size bytes, ValueError for damage."""
    try:
        return zlib.decompressobj().decompress(stored, size)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def read(data: bytes, step: int = 1 << 20) -> tuple[BlockReader, list[Item]]:
    reader, items = BlockReader(bounded_unzip), []
    for at in range(0, len(data), step):
        items += reader.feed(data[at : at + step])
    reader.finish()
    return reader, items


inputs = st.lists(st.one_of(st.integers(0, 9).map(number), st.just(TimerFired())), max_size=30)


@given(inputs, st.integers(1, 200), st.booleans(), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_entries(
    made: list[Input], step: int, compress: bool, effects: bool
) -> None:
    """Fed in pieces of any size, packed or not; header, entries in order, end."""
    reader, items = read(recorded(made, compress=compress, effects=effects), step)
    assert reader.header == Header(core=CORE, node="a", kind="node", effects=effects)
    assert [item.input for item in items if isinstance(item, Entry)] == made
    assert isinstance(items[-1], End) and items[-1].steps == len(made)
    assert all((item.made is not None) == effects for item in items if isinstance(item, Entry))


def test_a_long_recording_has_many_blocks_and_states() -> None:
    """Blocks close at their size; every 1,024th entry holds the state's digest; the reader never holds two blocks."""
    data = recorded([number(1)] * 5000, compress=True)
    reader, items = BlockReader(bounded_unzip), []
    for at in range(0, len(data), 4096):
        items += reader.feed(data[at : at + 4096])
        assert len(reader.buffer) <= TRACE_BLOCK_BYTES
    assert [at for at, item in enumerate(items) if isinstance(item, Entry) and item.state] == [
        at * STATE_EVERY - 1 for at in range(1, 5)
    ]


def test_a_replay_of_a_sound_recording_finds_nothing() -> None:
    """Every entry again, then the end: the trace digest is the recorded one."""
    _, items = read(recorded([number(3), TimerFired(), LinkDown(link=LinkId(1), reason="x")] * 700))
    replayer = Replayer(Sum())
    for item in items:
        match item:
            case Entry():
                assert replayer.feed(item) is None
            case End():
                replayer.finish(item)
            case Content():
                pytest.fail("no content was recorded")


@pytest.mark.parametrize("effects", [False, True])
def test_a_replay_names_the_first_difference(effects: bool) -> None:
    """A subject that says one thing more at step 7: step, time, input and, when recorded, the field."""
    _, items = read(recorded([number(1)] * 20, effects=effects))
    replayer = Replayer(Sum(lie_at=8))
    found = [difference for item in items if isinstance(item, Entry) and (difference := replayer.feed(item))]
    assert (found[0].step, found[0].now, found[0].input) == (7, 7_000_000, number(1))
    assert found[0].about == (("effects.events",) if effects else ("effects",))
    assert (found[0].made is not None) == effects and found[0].got is not None


def test_a_silent_drift_is_found_at_the_next_state_digest() -> None:
    """State wrong by one from step 5, effects equal: the 1,024th entry says so."""
    _, items = read(recorded([number(1)] * 1100))
    replayer = Replayer(Sum(drift_at=5))
    found = [difference for item in items if isinstance(item, Entry) and (difference := replayer.feed(item))]
    assert [(difference.step, difference.about) for difference in found] == [(STATE_EVERY - 1, ("state",))]


def test_a_shorter_replay_is_different() -> None:
    """Entries left out: the end does not agree."""
    _, items = read(recorded([number(1)] * 3))
    replayer = Replayer(Sum())
    assert isinstance(items[0], Entry) and replayer.feed(items[0]) is None
    assert isinstance(items[-1], End)
    with pytest.raises(RemoteProtocolError, match="zg/trace/different"):
        replayer.finish(items[-1])


def test_a_crash_is_recorded_and_crashes_again() -> None:
    """The input that broke an assertion is the last entry; a replay breaks there too, or says that it does not."""
    subject = Sum()
    writer = BlockWriter(Header(core=CORE, node="a", kind="node"))
    recorder, data = Recorder(subject, writer), writer.start()
    recorder.note(Instant(0), number(1), subject.step(number(1), Instant(0)))
    with pytest.raises(AssertionError) as raised:
        subject.step(number(-5), Instant(1))
    data += recorder.crashed(Instant(1), number(-5), raised.value)
    reader = BlockReader()
    items = reader.feed(data)
    assert [item.crash for item in items if isinstance(item, Entry)] == ["", "AssertionError: sum is -4"]
    with pytest.raises(RemoteProtocolError, match="zg/trace/truncated"):
        reader.finish()
    same, other = Replayer(Sum()), Replayer(Sum())
    other.subject.total = 10  # pyright: ignore
    assert [same.feed(item) for item in items if isinstance(item, Entry)] == [None, None]
    found = [other.feed(item) for item in items if isinstance(item, Entry)][1]
    assert found is not None and found.about == ("crash",)


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_refused_by_name(data: st.DataObject) -> None:
    """One bit flipped or the tail cut anywhere: always an error of ours, never a silent success."""
    sound = recorded([number(at) for at in range(40)], compress=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(sound) - 1))
        broken = sound[:at] + bytes([sound[at] ^ (1 << data.draw(st.integers(0, 7)))]) + sound[at + 1 :]
    else:
        broken = sound[: data.draw(st.integers(0, len(sound) - 1))]
    with pytest.raises(ZeitgeistError, match="zg/trace/"):
        read(broken)


def forged(raw: bytes, lengths: tuple[int, int] | None = None, codec: int = 0) -> bytes:
    """A file whose first block is raw with a chain that fits: what a liar can make."""
    preamble = struct.pack("<4sHBB", b"ZGTR", 1, codec, 0)
    head = struct.pack("<II", *(lengths or (len(raw), len(raw))))
    return preamble + head + blake3.blake3(blake3.blake3(preamble).digest() + head + raw).digest() + raw


def item(kind: int, record: Record) -> bytes:
    """One item as it stands in a raw block."""
    return struct.pack("<IB", len(encode(record)), kind) + encode(record)


HEADER = item(0, Header(core=CORE, node="a", kind="node"))
END = item(3, End(steps=0, trace=b""))


@pytest.mark.parametrize(
    ("data", "id"),
    [
        (b"ZGFR" + bytes(60), "bad-magic"),
        (struct.pack("<4sHBB", b"ZGTR", 2, 0, 0), "other-version"),
        (struct.pack("<4sHBB", b"ZGTR", 1, 9, 0), "unknown-codec"),
        (forged(b"", (TRACE_BLOCK_BYTES_MAX + 1, 5)), "too-large"),
        (forged(b"", (5, TRACE_BLOCK_BYTES_MAX + 1)), "too-large"),
        (forged(b"abc"), "bad-block"),
        (forged(struct.pack("<IB", 9, 0) + b"short"), "bad-block"),
        (forged(struct.pack("<IB", 0, 77)), "bad-block"),
        (forged(struct.pack("<IB", 0, 1)), "bad-block"),
        (forged(HEADER + END, (len(HEADER + END), len(HEADER + END) + 1)), "bad-block"),
        (forged(HEADER + END + END), "bad-block"),
        (forged(HEADER + HEADER + END), "bad-block"),
        (forged(END), "bad-block"),
        (b"", "truncated"),
        (recorded([number(1)])[:-1], "truncated"),
    ],
)
def test_what_is_no_recording_is_refused_by_its_fault(data: bytes, id: str) -> None:
    """Forged lengths, kinds and orders, with chains that fit."""
    with pytest.raises(RemoteProtocolError, match=f"zg/trace/{id}"):
        read(data)


def test_a_block_that_unpacks_to_more_than_it_says_is_refused() -> None:
    """A bomb: the codec is asked for the stated length only, which is not what the items need."""
    raw = recorded([number(1)] * 100)[PREAMBLE_BYTES:]
    first = struct.unpack_from("<I", raw)[0]
    body = raw[2 * BLOCK_BYTES + first :]
    preamble = struct.pack("<4sHBB", b"ZGTR", 1, 1, 0)
    out, chain = preamble, blake3.blake3(preamble).digest()
    for stored, length in ((raw[BLOCK_BYTES : BLOCK_BYTES + first], first), (zlib.compress(body), len(body) // 2)):
        head = struct.pack("<II", len(stored), length)
        chain = blake3.blake3(chain + head + stored).digest()
        out += head + chain + stored
    with pytest.raises(RemoteProtocolError, match="zg/trace/bad-block"):
        read(out)


def test_parts_of_a_series_name_the_chain_before() -> None:
    """Rotation: the next part's header holds the last chain, and the trace digest goes on."""
    subject, trace = Sum(), TraceDigest()
    first = BlockWriter(Header(core=CORE, node="a", kind="node"))
    one = first.start() + (first.add(Content(handle=Handle(1), data=b"prompt")) or b"") + first.end(trace)
    recorder = Recorder(subject, BlockWriter(Header(core=CORE, node="a", kind="node", part=1, previous=first.chain)))
    recorder.trace = trace
    two = recorder.writer.start() + recorder.writer.end(trace)
    reader_one, items = read(one)
    reader_two, _ = read(two)
    assert reader_two.header is not None and reader_two.header.previous == reader_one.chain
    assert items[0] == Content(handle=Handle(1), data=b"prompt")


def test_an_item_past_the_limit_is_not_written() -> None:
    """The caller learns before anything is in the file."""
    writer = BlockWriter(Header(core=CORE, node="a", kind="node"))
    writer.start()
    with pytest.raises(LocalProtocolError, match="zg/trace/too-large"):
        writer.add(Content(handle=Handle(1), data=bytes(TRACE_ITEM_BYTES_MAX)))


def test_other_sources_are_refused_for_a_strict_replay() -> None:
    """Both digests are named."""
    with pytest.raises(RemoteProtocolError, match="zg/trace/other-core"):
        require_core(Header(core=CORE, node="a", kind="node"), Digest("blake3:" + "2" * 64))


@pytest.mark.requirement("V2")
@pytest.mark.parametrize("batch", [2, 16, 5000])
def test_steps_encoded_together_give_the_same_bytes(batch: int) -> None:
    """Blocks, states, the trace and a crash's entry are those of a recorder that encodes each step as it comes."""
    made: list[bytes] = []
    for size in (1, batch):
        subject, writer = Sum(), BlockWriter(Header(core=CORE, node="a", kind="node"), zlib.compress)
        recorder, out = Recorder(subject, writer, size), writer.start()
        for at in range(2500):
            now = Instant(at * 1_000_000)
            out += recorder.note(now, number(at), subject.step(number(at), now)) or b""
        out += recorder.crashed(Instant(2_500_000_000), number(1), ValueError("why"))
        made.append(out + writer.end(recorder.trace))
    assert made[0] == made[1]
