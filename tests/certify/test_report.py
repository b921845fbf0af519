"""Reports (W3): every record and verdict is on the page, hostile words stay words, JUnit and Allure say the same."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from planted_campaign import HOSTILE, SUBJECTS, planted_campaign

from certify import certificate
from certify.records import write_records
from certify.report import view
from certify.report.allure import STATUS, categories, escape, links_in, write_allure
from certify.report.campaign import SubjectRun, load_campaign
from certify.report.junit import junit, printable
from certify.report.page import page
from certify.report.writer import write_campaign
from certify.results import durations_of
from certify.verdict import Metric, Verdict
from zeitgeist.core.errors import ZeitgeistError

CAMPAIGN = planted_campaign()
TEXT = page(CAMPAIGN)
RAW = next(subject for subject in CAMPAIGN.subjects if subject.name == "mlx:raw")
VOID = {"meta", "link", "input", "br", "img"} | {"dt", "dd", "tr", "td", "th", "option"}
"""Void, or HTML lets their end tag be left out."""


class Reader(HTMLParser):
    """Elements with their attributes, ids, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    """The page parsed by the standard library."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


READ = read(TEXT)


@pytest.mark.requirement("W3")
def test_hostile_words_stay_words() -> None:
    """The planted script is text everywhere: the page has one script and no img, and no handler attribute."""
    tags = [tag for tag, _ in READ.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [name for _, attributes in READ.elements for name in attributes if name.startswith("on")]
    assert "alert('zg')" in "".join(READ.text)
    assert "{{ 7*7 }}" in "".join(READ.text)


@pytest.mark.requirement("W3")
def test_the_page_names_no_outside_resource() -> None:
    """Nothing that a browser fetches by itself; links are http(s) or inside the page; the policy forbids the rest."""
    for tag, attributes in READ.elements:
        assert "src" not in attributes and "srcset" not in attributes, (tag, attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
        if tag == "a":
            assert re.match(r"#|https?://", attributes["href"] or ""), attributes
    css = TEXT.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css and "@import" not in css
    policy = next(a for tag, a in READ.elements if tag == "meta" and "http-equiv" in a)
    assert (policy["content"] or "").startswith("default-src 'none'")


@pytest.mark.requirement("W3")
def test_every_record_and_every_verdict_is_on_the_page() -> None:
    """One case a record with its own id; each chip of the grid leads to a case that ended so; counts add up."""
    shown = [a for tag, a in READ.elements if tag == "details" and "data-v" in a]
    assert len(shown) == sum(len(subject.records) for subject in CAMPAIGN.subjects)
    ids = [str(a["id"]) for _, a in READ.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in READ.elements if tag == "a" and str(a["href"]).startswith("#")}
    assert targets <= set(ids)
    counted = view.grid_of(CAMPAIGN, view.cases_of(CAMPAIGN))[0].cells[SUBJECTS.index("mlx:raw")]
    assert {chip.verdict for chip in counted} == set(Verdict)
    assert sum(chip.count for chip in counted) == len(RAW.records)
    for verdict in Verdict:
        assert f'data-v="{verdict}"' in TEXT and verdict.meaning in TEXT


@pytest.mark.requirement("W3")
def test_a_failing_case_has_everything_and_stands_first() -> None:
    """Expectation, observation, worst row, clause, motive and the command; violations come before all other cases."""
    cases = view.cases_of(CAMPAIGN)
    assert [case.record.verdict for case in cases[:3]] == [Verdict.CRASH, Verdict.FAIL, Verdict.FAIL]
    failed = next(case for case in cases if case.record.case.startswith("G.rope-theta"))
    said = TEXT.partition(f'id="{failed.anchor}"')[2].partition("</details>")[0]
    for words in ("96 prefilled and 8 decoded rows", "max abs is 22.2 logit", "row 88 of 104", "DESIGN §9", "--check"):
        assert words in said
    assert 'href="https://github.com/vllm-project/vllm/issues/4697"' in said
    assert 'href="javascript' not in TEXT


def test_a_bar_says_how_far_from_the_limit() -> None:
    """Below, at, above, zero, no number, and a limit from below."""
    under = view.bar_of("1e-6", "4e-6")
    assert under is not None and not under.over and under.text == "4.0× below" and 64.7 < under.width < 64.8
    over = view.bar_of("1.5e-4", "5e-5")
    assert over is not None and over.over and over.text == "3.0× above" and over.width > view.TICK
    assert view.bar_of("nan", "1.0") == view.Bar(100.0, True, "not a number")
    assert view.bar_of("0.0", "0.0") == view.Bar(0.0, False, "zero")
    assert view.bar_of("1e-9", "0.0") == view.Bar(100.0, True, "wanted zero")
    assert view.bar_of("3", "") is None
    least = view.bar_of("0.5", "1.0", lower=True)
    assert least is not None and least.over and view.bar_of("1.0", "1.0", lower=True) is not None


def test_a_limit_is_shown_in_the_direction_that_the_record_says() -> None:
    """Not guessed from name, value or verdict: `top-1` at most, a plain name at least, both beyond or within."""
    said = [("top-1", "0.5", "at most", "≤ 1", False), ("rows", "0.5", "at least", "≥ 1", True),
            ("agreement", "2.0", "at most", "≤ 1", True), ("error", "2.0", "at least", "≥ 1", False)]  # fmt: skip
    for name, value, direction, limit, over in said:
        metric = Metric(name=name, value=value, limit="1.0", direction=direction, unit="", source="fidelity.ulp")  # pyright: ignore[reportArgumentType]
        shown = view.measure(metric)
        assert shown.bar is not None and (shown.limit, shown.bar.over) == (limit, over)
        assert metric.holds is not over
    assert not Metric(name="m", value="nan", limit="1.0", direction="at least", unit="", source="s").holds


def test_the_matrix_shows_the_worst_scenario_of_each_direction() -> None:
    """reference → torch fails; a direction with two forms shows the farther one; pipelines stand apart."""
    found = view.matrix_of(CAMPAIGN)
    assert found is not None
    assert found.exporters == found.importers == SUBJECTS
    bad = found.rows[0][1]
    assert bad is not None and bad.verdict is Verdict.FAIL and bad.heat == "heat4"
    assert "--subjects reference,torch" in bad.command
    two = found.rows[0][3]
    assert two is not None and len(two.cells) == 2 and two.worst.form == "F16"
    assert [x.exporter for x in found.pipelines] == ["torch>mlx:raw>reference"]


def test_one_subject_without_a_matrix_has_a_page_too() -> None:
    """No matrix section, no link to one."""
    text = page(planted_campaign(("torch",), matrix=False))
    assert 'id="matrix"' not in text and 'href="#matrix"' not in text
    read(text)


def test_a_large_campaign_stays_below_a_megabyte() -> None:
    """Five subjects of 252 cases each, as a full run has them."""
    large = planted_campaign(cases=28)
    assert sum(len(subject.records) for subject in large.subjects) >= 1250
    assert len(page(large).encode()) < 1_000_000


@pytest.mark.requirement("W3")
def test_junit_says_what_the_records_say() -> None:
    """FAIL is a failure, CRASH and INCONCLUSIVE errors, UNSUPPORTED and SKIPPED skipped; counts and metrics agree."""
    root = ET.fromstring(junit(RAW))
    suite = root[0]
    assert root.tag == "testsuites" and suite.tag == "testsuite"
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("2", "2", "2")
    assert suite.get("tests") == str(len(RAW.records)) == str(len(suite.findall("testcase")))
    outcome = {case.get("name"): case[0].tag for case in suite.findall("testcase")}
    assert outcome["N.each[FAIL]"] == "failure" and outcome["N.each[CRASH]"] == "error"
    assert outcome["N.each[UNSUPPORTED]"] == "skipped" and outcome["N.each[NON_STRICT]"] == "system-out"
    metrics = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert metrics["N.each[FAIL] / max abs"] == "0.00015 logit (≤ 5e-05 by fidelity.ulp)"
    assert HOSTILE.replace("\x1b", "\ufffd") in "".join(root.itertext())


def test_junit_keeps_to_the_shared_schema() -> None:
    """Only the elements and attributes of junit-10: content of a test case is outcome or output, nothing else."""
    allowed = {
        "testsuites": ({"testsuite"}, set()),
        "testsuite": ({"properties", "testcase"}, {"name", "time", "tests", "failures", "errors", "skipped"}),
        "properties": ({"property"}, set()),
        "property": (set(), {"name", "value"}),
        "testcase": ({"failure", "error", "skipped", "system-out"}, {"classname", "name", "time"}),
        "failure": (set(), {"type", "message"}),
        "error": (set(), {"type", "message"}),
        "skipped": (set(), {"type", "message"}),
        "system-out": (set(), set()),
    }
    for element in ET.fromstring(junit(RAW)).iter():
        children, attributes = allowed[element.tag]
        assert {child.tag for child in element} <= children and set(element.attrib) <= attributes


def test_what_xml_forbids_is_replaced() -> None:
    """Control characters and lone surrogates."""
    assert printable("a\x00b\x1b\ud800c\U0001f600\n") == "a\ufffdb\ufffd\ufffdc\U0001f600\n"


@pytest.mark.requirement("W3")
def test_allure_results_say_what_the_records_say(tmp_path: Path) -> None:
    """One result a record, status by verdict, suite by family, issue link, attachments that exist, categories match."""
    write_campaign(CAMPAIGN, tmp_path)
    folder = tmp_path / "allure-results"
    results = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*-result.json"))]
    assert len(results) == sum(len(subject.records) for subject in CAMPAIGN.subjects)
    for name in ("uuid", "historyId", "testCaseId"):
        assert len({result[name] for result in results}) == len(results), f"{name} joins cases: Allure would hide one"
    known = categories()
    for result in results:
        verdict = Verdict(next(label["value"] for label in result["labels"] if label["name"] == "verdict"))
        assert result["status"] == STATUS[verdict]
        assert all((folder / attachment["source"]).is_file() for attachment in result["attachments"])
        message = result["statusDetails"]["message"]
        fits = [
            c["name"]
            for c in known
            if result["status"] in c["matchedStatuses"] and re.match(c["messageRegex"], message)
        ]
        quiet = verdict in (Verdict.EXACT, Verdict.PASS, Verdict.INFO)
        assert [name.partition(":")[0] for name in fits] == ([] if quiet else [verdict.value])
    geometry = next(r for r in results if r["name"].startswith("G.check-0"))
    assert {"name": "suite", "value": "G · geometry"} in geometry["labels"]
    assert [link["url"] for link in geometry["links"]] == ["https://github.com/vllm-project/vllm/issues/4697"]


def test_old_results_do_not_stay(tmp_path: Path) -> None:
    """A second campaign in the same directory leaves only its own cases."""
    write_campaign(CAMPAIGN, tmp_path)
    write_campaign(planted_campaign(("torch",), matrix=False), tmp_path)
    count = len(list((tmp_path / "allure-results").glob("*-result.json")))
    assert count == len(CAMPAIGN.subjects[1].records)


@pytest.mark.requirement("W3")
def test_each_case_shows_how_long_it_took_and_which_way_its_limit_points(tmp_path: Path) -> None:
    """Durations lie beside the records, unsigned: in JUnit and Allure, and their sum; 0 for a case without one."""
    record = msgspec.structs.replace(
        CAMPAIGN.subjects[0].records[0],
        metrics=(
            Metric(name="top", value="1.0", limit="0.99", direction="at least", unit="", source="numerics.top1_x16"),
        ),
    )
    other = msgspec.structs.replace(record, case="B.other")
    timed = replace(CAMPAIGN.subjects[0], records=(record, other), seconds={record.case: 1.5})
    suite = ET.fromstring(junit(timed))[0]
    assert suite.attrib["time"] == "1.500"
    assert {case.attrib["name"]: case.attrib["time"] for case in suite.iter("testcase")} == {
        record.case: "1.500",
        "B.other": "0.000",
    }
    assert "1.0 (≥ 0.99 by numerics.top1_x16)" in {row.attrib["value"] for row in suite.iter("property")}
    write_allure(replace(CAMPAIGN, subjects=(timed,)), tmp_path, 10_000)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*-result.json")]
    assert sorted(result["stop"] - result["start"] for result in results) == [0, 1500]
    assert all({"name": "top", "value": "1.0 (≥ 0.99)", "excluded": True} in r["parameters"] for r in results)


@pytest.mark.requirement("W3")
def test_durations_that_nobody_can_read_are_none(tmp_path: Path) -> None:
    """No file, half a file, a file of something else: a report without times, not an error."""
    assert durations_of(tmp_path) == {}
    for text in ("{", '{"B.a": "long"}'):
        (tmp_path / "durations.json").write_text(text)
        assert durations_of(tmp_path) == {}
    (tmp_path / "durations.json").write_text('{"B.a": 2}')
    assert durations_of(tmp_path) == {"B.a": 2.0}


@pytest.mark.requirement("W3")
def test_properties_are_one_ascii_line() -> None:
    """Keys hide their separators; any other character is a UTF-16 escape."""
    assert escape("a b:c", key=True) == "a\\ b\\:c"
    assert escape("x\n\\ü\U0001f600") == "x \\\\\\u00fc\\ud83d\\ude00"


def test_only_web_addresses_become_links() -> None:
    """Punctuation after an address is not part of it."""
    assert links_in("see https://a.example/x, javascript:y and (http://b.example)") == [
        "https://a.example/x",
        "http://b.example",
    ]
    assert view.pieces("see https://a.example/x.") == [("see ", ""), ("a.example/x", "https://a.example/x"), (".", "")]


def put(subject: SubjectRun, directory: Path) -> Path:
    """A signed certificate and its records, as a run leaves them."""
    folder = directory / subject.folder
    folder.mkdir()
    (folder / "certificate.json").write_bytes(certificate.sign(subject.predicate, bytes(range(32))))
    write_records(folder / "records.jsonl", subject.records)
    return folder


def test_a_report_can_be_made_again_from_the_files(tmp_path: Path) -> None:
    """Certificates and records are enough; a directory with an uncertified subject is refused, not shortened."""
    folders = [put(subject, tmp_path) for subject in CAMPAIGN.subjects]
    loaded = load_campaign(tmp_path)
    assert sorted(s.name for s in loaded.subjects) == sorted(SUBJECTS)
    assert loaded.cells == CAMPAIGN.cells and loaded.profile is not None
    assert write_campaign(loaded, tmp_path / "again").is_file()
    (folders[-1] / "certificate.json").unlink()
    with pytest.raises(ZeitgeistError, match="no certificate of llama_cpp_fa"):
        load_campaign(tmp_path)
