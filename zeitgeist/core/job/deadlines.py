"""When jobs are due: one instant a job, the least one in a step of its own (E4)."""

from heapq import heappop, heappush

from zeitgeist.core.ids import JobId
from zeitgeist.core.units import Instant

__all__ = ["Deadlines"]


class Deadlines:
    """A heap whose outdated entries are dropped when they come up."""

    def __init__(self) -> None:
        self.wanted: dict[JobId, Instant] = {}
        self.heap: list[tuple[Instant, JobId]] = []

    def set(self, job: JobId, at: Instant) -> None:
        """job is due at `at`, unless it was earlier already."""
        if job not in self.wanted or at < self.wanted[job]:
            self.wanted[job] = at
            heappush(self.heap, (at, job))

    def clear(self, job: JobId) -> None:
        """job is no more."""
        self.wanted.pop(job, None)

    def least(self) -> Instant | None:
        """The next one."""
        while self.heap and self.wanted.get(self.heap[0][1]) != self.heap[0][0]:
            heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    def due(self, now: Instant) -> list[JobId]:
        """Those whose instant has come, in order; each is told once."""
        jobs: list[JobId] = []
        while (least := self.least()) is not None and least <= now:
            job = heappop(self.heap)[1]
            del self.wanted[job]
            jobs.append(job)
        return jobs
