"""Which chunks of a tensor are there: one bit a chunk, and the (first, count) ranges that travel (C1).

Law: memory is one bit a chunk, whatever order they come in; adding one costs the same at the first and the last. What a
peer says about ranges and indices is refused by name before it is used.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from zeitgeist.core.errors import refuse

__all__ = ["RANGES_MAX", "ChunkSet", "ranges_outside", "require_indices", "require_ranges"]

RANGES_MAX: Final = 4096
"""What `Accept.have` may list. Chunks beyond come again as duplicates."""
FULL: Final = bytearray(b"\xff" * 512)


class ChunkSet(msgspec.Struct, kw_only=True):
    """The chunks held of count. bits: chunk i is bit i & 7 of byte i >> 3; held: how many."""

    count: int
    bits: bytearray
    held: int = 0

    @classmethod
    def of(cls, count: int) -> "ChunkSet":
        """None of count."""
        return cls(count=count, bits=bytearray((count + 7) >> 3))

    def add(self, index: int) -> bool:
        """Count chunk index as held; False when it was."""
        place, bit = index >> 3, 1 << (index & 7)
        if self.bits[place] & bit:
            return False
        self.bits[place] |= bit
        self.held += 1
        return True

    def __contains__(self, index: int) -> bool:
        """Whether chunk index is held."""
        return bool(self.bits[index >> 3] >> (index & 7) & 1)

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return self.held == self.count

    def clear(self) -> None:
        """Nothing is held."""
        self.bits, self.held = bytearray(len(self.bits)), 0

    def missing(self, start: int, most: int) -> tuple[int, ...]:
        """The first most chunks from start on that are not held, ascending."""
        found: list[int] = []
        index = start
        while index < self.count and len(found) < most:
            place = index >> 3
            if not index & 7 and self.bits[place] == 0xFF:
                index += 4096 if self.bits[place : place + 512] == FULL else 8
                continue
            if not self.bits[place] >> (index & 7) & 1:
                found.append(index)
            index += 1
        return tuple(found)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """(first, count) of the first `RANGES_MAX` runs that are held. One pass over the bits as text."""
        text = f"{int.from_bytes(self.bits, 'little'):b}"[::-1]
        runs: list[tuple[int, int]] = []
        first = text.find("1")
        while first >= 0 and len(runs) < RANGES_MAX:
            stop = text.find("0", first)
            stop = len(text) if stop < 0 else stop
            runs.append((first, stop - first))
            first = text.find("1", stop)
        return tuple(runs)


def require_ranges(have: Sequence[tuple[int, int]], count: int) -> None:
    """Refuse ranges that are empty, out of order, touching, or outside count chunks (`zg/transfer/bad-range`)."""
    stop = -1
    for first, length in have:
        if not stop < first < count or not 1 <= length <= count - first:
            raise refuse(
                "zg/transfer/bad-range", "have", (first, length), f"ascending ranges, apart, inside {count} chunks"
            )
        stop = first + length


def ranges_outside(have: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """(first, stop) of what checked ranges leave of count chunks, ascending."""
    gaps: list[tuple[int, int]] = []
    at = 0
    for first, length in have:
        if at < first:
            gaps.append((at, first))
        at = first + length
    if at < count:
        gaps.append((at, count))
    return gaps


def require_indices(indices: Sequence[int], count: int) -> None:
    """Refuse indices that do not ascend or are outside count chunks (`zg/transfer/bad-index`)."""
    last = -1
    for index in indices:
        if not last < index < count:
            raise refuse("zg/transfer/bad-index", "indices", index, f"ascending indices below {count}")
        last = index
