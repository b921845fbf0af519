"""Run a certificate again and compare (W3): same verdicts and grade; EXACT digests on an equal build and CPU, else
every metric in tolerance.

Law: the mode is decided by what is equal, before anything is compared, and printed. A metric is in tolerance when it
holds the limit of its own run; a digest or a judged metric that only one run has is a difference. The matrix is not
measured again: its cells must agree with the exchanges that the replay's own cases made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from certify.certificate import Predicate, partners
from certify.environment import Environment
from certify.levels import exchanges_of
from certify.verdict import CaseRecord, MatrixCell
from zeitgeist.core.descriptors.backend import BackendDescriptor

__all__ = ["Comparison", "compare", "compare_claims", "exchanged_with", "why_not_exact"]


@dataclass(frozen=True)
class Comparison:
    """mode; reasons why it is not `exact`; every difference in words; how many cases and digests were compared."""

    mode: Literal["exact", "tolerance"]
    reasons: tuple[str, ...]
    differences: tuple[str, ...]
    case_count: int
    digest_count: int

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not self.differences


def why_not_exact(
    old: Predicate,
    backend: BackendDescriptor,
    peers: Mapping[str, BackendDescriptor],
    environment: Environment,
    suite: str,
    product: str,
) -> tuple[str, ...]:
    """What differs between the certificate's build and CPU and ours; empty: digests must be equal.

    peers: name -> what each peer of an exchange says of itself now; one that is missing differs.
    """
    pairs = (
        ("libraries", old.backend.libraries, backend.libraries),
        ("cpu", old.environment.cpu, environment.cpu),
        ("packages", old.environment.packages, environment.packages),
        ("suite", old.suite.digest, suite),
        ("product", old.suite.product, product),
        ("python", old.environment.python, environment.python),
        *((f"libraries of peer {name}", *libraries_of(name, old, peers)) for name in exchanged_with(old)),
    )
    return tuple(f"{name} differ" for name, was, now in pairs if was != now)


def exchanged_with(old: Predicate) -> tuple[str, ...]:
    """Peers that the cases of the certificate exchanged with; those that only its matrix names are not run again."""
    return partners(old.run.subject, old.exchanges, ())


def libraries_of(name: str, old: Predicate, peers: Mapping[str, BackendDescriptor]) -> tuple[object, object]:
    """Libraries of a peer as the certificate binds them, and now."""
    was = {peer.name: peer.backend.libraries for peer in old.peers}.get(name)
    return was, peers[name].libraries if name in peers else None


def compare(old: Sequence[CaseRecord], new: Sequence[CaseRecord], reasons: tuple[str, ...]) -> Comparison:
    """Case by case. reasons: of `why_not_exact`."""
    before, after = ({record.case: record for record in records} for records in (old, new))
    differences: list[str] = []
    digest_count = 0
    for case in sorted({*before, *after}):
        if case not in before or case not in after:
            differences.append(f"{case}: only in the {'certificate' if case in before else 'replay'}")
            continue
        was, now = before[case], after[case]
        if was.verdict != now.verdict:
            differences.append(f"{case}: {was.verdict} then, {now.verdict} now: {now.observation}")
        if reasons:
            differences += metric_differences(was, now)
        else:
            digest_count += len(was.digests)
            differences += digest_differences(was, now)
    return Comparison("tolerance" if reasons else "exact", reasons, tuple(differences), len(before), digest_count)


def digest_differences(was: CaseRecord, now: CaseRecord) -> list[str]:
    """Names whose bytes changed."""
    old, new = ({d.name: d.digest for d in record.digests} for record in (was, now))
    return [f"{was.case}: digest of {name} differs" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def metric_differences(was: CaseRecord, now: CaseRecord) -> list[str]:
    """Metrics beyond the limit of their own run, and those that only one run judged."""
    then, again = ({metric.name for metric in record.metrics if metric.direction} for record in (was, now))
    missing = [
        f"{was.case}: {name} is judged only in the {'certificate' if name in then else 'replay'}"
        for name in sorted(then ^ again)
    ]
    beyond = [
        f"{was.case}: {metric.name} is {metric.value} {metric.unit}".rstrip()
        + f", wanted {metric.direction} {metric.limit} ({metric.source})"
        for metric in now.metrics
        if not metric.holds and not was.verdict.bad  # a case that failed then and fails now is the same
    ]
    return missing + beyond


def compare_claims(old: Predicate, grade_text: str, new: Sequence[CaseRecord]) -> tuple[str, ...]:
    """What the certificate claims beyond its cases, against the replay: its grade, and its matrix."""
    grade = f"grade: {old.grade.text} then, {grade_text} now"
    return (*((grade,) if old.grade.text != grade_text else ()), *matrix_differences(old.matrix, old, new))


def matrix_differences(cells: Sequence[MatrixCell], old: Predicate, new: Sequence[CaseRecord]) -> list[str]:
    """Cells that say another thing than the cases of the replay on the same two subjects."""
    held = {(one.exporter, one.importer) for one in exchanges_of(new)}
    stated = {(one.exporter, one.importer) for one in old.exchanges}
    differences: list[str] = []
    for cell in cells:
        pair = (cell.exporter, cell.importer)
        if pair in held and cell.verdict.blocks:
            differences.append(f"matrix: {pair[0]} → {pair[1]} is {cell.verdict} in the certificate, held now")
        elif pair in stated - held and not cell.verdict.blocks:
            differences.append(f"matrix: {pair[0]} → {pair[1]} is {cell.verdict} in the certificate, not held now")
    return differences
