"""The self-test (W4): bugs are caught by the family meant for them, honest engines are not flagged, and it can fail."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


DIGEST = "sha256:" + "ab" * 32


def whole() -> dict[str, Any]:
    """What a self-test of the whole bank publishes when each mutant is caught and no honest run is flagged."""
    caught = [
        MutantRun(
            name=mutant.name, group=mutant.group, families=mutant.families, caught_by=(mutant.families[0] + ".x",),
            also_by=(), first="", defects="", seconds="1.0",
        )
        for mutant in MUTANTS
    ]  # fmt: skip
    passed = [
        HonestRun(name=variant.name, seed=0, case_count=9, flagged=(), defects="", seconds="1.0") for variant in HONEST
    ]
    score = KillScore(status="run", killed=len(caught), mutants=len(caught), honest_runs=len(passed))
    found = msgspec.structs.replace(result(caught, passed), score=score)
    return json.loads(msgspec.json.encode(found))


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a score that the table does not give": lambda t: t["score"].update(killed=999, flagged=-5),
    "other sources": lambda t: t.update(suite="sha256:" + "cd" * 32),
    "a part of the bank": lambda t: t.update(complete=False),
    "a mutant left out": lambda t: (
        t["mutants"].pop(), t["score"].update(killed=len(MUTANTS) - 1, mutants=len(MUTANTS) - 1)
    ),
    "a mutant twice": lambda t: (
        t["mutants"].append(t["mutants"][0]), t["score"].update(killed=len(MUTANTS) + 1, mutants=len(MUTANTS) + 1)
    ),
    "a mutant of another name": lambda t: t["mutants"][0].update(name="easy"),
    "a survivor that is said to be caught": lambda t: t["mutants"][0].update(caught_by=[]),
    "a survivor that is counted right but defective": lambda t: (
        t["mutants"][0].update(caught_by=[], defects="x"), t["score"].update(killed=len(MUTANTS) - 1)
    ),
    "caught by a family not meant": lambda t: t["mutants"][0].update(caught_by=["Z.x"]),
    "a defect of the suite": lambda t: t["mutants"][0].update(defects="KeyError"),
    "an honest variant left out": lambda t: (t["honest"].pop(), t["score"].update(honest_runs=len(HONEST) - 1)),
    "an honest run twice": lambda t: (
        t["honest"].append(t["honest"][0]), t["score"].update(honest_runs=len(HONEST) + 1)
    ),
    "a flag that is not counted": lambda t: t["honest"][0].update(flagged=["FAIL T.x: y"]),
    "an unknown field": lambda t: t.update(gold=True),
}  # fmt: skip


def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: object) -> Path:
    """A table in place of the committed one."""
    path = tmp_path / "kill_score.json"
    path.write_bytes(msgspec.json.encode(table))
    monkeypatch.setattr("certify.run.PUBLISHED_SCORE", path)
    return path


def test_a_score_is_counted_from_the_published_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and of these sources: the numbers, with the digest of the file they were counted from."""
    path = published(tmp_path, monkeypatch, whole())
    found = kill_score(DIGEST)
    assert (found.killed, found.mutants, found.flagged, found.honest_runs) == (len(MUTANTS),) * 2 + (0, len(HONEST))
    assert found.sound and found.table == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert kill_score("sha256:" + "cd" * 32) == KillScore()


@pytest.mark.parametrize("name", FORGED)
def test_a_table_that_was_edited_gives_no_score(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thing changed in a table that counts: "not run", never a number of the file's own."""
    table = whole()
    FORGED[name](table)
    published(tmp_path, monkeypatch, table)
    assert kill_score(DIGEST) == KillScore()


def test_no_file_of_the_user_is_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score in the cache folder, under any name it ever had, is not looked at."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("certify.run.PUBLISHED_SCORE", tmp_path / "none.json")
    (tmp_path / "zeitgeist").mkdir()
    path = tmp_path / "zeitgeist" / f"selftest-{'ab' * 16}.json"
    path.write_text('{"status":"run","killed":999,"mutants":16,"flagged":-5,"honest_runs":60}')
    assert kill_score(DIGEST) == KillScore()


def test_only_the_whole_bank_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--publish` writes the table that a run on the same sources quotes; a part of the bank is refused."""
    import argparse

    path = tmp_path / "kill_score.json"
    monkeypatch.setattr(command, "PUBLISHED_SCORE", path)
    monkeypatch.setattr("certify.run.PUBLISHED_SCORE", path)
    args = argparse.Namespace(mutant=[], model=MODEL, seed=0, seeds=1, jobs=1, wide=False, json=False, publish=True)
    monkeypatch.setattr(command, "selftest", lambda *_args, **_options: result(complete=False))
    with pytest.raises(LocalProtocolError, match="publish"):
        command.run(args)
    assert not path.exists()
    found = msgspec.convert(whole(), SelftestResult)
    monkeypatch.setattr(command, "selftest", lambda *_args, **_options: found)
    args.publish = False
    assert command.run(args) == 0
    assert not path.exists()
    args.publish = True
    assert command.run(args) == 0
    assert kill_score(DIGEST).killed == len(MUTANTS)


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
    assert not list(tmp_path.rglob("*.json"))


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
