"""TCP streams of a capture: each direction put together again from its segments (G4).

Law: bytes come out in order, each once. A byte that came twice counts as it came first; a gap that is never filled is
told, with its size, and what follows it is given after it. Nothing is invented.
"""

from collections.abc import Iterator

import msgspec

__all__ = ["Direction", "Piece", "Segment"]

WINDOW = 1 << 31
"""Sequence numbers run round at 2^32: a difference above half of it is a step back."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One TCP segment as captured. time: seconds since 1970; sequence: as on the wire; ends: (source, destination)."""

    time: float
    ends: tuple[str, str]
    sequence: int
    start: bool
    data: bytes


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in order. time: when the last of them was there; lost: bytes missing before them."""

    time: float
    data: bytes
    lost: int = 0


class Direction:
    """One direction of one connection. Feed segments as captured; take pieces as they become whole."""

    def __init__(self) -> None:
        self.origin: int | None = None
        self.next = 0
        self.waiting: dict[int, tuple[float, bytes]] = {}

    def take(self, segment: Segment) -> Iterator[Piece]:
        """Pieces that segment completes. Places count from the first byte seen and never run round."""
        first = (segment.sequence + segment.start) % (1 << 32)
        if self.origin is None or (segment.start and first != self.origin):
            yield from self.rest()
            self.origin, self.next = first, 0
        step = (first - self.origin - self.next) % (1 << 32)
        place = self.next + (step if step < WINDOW else step - (1 << 32))
        data = segment.data[max(0, self.next - place) :]
        place = max(place, self.next)
        while data and place in self.waiting:
            kept = len(self.waiting[place][1])
            data, place = data[kept:], place + kept
        if data:
            self.waiting[place] = (segment.time, data)
        yield from self.ready(segment.time)

    def ready(self, time: float) -> Iterator[Piece]:
        """What follows without a gap."""
        while due := sorted(place for place in self.waiting if place <= self.next):
            for place in due:
                _, data = self.waiting.pop(place)
                fresh = data[self.next - place :]
                if fresh:
                    self.next += len(fresh)
                    yield Piece(time=time, data=fresh)

    def rest(self) -> Iterator[Piece]:
        """At the end of the capture: what stands behind gaps, each gap told."""
        while self.waiting:
            place = min(self.waiting)
            time, data = self.waiting.pop(place)
            lost, fresh = max(0, place - self.next), data[max(0, self.next - place) :]
            if fresh:
                self.next = max(self.next, place) + len(fresh)
                yield Piece(time=time, data=fresh, lost=lost)
