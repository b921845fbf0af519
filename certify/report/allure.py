"""Allure results of a campaign, written from the records (note (e) "Allure").

FAIL is failed, CRASH and INCONCLUSIVE are broken, UNSUPPORTED and SKIPPED are skipped, the rest passed; the verdict
itself is a label and opens the message, by which `categories.json` sorts. One suite a family, one epic a subject's
level; the public bug behind a case is an issue link. Records hold no clock: start and stop are the moment of writing.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from certify.registry import FAMILIES
from certify.report.campaign import Campaign, SubjectRun
from certify.verdict import MEANING, CaseRecord, Verdict

__all__ = ["STATUS", "categories", "links_in", "write_allure"]

STATUS = {
    Verdict.EXACT: "passed",
    Verdict.PASS: "passed",
    Verdict.NON_STRICT: "passed",
    Verdict.INFO: "passed",
    Verdict.UNSUPPORTED: "skipped",
    Verdict.SKIPPED: "skipped",
    Verdict.INCONCLUSIVE: "broken",
    Verdict.FAIL: "failed",
    Verdict.CRASH: "broken",
}
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:zeitgeist:case")
URL = re.compile(r"https?://[^\s<>\"']+")


def links_in(text: str) -> list[str]:
    """http and https addresses that stand in a text; nothing else may become a link."""
    return [found.rstrip(".,;:)") for found in URL.findall(text)]


def categories() -> list[dict[str, Any]]:
    """One category a verdict that needs a look, so that none hides behind the four statuses of Allure."""
    named = [verdict for verdict in reversed(Verdict) if verdict not in (Verdict.EXACT, Verdict.PASS, Verdict.INFO)]
    return [
        {
            "name": f"{verdict}: {MEANING[verdict]}",
            "matchedStatuses": [STATUS[verdict]],
            "messageRegex": rf"(?s)^{verdict}: .*",
        }
        for verdict in named
    ]


def write_allure(campaign: Campaign, folder: Path, now_ms: int) -> int:
    """Write results, categories and environment into an empty folder; returns the number of cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        if old.name.endswith(("-result.json", "-attachment.json", "-attachment.txt")):
            old.unlink()
    count = 0
    for subject in campaign.subjects:
        for record in subject.records:
            write_case(subject, record, folder, now_ms)
            count += 1
    (folder / "categories.json").write_text(json.dumps(categories(), indent=1), encoding="utf-8")
    lines = [f"{escape(key, key=True)}={escape(value)}" for key, value in environment(campaign)]
    (folder / "environment.properties").write_text("\n".join(lines) + "\n", encoding="ascii")
    return count


def escape(text: str, key: bool = False) -> str:
    r"""For a .properties file: one line of ASCII, `\uXXXX` for each UTF-16 unit of the rest; a key also hides ` :=`."""
    text = text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
    if key:
        text = re.sub("([ :=])", r"\\\1", text)
    units = text.encode("utf-16-be", "surrogatepass")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def environment(campaign: Campaign) -> Iterator[tuple[str, str]]:
    """Facts common to all subjects, then each subject's level."""
    first = campaign.subjects[0].predicate
    yield "model", f"{first.model.name} {first.model.model}"
    yield "suite", f"{first.suite.major}.{first.suite.minor} {first.suite.digest}"
    yield "profile", f"{first.profile.name} {first.profile.digest}"
    yield "commit", campaign.commit
    yield "seed", str(first.run.seed)
    yield "machine", f"{first.environment.cpu}, {first.environment.cores} cores, {first.environment.system}"
    yield "python", first.environment.python
    yield "kill score", first.kill_score.text
    for subject in campaign.subjects:
        yield f"level of {subject.name}", subject.predicate.grade.text


def write_case(subject: SubjectRun, record: CaseRecord, folder: Path, now_ms: int) -> None:
    """One result file and its attachments."""
    name = str(uuid.uuid5(NAMESPACE, f"{record.subject}\0{record.case}"))
    evidence = msgspec.json.format(msgspec.json.encode(record), indent=1)
    (folder / f"{name}-attachment.json").write_bytes(evidence)
    (folder / f"{name}-attachment.txt").write_text(record.command + "\n", encoding="utf-8")
    result = {
        "uuid": name,
        "historyId": digest(f"{record.subject}\0{record.case}"),
        "testCaseId": digest(f"{record.subject}\0{record.case}"),
        "fullName": f"{record.subject} {record.case}",
        "name": f"{record.case} · {record.subject}",
        "description": f"**{record.clause}**\n\nExpected: {record.expectation}\n\nRepeat: `{record.command}`",
        "status": STATUS[record.verdict],
        "statusDetails": {"message": f"{record.verdict}: {record.observation}", "trace": trace(record)},
        "stage": "finished",
        "start": now_ms - round(1000 * subject.seconds.get(record.case, 0.0)),
        "stop": now_ms,
        "labels": [{"name": key, "value": value} for key, value in labels(subject, record)],
        "links": [{"name": url, "url": url, "type": "issue"} for url in links_in(record.motive)],
        "parameters": [{"name": "subject", "value": record.subject}, *metrics(record)],
        "attachments": [
            {"name": "record with digests", "source": f"{name}-attachment.json", "type": "application/json"},
            {"name": "repeat command", "source": f"{name}-attachment.txt", "type": "text/plain"},
        ],
        "steps": [],
    }
    (folder / f"{name}-result.json").write_text(json.dumps(result, ensure_ascii=True), encoding="ascii")


def digest(text: str) -> str:
    """A stable id, so that history joins runs."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def trace(record: CaseRecord) -> str:
    """Expected, worst row, repeat: shown under the message."""
    rows = (("expected", record.expectation), ("worst row", record.worst_row), ("repeat", record.command))
    return "\n".join(f"{label}: {text}" for label, text in rows if text)


def labels(subject: SubjectRun, record: CaseRecord) -> Iterator[tuple[str, str]]:
    """Suite and epic, and the verdict as a tag."""
    yield "epic", subject.predicate.grade.text
    yield "parentSuite", record.subject
    yield "suite", f"{record.family} · {FAMILIES[record.family].partition(':')[0]}"
    yield "subSuite", record.check
    yield "feature", record.family
    yield "story", record.check
    yield "tag", record.verdict.value
    yield "verdict", record.verdict.value
    yield "framework", "zg-certify"
    yield "language", "python"
    severity = {"smoke": "critical", "standard": "normal"}.get(record.level, "minor")
    yield "severity", severity


def metrics(record: CaseRecord) -> list[dict[str, Any]]:
    """Each measured number with its limit; excluded from the history id, as Allure hashes parameters."""
    return [
        {
            "name": metric.name,
            "value": f"{metric.value} {metric.unit}".rstrip() + (f" ({metric.bound})" if metric.bound else ""),
            "excluded": True,
        }
        for metric in record.metrics
    ]
