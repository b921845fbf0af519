"""JUnit of one subject: FAIL is a failure, CRASH an error, what is not run or not claimed is skipped with its reason.

Law: only elements and attributes of the schema that Jenkins and pytest share (junit-10): metrics are properties of
the suite, named `case / metric`, because that schema knows no properties of a test case. INCONCLUSIVE is an error: a
reader of JUnit must not take "not decided" for green.
"""

import re
import xml.etree.ElementTree as ET

from certify.report.campaign import SubjectRun
from certify.verdict import CaseRecord, Verdict

__all__ = ["junit", "printable"]

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """Text as XML 1.0 allows it: any other character becomes U+FFFD."""
    return ILLEGAL.sub("\ufffd", text)


def junit(subject: SubjectRun) -> bytes:
    """The file. Families are classes; times are as measured, 0 where nobody measured."""
    records = sorted(subject.records, key=lambda record: record.case)
    counts = {
        "tests": len(records),
        "failures": sum(r.verdict is Verdict.FAIL for r in records),
        "errors": sum(r.verdict in (Verdict.CRASH, Verdict.INCONCLUSIVE) for r in records),
        "skipped": sum(r.verdict in (Verdict.UNSUPPORTED, Verdict.SKIPPED) for r in records),
    }
    root = ET.Element("testsuites")
    total = sum(subject.seconds.get(record.case, 0.0) for record in records)
    attributes = {"name": printable(subject.name), "time": f"{total:.3f}", **{key: str(n) for key, n in counts.items()}}
    suite = ET.SubElement(root, "testsuite", attributes)
    properties = ET.SubElement(suite, "properties")
    for name, value in facts(subject):
        ET.SubElement(properties, "property", {"name": printable(name), "value": printable(value)})
    for record in records:
        suite.append(testcase(record, subject.seconds.get(record.case, 0.0)))
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def facts(subject: SubjectRun) -> list[tuple[str, str]]:
    """Of the run, then each metric with its limit."""
    predicate = subject.predicate
    rows = [
        ("subject", subject.name),
        ("model", str(predicate.model.model)),
        ("level", predicate.grade.text),
        ("seed", str(predicate.run.seed)),
        ("suite", predicate.suite.digest),
        ("profile", predicate.profile.digest),
        ("kill score", predicate.kill_score.text),
    ]
    for record in subject.records:
        for metric in record.metrics:
            limit = f" ({metric.bound} by {metric.source})" if metric.bound else ""
            rows.append((f"{record.case} / {metric.name}", f"{metric.value} {metric.unit}".rstrip() + limit))
    return rows


def testcase(record: CaseRecord, seconds: float) -> ET.Element:
    """One case with its outcome, and in system-out what a person needs to repeat it."""
    case = ET.Element("testcase", {"classname": printable(f"{record.subject}.{record.family}")})
    case.set("name", printable(record.case))
    case.set("time", f"{seconds:.3f}")
    message = printable(f"{record.verdict}: {record.observation}")
    tag = {
        Verdict.FAIL: "failure",
        Verdict.CRASH: "error",
        Verdict.INCONCLUSIVE: "error",
        Verdict.UNSUPPORTED: "skipped",
        Verdict.SKIPPED: "skipped",
    }.get(record.verdict)
    body = "\n".join(
        f"{label}: {text}"
        for label, text in (
            ("verdict", record.verdict.value),
            ("clause", record.clause),
            ("expected", record.expectation),
            ("observed", record.observation),
            ("worst row", record.worst_row),
            ("motive", record.motive),
            ("repeat", record.command),
        )
        if text
    )
    if tag:
        outcome = ET.SubElement(case, tag, {"type": record.verdict.value, "message": message})
        outcome.text = printable(body)
    else:
        ET.SubElement(case, "system-out").text = printable(body)
    return case
