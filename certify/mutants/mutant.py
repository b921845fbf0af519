"""What a mutant and an honest variant are, for the tables of the bank."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["GROUPS", "Honest", "Mutant"]

GROUPS = {
    "KV": "caches on their way out and in",
    "identity": "whose cache it is, and of which tokens",
    "rope": "positions",
    "attention": "arithmetic and precision",
    "batch": "sequences side by side",
    "pipeline": "a part of the layers",
    "sampling": "what is drawn and what is said of it",
    "session": "tokenizer, sessions, limits and the process",
}


@dataclass(frozen=True)
class Mutant:
    """One bug. families: each letter a family meant to see it; one of them suffices. about: the bug in one line.

    motive: link to the public bug of this kind, "" where none is known to us; backend: a name as on the command line;
    service: `module:Class`, or ""; level: the smallest at which the families see it, `standard` only where the smoke
    set lacks the geometry or the case; call_s: limit of a call in seconds for one that hangs, else 0.
    """

    name: str
    group: str
    families: str
    about: str
    motive: str
    backend: str = "reference"
    service: str = ""
    level: Literal["smoke", "standard", "full"] = "smoke"
    call_s: float = 0.0


@dataclass(frozen=True)
class Honest:
    """A right engine that sums in another order, in other chunks, or in a precision that it declares."""

    name: str
    about: str
    backend: str
