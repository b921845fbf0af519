"""Run the bank: every mutant through the families meant to see it, every honest variant through all of them (W4).

A mutant is caught when a case of a meant family ends FAIL or CRASH. An honest run is flagged when any case blocks a
level. Each process of the pool runs pytest in itself again and again, so that imports are paid once; the subject is a
child of that process, as in any run. A defect of the suite is no catch.
"""

import contextlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

from certify.judge_sources import judge_digest
from certify.mutants.bank import HONEST, MUTANTS, Honest, Mutant
from certify.private_folder import private_folder
from certify.profile import STANDARD
from certify.records import read_records
from certify.verdict import CaseRecord, KillScore
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import Record
from zeitgeist.host.worker_main import die_with_parent

__all__ = ["FAMILIES", "HonestRun", "Job", "MutantRun", "SelftestResult", "job_of", "run_job", "selftest"]

FAMILIES = "BTSNGDVFX"
"""What an honest variant runs through, and a mutant when every family may try."""
NO_CASE = 5
"""pytest's exit code when every case was deselected: a mutant then survives."""
CALL_LINE = re.compile(r'(\[tolerance\."time\.call_s"\]\s*value = )[0-9.]+')


class MutantRun(Record, frozen=True, kw_only=True):
    """One mutant. caught_by: cases of meant families that ended FAIL or CRASH; also_by: those of other families;
    first: the first observation; defects: what was wrong with the suite itself; seconds: of the run, as text."""

    name: str
    group: str
    families: str
    caught_by: tuple[str, ...]
    also_by: tuple[str, ...]
    first: str
    defects: str
    seconds: str

    @property
    def caught(self) -> bool:
        """By a family meant for it."""
        return bool(self.caught_by)


class HonestRun(Record, frozen=True, kw_only=True):
    """One honest variant with one seed. flagged: cases that block a level, with the verdict and what was seen."""

    name: str
    seed: int
    case_count: int
    flagged: tuple[str, ...]
    defects: str
    seconds: str


class SelftestResult(Record, frozen=True, kw_only=True):
    """Everything the self-test saw. complete: the whole bank and at least one honest run of each variant."""

    score: KillScore
    suite: str
    complete: bool
    mutants: tuple[MutantRun, ...]
    honest: tuple[HonestRun, ...]
    seconds: str

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of mutants that no meant family saw."""
        return tuple(run.name for run in self.mutants if not run.caught)

    @property
    def held(self) -> bool:
        """Every mutant caught, no honest run flagged, the suite itself sound."""
        sound = not any(run.defects for run in (*self.mutants, *self.honest))
        return sound and not self.survivors and not any(run.flagged for run in self.honest)


@dataclass(frozen=True)
class Job:
    """One pytest run. call_s: limit of a call, 0 for the profile's."""

    name: str
    backend: str
    service: str
    families: str
    level: str
    seed: int
    model: str
    call_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Records of a job, the suite's own defects, and how long it took."""

    records: list[CaseRecord]
    defects: str
    seconds: float


def job_of(mutant: Mutant, model: Path, seed: int, wide: bool = False) -> Job:
    """The run of a mutant: its meant families, or all of them when wide."""
    families = FAMILIES if wide else mutant.families
    return Job(mutant.name, mutant.backend, mutant.service, families, mutant.level, seed, str(model), mutant.call_s)


def honest_job(variant: Honest, model: Path, seed: int) -> Job:
    """The run of an honest variant."""
    return Job(variant.name, variant.backend, "", FAMILIES, "smoke", seed, str(model))


def run_job(job: Job) -> Outcome:
    """Run pytest in this process on one subject. `zg/certify/harness` when it did not come to its end."""
    import pytest

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="zg-selftest-") as folder:
        out = Path(folder)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = pytest.main(arguments(job, out))
        path = out / "records.jsonl"
        if int(code) not in (0, 1, NO_CASE) or not path.is_file():
            tail = said.getvalue().strip()[-2000:]
            raise ZeitgeistError("zg/certify/harness", f"{job.name}: pytest ended with {int(code)}:\n{tail}", job.name)
        defects = (out / "defects.txt").read_text(encoding="utf-8")
        return Outcome(read_records(path), defects, time.perf_counter() - begun)


def arguments(job: Job, out: Path) -> list[str]:
    """pytest's command line. Nothing of the working directory's configuration may change a verdict."""
    here = str(Path(__file__).parent.parent)
    words = ["-q", "-c", os.devnull, "--rootdir", here, "-p", "no:cacheprovider", "-p", "certify.plugin"]
    words += ["--pyargs", "certify.checks", "--zg-subject", job.backend, "--zg-model", job.model]
    words += ["--zg-level", job.level, "--zg-seed", str(job.seed), "--zg-out", str(out), "--zg-peers", "reference"]
    words += ["--zg-families", job.families]
    words += ["--zg-service", job.service] if job.service else []
    return words + (["--zg-profile", str(shorter_profile(out, job.call_s))] if job.call_s else [])


def shorter_profile(out: Path, call_s: float) -> Path:
    """The standard profile with another limit of a call, so that a hang costs seconds."""
    text, count = CALL_LINE.subn(rf"\g<1>{call_s}", STANDARD.read_text(encoding="utf-8"))
    assert count == 1, "the profile has no time.call_s"
    path = out / "short.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mutant_run(mutant: Mutant, outcome: Outcome) -> MutantRun:
    """Sort the cases that ended badly into meant and other families."""
    bad = [record for record in outcome.records if record.verdict.bad]
    meant = [record for record in bad if record.family in mutant.families]
    first = f"{meant[0].verdict}: {meant[0].observation}" if meant else ""
    return MutantRun(
        name=mutant.name,
        group=mutant.group,
        families=mutant.families,
        caught_by=tuple(record.case for record in meant),
        also_by=tuple(record.case for record in bad if record.family not in mutant.families),
        first=first[:300],
        defects=outcome.defects[:2000],
        seconds=f"{outcome.seconds:.1f}",
    )


def honest_run(job: Job, outcome: Outcome) -> HonestRun:
    """Keep the cases that would cost an honest engine its level."""
    return HonestRun(
        name=job.name,
        seed=job.seed,
        case_count=len(outcome.records),
        flagged=tuple(f"{r.verdict} {r.case}: {r.observation[:300]}" for r in outcome.records if r.verdict.blocks),
        defects=outcome.defects[:2000],
        seconds=f"{outcome.seconds:.1f}",
    )


def prepare(folder: Path) -> None:
    """In each process of the pool: end with the command, one thread for arithmetic, no plugins but ours, everything
    temporary in folder."""
    die_with_parent(os.getppid())
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"


def run_all(work: Sequence[Job], jobs: int) -> Generator[tuple[Job, Outcome]]:
    """Outcomes as they come. When one did not come to its end, or nobody takes the next, the others are ended."""
    with private_folder() as folder, pool_in(folder, jobs) as pool:
        asked = {pool.submit(run_job, job): job for job in work}
        for future in as_completed(asked):
            yield asked[future], future.result()


@contextlib.contextmanager
def pool_in(folder: Path, jobs: int) -> Generator[ProcessPoolExecutor]:
    """A pool whose processes are killed, not waited for, when its user raises; the kernel then kills their workers."""
    ours = {process.pid for process in active_children()}
    with ProcessPoolExecutor(jobs, get_context("spawn"), prepare, (folder,)) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                if process.pid not in ours:
                    process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def selftest(
    model: Path,
    *,
    seeds: Sequence[int] = (0,),
    mutants: Sequence[Mutant] = MUTANTS,
    honest: Sequence[Honest] = HONEST,
    jobs: int = 2,
    wide: bool = False,
    progress: Callable[[MutantRun | HonestRun], None] = lambda run: None,
) -> SelftestResult:
    """Mutants with the first seed, honest variants with every seed, `jobs` at a time. progress: called as each ends."""
    begun = time.perf_counter()
    work: dict[Job, Mutant | None] = {job_of(mutant, model, seeds[0], wide): mutant for mutant in mutants}
    work |= {honest_job(variant, model, seed): None for seed in seeds for variant in honest}
    caught: dict[str, MutantRun] = {}
    passed: list[HonestRun] = []
    with contextlib.closing(run_all(list(work), jobs)) as outcomes:
        for job, outcome in outcomes:
            mutant = work[job]
            if mutant is None:
                passed.append(honest_run(job, outcome))
                progress(passed[-1])
            else:
                caught[mutant.name] = mutant_run(mutant, outcome)
                progress(caught[mutant.name])
    score = KillScore(
        status="run",
        killed=sum(run.caught for run in caught.values()),
        mutants=len(caught),
        flagged=sum(bool(run.flagged) for run in passed),
        honest_runs=len(passed),
    )
    whole = set(MUTANTS) <= set(mutants) and set(HONEST) <= set(honest)
    return SelftestResult(
        score=score,
        suite=judge_digest(),
        complete=whole,
        mutants=tuple(caught[mutant.name] for mutant in mutants),
        honest=tuple(sorted(passed, key=lambda run: (run.name, run.seed))),
        seconds=f"{time.perf_counter() - begun:.1f}",
    )
