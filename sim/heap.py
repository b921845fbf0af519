"""Time and order: the face of a kernel, what decides a tie, and the bare heap that SimPy is measured against (V1, V2).

Law: time is an integer of nanoseconds from 0. Of two happenings the earlier runs first; of two of one instant the one
with the lower priority, then the one that was planned first. Two kernels given the same happenings run them in the same
order, so that each is the other's oracle.
"""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Protocol

from sim.entropy import Entropy

__all__ = ["PLAIN", "Happening", "HeapKernel", "Kernel", "Later", "Ties"]

PLAIN = 1
"""The priority of every happening where ties are left to the order of planning. SimPy keeps 0 for itself."""


class Happening(Protocol):
    """Something that will happen at an instant: a packet arrives, a timer fires."""

    def fire(self) -> None:
        """It happens."""
        ...

    def name(self) -> str:
        """What it is about, the same in every run of a scenario: the key of its tie-break."""
        ...


class Later:
    """A happening that is one call."""

    __slots__ = ("about", "call")

    def __init__(self, call: Callable[[], None], about: str) -> None:
        self.call = call
        self.about = about

    def fire(self) -> None:
        """Make the call."""
        self.call()

    def name(self) -> str:
        """As given."""
        return self.about


class Ties:
    """Which of two happenings of one instant runs first, as a choice that can be permuted, recorded and given back.

    Without a seed all have the same priority and the order of planning decides. With one, a priority is a draw keyed by
    the happening's name. taken: the choices made; given: choices to make instead of drawing.
    """

    def __init__(self, seed: int | None = None, given: Mapping[str, int] | None = None) -> None:
        self.draws = None if seed is None else Entropy(seed).about("tie")
        self.given = dict(given or {})
        self.taken: dict[str, int] = {}

    @property
    def permuted(self) -> bool:
        """True when some happening may get a priority of its own."""
        return self.draws is not None or bool(self.given)

    def priority(self, happening: Happening) -> int:
        """The priority of a happening, noted."""
        name = happening.name()
        choice = self.given.get(name, PLAIN)
        if name not in self.given and self.draws is not None:
            choice = PLAIN + self.draws.named(name) % (1 << 16)
        self.taken[name] = choice
        return choice


class Kernel(Protocol):
    """What a simulation needs of time. now: nanoseconds; fired: happenings so far."""

    now: int
    fired: int

    def at(self, instant: int, happening: Happening) -> None:
        """Plan happening for instant, which is not in the past."""
        ...

    def run(self, until: int) -> None:
        """Run all that happens before until, and leave now at until."""
        ...


class HeapKernel:
    """A heap of (instant, priority, number, happening), and nothing else."""

    def __init__(self, ties: Ties | None = None) -> None:
        self.now = 0
        self.fired = 0
        self.ties = ties if ties and ties.permuted else None
        self.queue: list[tuple[int, int, int, Happening]] = []
        self.planned = 0

    def at(self, instant: int, happening: Happening) -> None:
        """Plan happening for instant."""
        assert instant >= self.now, f"{happening.name()} is planned for {instant}, and it is {self.now}"
        priority = PLAIN if self.ties is None else self.ties.priority(happening)
        self.planned += 1
        heappush(self.queue, (instant, priority, self.planned, happening))

    def run(self, until: int) -> None:
        """Run all that happens before until, and leave now at until."""
        queue = self.queue
        while queue and queue[0][0] < until:
            self.now, _, _, happening = heappop(queue)
            self.fired += 1
            happening.fire()
        self.now = max(self.now, until)
