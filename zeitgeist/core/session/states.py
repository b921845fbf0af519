"""Where a link stands, what may happen to it, and what follows: the session's table (B1).

Law: a session moves by this table and in no other way; what is not in it is refused by name. The diagram in
`docs/spec/sessions.md` is drawn from it.
"""

from collections.abc import Mapping
from typing import Literal

from zeitgeist.core.auth.transcript import Prover
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.ids import LinkId, NodeId
from zeitgeist.core.wire.messages import Phase
from zeitgeist.core.wire.registry import SessionState

__all__ = ["ENDS", "EVENTS", "HEARD_BY", "LIVE", "PHASES", "STATES", "STEPS", "TRANSITIONS", "EventName", "next_state"]

EventName = Literal[
    "hello",
    "challenge",
    "proof",
    "welcome",
    "joined",
    "capabilities",
    "models",
    "assessment",
    "plan_proposal",
    "plan_agreed",
    "goodbye",
    "drain",
    "refuse",
    "refused",
    "lost",
]

STATES: Mapping[SessionState, str] = {
    "greeting": "the connection stands; the dialler has said Hello, the acceptor waits for it",
    "challenged": "the acceptor has chosen a mode and waits for the dialler's proof, then for its host's verdict",
    "proving": "the dialler proves itself and waits for the acceptor's proof, then for its host's verdict",
    "describing": "each knows who the other is; node descriptors are exchanged",
    "modelling": "models are exchanged",
    "assessing": "both compute the agreement and compare",
    "finalizing": "the dialler proposes a plan, the acceptor commits to its digest",
    "ready": "work may begin; on a bulk link chunks may travel",
    "draining": "what runs may end, nothing starts",
    "closed": "nothing more is said or heard",
}

EVENTS: Mapping[EventName, str] = {
    "hello": "the dialler's Hello came",
    "challenge": "the acceptor's Challenge came",
    "proof": "the dialler's proof holds",
    "welcome": "the acceptor's proof holds",
    "joined": "the peer's proof on a bulk link holds, and the session that it names is ready",
    "capabilities": "the peer's node descriptor came, and ours was said",
    "models": "the peer's models came",
    "assessment": "the peer concluded what we conclude",
    "plan_proposal": "the dialler's plan came and is allowed",
    "plan_agreed": "the acceptor committed to our plan",
    "goodbye": "the peer drains",
    "drain": "we drain",
    "refuse": "we refuse, and say why",
    "refused": "the peer refuses, and said why",
    "lost": "the connection is gone, or the peer was silent for too long",
}

STEPS: Mapping[tuple[SessionState, EventName], SessionState] = {
    ("greeting", "hello"): "challenged",
    ("greeting", "challenge"): "proving",
    ("challenged", "proof"): "describing",
    ("challenged", "joined"): "ready",
    ("proving", "welcome"): "describing",
    ("proving", "joined"): "ready",
    ("describing", "capabilities"): "modelling",
    ("modelling", "models"): "assessing",
    ("assessing", "assessment"): "finalizing",
    ("finalizing", "plan_proposal"): "ready",
    ("finalizing", "plan_agreed"): "ready",
    ("ready", "goodbye"): "draining",
    ("ready", "drain"): "draining",
    ("draining", "goodbye"): "draining",
    ("draining", "drain"): "draining",
}
ENDS: tuple[EventName, ...] = ("refuse", "refused", "lost")
"""We refuse, the peer refuses, the connection goes or is given up: each ends any open state."""

TRANSITIONS: Mapping[tuple[SessionState, EventName], SessionState] = {
    **STEPS,
    **{(state, event): "closed" for state in STATES if state != "closed" for event in ENDS},
}

HEARD_BY: Mapping[EventName, Prover] = {
    "hello": "acceptor",
    "proof": "acceptor",
    "plan_proposal": "acceptor",
    "challenge": "dialler",
    "welcome": "dialler",
    "plan_agreed": "dialler",
}
"""Events that only one of the two roles may hear; the others are heard by both."""

LIVE: tuple[SessionState, ...] = ("ready", "draining")

PHASES: Mapping[SessionState, Phase] = {
    "greeting": "handshake",
    "challenged": "handshake",
    "proving": "handshake",
    "describing": "runtime",
    "modelling": "model",
    "assessing": "execution",
    "finalizing": "plan",
    "ready": "plan",
    "draining": "plan",
    "closed": "plan",
}
"""The phase that a refusal in a state names (B1); a session that is ready has agreed on its plan."""


def next_state(state: SessionState, event: EventName, role: Prover, link: LinkId, peer: NodeId) -> SessionState:
    """The state after event; refuses what the table or the role does not allow (`zg/session/out-of-order`)."""
    after = TRANSITIONS.get((state, event))
    if after is None or HEARD_BY.get(event, role) != role:
        raise RemoteProtocolError(
            "zg/session/out-of-order",
            f"{event} is not allowed in {state} for the {role} (link {link}, peer {peer or 'unproven'})",
            "state",
        )
    return after
