"""The self-test (W4): bugs are caught by the family meant for them, honest engines are not flagged, and it can fail."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from certify.mutants import command
from certify.mutants.bank import HONEST, MUTANTS, Mutant
from certify.mutants.selftest import (
    HonestRun,
    Job,
    MutantRun,
    Outcome,
    SelftestResult,
    honest_run,
    job_of,
    mutant_run,
    run_all,
    selftest,
)
from certify.run import kill_score
from certify.verdict import KillScore
from zeitgeist.core.errors import LocalProtocolError

pytestmark = pytest.mark.requirement("W4")
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "models" / "zg-tiny"
KNOWN = {mutant.name: mutant for mutant in MUTANTS}
SAMPLE = {
    "kv-one-head-zeroed": "V.numbers-are-the-oracles[56]",
    "id-token-key-short": "F.stale-refused",
    "rope-theta-default": "G.logits[llama-d64-kv1-gqa4-tied-theta500k]",
    "batch-wrong-from-five": "D.batch-invariance[8]",
    "sample-processed-logprobs": "S.logprobs-are-raw",
    "api-hangs": "B.truncate-growth-refused",
}
NO_BUG = Mutant("no-bug", "session", "T", "an honest engine that is said to have a bug", "", backend="reference")
QUIET = (
    Job("pairwise", "reference:pairwise", "", "NS", "smoke", 3, str(MODEL)),
    Job("kv-f16", "reference:kv-f16", "", "NV", "smoke", 3, str(MODEL)),
)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """One pool for all runs of this file: the sample, an engine without a bug, two honest variants."""
    mutants = (*(KNOWN[name] for name in SAMPLE), NO_BUG)
    jobs = [*(job_of(mutant, MODEL, 0) for mutant in mutants), *QUIET]
    return {job.name: outcome for job, outcome in run_all(jobs, 2)}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_caught_by_the_check_meant_for_it(outcomes: dict[str, Outcome], name: str) -> None:
    """One of each group; the named case is among those that ended FAIL or CRASH, and the suite itself was sound."""
    run = mutant_run(KNOWN[name], outcomes[name])
    assert run.caught and SAMPLE[name] in run.caught_by, run
    assert not run.defects
    assert float(run.seconds) < 60


def test_a_hang_is_a_crash(outcomes: dict[str, Outcome]) -> None:
    """The verdict of a subject that never answers, after the mutant's own limit of a call."""
    verdicts = {record.case: record.verdict for record in outcomes["api-hangs"].records}
    assert verdicts["B.truncate-growth-refused"] == "CRASH"


def test_an_engine_without_a_bug_survives(outcomes: dict[str, Outcome]) -> None:
    """Else the kill score would say nothing."""
    run = mutant_run(NO_BUG, outcomes["no-bug"])
    assert not run.caught and not run.first
    assert not result(mutants=(run,)).held
    assert result(mutants=(run,)).survivors == ("no-bug",)


@pytest.mark.parametrize("job", QUIET, ids=[job.name for job in QUIET])
def test_an_honest_variant_is_not_flagged(outcomes: dict[str, Outcome], job: Job) -> None:
    """Another order of sums, and another declared precision, in the families that look at numbers most closely."""
    run = honest_run(job, outcomes[job.name])
    assert run.case_count >= 10
    assert run.flagged == ()


def test_a_flag_is_seen(outcomes: dict[str, Outcome]) -> None:
    """A mutant that is taken for honest is flagged with the case and what was seen, and the self-test does not hold."""
    job = Job("liar", "reference", "", "G", "smoke", 0, str(MODEL))
    run = honest_run(job, outcomes["rope-theta-default"])
    assert run.flagged and run.flagged[0].startswith("FAIL G.logits")
    assert not result(honest=(run,)).held


def test_a_defect_of_the_suite_is_no_catch(outcomes: dict[str, Outcome]) -> None:
    """A suite that breaks on a mutant has not seen the bug."""
    broken = Outcome([], "suite defect: KeyError", 1.0)
    run = mutant_run(NO_BUG, broken)
    assert not run.caught
    assert not result(mutants=(msgspec.structs.replace(run, caught_by=("T.x",)),)).held


def result(
    mutants: Sequence[MutantRun] = (), honest: Sequence[HonestRun] = (), complete: bool = True
) -> SelftestResult:
    """A result of these runs."""
    return SelftestResult(
        score=KillScore(status="run", killed=7, mutants=7, flagged=0, honest_runs=3),
        suite="sha256:" + "ab" * 32,
        complete=complete,
        mutants=tuple(mutants),
        honest=tuple(honest),
        seconds="1.0",
    )


@pytest.mark.parametrize("complete", [True, False])
def test_the_score_is_kept_for_the_same_sources_and_only_when_complete(
    complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates of other sources say "not run"; so do those after a part of the bank."""
    import argparse

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "selftest", lambda *_args, **_options: result(complete=complete))
    args = argparse.Namespace(mutant=[], model=MODEL, seed=0, seeds=1, jobs=1, wide=False, json=False, publish=False)
    assert command.run(args) == 0
    kept = kill_score("sha256:" + "ab" * 32)
    assert (kept.status, kept.killed) == (("run", 7) if complete else ("not run", 0))
    assert kill_score("sha256:" + "cd" * 32).status == "not run"


def test_a_published_score_counts_for_its_own_sources_and_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--publish` writes the table that a run on the same sources quotes; a part of the bank is refused."""
    import argparse

    path = tmp_path / "kill_score.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "PUBLISHED_SCORE", path)
    monkeypatch.setattr("certify.run.PUBLISHED_SCORE", path)
    monkeypatch.setattr("certify.run.score_path", lambda digest: tmp_path / "nothing")
    args = argparse.Namespace(mutant=[], model=MODEL, seed=0, seeds=1, jobs=1, wide=False, json=False, publish=True)
    monkeypatch.setattr(command, "selftest", lambda *_args, **_options: result(complete=False))
    with pytest.raises(LocalProtocolError, match="publish"):
        command.run(args)
    assert not path.exists()
    monkeypatch.setattr(command, "selftest", lambda *_args, **_options: result(complete=True))
    assert command.run(args) == 0
    assert kill_score("sha256:" + "ab" * 32).killed == 7
    assert kill_score("sha256:" + "cd" * 32).status == "not run"


def zg(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "certify.cli", "selftest", *words], capture_output=True, text=True, env=env, cwd=ROOT
    )


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    """Exit code 0, the case that caught the mutant, and no score for a part of the bank."""
    done = zg(tmp_path, "--mutant", "api-partial-utf8-lost", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mutants"][0]["caught_by"] == ["T.piece-by-piece"]
    assert found["score"]["killed"] == found["score"]["mutants"] == 1
    assert not list(tmp_path.rglob("selftest-*.json"))


def test_an_unknown_mutant_is_one_line(tmp_path: Path) -> None:
    """Exit code 2, and the name that was meant."""
    done = zg(tmp_path, "--mutant", "api-partial-utf8")
    assert done.returncode == 2
    assert "api-partial-utf8-lost" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_whole_bank_is_caught_and_no_honest_variant_is_flagged() -> None:
    """Mutants by families meant for them; honest variants through every family at smoke (ten seeds: `make nightly`)."""
    found = selftest(MODEL, seeds=(0,))
    assert found.complete
    assert found.survivors == ()
    assert [run for run in found.honest if run.flagged] == []
    assert len(found.honest) == len(HONEST)
    assert found.held
    assert found.score.killed == found.score.mutants == len(MUTANTS)
