"""The face of every machine of a node: what it may be told, and what it must be able to say (`docs/internals/core.md`).

Law: a machine is made from the `Boot` and acts only while one of these methods runs, through the outbox that it gets.
A method that is not overridden does nothing.
"""

from typing import Protocol

from zeitgeist.core.effects import Input, Result
from zeitgeist.core.facts import Fact
from zeitgeist.core.ids import LinkId, Ticket
from zeitgeist.core.outbox import Heard, Outbox, Standing
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason

__all__ = ["Links", "Machine"]


class Machine(Protocol):
    """One machine."""

    def told(self, input: Input, now: Instant, out: Outbox) -> None:
        """An input that is no permitted frame and no answer; the Boot first."""

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """A permitted, decoded record."""

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """What another machine concluded."""

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """The answer of a call or of a sync persist that this machine asked for; None: it is persisted."""

    def expire(self, now: Instant, out: Outbox) -> None:
        """Do what was due until now."""

    def deadline(self) -> Instant | None:
        """When to expire next at the latest. Asked after each step, so it costs no scan."""
        return None

    def idle(self) -> bool:
        """Nothing of it is under way. Asked only while the node drains."""
        return True

    def state(self) -> bytes:
        """Canonical bytes of all that it holds."""
        return b""


class Links(Machine, Protocol):
    """The machine that knows every link that is up: the sessions."""

    def standing(self, link: LinkId) -> Standing | None:
        """Where link stands; None when it is not up. Asked for each frame."""

    def break_off(self, link: LinkId, reason: Reason, now: Instant, out: Outbox) -> None:
        """A frame of link was refused before it was ready: answer `Refused`, close."""

    def part(self, out: Outbox) -> None:
        """The node has drained: close every link."""
