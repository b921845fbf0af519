"""Run a certificate again and compare (W3): same verdicts; EXACT digests on an equal build and CPU, else metrics in
tolerance.

Law: the mode is decided by what is equal, before anything is compared, and printed. A metric is in tolerance when it
holds
the limit of its own run; a digest that is there in one run and not in the other is a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from certify.certificate import Predicate
from certify.environment import Environment
from certify.verdict import CaseRecord
from zeitgeist.core.descriptors.backend import BackendDescriptor

__all__ = ["Comparison", "compare", "why_not_exact"]


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
    old: Predicate, backend: BackendDescriptor, environment: Environment, suite: str, product: str
) -> tuple[str, ...]:
    """What differs between the certificate's build and CPU and ours; empty: digests must be equal."""
    pairs = (
        ("libraries", old.backend.libraries, backend.libraries),
        ("cpu", old.environment.cpu, environment.cpu),
        ("packages", old.environment.packages, environment.packages),
        ("suite", old.suite.digest, suite),
        ("product", old.suite.product, product),
        ("python", old.environment.python, environment.python),
    )
    return tuple(f"{name} differ" for name, was, now in pairs if was != now)


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
        if not reasons:
            digest_count += len(was.digests)
            differences += digest_differences(was, now)
    return Comparison("tolerance" if reasons else "exact", reasons, tuple(differences), len(before), digest_count)


def digest_differences(was: CaseRecord, now: CaseRecord) -> list[str]:
    """Names whose bytes changed."""
    old, new = ({d.name: d.digest for d in record.digests} for record in (was, now))
    return [f"{was.case}: digest of {name} differs" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
