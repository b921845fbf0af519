"""Whose turn on the engine is next: one engine, one compute at a time (DESIGN §5, E4).

Law: what waits is either an arrival (a call's request, a job's prompt) or a decode step of the jobs that generate.
1. A close comes first: it frees memory and computes nothing.
2. Arrivals run in the order in which they came, calls and prompts alike: the older first.
3. While both wait, `DECODE_STEPS_MAX` decode steps run, then one arrival, then decode steps again. So an arrival waits
   at most that many steps, and as many more for each arrival before it; a decode step waits for one arrival at most.
This file knows numbers only, neither calls nor jobs.
"""

from typing import Final, Literal

__all__ = ["DECODE_STEPS_MAX", "Turn", "Turns"]

DECODE_STEPS_MAX: Final = 4
"""A prefill chunk of 512 tokens takes about as long as 4 decode steps on a CPU: both sides give the same at most."""

Turn = Literal["close", "request", "prompt", "decode"]


class Turns:
    """The order of arrivals, and the decode steps since the last one ran."""

    def __init__(self) -> None:
        self.arrived = 0
        self.steps = DECODE_STEPS_MAX

    def arrive(self) -> int:
        """The place in the order of what came now. Smaller is older."""
        self.arrived += 1
        return self.arrived

    def choose(self, *, closing: bool, request: int | None, prompt: int | None, decode: bool) -> Turn | None:
        """What runs now, None when nothing waits. request, prompt: the oldest of each that waits; counts the choice."""
        if closing:
            return "close"
        oldest = min((place for place in (request, prompt) if place is not None), default=None)
        if oldest is None or (decode and self.steps < DECODE_STEPS_MAX):
            if decode:
                self.steps += 1
                return "decode"
            return None
        self.steps = 0
        return "request" if oldest == request else "prompt"

    def state(self) -> tuple[int, int]:
        """For state digests."""
        return self.arrived, self.steps
