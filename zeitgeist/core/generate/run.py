"""One attempt of a job, as its worker holds it: what was assigned, how far it came, why it must stop.

Law: a run moves by `TRANSITIONS` only. Its fence orders attempts: (owner's epoch, attempt), the larger is the later.
"""

from typing import Literal

import msgspec

from zeitgeist.core.effects import PayloadRef
from zeitgeist.core.generate.states import TRANSITIONS, EventName, State
from zeitgeist.core.ids import JobId, LinkId
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.trace import JobMoved
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Assign, Reason

__all__ = ["Outcome", "Run"]

Outcome = Literal["stop", "length", "cancelled", "failed"]


class Run(msgspec.Struct, kw_only=True, eq=False):
    """index: of the next token, so also how many were sent; acked: every index below it was taken.

    silent: nobody is to be told how it ends (its link is down, or a later attempt took its place).
    why: what its end is to be called once the engine lets go of it.
    """

    link: LinkId
    assign: Assign
    place: int
    content: PayloadRef
    deadline: Instant | None
    state: State = "queued"
    index: int = 0
    acked: int = 0
    silent: bool = False
    why: tuple[Outcome, Reason | None] | None = None

    @property
    def job(self) -> JobId:
        """Whose attempt it is."""
        return JobId(self.assign.job)

    @property
    def fence(self) -> tuple[int, int]:
        """Orders attempts of one job."""
        return self.assign.owner_epoch, self.assign.attempt

    @property
    def may_step(self) -> bool:
        """It generates, and is less than a window ahead of what was taken."""
        return self.state == "generating" and self.index - self.acked < self.assign.window

    def move(self, event: EventName, out: Outbox) -> None:
        """Follow the table, and say so. A move that it lacks is our own defect."""
        before = self.state
        assert (before, event) in TRANSITIONS, f"{event} is not allowed in {before} (job {self.job})"
        self.state = TRANSITIONS[before, event]
        out.events.append(
            JobMoved(job=self.job, attempt=self.assign.attempt, before=before, event=event, after=self.state)
        )
