"""Replays (W3): each kind of difference is seen, and the mode follows from the build, not from the outcome."""

import msgspec
import pytest
from planted_campaign import planted_campaign

from certify.replay import compare, compare_claims, why_not_exact
from certify.verdict import CaseRecord, Exact, Metric, Verdict


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


def judged(value: str, direction: str = "at most") -> list[CaseRecord]:
    """One case with one metric of limit 1, and a verdict that says nothing of it."""
    metric = Metric(name="m", value=value, limit="1.0", direction=direction, unit="", source="s")  # pyright: ignore[reportArgumentType]
    return [msgspec.structs.replace(OLD[0], metrics=(metric,))]


@pytest.mark.requirement("W3")
def test_in_tolerance_mode_every_metric_holds_its_limit_in_its_direction() -> None:
    """Equal verdicts do not hide a metric beyond its limit, nor one that is gone; in exact mode digests decide."""
    reasons = ("cpu differ",)
    assert compare(judged("0.1"), judged("0.9"), reasons).same
    assert compare(judged("0.1"), judged("1.1"), reasons).differences == ("B.a: m is 1.1, wanted at most 1.0 (s)",)
    assert not compare(judged("2.0", "at least"), judged("0.9", "at least"), reasons).same
    assert not compare(judged("0.1"), judged("nan"), reasons).same
    assert compare(judged("0.1"), OLD[:1], reasons).differences == ("B.a: m is judged only in the certificate",)
    assert compare(judged("0.1"), judged("1.1"), ()).same


@pytest.mark.requirement("W3")
def test_the_grade_and_the_matrix_are_compared_too() -> None:
    """Another grade; an exchange that a cell says holds and the replay does not make; one that fails and now holds."""
    run = planted_campaign().subjects[0]
    old, grade = run.predicate, run.predicate.grade.text
    assert compare_claims(old, grade, run.records) == ()
    assert compare_claims(old, "L9", run.records) == (f"grade: {grade} then, L9 now",)
    silent = [msgspec.structs.replace(record, exchanges=()) for record in run.records]
    assert any(
        "reference → reference is" in line and "not held now" in line for line in compare_claims(old, grade, silent)
    )
    bad = tuple(msgspec.structs.replace(cell, verdict=Verdict.FAIL) for cell in old.matrix)
    failing = msgspec.structs.replace(old, matrix=bad)
    assert any("is FAIL in the certificate, held now" in line for line in compare_claims(failing, grade, run.records))
