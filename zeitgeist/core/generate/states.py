"""The states of one attempt of a job in a worker, and the table of its moves (E4; `docs/spec/worker-states.md`).

Law: `stop` is for an attempt that the engine does not compute for, `interrupt` for one that it does. A step that gives
a token moves nothing.
"""

from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["EVENTS", "SENTENCES", "TRANSITIONS", "EventName", "State"]

State = Literal["queued", "prefilling", "generating", "stopping", "ended", "gone"]
EventName = Literal["start", "prompted", "last", "failed", "stop", "interrupt", "answered", "freed"]

SENTENCES: Final[Mapping[State, str]] = {
    "queued": "acknowledged; the prompt waits for the engine",
    "prefilling": "the engine reads the prompt",
    "generating": "the engine holds a session; steps follow as the window allows",
    "stopping": "told to stop while the engine computes for it; the engine's answer is awaited",
    "ended": "its last word was said; the engine still holds its session",
    "gone": "nothing is left of it",
}

EVENTS: Final[Mapping[EventName, str]] = {
    "start": "the engine is given the prompt",
    "prompted": "the prompt was read",
    "last": "the step gave the last token",
    "failed": "the engine refused the prompt or the step",
    "stop": "cancel, deadline, a later attempt or the end of the link, and the engine does not compute for it",
    "interrupt": "the same, and the engine does",
    "answered": "the engine finished what it computed for it",
    "freed": "the engine closed its session",
}

TRANSITIONS: Final[Mapping[tuple[State, EventName], State]] = {
    ("queued", "start"): "prefilling",
    ("queued", "stop"): "gone",
    ("prefilling", "prompted"): "generating",
    ("prefilling", "failed"): "ended",
    ("prefilling", "interrupt"): "stopping",
    ("generating", "last"): "ended",
    ("generating", "failed"): "ended",
    ("generating", "stop"): "ended",
    ("generating", "interrupt"): "stopping",
    ("stopping", "answered"): "ended",
    ("ended", "freed"): "gone",
}
