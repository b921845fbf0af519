"""The `case` of a running check: it compares, remembers what it compared, and decides the verdict.

Law: every comparison that does not hold raises at once, and nothing after can soften it. A check that ends without
having compared anything is a defect of the suite. A tolerance has a source: a key of the profile.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from certify import tolerance
from certify.profile import Profile
from certify.registry import CheckMeta
from certify.verdict import CaseRecord, Exact, Exchange, Finding, FindingKind, Metric, Verdict, real, worst
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.workers import WorkerFailed

__all__ = ["Case", "CheckFailed", "NotDecided", "SuiteDefect"]

Comparable = bytes | bytearray | memoryview | str | int | Sequence[int] | NDArray[Any]


class CheckFailed(AssertionError):
    """The subject violates the clause. The message is the observation."""


class NotDecided(pytest.skip.Exception):
    """The check ended early with `verdict` (UNSUPPORTED, SKIPPED or INCONCLUSIVE); pytest shows a skip."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(f"{verdict}: {reason}")
        self.verdict = verdict
        self.reason = reason


class SuiteDefect(Exception):
    """A check is written wrongly. Never the subject's fault: exit code 3."""


def fingerprint(value: Comparable) -> tuple[str, bytes]:
    """(type and shape in words, bytes) of a comparable value."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{list(value.shape)}", np.ascontiguousarray(value).tobytes()
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes", bytes(value)
    if isinstance(value, str):
        return "str", value.encode()
    return "value", repr(value if isinstance(value, int) else list(value)).encode()


@dataclass
class Case:
    """Made by the plugin for each test; see `certify/checks/__init__.py` for how a check uses it."""

    id: str
    meta: CheckMeta
    profile: Profile
    seed: int
    subject_name: str
    command: str
    metrics: list[Metric] = field(default_factory=list)
    digests: list[Exact] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    marks: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst_text: str = ""

    def rng(self, label: str = "") -> np.random.Generator:
        """Entropy from the seed, the check and the label only: equal for every subject, order and machine."""
        key = hashlib.sha256(f"{self.seed}\0{self.id}\0{label}".encode()).digest()[:16]
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))

    def exact(self, name: str, observed: Comparable, expected: Comparable) -> None:
        """Bit equality of type, shape and content; records the digest of observed for replay."""
        kind, data = fingerprint(observed)
        wanted_kind, wanted = fingerprint(expected)
        self.seal(name, observed)
        if kind != wanted_kind:
            self.fail(f"{name}: got {kind}, wanted {wanted_kind}")
        if data != wanted:
            self.fail(f"{name}: {difference(observed, expected)}")
        self.marks.append(Verdict.EXACT)

    def seal(self, name: str, value: Comparable) -> None:
        """Record the digest of value for replay, without comparing it to anything."""
        kind, data = fingerprint(value)
        self.digests.append(Exact(name=name, digest=hashlib.sha256(kind.encode() + b"\0" + data).hexdigest()))

    def within(self, name: str, value: float, limit: float, source: str, unit: str = "") -> None:
        """value <= limit, where `source` is the key of the profile that the limit comes from. NaN fails."""
        self.compare(name, value, limit, source, unit, "at most")

    def at_least(self, name: str, value: float, limit: float, source: str, unit: str = "") -> None:
        """value >= limit; else as `within`."""
        self.compare(name, value, limit, source, unit, "at least")

    def compare(
        self, name: str, value: float, limit: float, source: str, unit: str, direction: Literal["at most", "at least"]
    ) -> None:
        """Record the metric; fail unless the value is on the right side of the limit."""
        if source not in self.profile:
            raise SuiteDefect(f"{self.id}: tolerance source {source!r} is not in profile {self.profile.name}")
        if math.isnan(limit):
            raise SuiteDefect(f"{self.id}: the limit of {name} is not a number")
        metric = Metric(name=name, value=real(value), limit=real(limit), direction=direction, unit=unit, source=source)
        self.metrics.append(metric)
        if not metric.holds:
            word = "above" if direction == "at most" else "below"
            self.fail(f"{name} is {value:.4g} {unit}".rstrip() + f", {word} the limit {limit:.4g} ({source})")
        self.marks.append(Verdict.PASS)

    def holds(self, name: str, condition: bool, observation: str) -> None:
        """A claim that is true or false. observation: what was seen, in words; it is kept in both cases."""
        if not condition:
            self.fail(f"{name}: {observation}")
        self.notes.append(f"{name}: {observation}")
        self.marks.append(Verdict.PASS)

    def measured(self, name: str, value: float, unit: str = "") -> None:
        """A number for the report that nothing depends on."""
        self.metrics.append(Metric(name=name, value=real(value), limit="", direction="", unit=unit, source=""))

    def refuses(self, call: Callable[[], object], id: str = "", field: str = "") -> ZeitgeistError:
        """call must be refused explicitly with this error id and, when given, this field (`ids` also means `ids[3]`).

        A crash is not a refusal (CRASH), nor is an engine's own error (`zg/backend/failed`) unless asked for by id.
        """
        if not id and not field:
            raise SuiteDefect(f"{self.id}: refuses() needs an error id or a field")
        try:
            call()
        except ZeitgeistError as error:
            if isinstance(error, WorkerFailed) and error.id != id:
                raise
            if id and error.id != id:
                self.fail(f"refused with {error}, wanted error {id}")
            if field and error.field != field and not error.field.startswith((field + "[", field + ".")):
                self.fail(f"refused with {error}, wanted field {field!r}, got {error.field!r}")
            if not id and error.id == "zg/backend/failed":
                self.fail(f"the engine broke instead of refusing: {error}")
            self.marks.append(Verdict.PASS)
            self.notes.append(f"refused: {error}")
            return error
        return self.fail(f"accepted; wanted a refusal {id or 'of ' + field}")

    def worst_row(self, rows: NDArray[Any], reference: NDArray[Any], mantissa_bits: int = 24) -> float:
        """Worst-row relative L2 error in units of u = 2^-mantissa_bits; remembers the row for the report."""
        if np.shape(rows) != np.shape(reference):
            self.fail(f"got shape {np.shape(rows)}, wanted {np.shape(reference)}")
        found = tolerance.worst_row(rows, reference, mantissa_bits)
        self.worst_text = found.text
        return found.units

    def info(self, reason: str) -> None:
        """The case only reports: at best INFO. Also for a case that does not apply to this model."""
        self.marks.append(Verdict.INFO)
        self.notes.append(reason)

    def non_strict(self, reason: str) -> None:
        """A SHOULD is violated: at best NON_STRICT."""
        self.marks.append(Verdict.NON_STRICT)
        self.notes.append(reason)

    def inconclusive_if(self, above: bool, reason: str) -> None:
        """Ask the floor first: `case.inconclusive_if(floor > budget, "…")`, before any comparison with the budget."""
        if above:
            raise NotDecided(Verdict.INCONCLUSIVE, reason)

    def unsupported(self, reason: str, call: Callable[[], object], id: str = "zg/backend/unsupported") -> NoReturn:
        """Not claimed: verify that call is refused, then end as UNSUPPORTED."""
        self.refuses(call, id)
        raise NotDecided(Verdict.UNSUPPORTED, reason)

    def skip(self, reason: str) -> NoReturn:
        """Not run, for a reason that stands in the report; blocks the level."""
        raise NotDecided(Verdict.SKIPPED, reason)

    def fail(self, observation: str) -> NoReturn:
        """The clause is violated."""
        raise CheckFailed(observation)

    def finding(self, id: str, kind: FindingKind, statement: str, evidence: str, handled: str = "") -> None:
        """Something the report must say of this subject, whatever the verdict of this case."""
        self.findings.append(
            Finding(
                id=id,
                kind=kind,
                family=self.meta.family,
                subject=self.subject_name,
                statement=statement,
                evidence=evidence,
                handled=handled,
            )
        )

    def exchanged(self, exporter: str, importer: str) -> None:
        """A cache of exporter was continued on importer in this case; counts for L4 when the case holds."""
        self.exchanges.append(Exchange(exporter=exporter, importer=importer))

    def verdict(self) -> Verdict:
        """Of a check that came to its end: the worst of its marks."""
        if not self.marks:
            raise SuiteDefect(f"{self.id} ended without comparing anything")
        return worst(self.marks)

    def record(self, verdict: Verdict, observation: str) -> CaseRecord:
        """The record of this case as it ended."""
        return CaseRecord(
            case=self.id,
            check=self.meta.id,
            family=self.meta.family,
            clause=self.meta.clause,
            verdict=verdict,
            expectation=self.meta.expectation,
            observation=observation[:2000],
            worst_row=self.worst_text,
            metrics=tuple(self.metrics),
            digests=tuple(self.digests),
            motive=self.meta.motive,
            level=self.meta.level,
            subject=self.subject_name,
            command=self.command,
            findings=tuple(self.findings),
            exchanges=() if verdict.blocks else tuple(self.exchanges),
        )


def difference(observed: Comparable, expected: Comparable) -> str:
    """Where two values of one kind first differ, in words."""
    if isinstance(observed, np.ndarray) and isinstance(expected, np.ndarray):
        raw = [np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(a.size, -1) for a in (observed, expected)]
        at = np.flatnonzero((raw[0] != raw[1]).any(axis=1))
        got, wanted = observed.reshape(-1), expected.reshape(-1)
        return (
            f"{at.size} of {observed.size} elements differ, first at flat index {at[0]} of shape {observed.shape}: "
            f"got {got[at[0]]}, wanted {wanted[at[0]]}"
        )
    return f"got {str(observed)[:200]!s}, wanted {str(expected)[:200]!s}"
