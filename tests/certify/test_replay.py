"""Replays (W3): each kind of difference is seen, and the mode follows from the build, not from the outcome."""

from pathlib import Path

import msgspec
import pytest
from planted_campaign import planted_campaign
from planted_certificate import planted_backend, planted_model

from certify.profile import load_profile
from certify.replay import compare, compare_claims, exchanged_with, why_not_exact
from certify.run import RunRequest, RunResult, bind_peers, described
from certify.verdict import CaseRecord, Exact, Exchange, Metric, Verdict
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.ids import Digest

MODEL = Path(__file__).parents[2] / "fixtures" / "models" / "zg-tiny"


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
    same = (old, old.backend, {peer.name: peer.backend for peer in old.peers}, old.environment)
    assert why_not_exact(*same, old.suite.digest, old.suite.product) == ()
    assert why_not_exact(*same, old.suite.digest, "sha256:00") == ("product differ",)
    assert why_not_exact(*same, "sha256:00", old.suite.product) == ("suite differ",)


@pytest.mark.requirement("W3")
def test_another_build_of_a_peer_is_another_build() -> None:
    """A library of the peer has another digest, or the peer is not there; one of the matrix alone is not asked."""
    old = planted_campaign(("torch", "mlx")).subjects[0].predicate
    assert [peer.name for peer in old.peers] == ["mlx", "mlx:raw", "reference"] and exchanged_with(old) == (
        "reference",
    )

    def reasons(peers: dict[str, BackendDescriptor]) -> tuple[str, ...]:
        return why_not_exact(old, old.backend, peers, old.environment, old.suite.digest, old.suite.product)

    told = planted_backend("reference")
    assert reasons({"reference": told}) == ()
    other = msgspec.structs.replace(told.libraries[0], digest=Digest("blake3:" + "cd" * 32))
    assert reasons({"reference": msgspec.structs.replace(told, libraries=(other,))}) == (
        "libraries of peer reference differ",
    )
    assert reasons({}) == ("libraries of peer reference differ",)


@pytest.mark.requirement("W3")
def test_a_run_binds_what_its_peers_say_of_themselves() -> None:
    """The reference beside a variant of it: its descriptor with the model loaded, its NumPy with digest."""
    name, model = "reference:pairwise", planted_model()
    records = [msgspec.structs.replace(OLD[0], exchanges=(Exchange(exporter=name, importer="reference"),))]
    result = RunResult(
        RunRequest(name, MODEL, Path("unused")), load_profile(), planted_backend(name), model, "", records, ""
    )
    bind_peers([result])
    (peer,) = result.peers
    assert peer.name == "reference" and peer.backend.cache_forms and peer.backend.libraries[0].digest
    assert peer.backend == described("reference", result.request)


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
