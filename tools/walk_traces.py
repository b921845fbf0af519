"""What the recordings of a walk tell: steps by kind, round trips on control, what was proven, frames in and out.

Law: a number is taken from a recording by doing its steps again, never from the memory of whoever ran it. A round trip
goes from the step that sent a ping to the step that heard its pong: two event loops and two TLS sessions are in it.
"""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sim.cores import real_cores
from sim.record import TraceReader
from zeitgeist.core.effects import (
    CallDone,
    ChunkArrived,
    Effects,
    FrameArrived,
    LinkUp,
    PayloadReady,
    Send,
    SendCommand,
    Verified,
    Verify,
)
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.ids import LinkId
from zeitgeist.core.recording import Entry
from zeitgeist.core.trace import PeerJoined, TransferEnded
from zeitgeist.core.wire.messages import Offer, Ping, Pong
from zeitgeist.core.wire.registry import KINDS

__all__ = ["Examined", "Latency", "Replay", "examine", "latency", "replayed"]

PING, PONG, OFFER = (KINDS[record].kind for record in (Ping, Pong, Offer))
HELLO_LANES = ("control", "bulk")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips in milliseconds, by nearest rank; all 0 when count is."""

    count: int
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What `zg-sim replay` says of one recording. why: "" when every step gave what it gave before."""

    name: str
    steps: int
    why: str


class Examined(msgspec.Struct, kw_only=True):
    """steps: by kind of input; quiet, busy: nanoseconds of round trips with peer, outside and inside of transfers; tls:
    versions of its links; modes: of proofs of others that were verified and good; received: (length, digest) of each
    payload that came in chunks, as this node computed it; sent, heard: frames on links to other nodes."""

    steps: Counter[str] = msgspec.field(default_factory=Counter)
    quiet: list[int] = msgspec.field(default_factory=list)
    busy: list[int] = msgspec.field(default_factory=list)
    tls: Counter[str] = msgspec.field(default_factory=Counter)
    modes: Counter[str] = msgspec.field(default_factory=Counter)
    received: list[tuple[int, str]] = msgspec.field(default_factory=list)
    sent: int = 0
    heard: int = 0


class Reading:
    """One recording, step by step. peer: whose round trips count."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.found = Examined()
        self.outside: set[LinkId] = set()
        self.measured: set[LinkId] = set()
        self.asked: dict[tuple[LinkId, int], int] = {}
        self.verifying: dict[int, str] = {}
        self.trips: list[tuple[int, int]] = []
        self.transfers: list[tuple[int, int]] = []
        self.began = 0

    def input(self, entry: Entry) -> None:
        """What came."""
        found, given = self.found, entry.input
        found.steps[type(given).__name__] += 1
        match given:
            case LinkUp(lane=lane, facts=facts) if lane in HELLO_LANES:
                self.outside.add(given.link)
                found.tls[facts.tls.version if facts.tls else "none"] += 1
            case ChunkArrived():
                found.heard += 1
            case FrameArrived(link=link, kind=kind):
                found.heard += link in self.outside
                if kind == PONG and (sent := self.asked.pop((link, decode(given.record, Pong).number), None)):
                    self.trips.append((sent, entry.now))
                self.began = entry.now if kind == OFFER else self.began
            case SendCommand():
                self.began = entry.now
            case PayloadReady(content=content):
                found.received.append((content.length, str(content.digest)))
            case CallDone(ticket=ticket, result=Verified(ok=True)) if ticket in self.verifying:
                found.modes[self.verifying[ticket]] += 1
            case _:
                pass

    def output(self, now: int, effects: Effects) -> None:
        """What the step made of it."""
        for sending in effects.send:
            if sending.link in self.outside:
                self.found.sent += 1
            if isinstance(sending, Send) and sending.kind == PING and sending.link in self.measured:
                self.asked[(sending.link, decode(sending.record, Ping).number)] = now
        for call in effects.calls:
            if isinstance(call, Verify):
                self.verifying[call.ticket] = call.mode
        for event in effects.events:
            if isinstance(event, PeerJoined) and event.peer == self.peer:
                self.measured.add(event.link)
            if isinstance(event, TransferEnded):
                self.transfers.append((self.began, now))

    def end(self) -> Examined:
        """Sort the round trips: a trip belongs to a transfer when any part of it does."""
        for sent, heard in self.trips:
            busy = any(sent <= end and heard >= begin for begin, end in self.transfers)
            (self.found.busy if busy else self.found.quiet).append(heard - sent)
        return self.found


def examine(path: Path, peer: str) -> Examined:
    """Do the steps of a recording again and look at each. peer: the node whose round trips count."""
    node, reading = real_cores().node(), Reading(peer)
    for item in TraceReader(path).items():
        if isinstance(item, Entry):
            reading.input(item)
            reading.output(item.now, node.step(item.input, item.now))
    return reading.end()


def latency(trips_ns: Iterable[int]) -> Latency:
    """Of any number of round trips."""
    ordered = sorted(trips_ns)
    if not ordered:
        return Latency(count=0)

    def at(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1] / 1e6, 3)

    return Latency(count=len(ordered), p50_ms=at(0.5), p99_ms=at(0.99), max_ms=at(1))


async def replayed(path: Path) -> Replay:
    """Run `zg-sim replay` on one recording, as its user would."""
    command: Sequence[str] = (str(Path(sys.executable).parent / "zg-sim"), "replay", "--json", str(path))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if not said:
        return Replay(name=path.name, steps=0, why=complaint.decode(errors="replace").strip() or "it said nothing")
    (result,) = msgspec.json.decode(said)
    return Replay(name=path.name, steps=result["steps"], why=why(result, process.returncode or 0))


def why(result: dict[str, Any], code: int) -> str:
    """In one line."""
    if difference := result["difference"]:
        return f"step {difference['step']} differs in {', '.join(difference['about'])}"
    return result["refusal"] or (f"exit code {code}" if code else "")
