"""The one registry of checks and families (W1). `list`, `explain`, the levels table and the report are made from it.

Law: a check has one id in the whole suite; it states its clause, its expectation and what the subject must have
claimed.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import pytest

from zeitgeist.core.descriptors.backend import CAPABILITIES
from zeitgeist.core.errors import LocalProtocolError

__all__ = ["CHECKS", "FAMILIES", "LEVEL_NAMES", "CheckMeta", "Level", "at_level", "check", "load_checks", "runs_at"]

Level = Literal["smoke", "standard", "full"]
LEVEL_NAMES: tuple[Level, ...] = ("smoke", "standard", "full")

FAMILIES = {
    "A": "anti-cheat: the subject computes, it does not recite",
    "B": "backend contract: describe, sessions, refusals, errors, shutdown",
    "D": "determinism: run to run, batch and chunk invariance, isolation between sessions",
    "F": "fault injection: corrupt, stale, foreign and half-written caches fail closed",
    "G": "geometry: rope variants, head counts, head sizes, biases, norms, boundaries",
    "H": "handshake and attack",
    "K": "kernels on grids of shapes and types",
    "N": "numerics: teacher-forced logits against the float64 oracle",
    "O": "OpenAI-style API",
    "P": "wire protocol",
    "R": "recovery",
    "S": "sampling: greedy and seeded",
    "T": "tokenizer",
    "V": "KV contract: descriptor, export, import, round trip, refusals",
    "X": "interop: a cache made by one engine continues on another",
    "Z": "the suite itself",
}


@dataclass(frozen=True)
class CheckMeta:
    """What a check says of itself. needs: words of CAPABILITIES; level: the smallest level that runs it."""

    id: str
    family: str
    clause: str
    level: Level
    needs: tuple[str, ...]
    motive: str
    expectation: str
    requirement: tuple[str, ...]
    where: str
    file: str


CHECKS: dict[str, CheckMeta] = {}

F = TypeVar("F", bound=Callable[..., object])


def check(
    *,
    id: str,
    family: str,
    clause: str,
    expectation: str,
    level: Level = "standard",
    needs: tuple[str, ...] = (),
    motive: str = "",
    requirement: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Register a pytest test function as the check `id`, which starts with its family: `B.closed-session-refused`.

    clause: what it proves (`I1`, `DESIGN §4`); motive: the public bug behind it, with a link, or "".
    """
    if family not in FAMILIES or not id.startswith(family + "."):
        raise AssertionError(f"check id {id} must start with its family and a dot; families are {' '.join(FAMILIES)}")
    if level not in LEVEL_NAMES or not set(needs) <= set(CAPABILITIES) or not clause or not expectation:
        raise AssertionError(f"check {id}: level, needs, clause or expectation is not valid")

    def mark(function: F) -> F:
        where = f"{function.__module__}:{function.__qualname__}"
        if id in CHECKS and CHECKS[id].where != where:
            raise AssertionError(f"check id {id} is taken by {CHECKS[id].where}")
        meta = CheckMeta(
            id, family, clause, level, needs, motive, expectation, requirement, where, function.__code__.co_filename
        )
        CHECKS[id] = meta
        marked = pytest.mark.zg_check(meta)(function)
        for name in requirement:
            marked = pytest.mark.requirement(name)(marked)
        return marked

    return mark


def at_level(level: Level) -> pytest.MarkDecorator:
    """For one parameter of a check: `pytest.param(4096, marks=at_level("full"))` runs only from that level on."""
    return pytest.mark.zg_level(level)


def runs_at(case_level: str, asked: str) -> bool:
    """Does a case of case_level run when `asked` was asked for? smoke ⊂ standard ⊂ full."""
    for name in (case_level, asked):
        if name not in LEVEL_NAMES:
            raise LocalProtocolError(
                "zg/certify/usage", f"got {name!r}, wanted one of {', '.join(LEVEL_NAMES)}", "level"
            )
    return LEVEL_NAMES.index(case_level) <= LEVEL_NAMES.index(asked)


def load_checks() -> dict[str, CheckMeta]:
    """Import every module of `certify.checks`; checks by id, sorted."""
    package = importlib.import_module("certify.checks")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("test_"):
            importlib.import_module(f"certify.checks.{info.name}")
    return dict(sorted(CHECKS.items()))
