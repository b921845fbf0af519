"""What a report is made from: for each subject a predicate (signed, or of a run that got no certificate) and records.

Law: nothing here is measured or judged; a report says what certificates and records say. Refuses: a directory
without a certificate.
"""

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from certify import certificate, dsse
from certify.certificate import Predicate
from certify.profile import STANDARD, Profile, load_profile
from certify.records import read_records
from certify.results import durations_of, subject_dir
from certify.run import RunResult, predicate_of
from certify.verdict import CaseRecord, MatrixCell
from zeitgeist.core.errors import LocalProtocolError

__all__ = ["Campaign", "SubjectRun", "campaign_of", "commit", "load_campaign"]


@dataclass(frozen=True)
class SubjectRun:
    """One subject. folder: its directory's name; certified: a certificate lies there; defects: of the suite itself;
    seconds: case -> how long it took, as measured and unsigned."""

    predicate: Predicate
    records: tuple[CaseRecord, ...]
    folder: str
    certified: bool
    not_admitted: str = ""
    defects: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def name(self) -> str:
        """`llama_cpp:fa`."""
        return self.predicate.run.subject


@dataclass(frozen=True)
class Campaign:
    """Several subjects on one model. profile: None when the certificates name another than the one at hand."""

    subjects: tuple[SubjectRun, ...]
    cells: tuple[MatrixCell, ...]
    profile: Profile | None
    commit: str
    command: str


def commit() -> str:
    """Commit of the checkout that the suite runs from, with `+changes`; "" outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():
        return ""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "certify", "zeitgeist")
    return git("rev-parse", "--short=12", "HEAD") + (" + changes" if changed else "")


def read_predicate(path: Path) -> Predicate:
    """The predicate of a certificate file, unverified: the page says how to verify it."""
    return certificate.read_statement(dsse.open_envelope(certificate.read_file(path))[1]).predicate


def unsigned(result: RunResult, today: datetime.date) -> Predicate:
    """The predicate that a run without a certificate (some checks only, or a defective suite) would have had."""
    return msgspec.structs.replace(predicate_of(result, today), grade=result.grade)


def campaign_of(results: Sequence[RunResult], cells: Sequence[MatrixCell], today: datetime.date) -> Campaign:
    """The campaign that has just run."""
    subjects = tuple(
        SubjectRun(
            predicate=read_predicate(result.certificate_path) if result.certificate_path else unsigned(result, today),
            records=tuple(result.records),
            folder=result.request.folder.name,
            certified=result.certificate_path is not None,
            not_admitted=result.not_admitted,
            defects=result.defects,
            seconds=durations_of(result.request.folder),
        )
        for result in results
    )
    return Campaign(subjects, tuple(cells), results[0].profile, commit(), command_of(subjects))


def load_campaign(directory: Path) -> Campaign:
    """The campaign whose certificates and records lie under directory; the matrix is the one they carry."""
    found = sorted(directory.glob("*/records.jsonl"))
    lacking = [path.parent.name for path in found if not path.with_name("certificate.json").is_file()]
    if not found or lacking:
        text = f"{directory}: no certificate of {', '.join(lacking) or 'any subject'}"
        raise LocalProtocolError("zg/certify/bad-certificate", text, "directory")
    subjects: list[SubjectRun] = []
    for path in (records.with_name("certificate.json") for records in found):
        predicate = read_predicate(path)
        records = tuple(read_records(path.with_name("records.jsonl")))
        folder = subject_dir(directory, predicate.run.subject).name
        note = "" if predicate.admitted else "it accepted nonsense"
        subjects.append(
            SubjectRun(predicate, records, folder, certified=True, not_admitted=note, seconds=durations_of(path.parent))
        )
    cells = max((subject.predicate.matrix for subject in subjects), key=len)
    profile = load_profile(STANDARD)
    same = all(subject.predicate.profile.digest == profile.digest for subject in subjects)
    return Campaign(tuple(subjects), cells, profile if same else None, commit(), command_of(tuple(subjects)))


def command_of(subjects: tuple[SubjectRun, ...]) -> str:
    """One line that repeats the campaign."""
    import shlex

    run = subjects[0].predicate.run
    names = ",".join(subject.name for subject in subjects)
    parts = ["zg-certify", "run", "--subject", names, "--model", run.model_path, "--level", run.level]
    return shlex.join([*parts, "--seed", str(run.seed)])
