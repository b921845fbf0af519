"""Certificates (W3): what is signed is what was seen, and any part that is changed is refused by its name."""

import base64
import datetime
import json
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from planted_certificate import TODAY, planted_predicate

import zeitgeist
from certify import certificate, dsse
from certify.certificate import VALID_DAYS, Predicate, Statement, part_digests, read_statement, sign, verify
from certify.environment import digest_without, observe, product_digest, suite_digest
from certify.profile import load_profile
from certify.records import from_json, merkle_root, to_json, write_records
from certify.verdict import CaseRecord, Exact, Finding, MatrixCell, Metric, Verdict
from zeitgeist.core.errors import ZeitgeistError

PROFILE = load_profile()
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PUBLIC = dsse.public_of(KEY)


def record(number: int, family: str = "B", verdict: Verdict = Verdict.PASS) -> CaseRecord:
    """One case."""
    finding = Finding(
        id=f"f{number}", kind="property", family=family, subject="toy", statement="s", evidence="e", handled=""
    )
    return CaseRecord(
        case=f"{family}.c{number}",
        check=f"{family}.c{number}",
        family=family,
        clause="I1",
        verdict=verdict,
        expectation="e",
        observation="o",
        worst_row="",
        motive="",
        level="smoke",
        subject="toy",
        command="c",
        metrics=(
            Metric(name="m", value="0.5", limit="1.0", direction="at most", unit="", source="cache.uncached_x32"),
        ),
        digests=(Exact(name="d", digest="00"),),
        findings=(finding,),
    )


RECORDS = [record(n, family) for n, family in enumerate("BBBTT")]


def predicate() -> Predicate:
    """Of a toy backend that holds L1."""
    cell = MatrixCell(
        exporter="a",
        importer="toy",
        form="f32_half",
        scenario="whole",
        fidelity="1e-06",
        fidelity_limit="1e-05",
        loss="1e-06",
        loss_limit="1e-04",
        poison="1.0",
        verdict=Verdict.PASS,
        detail="",
    )
    return planted_predicate(
        "toy", RECORDS, (cell,), suite_digest=suite_digest(), product_digest=product_digest(), environment=observe()
    )


GOOD_PREDICATE = predicate()
GOOD = sign(GOOD_PREDICATE, KEY)


def check(data: bytes, **more: Any) -> certificate.Verification:
    """Verify with the right key and records, on the day of issue."""
    return verify(data, PROFILE, more.pop("today", TODAY), more.pop("trusted", PUBLIC), more.pop("records", RECORDS))


def payload(data: bytes) -> dict[str, Any]:
    """The statement as plain JSON."""
    return json.loads(base64.b64decode(json.loads(data)["payload"]))


def repacked(statement: dict[str, Any]) -> bytes:
    """Another payload in the same envelope, signature untouched."""
    envelope = json.loads(GOOD)
    envelope["payload"] = base64.b64encode(json.dumps(statement, sort_keys=True).encode()).decode()
    return json.dumps(envelope).encode()


@pytest.mark.requirement("W3")
def test_a_certificate_verifies_and_states_what_was_seen() -> None:
    """Grade, counts, Merkle root and findings are computed from the records; with the trusted key it is verified."""
    found = check(GOOD)
    assert found.trusted and found.predicate.grade.text == "L1-x32-S" and found.predicate.counts["*"] == {"PASS": 5}
    assert len(found.predicate.findings) == 5 and len(GOOD) < 64 << 10
    assert payload(GOOD)["_type"] == "https://in-toto.io/Statement/v1"


@pytest.mark.requirement("W3")
def test_without_a_trusted_key_it_is_integrity_only() -> None:
    """No key, and another key, are not success."""
    assert not check(GOOD, trusted=None).trusted and "signer unknown" in check(GOOD, trusted=None).text
    other = check(GOOD, trusted=dsse.public_of(OTHER_KEY))
    assert not other.trusted and "not by the key you trust" in other.notes[-1]


EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "suite digest": ("suite", lambda p: p["suite"].update(digest="sha256:" + "0" * 64)),
    "product digest": ("suite", lambda p: p["suite"].update(product="sha256:" + "0" * 64)),
    "profile": ("profile", lambda p: p["profile"].update(digest="sha256:" + "0" * 64)),
    "engine version": ("backend", lambda p: p["backend"].update(version="2")),
    "library digest": ("backend", lambda p: p["backend"]["libraries"][0].update(digest="blake3:00")),
    "model digest": ("model", lambda p: p["model"].update(model="blake3:" + "00" * 32)),
    "seed": ("run", lambda p: p["run"].update(seed=1)),
    "run level": ("run", lambda p: p["run"].update(level="full")),
    "environment": ("environment", lambda p: p["environment"].update(cpu="a better one")),
    "counts": ("counts", lambda p: p["counts"]["*"].update(PASS=6)),
    "record count": ("record_count", lambda p: p.update(record_count=6)),
    "merkle root": ("merkle_root", lambda p: p.update(merkle_root="blake3:" + "00" * 32)),
    "exchange": ("exchanges", lambda p: p["exchanges"].append({"exporter": "a", "importer": "toy"})),
    "matrix cell": ("matrix", lambda p: p["matrix"][0].update(fidelity="0.0")),
    "matrix cell removed": ("matrix", lambda p: p["matrix"].clear()),
    "peer version": ("peers", lambda p: p["peers"][0]["backend"].update(version="2")),
    "peer library digest": ("peers", lambda p: p["peers"][0]["backend"]["libraries"][0].update(digest="blake3:00")),
    "peer removed": ("peers", lambda p: p["peers"].clear()),
    "finding removed": ("findings", lambda p: p["findings"].pop()),
    "finding edited": ("findings", lambda p: p["findings"][0].update(handled="all is well")),
    "kill score": ("kill_score", lambda p: p["kill_score"].update(killed=17)),
    "level": ("grade", lambda p: p["grade"].update(level="L4", text="L4-x32-S")),
    "assurance": ("grade", lambda p: p["grade"].update(assurance="W")),
    "admitted": ("admitted", lambda p: p.update(admitted=False)),
    "issue date": ("issued", lambda p: p.update(issued="2027-01-01")),
    "expiry": ("not_after", lambda p: p.update(not_after="2099-01-01")),
    "signer": ("signer", lambda p: p["signer"].update(key_id="sha256:00")),
    "part digest": ("seed", lambda p: p["parts"].update(seed="sha256:00")),
}


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("name", EDITS)
def test_a_part_that_was_edited_is_named(name: str) -> None:
    """The edit alone, without its digest."""
    field, edit = EDITS[name]
    statement = payload(GOOD)
    edit(statement["predicate"])
    with pytest.raises(ZeitgeistError, match="zg/certify/tampered") as caught:
        check(repacked(statement))
    assert caught.value.field in (field, "parts")


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_with_mended_digests_breaks_the_signature_or_the_sum(name: str) -> None:
    """A forger who mends every part digest and the statement's subject still has no key."""
    statement = payload(GOOD)
    EDITS[name][1](statement["predicate"])
    read: Statement = read_statement(json.dumps(statement).encode())
    mended = msgspec.structs.replace(read.predicate, parts=part_digests(read.predicate))
    body = msgspec.structs.replace(read, predicate=mended, subject=certificate.names_of(mended))
    envelope = json.loads(GOOD) | {"payload": base64.b64encode(msgspec.json.encode(body)).decode()}
    with pytest.raises(ZeitgeistError, match="zg/certify/tampered"):
        check(json.dumps(envelope).encode())


def enveloped(**changes: Any) -> bytes:
    """The good envelope with fields of it changed."""
    return json.dumps(json.loads(GOOD) | changes).encode()


SIGNATURE = json.loads(GOOD)["signatures"][0]

ENVELOPES = {
    "payload type": ("payloadType", enveloped(payloadType="application/json")),
    "no signature": ("signatures", enveloped(signatures=[])),
    "two signatures": ("signatures", enveloped(signatures=[SIGNATURE, SIGNATURE])),
    "key id": ("keyid", enveloped(signatures=[SIGNATURE | {"keyid": "sha256:00"}])),
    "signature bit": ("signature", enveloped(signatures=[SIGNATURE | {"sig": "AAAA" + SIGNATURE["sig"][4:]}])),
    "signature of another key": (
        "signature",
        enveloped(signatures=[SIGNATURE | {"sig": json.loads(sign(predicate(), OTHER_KEY))["signatures"][0]["sig"]}]),
    ),
    "payload not base64": ("payload", enveloped(payload="%%%")),
    "payload empty": ("payload", enveloped(payload="")),
    "statement type": ("_type", repacked(payload(GOOD) | {"_type": "https://in-toto.io/Statement/v2"})),
    "predicate type": ("predicateType", repacked(payload(GOOD) | {"predicateType": "urn:other:v1"})),
    "subject digest": (
        "subject",
        repacked(
            payload(GOOD)
            | {"subject": [{"name": "backend/toy", "digest": {"sha256": "00"}}, payload(GOOD)["subject"][1]]}
        ),
    ),
    "unknown field": ("payload", repacked(payload(GOOD) | {"gold": True})),
}


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_was_changed_is_refused_by_name(name: str) -> None:
    """Everything around the predicate."""
    field, data = ENVELOPES[name]
    with pytest.raises(ZeitgeistError, match="zg/certify/tampered") as caught:
        check(data)
    assert caught.value.field == field


@pytest.mark.requirement("W3")
@pytest.mark.parametrize(
    "records",
    [
        RECORDS[:-1],
        [*RECORDS, record(9)],
        [record(0, verdict=Verdict.EXACT), *RECORDS[1:]],
        [msgspec.structs.replace(RECORDS[0], observation="better"), *RECORDS[1:]],
    ],
    ids=["removed", "added", "verdict edited", "words edited"],
)
def test_records_that_are_not_those_of_the_run_are_refused(records: list[CaseRecord]) -> None:
    """Counts and Merkle root are computed again from the file beside the certificate; order does not matter."""
    with pytest.raises(ZeitgeistError, match="records"):
        check(GOOD, records=records)
    assert check(GOOD, records=RECORDS[::-1]).trusted


@pytest.mark.requirement("W3")
def test_a_grade_that_does_not_follow_is_refused_even_when_its_issuer_signed_it() -> None:
    """An issuer who writes L4 over counts that give L1."""
    lie = msgspec.structs.replace(
        predicate(), grade=msgspec.structs.replace(predicate().grade, level="L4", text="L4-x32-S")
    )
    with pytest.raises(ZeitgeistError, match="does not follow") as caught:
        check(sign(lie, KEY))
    assert caught.value.field == "grade"


def replaced(part: str, **fields: Any) -> dict[str, Any]:
    """A change of fields of one part."""
    return {part: msgspec.structs.replace(getattr(predicate(), part), **fields)}


LIES: dict[str, tuple[str, dict[str, Any]]] = {
    "another profile": ("profile", replaced("profile", digest="sha256:" + "0" * 64)),
    "another name of the profile": ("profile", replaced("profile", name="strict")),
    "wide assurance": ("grade", replaced("grade", assurance="W", text="L1-x32-W")),
    "a finding left out": ("findings", {"findings": predicate().findings[1:]}),
    "a peer that is not bound": ("peers", {"peers": ()}),
    "a peer bound twice": ("peers", {"peers": predicate().peers * 2}),
    "an engine that was not exchanged with": ("peers", {"exchanges": (), "matrix": ()}),
    "more caught than planted": ("kill_score", replaced("kill_score", killed=999)),
    "fewer flagged than none": ("kill_score", replaced("kill_score", flagged=-5)),
    "flagged more than run": ("kill_score", replaced("kill_score", flagged=61)),
    "no mutants": ("kill_score", replaced("kill_score", killed=0, mutants=0)),
    "no table": ("kill_score", replaced("kill_score", table="")),
    "a score that was not run": ("kill_score", replaced("kill_score", status="not run")),
    "issued at no date": ("issued", {"issued": "yesterday"}),
    "issued in another form": ("issued", {"issued": "20261121"}),
    "issued in the future": ("issued", {"issued": "2026-11-23"}),
    "never expires": ("not_after", {"not_after": "zzzz"}),
    "valid too long": ("not_after", {"not_after": "2027-05-21"}),
    "over before it began": ("not_after", {"not_after": "2026-11-20"}),
}


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("name", LIES)
def test_what_no_run_can_give_is_refused_even_when_its_issuer_signed_it(name: str) -> None:
    """A trusted issuer with a gutted profile, a score of its own, findings left out, or dates to its liking."""
    field, change = LIES[name]
    with pytest.raises(ZeitgeistError) as caught:
        check(sign(msgspec.structs.replace(predicate(), **change), KEY))
    assert caught.value.field == field


@pytest.mark.requirement("W3")
def test_a_key_that_stands_twice_is_refused_though_signed() -> None:
    """In the envelope, and in a payload that is signed as it stands: readers would differ in which they take."""
    twice = GOOD.replace(b'"payloadType"', b'"payloadType":"application/json","payloadType"', 1)
    with pytest.raises(ZeitgeistError, match="stands twice") as caught:
        check(twice)
    assert caught.value.field == "envelope"
    body = base64.b64decode(json.loads(GOOD)["payload"]).replace(b'"seed":0', b'"seed":7,"seed":0', 1)
    with pytest.raises(ZeitgeistError, match="stands twice") as caught:
        check(dsse.seal(body, KEY))
    assert caught.value.field == "payload"


@pytest.mark.requirement("W3")
def test_the_product_digest_sees_every_source_of_the_product(tmp_path: Path) -> None:
    """A letter of one adapter, a file more; it is of the package and not of the suite."""
    package = tmp_path / "zeitgeist" / "backends"
    package.mkdir(parents=True)
    (package / "torch.py").write_text("a = 1\n")
    first = product_digest(package.parent)
    (package / "torch.py").write_text("a = 2\n")
    second = product_digest(package.parent)
    (package / "more.py").write_text("")
    assert len({first, second, product_digest(package.parent), product_digest(), suite_digest()}) == 5
    assert product_digest() == digest_without(Path(zeitgeist.__file__).parent, set()) == GOOD_PREDICATE.suite.product


@pytest.mark.requirement("W3")
def test_it_expires() -> None:
    """Valid on the last day, refused on the next."""
    last = TODAY + datetime.timedelta(days=VALID_DAYS)
    assert check(GOOD, today=last).trusted
    with pytest.raises(ZeitgeistError, match="zg/certify/expired"):
        check(GOOD, today=last + datetime.timedelta(days=1))


@pytest.mark.requirement("W3")
@pytest.mark.parametrize(("version", "reads"), [((1, 0), True), ((1, 2), True), ((1, 3), False), ((2, 0), False)])
def test_two_minor_versions_back_are_read(
    version: tuple[int, int], reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §11: a certificate of suite 1.0 under later suites."""
    monkeypatch.setattr(certificate, "SUITE_VERSION", version)
    if reads:
        assert check(GOOD).trusted
    else:
        with pytest.raises(ZeitgeistError, match="zg/certify/suite-version"):
            check(GOOD)


@pytest.mark.requirement("W3")
def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First use makes it (mode 0600), second use reads it; a damaged file is refused and kept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = dsse.default_key_path()
    first = dsse.load_private()
    assert dsse.load_private() == first and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert dsse.load_public(path.with_suffix(".pub")) == dsse.public_of(first) == dsse.load_public(path)
    path.write_text("damaged")
    with pytest.raises(ZeitgeistError, match="zg/certify/bad-key"):
        dsse.load_private()
    assert path.read_text() == "damaged"
    with pytest.raises(ZeitgeistError, match="zg/certify/bad-key"):
        dsse.load_private(tmp_path / "none.pem")


@pytest.mark.requirement("W3")
def test_the_merkle_root_sees_order_of_case_and_nothing_else() -> None:
    """One to nine records: roots differ pairwise; a record read back from its line has the same leaf."""
    roots = [merkle_root([record(n) for n in range(count)]) for count in range(10)]
    assert len(set(roots)) == 10
    assert [from_json(to_json(r)) for r in RECORDS] == RECORDS
    assert merkle_root(RECORDS) == merkle_root(RECORDS[::-1])


@pytest.mark.requirement("W3")
def test_verify_starts_fast_and_imports_no_engine(tmp_path: Path) -> None:
    """The command from start to end in under a second (the fastest of three: other work may run beside it)."""
    path = tmp_path / "certificate.json"
    today = datetime.date.today()
    last = today + datetime.timedelta(days=VALID_DAYS)
    fresh = msgspec.structs.replace(predicate(), issued=today.isoformat(), not_after=last.isoformat())
    path.write_bytes(sign(fresh, KEY))
    write_records(tmp_path / "records.jsonl", RECORDS)
    code = (
        "import sys; from certify.cli import main; code = main(['verify', sys.argv[1]]); "
        "heavy = {'numpy', 'pytest', 'torch', 'mlx', 'transformers', 'rich'} & set(sys.modules); "
        "print(sorted(heavy)); sys.exit(code)"
    )
    took: list[float] = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        took.append(time.perf_counter() - begun)
        assert done.returncode == 1 and "integrity only, signer unknown" in done.stdout and "[]" in done.stdout, (
            done.stderr
        )
    assert min(took) < 1.0
