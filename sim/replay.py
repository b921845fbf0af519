"""Recordings against the core: verify a file, replay it, say where the first difference is (V2, V5).

Law: a trace of a real host and one of a simulation are the same thing here. A difference is shown with the steps before
it from the recording, so that a person sees what led to it; content is never needed, since the core is content-blind.
"""

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from sim.record import TraceReader, parts_from
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.ids import Digest
from zeitgeist.core.recording import Content, End, Entry, Subject
from zeitgeist.core.replay import Difference, Replayer, require_core

__all__ = ["Replayed", "Verified", "replay", "verify"]

NEIGHBOURS = 5
"""Steps shown before and after a difference."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose chain, header and every entry are sound. end: False for one that was cut after a whole block."""

    path: str
    node: str
    kind: str
    core: str
    steps: int
    contents: int
    last_ns: int
    trace: str
    same_core: bool


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found. refusal: why it could not go on to the end; before, after: entries around the difference."""

    path: str
    node: str
    steps: int
    difference: Difference | None = None
    before: tuple[Entry, ...] = ()
    after: tuple[Entry, ...] = ()
    refusal: str = ""

    @property
    def same(self) -> bool:
        """True when every step gave what it gave before."""
        return self.difference is None and not self.refusal


def verify(path: Path, core: Digest) -> Verified:
    """Read all of a file; the first thing wrong is refused by name (`zg/trace/…`)."""
    reader = TraceReader(path)
    steps = contents = last_ns = 0
    trace = b""
    for item in reader.items():
        match item:
            case Entry():
                steps, last_ns = steps + 1, item.now
            case Content():
                contents += 1
            case End():
                trace = item.trace
    return Verified(
        path=str(path),
        node=reader.header.node,
        kind=reader.header.kind,
        core=reader.header.core,
        steps=steps,
        contents=contents,
        last_ns=last_ns,
        trace=trace.hex(),
        same_core=reader.header.core == core,
    )


def replay(
    path: Path,
    makers: Mapping[Literal["node", "worker"], Callable[[], Subject]],
    core: Digest,
    progress: Callable[[int], None] | None = None,
    *,
    tolerant: bool = False,
) -> Replayed:
    """Do every step of a recording again, of all its parts. tolerant: also when other sources of the core made it."""
    reader = TraceReader(path)
    header = reader.header
    if not tolerant:
        require_core(header, core)
    replayer = Replayer(makers[header.kind]())
    before: deque[Entry] = deque(maxlen=NEIGHBOURS)
    after: list[Entry] = []
    found: Difference | None = None
    steps = 0
    try:
        for item in parts_from(reader):
            if isinstance(item, End) and found is None:
                replayer.finish(item)
            if not isinstance(item, Entry):
                continue
            if found is not None:
                after.append(item)
                if len(after) == NEIGHBOURS:
                    break
                continue
            found = replayer.feed(item)
            if found is None:
                steps += 1
                before.append(item)
                if progress:
                    progress(steps)
    except RemoteProtocolError as error:
        return Replayed(path=str(path), node=header.node, steps=steps, before=tuple(before), refusal=str(error))
    return Replayed(
        path=str(path), node=header.node, steps=steps, difference=found, before=tuple(before), after=tuple(after)
    )
