"""The states of a job and the table of its moves (E2, E4; `docs/spec/jobs.md` draws it).

One table for the three places where a job stands: at its client's node, at its owner, at its executor's node. Each uses
the rows that it can see. `recovered` comes with recovery by policy.
"""

from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["ENDS", "EVENTS", "LIVE", "SENTENCES", "TERMINAL", "TRANSITIONS", "EventName", "State"]

State = Literal[
    "proposed",
    "admitted",
    "planned",
    "assigned",
    "acknowledged",
    "executing",
    "streaming",
    "completed",
    "failed",
    "cancelled",
]

SENTENCES: Final[Mapping[State, str]] = {
    "proposed": "it was asked for; nobody has promised anything",
    "admitted": "its owner will see to it: the admission survives a crash",
    "planned": "a plan names who may run it, in order",
    "assigned": "an executor was asked to run an attempt, and has not answered",
    "acknowledged": "a peer took the attempt",
    "executing": "a worker of this node took the attempt",
    "streaming": "tokens come",
    "completed": "the last token was given, by a stop or by the length asked for",
    "failed": "it ended with a reason",
    "cancelled": "whoever asked for it wants it no more",
}

TERMINAL: Final[tuple[State, ...]] = ("completed", "failed", "cancelled")
LIVE: Final[tuple[State, ...]] = tuple(state for state in SENTENCES if state not in TERMINAL)

EVENTS: Final[Mapping[str, str]] = {
    "admit": "the admission is persisted; at the client's node, the owner said so",
    "plan": "a plan about things as they are",
    "assign": "an attempt was sent to the next of the plan",
    "reject": "that one did not take it, and surely did not start",
    "acknowledge": "a peer took it",
    "execute": "a worker of this node took it",
    "token": "a token came, in order",
    "finish": "the last word was `stop` or `length`, and every token had come",
    "fail": "a reason ended it: a party gone, a rule broken, time spent",
    "cancel": "who asked wants no more, or is gone",
}

EventName = Literal["admit", "plan", "assign", "reject", "acknowledge", "execute", "token", "finish", "fail", "cancel"]

TRANSITIONS: Final[Mapping[tuple[State, EventName], State]] = {
    ("proposed", "admit"): "admitted",
    ("admitted", "plan"): "planned",
    ("planned", "assign"): "assigned",
    ("assigned", "reject"): "planned",
    ("assigned", "acknowledge"): "acknowledged",
    ("assigned", "execute"): "executing",
    # The client's node sees no plan and no attempt: its tokens follow the admission.
    ("admitted", "token"): "streaming",
    ("acknowledged", "token"): "streaming",
    ("executing", "token"): "streaming",
    ("streaming", "token"): "streaming",
    # An attempt of no token is one too: the first token may be the stop.
    ("admitted", "finish"): "completed",
    ("acknowledged", "finish"): "completed",
    ("executing", "finish"): "completed",
    ("streaming", "finish"): "completed",
    **{(state, "fail"): "failed" for state in LIVE},
    **{(state, "cancel"): "cancelled" for state in LIVE},
}

ENDS: Final[Mapping[str, EventName]] = {"stop": "finish", "length": "finish", "cancelled": "cancel", "failed": "fail"}
"""What the outcome of a `Finished` is in this table."""
