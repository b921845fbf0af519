"""One certification run: ask the subject what it is, run the checks in a child process, grade, sign, write.

Law: this process loads no engine and runs no check.
"""

import datetime
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from certify import certificate, dsse
from certify.environment import SCORE_NAME, observe, product_digest, suite_digest
from certify.levels import Grade, claims_of, exchanges_of, grade
from certify.private_folder import private_folder
from certify.profile import STANDARD, Profile, load_profile
from certify.records import read_records
from certify.results import DURATIONS, FULL, make_out, subject_dir, writing
from certify.verdict import CaseRecord, Finding, KillScore, MatrixCell, count_verdicts, findings_of
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelDescriptor
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError

__all__ = [
    "PUBLISHED_SCORE",
    "Preflight",
    "Progress",
    "RunRequest",
    "RunResult",
    "bind_peers",
    "default_model",
    "described",
    "issue",
    "kill_score",
    "lost_cases",
    "predicate_of",
    "preflight",
    "run_checks",
    "stated_model",
    "stated_path",
    "summary",
]

PUBLISHED_SCORE = Path(__file__).parent / "mutants" / SCORE_NAME

Progress = Callable[[dict[str, Any]], None]
"""Called with {"total": n}, then {"case", "family", "verdict"} for each case; of checks with ids of pytest too."""


@dataclass(frozen=True)
class RunRequest:
    """What to run. out: the directory of all subjects; checks and families: only these, when given (no certificate
    then)."""

    subject: str
    model: Path
    out: Path
    level: str = "smoke"
    seed: int = 0
    peers: tuple[str, ...] = ()
    service: str = ""
    checks: tuple[str, ...] = ()
    families: str = ""
    profile_path: Path = STANDARD
    jobs: int = 0

    @property
    def folder(self) -> Path:
        """Where this subject's results lie."""
        return subject_dir(self.out, self.subject)

    @property
    def partial(self) -> bool:
        """Only some of the checks run."""
        return bool(self.checks or self.families)


@dataclass(frozen=True)
class Preflight:
    """What the subject said of itself once the model was loaded; not_admitted: "" or why the canary failed."""

    backend: BackendDescriptor
    model: ModelDescriptor
    not_admitted: str


@dataclass
class RunResult:
    """Outcome of one subject. defects: what was wrong with the suite itself (exit code 3)."""

    request: RunRequest
    profile: Profile
    backend: BackendDescriptor
    model: ModelDescriptor
    not_admitted: str
    records: list[CaseRecord]
    defects: str
    cells: Sequence[MatrixCell] = ()
    peers: tuple[certificate.Peer, ...] = ()
    kill_score: KillScore = field(default_factory=KillScore)
    certificate_path: Path | None = None

    @property
    def failures(self) -> list[CaseRecord]:
        """Cases that FAIL or CRASH."""
        return [record for record in self.records if record.verdict.bad]

    @property
    def findings(self) -> list[Finding]:
        """Findings of all records, once each."""
        return list(findings_of(self.records))

    @property
    def why_no_certificate(self) -> str:
        """In one line; "" when the run may be certified."""
        if self.defects:
            return "the suite itself failed"
        return self.foreign_profile or ("only some of the checks ran" if self.request.partial else "")

    @property
    def foreign_profile(self) -> str:
        """What to say of a profile that is not the suite's own: its author sets limits and levels. Else ""."""
        if self.profile.digest == load_profile().digest:
            return ""
        return f"profile {self.profile.name} {self.profile.digest} is not the suite's own: no level, no certificate"

    @property
    def grade(self) -> Grade:
        """The level held and why not the next; under a profile that is not the suite's own none is held."""
        got = grade(
            count_verdicts(self.records),
            exchanges_of(self.records),
            claims_of(self.backend),
            self.profile,
            admitted=not self.not_admitted,
        )
        if not self.foreign_profile:
            return got
        return msgspec.structs.replace(got, level="", flags="", text="none", why_not=(self.foreign_profile,))


def default_model() -> Path:
    """zg-tiny: in the working directory's fixtures, in those of the checkout, or as it travels in the wheel."""
    tail, here = Path("fixtures") / "models" / "zg-tiny", Path(__file__).parent
    return next((path for path in (tail, here.parent / tail, here / "zg-tiny") if path.is_dir()), tail)


def is_default_model(model: Path) -> bool:
    """Is this the model that a run takes when none is named?"""
    return model.resolve() == default_model().resolve()


def stated_path(path: Path) -> str:
    """A path as records, certificates and lines to repeat say it: from the working directory on, else its last part.

    What is signed and shown around says nothing of the machine's folders; a model is bound by its digest.
    """
    full, here = path.resolve(), Path.cwd().resolve()
    return full.relative_to(here).as_posix() if full.is_relative_to(here) else full.name


def stated_model(stated: str) -> Path:
    """Where a model that was said so lies here: from the working directory on, or the default one by its name."""
    path, default = Path(stated), default_model()
    if not path.exists() and path.name == default.name:
        path = default
    if not path.exists():
        raise LocalProtocolError("zg/certify/no-model", f"{stated} is not here: say where with --model", "model")
    return path


def preflight(request: RunRequest) -> Preflight:
    """Start the subject, load the model, ask for nonsense. Everything a person can get wrong is said here, in one
    line."""
    from certify.registry import runs_at
    from certify.subject import canary, start_subject

    runs_at("smoke", request.level)
    profile = load_profile(request.profile_path)
    if not request.model.exists():
        raise LocalProtocolError("zg/certify/no-model", f"{request.model} does not exist", "model")
    check_names(request)
    make_out(request.out)
    subject = start_subject(request.subject, request.service, request.model, profile["time.call_s"])
    try:
        return Preflight(subject.describe(), subject.model, canary(subject))
    finally:
        subject.stop()


def check_names(request: RunRequest) -> None:
    """Names of checks and families exist; of peers too."""
    from certify.registry import FAMILIES, load_checks
    from zeitgeist.backends.registry import split_name

    known = load_checks() if request.checks else {}
    for name in request.checks:
        if name.partition("[")[0] not in known:
            raise LocalProtocolError("zg/certify/unknown", f"no check {name!r}; `zg-certify list` shows them", "check")
    for family in request.families:
        if family not in FAMILIES:
            raise LocalProtocolError(
                "zg/certify/unknown", f"no family {family!r}; there are {' '.join(FAMILIES)}", "families"
            )
    for name in (request.subject, *request.peers):
        split_name(name)


def pytest_command(request: RunRequest, descriptor: int) -> list[str]:
    """The child's command. Configuration of the working directory must not change a verdict: -c and --rootdir are
    ours."""
    here = str(Path(__file__).parent)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        here,
        "-p",
        "no:cacheprovider",
        "-p",
        "certify.plugin",
        "--pyargs",
        "certify.checks",
        "--junitxml",
        str(request.folder / "junit.xml"),
        "--zg-subject",
        request.subject,
        "--zg-model",
        str(request.model),
        "--zg-level",
        request.level,
        "--zg-seed",
        str(request.seed),
        "--zg-out",
        str(request.folder),
        "--zg-peers",
        ",".join(request.peers),
        "--zg-profile",
        str(request.profile_path),
        "--zg-progress",
        str(descriptor),
        "--zg-parent",
        str(os.getpid()),
    ]
    command += ["--zg-service", request.service] if request.service else []
    command += ["--zg-families", request.families] if request.families else []
    command += [part for name in request.checks for part in ("--zg-check", name)]
    return command + (["-n", str(request.jobs)] if request.jobs else [])


def run_checks(request: RunRequest, seen: Preflight, progress: Progress) -> RunResult:
    """Run the checks in a child process and read what they recorded."""
    with writing(request.folder):
        request.folder.mkdir(parents=True, exist_ok=True)
        for name in (
            "records.jsonl",
            "records.jsonl.partial",
            "defects.txt",
            DURATIONS,
            "certificate.json",
            "summary.json",
            "junit.xml",
        ):
            (request.folder / name).unlink(missing_ok=True)
    reader, writer = os.pipe()
    with private_folder() as folder, tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            pytest_command(request, writer),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
            pass_fds=(writer,),
        )
        os.close(writer)
        try:
            heard: list[dict[str, Any]] = []
            with os.fdopen(reader, encoding="utf-8") as lines:
                for line in lines:
                    heard.append(json.loads(line))
                    progress(heard[-1])
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        return collect(request, seen, code, log, heard)


def collect(
    request: RunRequest, seen: Preflight, code: int, log: IO[bytes], heard: Sequence[dict[str, Any]]
) -> RunResult:
    """Records of a run that came to its end; a run that did not, or that lost a record, is a failure of the harness."""
    path = request.folder / "records.jsonl"
    if code not in (0, 1) or not path.is_file():
        log.seek(0)
        tail = log.read().decode(errors="replace").strip()[-3000:]
        full = next((os.strerror(number) for number in FULL if os.strerror(number) in tail), "")
        if full:
            raise ZeitgeistError("zg/certify/no-space", f"{request.folder}: {full}", "out")
        if code == 5:
            raise LocalProtocolError("zg/certify/unknown", "no check is left to run at this level", "check")
        raise ZeitgeistError("zg/certify/harness", f"pytest ended with {code}:\n{tail}", request.subject)
    records = read_records(path)
    defects = (request.folder / "defects.txt").read_text(encoding="utf-8")
    if code == 1 and not defects and not any(record.verdict.blocks for record in records):
        raise ZeitgeistError("zg/certify/harness", "pytest failed, but its records hold nothing bad", request.subject)
    if lost := "" if defects else lost_cases(heard, records):
        raise ZeitgeistError("zg/certify/harness", lost, request.subject)
    return RunResult(
        request,
        load_profile(request.profile_path),
        seen.backend,
        seen.model,
        seen.not_admitted,
        records,
        defects,
    )


def lost_cases(heard: Sequence[dict[str, Any]], records: Sequence[CaseRecord]) -> str:
    """What the records lack of the cases that were announced, by name; "" when it is nothing.

    heard: lines of progress. Two cases of one id have one record between them: the later is named.
    """
    announced = [str(id) for line in heard for id in line.get("nodeids", ())]
    case_of = {str(line["nodeid"]): str(line["case"]) for line in heard if "nodeid" in line}
    left = [record.case for record in records]
    lost: list[str] = []
    for nodeid in announced:
        case = case_of.get(nodeid, "")
        if case in left:
            left.remove(case)
        else:
            lost.append(case or nodeid)
    if not lost and not left:
        return ""
    named = f"; lost: {', '.join(lost)}" * bool(lost) + f"; never announced: {', '.join(left)}" * bool(left)
    return f"{len(announced)} cases were announced, {len(records)} have a record{named}"


def issue(result: RunResult, key: Path | None, today: datetime.date) -> Path:
    """Sign and write DIR/<subject>/certificate.json. A run that may have none is refused (`zg/certify/usage`)."""
    if result.why_no_certificate:
        raise LocalProtocolError("zg/certify/usage", f"no certificate: {result.why_no_certificate}", "certificate")
    path = result.request.folder / "certificate.json"
    body = certificate.sign(predicate_of(result, today), dsse.load_private(key))
    with writing(path):
        path.write_bytes(body)
    result.certificate_path = path
    return path


def predicate_of(result: RunResult, today: datetime.date) -> certificate.Predicate:
    """What a certificate of this run says; of a run that may have none, what a report of it says."""
    request = result.request
    certified = not result.why_no_certificate
    run = certificate.RunRef(
        subject=request.subject,
        service=request.service,
        model_path=stated_path(request.model),
        level=request.level,
        seed=request.seed,
        peers=request.peers,
        command=f"zg-certify replay {shlex.quote(stated_path(request.folder / 'certificate.json'))}"
        if certified
        else "",
    )
    return certificate.build(
        suite_digest=suite_digest(),
        product_digest=product_digest(),
        profile=result.profile,
        backend=result.backend,
        model=result.model,
        run=run,
        environment=observe(),
        records=result.records,
        matrix=result.cells,
        peers=result.peers,
        kill_score=result.kill_score,
        admitted=not result.not_admitted,
        today=today,
    )


def bind_peers(results: Sequence[RunResult]) -> None:
    """Fill `peers` of each result that may have a certificate: what the engines that it exchanged with say of
    themselves. A subject of this run was asked before; any other is started once more, with the model loaded."""
    known = {result.request.subject: result.backend for result in results if not result.request.service}
    for result in results:
        if result.why_no_certificate:
            continue
        names = certificate.partners(result.request.subject, exchanges_of(result.records), result.cells)
        for name in names:
            known[name] = known.get(name) or described(name, result.request)
        result.peers = tuple(certificate.Peer(name=name, backend=known[name]) for name in names)


def described(name: str, request: RunRequest) -> BackendDescriptor:
    """What a peer says of itself with the run's model loaded. Errors: of `start_subject`."""
    from certify.subject import start_subject

    with start_subject(name, "", request.model, load_profile(request.profile_path)["time.call_s"]) as worker:
        return worker.describe()


def summary(result: RunResult) -> dict[str, Any]:
    """The one object of `--json` and of summary.json."""
    got = result.grade
    failing = [
        {
            "case": r.case,
            "verdict": r.verdict.value,
            "clause": r.clause,
            "expectation": r.expectation,
            "observation": r.observation,
            "worst_row": r.worst_row,
            "command": r.command,
        }
        for r in result.failures
    ]
    return {
        "subject": result.request.subject,
        "model": {"name": result.model.name, "digest": str(result.model.model)},
        "level": got.text,
        "why_not_higher": list(got.why_not),
        "profile": {
            "name": result.profile.name,
            "version": result.profile.version,
            "digest": result.profile.digest,
        },
        "run_level": result.request.level,
        "seed": result.request.seed,
        "admitted": not result.not_admitted,
        "counts": count_verdicts(result.records),
        "failing": failing,
        "kill_score": msgspec.to_builtins(result.kill_score),
        "matrix": msgspec.to_builtins(list(result.cells)),
        "findings": msgspec.to_builtins(result.findings),
        "certificate": str(result.certificate_path) if result.certificate_path else None,
        "why_no_certificate": result.why_no_certificate,
        "defects": result.defects,
    }


def kill_score(digest: str) -> KillScore:
    """The kill score counted from the published table, when that is whole and of these very sources; else "not run".

    digest: of `judge_digest`. What the file says of itself is never taken: who caught what is counted here.
    """
    from certify.mutants.bank import HONEST, MUTANTS
    from certify.mutants.selftest import SelftestResult

    try:
        data = PUBLISHED_SCORE.read_bytes()
        found = msgspec.json.decode(data, type=SelftestResult)
    except (OSError, msgspec.DecodeError):
        return KillScore()
    meant = {mutant.name: mutant.families for mutant in MUTANTS}
    runs = {(run.name, run.seed) for run in found.honest}
    whole = sorted(run.name for run in found.mutants) == sorted(meant) and {name for name, _ in runs} == {
        variant.name for variant in HONEST
    }
    sound = len(runs) == len(found.honest) and not any(run.defects for run in (*found.mutants, *found.honest))
    score = KillScore(
        status="run",
        killed=sum(any(case[:1] in meant.get(run.name, "") for case in run.caught_by) for run in found.mutants),
        mutants=len(found.mutants),
        flagged=sum(bool(run.flagged) or run.case_count < 1 for run in found.honest),
        honest_runs=len(found.honest),
    )
    stated = found.complete and found.suite == digest and found.score == score
    table = "sha256:" + hashlib.sha256(data).hexdigest()
    return msgspec.structs.replace(score, table=table) if whole and sound and stated else KillScore()
