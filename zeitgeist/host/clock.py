"""Time, as a driver tells it: monotonic nanoseconds since boot, and what the wall clock says of expiry (DESIGN §2).

Law: `now` never goes back and knows no dates. The wall clock is told at boot and whenever somebody set it.
"""

import time

from zeitgeist.core.effects import WallClock
from zeitgeist.core.units import Instant

__all__ = ["WALL_CHECK_S", "Clock"]

WALL_CHECK_S = 10.0
SET_NS = 100_000_000
"""100 ms: more than NTP slews in `WALL_CHECK_S` (5 ms), less than any window of a key cares for."""
ERROR_NS = 1_000_000_000
"""The kernel's estimate of its own error is not to be had from Python; a host with NTP keeps within 1 s."""


class Clock:
    """Begins at 1 with its making."""

    def __init__(self) -> None:
        self.began = time.monotonic_ns() - 1
        self.offset = 0

    def now(self) -> Instant:
        """Nanoseconds since boot."""
        return Instant(time.monotonic_ns() - self.began)

    def seconds_until(self, instant: Instant) -> float:
        """From now, 0 for what has passed."""
        return max(0, instant - self.now()) / 1e9

    def wall(self) -> WallClock:
        """What the wall clock says now."""
        utc = time.time_ns()
        self.offset = utc - time.monotonic_ns()
        return WallClock(utc_ns=utc, error_ns=ERROR_NS)

    def wall_when_set(self) -> WallClock | None:
        """The wall clock again, when it moved against the monotonic one since it was told; else None."""
        return self.wall() if abs(time.time_ns() - time.monotonic_ns() - self.offset) > SET_NS else None
