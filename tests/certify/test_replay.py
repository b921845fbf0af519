"""Replays (W3): each kind of difference is seen, and the mode follows from the build, not from the outcome."""

import msgspec
import pytest
from planted_campaign import planted_campaign

from certify.replay import compare, why_not_exact
from certify.verdict import CaseRecord, Exact, Verdict


def record(case: str, verdict: Verdict = Verdict.EXACT, digest: str = "00") -> CaseRecord:
    """One case with one digest."""
    return CaseRecord(
        case=case, check=case, family="B", clause="I1", verdict=verdict, expectation="", observation="", worst_row="",
        metrics=(), digests=(Exact(name="d", digest=digest),), motive="", level="smoke", subject="s", command="",
        findings=(),
    )  # fmt: skip


OLD = [record("B.a"), record("B.b")]


@pytest.mark.requirement("W3")
def test_an_equal_build_must_give_equal_digests_and_another_need_not() -> None:
    """One digest differs: a difference in exact mode, none in tolerance mode."""
    new = [record("B.a"), record("B.b", digest="11")]
    exact, tolerant = compare(OLD, new, ()), compare(OLD, new, ("cpu differ",))
    assert (exact.mode, exact.same, exact.digest_count) == ("exact", False, 2)
    assert exact.differences == ("B.b: digest of d differs",)
    assert (tolerant.mode, tolerant.same) == ("tolerance", True)


@pytest.mark.requirement("W3")
def test_every_part_of_the_build_decides_the_mode() -> None:
    """Suite and product: an adapter that was edited is another build."""
    old = planted_campaign(("torch",)).subjects[0].predicate
    same = (old, old.backend, old.environment)
    assert why_not_exact(*same, old.suite.digest, old.suite.product) == ()
    assert why_not_exact(*same, old.suite.digest, "sha256:00") == ("product differ",)
    assert why_not_exact(*same, "sha256:00", old.suite.product) == ("suite differ",)


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("reasons", [(), ("cpu differ",)])
def test_verdicts_and_cases_must_be_the_same_in_both_modes(reasons: tuple[str, ...]) -> None:
    """A worse verdict, a case that is missing, a case that is new, a digest that is missing."""
    assert compare(OLD, OLD, reasons).same
    assert not compare(OLD, [record("B.a"), record("B.b", Verdict.FAIL)], reasons).same
    assert compare(OLD, OLD[:1], reasons).differences == ("B.b: only in the certificate",)
    assert compare(OLD[:1], OLD, reasons).differences == ("B.b: only in the replay",)
    silent = [OLD[0], msgspec.structs.replace(OLD[1], digests=())]
    assert compare(OLD, silent, reasons).same is bool(reasons)
