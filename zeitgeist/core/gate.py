"""The gate: which frames a machine may hear (H2, `docs/spec/door.md`).

Law: the first fault is the refusal, in this order: sequence, kind, lane and channel, state of the session, trust,
record, content. Nothing is decoded for a peer that may not say it. The sequence counts even when the rest is refused:
the frame did arrive. The table is `wire/registry.py`; this file adds which lane carries which machine's records.
"""

from collections.abc import Mapping
from typing import TypeAlias, get_args

import msgspec

from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.effects import ChunkArrived, FrameArrived
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.ids import LinkId
from zeitgeist.core.outbox import Heard, Standing
from zeitgeist.core.wire.frame import BULK
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.wire.registry import CHUNK_KIND, REGISTRY, Machine, Row, SessionState

__all__ = ["LANES", "WRONG_SEQUENCE", "Admitted", "Gate"]

WRONG_SEQUENCE = "zg/node/wrong-sequence"

LANES: Mapping[Machine, tuple[Lane, ...]] = {
    "session": ("control", "bulk", "local"),
    "transfer": ("control", "local"),
    "job": ("control", "local"),
    "call": ("local",),
}
"""Where the records of a machine travel. Chunks are the exception: bulk and local."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that may be heard, and the machine that hears it."""

    machine: Machine
    heard: Heard


class Gate:
    """The rows of the machines that this party has, and the next sequence of each link."""

    def __init__(self, machines: tuple[Machine, ...]) -> None:
        self.rows = {kind: row for kind, row in REGISTRY.items() if row.machine in machines}
        self.rules = {kind: rule_of(row) for kind, row in self.rows.items()}
        self.next: dict[LinkId, int] = {}

    def frame(self, frame: FrameArrived, standing: Standing) -> Admitted | Reason:
        """What is to be heard of a frame with a record, or why it is refused."""
        row = self.rows.get(frame.kind)
        if fault := self.refusal(row, frame, frame.kind, standing):
            return fault
        assert row is not None
        try:
            record = decode(frame.record, row.record)
        except ZeitgeistError as error:
            return Reason(id=error.id, detail=error.detail, field=error.field)
        if frame.content is not None and not row.content:
            return fault_of("zg/node/unexpected-content", "content", f"{frame.content.length} bytes", "none")
        heard = Heard(
            link=frame.link,
            peer=standing.peer,
            stream=frame.stream,
            flags=frame.flags,
            record=record,
            content=frame.content,
        )
        return Admitted(machine=row.machine, heard=heard)

    def chunk(self, chunk: ChunkArrived, standing: Standing) -> Reason | None:
        """Why a chunk may not be heard; its record was judged by the driver's assembler."""
        return self.refusal(self.rows.get(CHUNK_KIND), chunk, CHUNK_KIND, standing)

    def forget(self, link: LinkId) -> None:
        """The link is gone."""
        self.next.pop(link, None)

    def refusal(
        self, row: Row | None, frame: FrameArrived | ChunkArrived, kind: int, standing: Standing
    ) -> Reason | None:
        """All that is judged before the record is looked at."""
        link, sequence = frame.link, frame.sequence
        wanted = self.next.get(link, 0)
        if sequence != wanted:  # the link ends; a stranger's number of 64 bits is not kept, let alone one more
            return fault_of(WRONG_SEQUENCE, "sequence", sequence, wanted)
        self.next[link] = wanted + 1
        if row is None:
            return fault_of("zg/node/unknown-kind", "kind", f"0x{kind:04x}", "a kind that this party hears")
        arrives_as, channels, lanes, states, trusts = self.rules[kind]
        if frame.__class__ is not arrives_as or frame.channel not in channels:
            return fault_of("zg/node/wrong-channel", "channel", frame.channel, [int(c) for c in row.channels])
        if standing.lane not in lanes:
            return fault_of("zg/node/wrong-channel", "lane", standing.lane, "one that carries this record")
        if standing.state not in states:
            return fault_of("zg/node/wrong-state", "state", standing.state, ", ".join(row.states) or "an open link")
        if trusts is not None and trusts.isdisjoint(standing.trust):
            held = ", ".join(standing.trust) or "nothing"
            return fault_of("zg/node/not-allowed", "trust", held, f"one of {', '.join(row.trust)}")
        return None


Rule: TypeAlias = tuple[type, tuple[int, ...], tuple[str, ...], tuple[str, ...], frozenset[str] | None]
"""What is asked of a kind, worked out once: the class of its input, channels as numbers, lanes, states, trust levels
(None: anyone)."""


def rule_of(row: Row) -> Rule:
    """The rule of a row. Chunks come as an input of their own, and on any lane but control."""
    chunk = row.kind == CHUNK_KIND
    lanes = ("bulk", "local") if chunk else LANES[row.machine]
    states = row.states or tuple(state for state in get_args(SessionState) if state != "closed")
    channels = tuple(int(channel) for channel in row.channels)
    return ChunkArrived if chunk else FrameArrived, channels, lanes, states, frozenset(row.trust) or None


def fault_of(id: str, field: str, got: object, wanted: object) -> Reason:
    """A refusal in the words of all refusals."""
    return Reason(id=id, detail=f"got {str(got)[:80]}, wanted {str(wanted)[:160]}", field=field)


assert all(set(row.channels) <= set(BULK) for row in REGISTRY.values() if row.kind == CHUNK_KIND)
