"""What a case ended as, and the records that say so.

Law: a verdict never becomes softer; reals stand in records as text (`repr` of the double), so that records have
canonical bytes and a Merkle leaf that is equal everywhere. Clause: DESIGN §9, W1.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from zeitgeist.core.formats.canonical import Record

__all__ = [
    "CaseRecord",
    "Exact",
    "Exchange",
    "Finding",
    "FindingKind",
    "KillScore",
    "MatrixCell",
    "Metric",
    "Verdict",
    "count_verdicts",
    "findings_of",
    "real",
    "worst",
]

FindingKind = Literal["defect", "property", "trap", "control"]
"""defect: wrong by its own documents; property: true and worth knowing; trap: would catch an unwary adapter;
control: a planted difference that the suite must see."""


class Verdict(StrEnum):
    """Ordered from best to worst in `ORDER`. One sentence each in `MEANING`."""

    EXACT = "EXACT"
    PASS = "PASS"
    NON_STRICT = "NON_STRICT"
    INFO = "INFO"
    UNSUPPORTED = "UNSUPPORTED"
    SKIPPED = "SKIPPED"
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"
    CRASH = "CRASH"

    @property
    def severity(self) -> int:
        """0 for EXACT … 8 for CRASH."""
        return ORDER.index(self)

    @property
    def bad(self) -> bool:
        """The subject is wrong: no level that needs this family can be had."""
        return self in (Verdict.FAIL, Verdict.CRASH)

    @property
    def blocks(self) -> bool:
        """No level that needs this family can be had while one case ends so (bad, or not decided)."""
        return self.bad or self in (Verdict.SKIPPED, Verdict.INCONCLUSIVE)

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return MEANING[self]


ORDER = tuple(Verdict)

MEANING = {
    Verdict.EXACT: "equal bit for bit",
    Verdict.PASS: "within the tolerance of the profile",
    Verdict.NON_STRICT: "usable, but a SHOULD of the contract is violated",
    Verdict.INFO: "measured and reported; nothing was owed",
    Verdict.UNSUPPORTED: "not claimed, and refused explicitly when asked",
    Verdict.SKIPPED: "not run; blocks a level",
    Verdict.INCONCLUSIVE: "the noise floor is above the budget; blocks a level",
    Verdict.FAIL: "the contract is violated",
    Verdict.CRASH: "the subject died or hung",
}


def real(value: float) -> str:
    """A real number as text that reads back to the same double."""
    return repr(float(value))


class Metric(Record, frozen=True, kw_only=True):
    """One measured number. limit "" when it is information. source: a key of the profile ("" for information).

    direction: value is wanted at most or at least limit; "" for information.
    """

    name: str
    value: str
    limit: str
    direction: Literal["at most", "at least", ""]
    unit: str
    source: str

    @property
    def holds(self) -> bool:
        """The value is on the right side of its limit; NaN never is, information always."""
        if not self.direction:
            return True
        value, limit = float(self.value), float(self.limit)
        return value <= limit if self.direction == "at most" else value >= limit

    @property
    def bound(self) -> str:
        """The limit with its direction, `≤ 5e-05`; "" for information."""
        return f"{'≤' if self.direction == 'at most' else '≥'} {self.limit}" if self.direction else ""


class Exact(Record, frozen=True, kw_only=True):
    """BLAKE3 of bytes that a replay on an equal build and CPU must reproduce."""

    name: str
    digest: str


class Finding(Record, frozen=True, kw_only=True):
    """Something a reader of the report should know, whatever the verdict. `handled` says how the adapter copes."""

    id: str
    kind: FindingKind
    family: str
    subject: str
    statement: str
    evidence: str
    handled: str


class Exchange(Record, frozen=True, kw_only=True):
    """One direction in which a cache was carried and continued: subject names."""

    exporter: str
    importer: str


class MatrixCell(Record, frozen=True, kw_only=True):
    """One cell of the interop matrix, or one pipeline (then exporter is `a>b>c`, importer "").

    fidelity: the receiver against the oracle from the same dequantised cache; loss: against the uninterrupted run;
    poison: how far a poisoned twin moved the output (a proof that the cache was used). Reals as text, in logits.
    mode: native, conversion or refused ("" for a pipeline); kl: mean, in nats; top1: fraction; times in milliseconds.
    """

    exporter: str
    importer: str
    form: str
    scenario: str
    fidelity: str
    fidelity_limit: str
    loss: str
    loss_limit: str
    poison: str
    verdict: Verdict
    detail: str
    mode: str = ""
    kl: str = ""
    top1: str = ""
    bytes_count: int = 0
    export_ms: str = ""
    import_ms: str = ""


class KillScore(Record, frozen=True, kw_only=True):
    """How many planted bugs the suite caught, by the family meant for them, and how many honest variants it flagged.

    table: SHA-256 of the published table of runs that the numbers were counted from; "" when not run.
    """

    status: Literal["run", "not run"] = "not run"
    killed: int = 0
    mutants: int = 0
    flagged: int = 0
    honest_runs: int = 0
    table: str = ""

    @property
    def sound(self) -> bool:
        """Numbers that a self-test can have: parts no larger than their wholes, nothing said when not run."""
        if self.status == "not run":
            return self == KillScore()
        counts = 0 <= self.killed <= self.mutants > 0 and 0 <= self.flagged <= self.honest_runs
        return counts and re.fullmatch(r"sha256:[0-9a-f]{64}", self.table) is not None

    @property
    def text(self) -> str:
        """For people."""
        if self.status == "not run":
            return "not run"
        return f"{self.killed}/{self.mutants} mutants caught, {self.flagged}/{self.honest_runs} honest runs flagged"


class CaseRecord(Record, frozen=True, kw_only=True):
    """The outcome of one case: a check, with one choice of its parameters, on one subject and model.

    clause: what the contract says; expectation and observation: one sentence each; worst_row: the row that was
    farthest off, in words; digests: for replay; command: one line that repeats this case; exchanges: caches carried
    between engines by a case that held, for the rule of foreign engines.
    """

    case: str
    check: str
    family: str
    clause: str
    verdict: Verdict
    expectation: str
    observation: str
    worst_row: str
    metrics: tuple[Metric, ...]
    digests: tuple[Exact, ...]
    motive: str
    level: str
    subject: str
    command: str
    findings: tuple[Finding, ...]
    exchanges: tuple[Exchange, ...] = ()


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; EXACT for none."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.EXACT)


def count_verdicts(records: Iterable[CaseRecord]) -> dict[str, dict[str, int]]:
    """family → verdict → count, sorted, zero counts left out; family `*` is the sum."""
    counts: dict[str, dict[str, int]] = {"*": {}}
    for record in records:
        for family in (record.family, "*"):
            row = counts.setdefault(family, {})
            row[record.verdict.value] = row.get(record.verdict.value, 0) + 1
    return {family: dict(sorted(row.items())) for family, row in sorted(counts.items())}


def findings_of(records: Iterable[CaseRecord]) -> tuple[Finding, ...]:
    """Findings of all records, sorted, each once a subject."""
    found = {finding.id + finding.subject: finding for record in records for finding in record.findings}
    return tuple(found[key] for key in sorted(found))
