"""A recording: the `(now, input)` of one node or worker with what each step gave, as hash-chained blocks (V2, V5).

Law: this file opens nothing and compresses nothing; a driver gives it bytes and a codec. Bytes of a file: preamble
(magic, format version, codec), then blocks of (stored length u32, raw length u32, chain 32 bytes, stored bytes),
little-endian. chain = BLAKE3(chain before + both lengths + stored bytes), the first over the preamble, so that a block
is checked before it is unpacked. A raw block is items of (length u32, kind u8, canonical record): the header alone in
the first, which is never compressed; the end in the last, so that a cut file is told from a whole one.

The digests of steps are XXH3-128: they find a difference, they prove nothing. What proves is a signature over `chain`.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import blake3
import xxhash

from zeitgeist.core.effects import Effects, Input
from zeitgeist.core.errors import LocalProtocolError, refuse
from zeitgeist.core.formats.canonical import Record, decode, encode, encode_all
from zeitgeist.core.ids import Digest, Handle
from zeitgeist.core.limits import TRACE_BLOCK_BYTES, TRACE_BLOCK_BYTES_MAX, TRACE_ITEM_BYTES_MAX
from zeitgeist.core.units import Instant

__all__ = [
    "FORMAT_VERSION",
    "STATE_EVERY",
    "BlockReader",
    "BlockWriter",
    "Content",
    "End",
    "Entry",
    "Header",
    "Item",
    "Recorder",
    "Subject",
    "TraceDigest",
    "crash_text",
]

FORMAT_VERSION = 1
STATE_EVERY = 1024
"""Steps between two digests of the whole state: rare enough to cost nothing, near enough to find a silent drift."""

PREAMBLE = struct.Struct("<4sHBB")
MAGIC = b"ZGTR"
BLOCK = struct.Struct("<II32s")
LENGTHS = struct.Struct("<II")
ITEM = struct.Struct("<IB")
ITEM_HEAD = ITEM.pack
STEP = struct.Struct("<Q16s").pack


class Header(Record, frozen=True, kw_only=True):
    """First item. core: digest of the core's sources that made the steps; content: payload bytes are in it;
    effects: whole effects are, not their digests alone; part, previous, step: of a rotated series, the last chain of
    the part before ("" in the first) and how many steps came before."""

    format_version: int = FORMAT_VERSION
    core: Digest
    node: str
    kind: Literal["node", "worker"]
    content: bool = False
    effects: bool = False
    part: int = 0
    previous: bytes = b""
    step: int = 0


class Entry(Record, frozen=True, kw_only=True):
    """One step. effects: XXH3-128 of their canonical bytes; state: digest of the state after it, each `STATE_EVERY`
    steps; made: the effects themselves, where the header says so; crash: the step raised this."""

    now: Instant
    input: Input
    effects: bytes
    state: Digest | None = None
    made: Effects | None = None
    crash: str = ""


class Content(Record, frozen=True, kw_only=True):
    """The bytes behind a handle, for recordings that a person allowed to hold them."""

    handle: Handle
    data: bytes


class End(Record, frozen=True, kw_only=True):
    """Last item: steps of all parts so far, and the digest of the trace (`TraceDigest.value`)."""

    steps: int
    trace: bytes


Item: TypeAlias = Entry | Content | End
NUMBERS: dict[type[Record], int] = {Header: 0, Entry: 1, Content: 2, End: 3}


class Subject(Protocol):
    """What is recorded and replayed: `Node` and `Worker`."""

    def step(self, input: Input, now: Instant) -> Effects:
        """One input, its effects."""
        ...

    def state_digest(self) -> Digest:
        """Digest of all that it holds."""
        ...


class TraceDigest:
    """Rolling digest over (now, effects) of each step: equal for two runs that did the same."""

    def __init__(self) -> None:
        self.hasher = xxhash.xxh3_128()
        self.steps = 0

    def add(self, now: Instant, effects: Effects) -> bytes:
        """Count a step; the digest of its effects alone."""
        digest = xxhash.xxh3_128_digest(encode(effects))
        self.hasher.update(STEP(now, digest))
        self.steps += 1
        return digest

    def extend(self, times: Sequence[Instant], effects: Sequence[Effects]) -> list[bytes]:
        """Count steps; the digest of each one's effects."""
        digests = list(map(xxhash.xxh3_128_digest, encode_all(effects)))
        self.hasher.update(b"".join(map(STEP, times, digests)))
        self.steps += len(digests)
        return digests

    def value(self) -> bytes:
        """16 bytes over all steps so far."""
        return self.hasher.digest()


class BlockWriter:
    """Items in, the bytes of a file out. compress: of one block; codec: its number, 0 for none, 1 for zstd."""

    def __init__(self, header: Header, compress: Callable[[bytes], bytes] | None = None, codec: int = 1) -> None:
        self.compress = compress
        self.codec = codec if compress else 0
        self.pending = bytearray()
        self.chain = b""
        self.header = header

    def start(self) -> bytes:
        """What a file begins with."""
        preamble = PREAMBLE.pack(MAGIC, FORMAT_VERSION, self.codec, 0)
        self.chain = blake3.blake3(preamble).digest()
        self.append(self.header)
        return preamble + self.block(self.take())

    def add(self, item: Entry | Content) -> bytes | None:
        """A block, once there is enough for one."""
        self.append(item)
        return self.flush() if len(self.pending) >= TRACE_BLOCK_BYTES else None

    def extend(self, entries: Sequence[Entry]) -> bytes:
        """Blocks, as many as are full."""
        pending, number, blocks = self.pending, NUMBERS[Entry], b""
        for raw in encode_all(entries):
            length = len(raw)
            if length > TRACE_ITEM_BYTES_MAX:
                raise too_large(length, Entry)
            pending += ITEM_HEAD(length, number) + raw
            if len(pending) >= TRACE_BLOCK_BYTES:
                blocks += self.flush()
        return blocks

    def flush(self) -> bytes:
        """What is pending, as a block; b"" when nothing is."""
        if not self.pending:
            return b""
        raw = self.take()
        return self.block(raw, self.compress)

    def end(self, trace: TraceDigest) -> bytes:
        """The last bytes. Afterwards `chain` is the `previous` of the next part."""
        self.append(End(steps=trace.steps, trace=trace.value()))
        return self.flush()

    def append(self, item: Header | Item) -> None:
        raw = encode(item)
        if len(raw) > TRACE_ITEM_BYTES_MAX:
            raise too_large(len(raw), type(item))
        self.pending += ITEM_HEAD(len(raw), NUMBERS[type(item)]) + raw

    def take(self) -> bytes:
        raw = bytes(self.pending)
        self.pending.clear()
        return raw

    def block(self, raw: bytes, compress: Callable[[bytes], bytes] | None = None) -> bytes:
        stored = compress(raw) if compress else raw
        lengths = LENGTHS.pack(len(stored), len(raw))
        self.chain = blake3.blake3(self.chain + lengths + stored).digest()
        return lengths + self.chain + stored


def too_large(length: int, kind: type[Record]) -> LocalProtocolError:
    """The item does not fit a recording."""
    detail = f"got {length} bytes, wanted at most {TRACE_ITEM_BYTES_MAX}"
    return LocalProtocolError("zg/trace/too-large", detail, kind.__name__)


class BlockReader:
    """The bytes of a file in, in any pieces; items out. Holds one block at most.

    decompress(stored, raw length): gives at most that many bytes, or raises ValueError. `header` is there once the
    first block is read, `ended` once the last one is.
    """

    def __init__(self, decompress: Callable[[bytes, int], bytes] | None = None) -> None:
        self.decompress = decompress
        self.buffer = bytearray()
        self.chain = b""
        self.codec = 0
        self.header: Header | None = None
        self.ended: End | None = None

    def feed(self, data: bytes | memoryview) -> list[Item]:
        """Items that data completes."""
        self.buffer += data
        items: list[Item] = []
        if not self.chain and not self.preamble():
            return items
        at = 0
        while len(self.buffer) - at >= BLOCK.size:
            stored_length, raw_length, chain = BLOCK.unpack_from(self.buffer, at)
            if max(stored_length, raw_length) > TRACE_BLOCK_BYTES_MAX:
                longest = max(stored_length, raw_length)
                raise refuse("zg/trace/too-large", "block", longest, f"at most {TRACE_BLOCK_BYTES_MAX} bytes")
            if len(self.buffer) - at - BLOCK.size < stored_length:
                break
            start = at + BLOCK.size
            items += self.block(bytes(self.buffer[start : start + stored_length]), raw_length, chain)
            at = start + stored_length
        del self.buffer[:at]
        return items

    def finish(self) -> End:
        """The file ends here. Without its last item it was cut: `zg/trace/truncated`."""
        if self.buffer or self.ended is None:
            raise refuse("zg/trace/truncated", "end", f"{len(self.buffer)} bytes of a block", "the end record")
        return self.ended

    def preamble(self) -> bool:
        if len(self.buffer) < PREAMBLE.size:
            return False
        raw = bytes(self.buffer[: PREAMBLE.size])
        magic, version, self.codec, zero = PREAMBLE.unpack(raw)
        if magic != MAGIC or zero:
            raise refuse("zg/trace/bad-magic", "magic", magic, MAGIC)
        if version != FORMAT_VERSION:
            raise refuse("zg/trace/other-version", "format_version", version, FORMAT_VERSION)
        if self.codec > 1 or (self.codec and not self.decompress):
            raise refuse("zg/trace/unknown-codec", "codec", self.codec, "one that this reader has")
        self.chain = blake3.blake3(raw).digest()
        del self.buffer[: PREAMBLE.size]
        return True

    def block(self, stored: bytes, raw_length: int, chain: bytes) -> list[Item]:
        wanted = blake3.blake3(self.chain + LENGTHS.pack(len(stored), raw_length) + stored).digest()
        if wanted != chain:
            raise refuse("zg/trace/broken-chain", "chain", chain.hex()[:16], f"{wanted.hex()[:16]} …")
        self.chain, raw = chain, stored
        if self.codec and self.header and self.decompress:
            try:
                raw = self.decompress(stored, raw_length)
            except ValueError as error:
                raise refuse("zg/trace/bad-block", "block", error, f"{raw_length} bytes once unpacked") from error
        if len(raw) != raw_length:
            raise refuse("zg/trace/bad-block", "block", f"{len(raw)} bytes", f"{raw_length} as it says")
        return self.items(memoryview(raw))

    def items(self, raw: memoryview) -> list[Item]:
        items: list[Item] = []
        while raw:
            if len(raw) < ITEM.size:
                raise refuse("zg/trace/bad-block", "item", f"{len(raw)} bytes", "a length and a kind")
            length, number = ITEM.unpack_from(raw)
            body, raw = raw[ITEM.size : ITEM.size + length], raw[ITEM.size + length :]
            if len(body) != length or number >= len(NUMBERS):
                raise refuse("zg/trace/bad-block", "item", f"kind {number}, {len(body)} bytes", f"{length} bytes")
            if self.ended or (number == 0) != (self.header is None):
                raise refuse("zg/trace/bad-block", "item", f"kind {number}", "a header first, nothing after the end")
            if number == 0:
                self.header = decode(body, Header, TRACE_ITEM_BYTES_MAX)
            elif number == 1:
                items.append(decode(body, Entry, TRACE_ITEM_BYTES_MAX))
            elif number == 2:
                items.append(decode(body, Content, TRACE_ITEM_BYTES_MAX))
            else:
                self.ended = decode(body, End, TRACE_ITEM_BYTES_MAX)
                items.append(self.ended)
        return items


class Recorder:
    """Beside a driver's loop: every step becomes an entry. Give what it returns to a file, in order.

    batch: so many steps are encoded together, in a third less time than one by one. Until then they are in neither the
    writer nor the trace: who batches calls `settle` before it uses those.
    """

    def __init__(self, subject: Subject, writer: BlockWriter, batch: int = 1) -> None:
        self.subject = subject
        self.writer = writer
        self.batch = batch
        self.trace = TraceDigest()
        self.waiting: list[tuple[Instant, Input, Effects, Digest | None]] = []

    def note(self, now: Instant, input: Input, effects: Effects) -> bytes | None:
        """input gave effects at now; blocks that are full."""
        waiting = self.waiting
        step = self.trace.steps + len(waiting) + 1
        state = self.subject.state_digest() if step % STATE_EVERY == 0 else None
        if self.batch == 1:
            digest, made = self.trace.add(now, effects), effects if self.writer.header.effects else None
            return self.writer.add(Entry(now=now, input=input, effects=digest, state=state, made=made))
        waiting.append((now, input, effects, state))
        return self.settle() if len(waiting) >= self.batch else None

    def settle(self) -> bytes | None:
        """Encode what waits; blocks that are full."""
        if not self.waiting:
            return None
        waiting, self.waiting = self.waiting, []
        times, _, made, _ = zip(*waiting, strict=True)
        digests, whole = self.trace.extend(times, made), self.writer.header.effects
        entries = [
            Entry(now=now, input=input, effects=digest, state=state, made=effects if whole else None)
            for (now, input, effects, state), digest in zip(waiting, digests, strict=True)
        ]
        return self.writer.extend(entries) or None

    def crashed(self, now: Instant, input: Input, error: Exception) -> bytes:
        """The step raised: the input that a person will want most. Written at once."""
        before = self.settle() or b""
        self.writer.append(Entry(now=now, input=input, effects=b"", crash=crash_text(error)))
        return before + self.writer.flush()


def crash_text(error: Exception) -> str:
    """A crash in one line, the same wherever it happens again: what follows the first line may hold addresses."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:1000]
