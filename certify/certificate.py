"""The certificate (W3): an in-toto Statement v1 with our predicate, in a DSSE envelope.

Law: `verify` imports no engine, no array library and no pytest. Every part of the predicate has its own digest in
`parts`, so that a part edited alone is named; whoever also mends the digest breaks the signature. Without a trusted
key the
answer is "integrity only, signer unknown", which is not success.
"""

import base64
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from certify import dsse
from certify.environment import Environment
from certify.levels import Claims, Grade, claims_of, exchanges_of, grade
from certify.profile import Profile
from certify.records import merkle_root
from certify.verdict import CaseRecord, Exchange, Finding, KillScore, MatrixCell, count_verdicts, findings_of
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelDescriptor
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats import canonical
from zeitgeist.core.formats.canonical import Record

__all__ = [
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "SUITE_VERSION",
    "VALID_DAYS",
    "Peer",
    "Predicate",
    "ProfileRef",
    "RunRef",
    "Signer",
    "Statement",
    "SuiteRef",
    "Verification",
    "build",
    "partners",
    "read_file",
    "read_statement",
    "sign",
    "verify",
]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:zeitgeist:certificate:v1"

SUITE_VERSION = (1, 0)
"""(major, minor). A suite verifies certificates of its own major and of minors N, N-1, N-2 (DESIGN §11)."""

VALID_DAYS = 180
"""Note §3.6: 180 days; an engine is re-certified sooner, at each release."""


class SuiteRef(Record, frozen=True, kw_only=True):
    """Which checks ran and on which product: version, digests over the sources of `certify` and of `zeitgeist`."""

    major: int
    minor: int
    digest: str
    product: str


class ProfileRef(Record, frozen=True, kw_only=True):
    """Which tolerances and levels."""

    name: str
    version: int
    digest: str


class RunRef(Record, frozen=True, kw_only=True):
    """How to run it again. level: smoke, standard or full; model_path: as `stated_path` of run.py says a path."""

    subject: str
    service: str
    model_path: str
    level: str
    seed: int
    peers: tuple[str, ...]
    command: str


class Peer(Record, frozen=True, kw_only=True):
    """An engine that the subject exchanged caches with, or that stands in its matrix: bound as the subject itself is,
    by version and library digests. name: the subject's name on the command line."""

    name: str
    backend: BackendDescriptor


class Signer(Record, frozen=True, kw_only=True):
    """The issuer's key, self-stated: it proves integrity, trust comes from a key that the verifier has."""

    key_id: str
    public_key: str


class Predicate(Record, frozen=True, kw_only=True):
    """Everything a certificate says. parts: name of each other field -> SHA-256 of its canonical bytes."""

    suite: SuiteRef
    profile: ProfileRef
    backend: BackendDescriptor
    model: ModelDescriptor
    kind: str
    admitted: bool
    run: RunRef
    environment: Environment
    counts: dict[str, dict[str, int]]
    record_count: int
    merkle_root: str
    exchanges: tuple[Exchange, ...]
    matrix: tuple[MatrixCell, ...]
    peers: tuple[Peer, ...]
    findings: tuple[Finding, ...]
    kill_score: KillScore
    grade: Grade
    issued: str
    not_after: str
    signer: Signer
    parts: dict[str, str]


class Named(Record, frozen=True, kw_only=True):
    """in-toto ResourceDescriptor: a name and digests by algorithm."""

    name: str
    digest: dict[str, str]


class Statement(Record, frozen=True, kw_only=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    """in-toto Statement v1."""

    type: str
    subject: tuple[Named, ...]
    predicate_type: str
    predicate: Predicate


PARTS = tuple(name for name in Predicate.__struct_fields__ if name != "parts")


@dataclass(frozen=True)
class Verification:
    """What held. trusted: the signer's key is one the verifier named. notes: what was compared and what was not."""

    predicate: Predicate
    trusted: bool
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line."""
        said = f"{self.predicate.run.subject} is {self.predicate.grade.text}"
        if self.trusted:
            return f"verified: {said}, signed by {self.predicate.signer.key_id}"
        return f"integrity only, signer unknown: {said}, says {self.predicate.signer.key_id}"


def part_digest(value: object) -> str:
    """SHA-256 of the canonical bytes of any field."""
    return "sha256:" + hashlib.sha256(msgspec.msgpack.Encoder(order="sorted").encode(value)).hexdigest()


def part_digests(predicate: Predicate) -> dict[str, str]:
    """Every part but `parts` itself."""
    return {name: part_digest(getattr(predicate, name)) for name in PARTS}


def names_of(predicate: Predicate) -> tuple[Named, ...]:
    """What the statement is about: the engine as it described itself, and the model."""
    algorithm, _, value = str(predicate.model.model).partition(":")
    backend = hashlib.sha256(canonical.encode(predicate.backend)).hexdigest()
    return (
        Named(name=f"backend/{predicate.run.subject}", digest={"sha256": backend}),
        Named(name=f"model/{predicate.model.name}", digest={algorithm: value}),
    )


def partners(subject: str, exchanges: Iterable[Exchange], matrix: Iterable[MatrixCell]) -> tuple[str, ...]:
    """Names of the engines other than the subject that a certificate with these must bind, sorted."""
    names = {name for one in exchanges for name in (one.exporter, one.importer)}
    names |= {name for cell in matrix for name in (*cell.exporter.split(">"), cell.importer) if name}
    return tuple(sorted(names - {subject}))


def build(
    *,
    suite_digest: str,
    product_digest: str,
    profile: Profile,
    backend: BackendDescriptor,
    model: ModelDescriptor,
    run: RunRef,
    environment: Environment,
    records: Sequence[CaseRecord],
    matrix: Sequence[MatrixCell],
    peers: Sequence[Peer],
    kill_score: KillScore,
    admitted: bool,
    today: datetime.date,
) -> Predicate:
    """The unsigned predicate of a run; counts, Merkle root, findings and grade are computed here, never passed in."""
    counts, exchanges = count_verdicts(records), exchanges_of(records)
    return Predicate(
        suite=SuiteRef(major=SUITE_VERSION[0], minor=SUITE_VERSION[1], digest=suite_digest, product=product_digest),
        profile=ProfileRef(name=profile.name, version=profile.version, digest=profile.digest),
        backend=backend,
        model=model,
        kind="backend",
        admitted=admitted,
        run=run,
        environment=environment,
        counts=counts,
        record_count=len(records),
        merkle_root=merkle_root(records),
        exchanges=exchanges,
        matrix=tuple(matrix),
        peers=tuple(peers),
        findings=findings_of(records),
        kill_score=kill_score,
        grade=grade(counts, exchanges, claims_of(backend), profile, admitted=admitted),
        issued=today.isoformat(),
        not_after=(today + datetime.timedelta(days=VALID_DAYS)).isoformat(),
        signer=Signer(key_id="", public_key=""),
        parts={},
    )


def sign(predicate: Predicate, private: bytes) -> bytes:
    """The certificate file: signer and part digests filled in, wrapped, signed."""
    public = dsse.public_of(private)
    signer = Signer(key_id=dsse.key_id(public), public_key=base64.b64encode(public).decode())
    filled = msgspec.structs.replace(predicate, signer=signer)
    filled = msgspec.structs.replace(filled, parts=part_digests(filled))
    statement = Statement(
        type=STATEMENT_TYPE, subject=names_of(filled), predicate_type=PREDICATE_TYPE, predicate=filled
    )
    return dsse.seal(msgspec.json.encode(statement, order="sorted"), private)


def tampered(field: str, detail: str) -> RemoteProtocolError:
    """The refusal that names a part."""
    return RemoteProtocolError("zg/certify/tampered", detail, field)


def read_file(path: Path) -> bytes:
    """The bytes of a certificate file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RemoteProtocolError("zg/certify/bad-certificate", f"{path}: {error.strerror}", "certificate") from error


def read_statement(payload: bytes) -> Statement:
    """The statement in a payload; strict about types and fields, nothing of it trusted."""
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise tampered("payload", f"not a certificate statement: {error}") from error
    dsse.check_keys_once(payload, "payload")
    if statement.type != STATEMENT_TYPE:
        raise tampered("_type", f"got {statement.type[:80]!r}, wanted {STATEMENT_TYPE!r}")
    if statement.predicate_type != PREDICATE_TYPE:
        raise tampered("predicateType", f"got {statement.predicate_type[:80]!r}, wanted {PREDICATE_TYPE!r}")
    return statement


def check_parts(statement: Statement) -> None:
    """Every part has its digest, and what can be derived from other parts agrees with them."""
    predicate = statement.predicate
    for name, wanted in part_digests(predicate).items():
        if predicate.parts.get(name) != wanted:
            raise tampered(name, "this part was changed after the certificate was issued")
    if set(predicate.parts) != set(PARTS):
        raise tampered("parts", "a digest of a part that does not exist")
    if statement.subject != names_of(predicate):
        raise tampered("subject", "the statement is about another engine or model than the predicate describes")
    if sum(predicate.counts.get("*", {}).values()) != predicate.record_count:
        raise tampered("counts", "the counts do not add up to the number of records")


def check_peers(predicate: Predicate) -> None:
    """Each engine that an exchange or a cell of the matrix names is bound, once, and no other."""
    wanted = partners(predicate.run.subject, predicate.exchanges, predicate.matrix)
    bound = tuple(peer.name for peer in predicate.peers)
    if bound != wanted:
        raise tampered("peers", f"bound are {', '.join(bound) or 'none'}, exchanged with {', '.join(wanted) or 'none'}")


def check_version(suite: SuiteRef) -> None:
    """Same major, and minor N, N-1 or N-2."""
    major, minor = SUITE_VERSION
    if suite.major != major or not minor - 2 <= suite.minor <= minor:
        raise RemoteProtocolError(
            "zg/certify/suite-version",
            f"got suite {suite.major}.{suite.minor}, wanted {major}.{max(0, minor - 2)} … {major}.{minor}",
            "suite",
        )


def date_of(field: str, text: str) -> datetime.date:
    """A day in the one form that we write, 2026-01-31."""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError as error:
        raise tampered(field, f"got {text[:40]!r}, wanted a date") from error
    if day.isoformat() != text:
        raise tampered(field, f"got {text[:40]!r}, wanted {day}")
    return day


def check_dates(predicate: Predicate, today: datetime.date) -> None:
    """Issued by tomorrow at the latest (a day is not the same everywhere), for VALID_DAYS at most, not expired."""
    issued, last = date_of("issued", predicate.issued), date_of("not_after", predicate.not_after)
    if (issued - today).days > 1:
        raise tampered("issued", f"it is from the future: {issued}, today is {today}")
    if not 0 <= (last - issued).days <= VALID_DAYS:
        raise tampered("not_after", f"got {issued} to {last}, wanted at most {VALID_DAYS} days")
    if today > last:
        raise RemoteProtocolError("zg/certify/expired", f"valid until {last}, today is {today}", "not_after")


def check_grade(predicate: Predicate, profile: Profile) -> str:
    """The grade follows from the counts under the profile that this suite ships; no other profile, no other grade."""
    named = ProfileRef(name=profile.name, version=profile.version, digest=profile.digest)
    if predicate.profile != named:
        got = f"{predicate.profile.name} {predicate.profile.version} {predicate.profile.digest}"
        raise RemoteProtocolError(
            "zg/certify/bad-certificate",
            f"got profile {got}, wanted the one of this suite, {named.name} {named.version} {named.digest}",
            "profile",
        )
    if predicate.grade.assurance != "S":
        raise tampered("grade", f"assurance {predicate.grade.assurance} is not earned: this suite issues S only")
    claims: Claims = claims_of(predicate.backend, predicate.kind)
    if (
        grade(predicate.counts, predicate.exchanges, claims, profile, predicate.grade.assurance, predicate.admitted)
        != predicate.grade
    ):
        raise tampered("grade", f"{predicate.grade.text} does not follow from the counts")
    return "grade recomputed from the counts"


def check_records(predicate: Predicate, records: Sequence[CaseRecord]) -> str:
    """Counts, findings, exchanges and Merkle root recomputed from the records."""
    if len(records) != predicate.record_count:
        raise tampered("records", f"got {len(records)} records, the certificate is of {predicate.record_count}")
    if merkle_root(records) != predicate.merkle_root:
        raise tampered("records", "a record was changed: the Merkle root differs")
    counts: Mapping[str, Mapping[str, int]] = count_verdicts(records)
    if counts != predicate.counts:
        raise tampered("counts", "they are not the counts of the records")
    if findings_of(records) != predicate.findings:
        raise tampered("findings", "they are not the findings of the records")
    if exchanges_of(records) != predicate.exchanges:
        raise tampered("exchanges", "they are not the exchanges of the records")
    return f"{len(records)} records recomputed"


def verify(
    data: bytes,
    profile: Profile,
    today: datetime.date,
    trusted: bytes | None = None,
    records: Sequence[CaseRecord] | None = None,
) -> Verification:
    """Check a certificate file. trusted: raw public key of the expected signer, if known.

    Errors: `zg/certify/bad-certificate`, `tampered` (field: the part), `expired`, `suite-version`.
    """
    envelope, payload = dsse.open_envelope(data)
    statement = read_statement(payload)
    predicate = statement.predicate
    check_parts(statement)
    signer = predicate.signer
    if envelope.signatures[0].keyid != signer.key_id:
        raise tampered("keyid", "the envelope names another key than the certificate")
    try:
        public = base64.b64decode(signer.public_key, validate=True)
    except ValueError as error:
        raise tampered("signer", f"not base64: {error}") from error
    if dsse.key_id(public) != signer.key_id:
        raise tampered("signer", "the key id is not that of the public key")
    if not dsse.signature_holds(envelope, payload, public):
        raise tampered(
            "signature", "it does not verify: the payload was changed after signing, or signed by another key"
        )
    check_version(predicate.suite)
    check_dates(predicate, today)
    check_peers(predicate)
    if not predicate.kill_score.sound:
        raise tampered("kill_score", f"no self-test can give {predicate.kill_score}")
    notes = [check_grade(predicate, profile)]
    notes.append(check_records(predicate, records) if records is not None else "records not given: not recomputed")
    if trusted is not None and trusted != public:
        notes.append(f"signed by {signer.key_id}, not by the key you trust ({dsse.key_id(trusted)})")
    return Verification(predicate, trusted == public, tuple(notes))
