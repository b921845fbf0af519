"""The plugin (W1, W5): how a case ends decides its verdict, in one process and in two, and a dead subject is an
event."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from certify.case import Case, CheckFailed, SuiteDefect
from certify.profile import load_profile
from certify.records import read_records
from certify.registry import CHECKS, CheckMeta, check, load_checks
from certify.verdict import CaseRecord, Verdict, real, worst

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = ROOT / "fixtures" / "models" / "zg-tiny"


def run(
    out: Path, *words: str, target: tuple[str, ...] = (str(HERE / "planted_checks.py"),)
) -> tuple[dict[str, CaseRecord], subprocess.CompletedProcess[str]]:
    """pytest in a process of its own over the planted checks: records by case id."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(HERE),
        "-p",
        "no:cacheprovider",
        "-p",
        "certify.plugin",
        *target,
        "--zg-subject",
        "reference",
        "--zg-model",
        str(MODEL),
        "--zg-out",
        str(out),
        *words,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=HERE)
    assert (out / "records.jsonl").is_file(), done.stdout + done.stderr
    return {record.case: record for record in read_records(out / "records.jsonl")}, done


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, CaseRecord], str, str]:
    """One run over every planted check: records, defects, output."""
    out = tmp_path_factory.mktemp("planted")
    records, done = run(out, "--zg-peers", "reference")
    return records, (out / "defects.txt").read_text(), done.stdout


ENDS = {
    "exact": Verdict.EXACT,
    "pass-is-worse-than-exact": Verdict.PASS,
    "info-is-worse-than-pass": Verdict.INFO,
    "nan-fails": Verdict.FAIL,
    "one-bit-fails": Verdict.FAIL,
    "assert-fails": Verdict.FAIL,
    "a-refusal-that-did-not-come-fails": Verdict.FAIL,
    "another-field-fails": Verdict.FAIL,
    "subject-error-fails": Verdict.FAIL,
    "killed-is-crash": Verdict.CRASH,
    "lives-again": Verdict.EXACT,
    "inconclusive": Verdict.INCONCLUSIVE,
    "nothing-compared-is-our-defect": Verdict.SKIPPED,
    "our-exception-is-our-defect": Verdict.SKIPPED,
    "no-source-is-our-defect": Verdict.SKIPPED,
    "finding": Verdict.PASS,
    "levels[1]": Verdict.EXACT,
    "entropy": Verdict.PASS,
    "peers": Verdict.PASS,
    "another-model": Verdict.EXACT,
}


@pytest.mark.requirement("W1")
def test_each_way_to_end_gives_its_verdict(planted: tuple[dict[str, CaseRecord], str, str]) -> None:
    """One planted check for each way; a parameter above the asked level is not there at all."""
    assert {case: record.verdict for case, record in planted[0].items()} == {f"Z.{n}": v for n, v in ENDS.items()}


@pytest.mark.requirement("W1")
def test_only_the_suites_own_faults_are_defects(planted: tuple[dict[str, CaseRecord], str, str]) -> None:
    """defects.txt names three cases and no other; a FAIL or CRASH of the subject is not among them."""
    named = {line.partition(":")[0] for line in planted[1].splitlines() if line.startswith("Z.")}
    assert named == {"Z.nothing-compared-is-our-defect", "Z.our-exception-is-our-defect", "Z.no-source-is-our-defect"}
    assert "1 CRASH" in planted[2] and "1 INCONCLUSIVE" in planted[2]


@pytest.mark.requirement("W1")
def test_a_record_has_what_a_person_needs_to_repeat_it(planted: tuple[dict[str, CaseRecord], str, str]) -> None:
    """Clause, expectation, observation, limit with source, one line to repeat; findings and exchanges travel with
    it."""
    bad = planted[0]["Z.nan-fails"]
    assert bad.metrics[0].value == "nan" and bad.metrics[0].source == "cache.uncached_x32" and bad.clause == "W1"
    assert bad.command.startswith("zg-certify run --subject reference") and bad.command.endswith("--check Z.nan-fails")
    assert planted[0]["Z.finding"].findings[0].id == "planted"
    assert len(planted[0]["Z.peers"].exchanges) == 2


@pytest.mark.requirement("W5")
def test_two_xdist_processes_give_the_same_records(
    planted: tuple[dict[str, CaseRecord], str, str], tmp_path: Path
) -> None:
    """-n 2: every record is equal, but for the case that says by which process id the child died."""
    records, _ = run(tmp_path, "-n", "2", "--zg-peers", "reference")
    differing = {case for case in ENDS_ALL if records[case] != planted[0][case]}
    assert differing <= {"Z.killed-is-crash"} and set(records) == set(planted[0])


ENDS_ALL = [f"Z.{name}" for name in ENDS]


@pytest.mark.requirement("W1")
def test_entropy_follows_the_seed_only(planted: tuple[dict[str, CaseRecord], str, str], tmp_path: Path) -> None:
    """The same seed in another run draws the same numbers (in the xdist test above); another seed draws others."""
    records, _ = run(tmp_path, "--zg-seed", "7", "--zg-check", "Z.entropy")
    assert set(records) == {"Z.entropy"}
    assert records["Z.entropy"].digests != planted[0]["Z.entropy"].digests


BOTH = ("--pyargs", "certify.checks")


@pytest.mark.requirement("W1")
def test_a_subject_that_accepts_nonsense_fails_everything(tmp_path: Path) -> None:
    """DESIGN §9: the canary is asked before anything else."""
    records, _ = run(tmp_path, "--zg-service", "planted_services:YesMan", "--zg-families", "B", target=BOTH)
    assert {record.verdict for record in records.values()} == {Verdict.FAIL}
    assert all("not admitted" in record.observation for record in records.values())


@pytest.mark.requirement("W1")
def test_what_is_not_claimed_and_refused_is_unsupported(tmp_path: Path) -> None:
    """Modest claims neither fork nor layer_range: those cases are UNSUPPORTED, the others hold."""
    records, _ = run(tmp_path, "--zg-service", "planted_services:Modest", "--zg-families", "B", target=BOTH)
    assert {case for case, record in records.items() if record.verdict is Verdict.UNSUPPORTED} == {
        "B.fork-is-a-session",
        "B.layer-range-outside-refused",
    }
    assert not any(record.verdict.bad for record in records.values())


@pytest.mark.requirement("W1")
def test_what_is_not_claimed_and_granted_fails(tmp_path: Path) -> None:
    """TooModest grants fork without claiming it."""
    records, _ = run(
        tmp_path, "--zg-service", "planted_services:TooModest", "--zg-check", "B.fork-is-a-session", target=BOTH
    )
    assert records["B.fork-is-a-session"].verdict is Verdict.FAIL


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("service", ["Aborts", "Hangs"])
def test_a_subject_that_dies_or_hangs_is_crash_and_the_rest_goes_on(service: str, tmp_path: Path) -> None:
    """abort() and an endless call inside truncate: that case is CRASH, the ones after it run on a new child."""
    profile = tmp_path / "profile.toml"
    text = (ROOT / "certify" / "profiles" / "standard.toml").read_text()
    profile.write_text(text.replace("value = 120.0", "value = 2.0"))
    words = ("--zg-service", f"planted_services:{service}", "--zg-profile", str(profile))
    records, _ = run(
        tmp_path / "out",
        *words,
        "--zg-check",
        "B.truncate-growth-refused",
        "--zg-check",
        "B.unknown-session-refused",
        "--zg-check",
        "B.cancel",
        target=BOTH,
    )
    assert records["B.truncate-growth-refused"].verdict is Verdict.CRASH
    assert {record.verdict for case, record in records.items() if "truncate" not in case} <= {
        Verdict.PASS,
        Verdict.EXACT,
    }
    assert len(records) == 3


@pytest.mark.requirement("I1")
def test_a_lax_worker_is_caught_by_each_check_it_breaks(tmp_path: Path) -> None:
    """Lax checks no argument, closes nothing, counts nothing: every check of that promise FAILs, and says so itself."""
    records, _ = run(tmp_path, "--zg-service", "planted_services:Lax", "--zg-families", "B", target=BOTH)
    caught = {case.removeprefix("B.") for case, record in records.items() if record.verdict is Verdict.FAIL}
    assert caught >= {
        "describe-complete", "describe-stable", "closed-session-refused", "truncate-growth-refused",
        "fork-is-a-session",
        "out-of-vocabulary-refused", "context-overflow-refused", "empty-prefill-refused", "metrics-move", "cancel",
        "can-serve-nonsense-refused", "errors-are-ours",
    }  # fmt: skip
    assert (tmp_path / "defects.txt").read_text() == ""


@pytest.mark.requirement("W1")
def test_a_check_id_is_taken_once() -> None:
    """A second function with a registered id, and an id outside its family, are refused when imported."""
    load_checks()
    taken = next(iter(CHECKS))
    with pytest.raises(AssertionError, match="is taken by"):
        check(id=taken, family=taken[0], clause="x", expectation="x")(lambda: None)
    with pytest.raises(AssertionError, match="must start with its family"):
        check(id="N.x", family="B", clause="x", expectation="x")


def a_case() -> Case:
    """A case outside of pytest."""
    meta = CheckMeta("Z.x", "Z", "W1", "smoke", (), "", "x", (), "here", __file__)
    return Case(id="Z.x", meta=meta, profile=load_profile(), seed=0, subject_name="s", command="c")


@pytest.mark.requirement("W2")
def test_a_tolerance_without_a_source_is_refused_before_it_is_compared() -> None:
    """The limit may be computed, the source must be a key of the profile; FAIL cannot be softened after it was
    raised."""
    case = a_case()
    with pytest.raises(SuiteDefect):
        case.within("x", 0.0, 1.0, "invented")
    with pytest.raises(SuiteDefect):
        case.within("x", 0.0, float("nan"), "cache.uncached_x32")
    with pytest.raises(CheckFailed, match=r"2 cm, above the limit 1 \(cache"):
        case.within("x", 2.0, 1.0, "cache.uncached_x32", "cm")
    with pytest.raises(SuiteDefect):
        case.verdict()


def test_verdicts_have_one_order_and_reals_read_back() -> None:
    """CRASH is the worst, EXACT the best; text of a double is the same double."""
    assert worst([Verdict.PASS, Verdict.CRASH, Verdict.FAIL]) is Verdict.CRASH and worst([]) is Verdict.EXACT
    assert [verdict.severity for verdict in Verdict] == list(range(9))
    assert float(real(0.1 + 0.2)) == 0.1 + 0.2
    assert json.loads(json.dumps(real(float("inf")))) == "inf"


@pytest.mark.requirement("W5")
def test_checks_without_a_subject_are_a_usage_error() -> None:
    """A stranger who forgets --zg-subject is told so; nothing is skipped in silence."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "certify.plugin", "--pyargs", "certify.checks"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 4 and "--zg-subject" in done.stdout + done.stderr


def test_a_case_whose_checker_dies_is_a_defect_not_a_gap(tmp_path: Path) -> None:
    """Two xdist processes, one killed from inside: the lost case is named in defects.txt; no certificate follows."""
    records, done = run(tmp_path, "-n", "2", target=(str(HERE / "planted_murder.py"),))
    assert "Z.kills-its-checker" not in records
    assert "test_kills_its_checker" in (tmp_path / "defects.txt").read_text()
    assert done.returncode != 0


def test_records_that_hide_a_failure_of_pytest_are_a_harness_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`collect` accepts exit code 1 only when a record or a defect explains it."""
    import io

    from certify import run as module
    from certify.run import Preflight, RunRequest
    from zeitgeist.core.errors import ZeitgeistError

    request = RunRequest(subject="reference", model=MODEL, out=tmp_path)
    request.folder.mkdir(parents=True)
    (request.folder / "records.jsonl").write_text("")
    (request.folder / "defects.txt").write_text("")
    seen = Preflight.__new__(Preflight)
    monkeypatch.setattr(module, "read_records", lambda path: [])
    with pytest.raises(ZeitgeistError, match="hold nothing bad"):
        module.collect(request, seen, 1, io.BytesIO(), [])
