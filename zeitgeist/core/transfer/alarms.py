"""When each transfer wants to be looked at: a heap that is corrected when an alarm rings, not when it is moved (E4).

Law: an alarm rings at its instant or later, never before; `least` may be earlier than any alarm, never later, so that
moving an alarm away costs nothing.
"""

from heapq import heapify, heappop, heappush

from zeitgeist.core.units import Instant

__all__ = ["Alarms"]


class Alarms:
    """One instant for each key. Keys are serial numbers."""

    def __init__(self) -> None:
        self.wanted: dict[int, Instant] = {}
        self.heap: list[tuple[Instant, int]] = []

    def move(self, key: int, at: Instant) -> None:
        """Ring for key at `at`, and not before."""
        before = self.wanted.get(key)
        self.wanted[key] = at
        if before is None or at < before:
            heappush(self.heap, (at, key))
            if len(self.heap) > 64 + 4 * len(self.wanted):
                self.heap = [(wanted, other) for other, wanted in self.wanted.items()]
                heapify(self.heap)

    def stop(self, key: int) -> None:
        """Do not ring for key."""
        self.wanted.pop(key, None)

    def least(self) -> Instant | None:
        """When to look next at the latest."""
        while self.heap and self.heap[0][1] not in self.wanted:
            heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    def ringing(self, now: Instant) -> list[int]:
        """Keys whose instant has come, in order of instant, then key; they are stopped."""
        rung: list[int] = []
        while self.heap and self.heap[0][0] <= now:
            _, key = heappop(self.heap)
            at = self.wanted.get(key)
            if at is None:
                continue
            if at <= now:
                del self.wanted[key]
                rung.append(key)
            else:
                heappush(self.heap, (at, key))
        return rung
