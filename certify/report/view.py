"""From records to what the page shows: order, counts, bars, anchors. Plain values; the template only prints them.

Law: nothing is left out and nothing is softened: every record is a case on the page, each verdict that occurred is
printed with its count, the worst first.
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from certify.registry import FAMILIES
from certify.report.allure import links_in
from certify.report.campaign import Campaign, SubjectRun
from certify.verdict import CaseRecord, Finding, MatrixCell, Metric, Verdict, worst

__all__ = [
    "LETTERS",
    "Bar",
    "CaseView",
    "Chip",
    "Exchange",
    "FindingView",
    "GridRow",
    "MatrixView",
    "Measure",
    "bar_of",
    "cases_of",
    "chips_of",
    "findings_of",
    "grid_of",
    "ladder_of",
    "matrix_of",
    "number",
    "pieces",
]

LETTERS = {
    Verdict.EXACT: "E",
    Verdict.PASS: "P",
    Verdict.NON_STRICT: "N",
    Verdict.INFO: "I",
    Verdict.UNSUPPORTED: "U",
    Verdict.SKIPPED: "S",
    Verdict.INCONCLUSIVE: "?",
    Verdict.FAIL: "F",
    Verdict.CRASH: "C",
}

TICK = 72.0
"""Where the limit stands in a bar, in per cent of its width."""

DECADES = 6.0
"""A bar shows 6 decades below the limit and 2 above it."""


@dataclass(frozen=True)
class Bar:
    """A value on a logarithmic scale with its limit at TICK. width in per cent; over: beyond the limit."""

    width: float
    over: bool
    text: str


@dataclass(frozen=True)
class Measure:
    """A metric as shown."""

    name: str
    value: str
    limit: str
    unit: str
    source: str
    bar: Bar | None


@dataclass(frozen=True)
class Chip:
    """A verdict and how often; target: the anchor of the first such case."""

    verdict: Verdict
    count: int
    target: str

    @property
    def letter(self) -> str:
        """One letter."""
        return LETTERS[self.verdict]


@dataclass(frozen=True)
class CaseView:
    """One case. anchor: its id in the page."""

    record: CaseRecord
    anchor: str
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class GridRow:
    """One family (`*` for all): chips for each subject, in order of subjects."""

    family: str
    title: str
    about: str
    cells: tuple[tuple[Chip, ...], ...]


@dataclass(frozen=True)
class FindingView:
    """A finding of one subject with how many cases saw it and an anchor to the first of them."""

    finding: Finding
    count: int
    anchor: str


@dataclass(frozen=True)
class Exchange:
    """Everything measured of one exporter and importer (or one pipeline): the worst cell stands for all."""

    exporter: str
    importer: str
    anchor: str
    worst: MatrixCell
    worst_bar: Bar | None
    cells: tuple[tuple[MatrixCell, Bar | None, Bar | None], ...]
    heat: str
    command: str
    verdict: Verdict


@dataclass(frozen=True)
class MatrixView:
    """rows[exporter][importer], None where nothing was measured; pipelines apart."""

    exporters: tuple[str, ...]
    importers: tuple[str, ...]
    rows: tuple[tuple[Exchange | None, ...], ...]
    exchanges: tuple[Exchange, ...]
    pipelines: tuple[Exchange, ...]


def number(text: str, digits: int = 3) -> str:
    """A real as people read it: `1.85e-05`, `26.8`, `24`; text that is no number stays as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return re.sub(r"e([+-])0?", lambda found: "e" + found[1].replace("+", ""), f"{value:.{digits}g}")


def pieces(text: str) -> list[tuple[str, str]]:
    """A text cut at its web addresses: (words, "") and (address, address)."""
    out: list[tuple[str, str]] = []
    for url in links_in(text):
        before, _, text = text.partition(url)
        out += [(before, ""), (url.removeprefix("https://"), url)]
    return [piece for piece in [*out, (text, "")] if piece[0]]


def slug(*parts: str) -> str:
    """Letters, digits and dashes of some names."""
    return "-".join(re.sub("[^A-Za-z0-9]+", "-", part).strip("-") or "x" for part in parts)


def parse(text: str) -> float | None:
    """A finite real, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def bar_of(value: str, limit: str, lower: bool = False) -> Bar | None:
    """How far a value is from its limit. lower: the limit is the least that is wanted. None without two numbers."""
    top = parse(limit)
    got = parse(value)
    if top is None:
        return None
    if got is None:
        return Bar(100.0, True, "not a number")
    if lower:
        share = TICK * got / top if top > 0 else 100.0
        return Bar(min(100.0, max(2.0, share)), got < top, "below the limit" if got < top else "reached")
    if got <= 0 or got == top:
        return Bar(0.0 if got <= 0 else TICK, False, "zero" if got <= 0 else "at the limit")
    if top <= 0:
        return Bar(100.0, True, "wanted zero")
    ratio = got / top
    width = TICK * (1 + math.log10(ratio) / DECADES) if ratio <= 1 else TICK + (100 - TICK) * math.log10(ratio) / 2
    text = f"{times(1 / ratio)} below" if ratio < 1 else f"{times(ratio)} above"
    return Bar(min(100.0, max(2.0, width)), ratio > 1, text)


def times(ratio: float) -> str:
    """`3.1×`, `1,860×`, `10⁸×`-like in plain digits."""
    if ratio < 10:
        return f"{ratio:.1f}×"
    return f"{ratio:,.0f}×" if ratio < 1e6 else f"{ratio:.0e}×".replace("e+0", "e").replace("e+", "e")


def measure(metric: Metric) -> Measure:
    """A metric as shown."""
    lower = metric.direction == "at least"
    shown = bar_of(metric.value, metric.limit, lower) if metric.limit else None
    sign = "≥ " if lower else "≤ "
    limit = sign + number(metric.limit) if metric.limit else ""
    return Measure(metric.name, number(metric.value, 4), limit, metric.unit, metric.source, shown)


def cases_of(campaign: Campaign) -> list[CaseView]:
    """Every case of every subject, the worst first, then by family, case and subject."""
    records = [record for subject in campaign.subjects for record in subject.records]
    order = {subject.name: index for index, subject in enumerate(campaign.subjects)}
    records.sort(key=lambda r: (-urgency(r.verdict), r.family, natural(r.case), order.get(r.subject, 0)))
    out: list[CaseView] = []
    used: dict[str, int] = {}
    for record in records:
        name = "case-" + slug(record.subject, record.case)
        used[name] = used.get(name, 0) + 1
        anchor = name if used[name] == 1 else f"{name}-{used[name]}"
        shown = tuple(measure(metric) for metric in record.metrics)
        out.append(CaseView(record, anchor, shown))
    return out


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which `[32]` comes before `[128]`."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", text)]


def urgency(verdict: Verdict) -> int:
    """Bad before undecided before the rest; the rest stands by family."""
    return verdict.severity if verdict.blocks else 0


def chips_of(cases: Sequence[CaseView]) -> tuple[Chip, ...]:
    """Counts by verdict, the worst first."""
    counts: dict[Verdict, list[CaseView]] = {}
    for case in cases:
        counts.setdefault(case.record.verdict, []).append(case)
    ordered = sorted(counts.items(), key=lambda item: -item[0].severity)
    return tuple(Chip(verdict, len(found), found[0].anchor) for verdict, found in ordered)


def grid_of(campaign: Campaign, cases: Sequence[CaseView]) -> list[GridRow]:
    """All families, then each one that ran."""
    families = sorted({case.record.family for case in cases})
    rows: list[GridRow] = []
    for family in ["*", *families]:
        title, _, about = FAMILIES.get(family, "all families").partition(": ")
        cells = tuple(
            chips_of([c for c in cases if c.record.subject == subject.name and family in ("*", c.record.family)])
            for subject in campaign.subjects
        )
        rows.append(GridRow(family, title, about, cells))
    return rows


def findings_of(campaign: Campaign, cases: Sequence[CaseView]) -> list[FindingView]:
    """Each finding once a subject; defects first, then traps, properties, controls."""
    kinds = ("defect", "trap", "property", "control")
    found: dict[tuple[str, str], list[tuple[Finding, str]]] = {}
    for case in cases:
        for finding in case.record.findings:
            found.setdefault((finding.id, finding.subject), []).append((finding, case.anchor))
    shown = [FindingView(rows[0][0], len(rows), rows[0][1]) for rows in found.values()]
    return sorted(shown, key=lambda v: (kinds.index(v.finding.kind), v.finding.id, v.finding.subject))


def ladder_of(campaign: Campaign, subject: SubjectRun) -> list[tuple[str, str, str]]:
    """(level, state, reason) from low to high; state held, missed or above."""
    grade = subject.predicate.grade
    kind = campaign.profile.levels[subject.predicate.kind] if campaign.profile else ()
    out: list[tuple[str, str, str]] = []
    missed = False
    for level, _ in kind:
        if grade.level and level <= grade.level:
            out.append((level, "held", ""))
        elif missed:
            out.append((level, "above", "the level below is not held"))
        else:
            missed = True
            why = "; ".join(reason.removeprefix(f"{level}: ") for reason in grade.why_not)
            out.append((level, "missed", why or "not reached"))
    return out


def matrix_of(campaign: Campaign) -> MatrixView | None:
    """The interop matrix, or None when none was measured."""
    if not campaign.cells:
        return None
    pairs = [cell for cell in campaign.cells if cell.importer]
    names = [subject.name for subject in campaign.subjects]
    exporters = tuple(
        dict.fromkeys([*(n for n in names if n in {c.exporter for c in pairs}), *(c.exporter for c in pairs)])
    )
    importers = tuple(
        dict.fromkeys([*(n for n in names if n in {c.importer for c in pairs}), *(c.importer for c in pairs)])
    )
    run = campaign.subjects[0].predicate.run
    made: dict[tuple[str, str], Exchange] = {}
    for cell in campaign.cells:
        key = (cell.exporter, cell.importer)
        if key not in made:
            same = [other for other in campaign.cells if (other.exporter, other.importer) == key]
            made[key] = exchange(same, run.model_path, run.seed)
    return MatrixView(
        exporters,
        importers,
        tuple(tuple(made.get((exporter, importer)) for importer in importers) for exporter in exporters),
        tuple(found for found in made.values() if found.importer),
        tuple(found for found in made.values() if not found.importer),
    )


def exchange(cells: Sequence[MatrixCell], model: str, seed: int) -> Exchange:
    """One direction: its scenarios, the worst of them, and one line that measures it again."""

    def badness(cell: MatrixCell) -> tuple[int, float]:
        got, limit = parse(cell.fidelity), parse(cell.fidelity_limit)
        return cell.verdict.severity, (got / limit if got is not None and limit else math.inf if cell.fidelity else 0.0)

    farthest = max(cells, key=badness)
    exporter, importer = farthest.exporter, farthest.importer
    subjects = dict.fromkeys([*exporter.split(">"), importer] if importer else exporter.split(">"))
    command = ["zg-certify", "matrix", "--subjects", ",".join(subjects), "--model", model, "--seed", str(seed)]
    rows = tuple(
        (cell, bar_of(cell.fidelity, cell.fidelity_limit), bar_of(cell.loss, cell.loss_limit)) for cell in cells
    )
    return Exchange(
        exporter,
        importer,
        "exchange-" + slug(exporter, importer or "pipeline"),
        farthest,
        bar_of(farthest.fidelity, farthest.fidelity_limit),
        rows,
        heat_of(badness(farthest)[1]) if farthest.fidelity else "heatless",
        shlex.join(command),
        worst(cell.verdict for cell in cells),
    )


def heat_of(ratio: float) -> str:
    """Shade by share of the limit: heat0 up to 1 %, 1 to 10 %, 2 to 50 %, 3 to the limit, 4 beyond."""
    return f"heat{sum(ratio > step for step in (0.01, 0.1, 0.5, 1.0))}"
