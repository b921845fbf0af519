"""The page: one file that needs nothing else, made from a campaign.

Law: every string of a subject, model or record is escaped by the template; only our own style sheet and script are
inlined as they are. The policy in the page forbids any request; the reader may click links, the page follows none.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from certify.registry import FAMILIES
from certify.report import view
from certify.report.campaign import Campaign
from certify.verdict import Verdict, count_verdicts

__all__ = ["page"]

HERE = Path(__file__).parent

TITLES = {"bad": "The contract is violated", "open": "Not decided: blocks a level"}


@cache
def environment() -> Environment:
    """Templates of this package; autoescape is always on, an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=view.number, pieces=view.pieces)  # pyright: ignore[reportUnknownMemberType]
    return made


def asset(name: str) -> Markup:
    """Our own style sheet or script."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def page(campaign: Campaign) -> str:
    """The whole HTML document."""
    cases = view.cases_of(campaign)
    records = [case.record for case in cases]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            campaign=campaign,
            first=campaign.subjects[0].predicate,
            cases=cases,
            groups=groups(cases),
            grid=view.grid_of(campaign, cases),
            findings=view.findings_of(campaign, cases),
            matrix=view.matrix_of(campaign),
            ladders={subject.name: view.ladder_of(campaign, subject) for subject in campaign.subjects},
            totals=count_verdicts(records)["*"],
            families=sorted({record.family for record in records}),
            verdicts=list(Verdict),
            letters=view.LETTERS,
            css=asset("page.css"),
            js=asset("page.js"),
        )
    )


@dataclass(frozen=True)
class Check:
    """Cases of one check, with what they share said once."""

    cases: tuple[view.CaseView, ...]
    chips: tuple[view.Chip, ...]


@dataclass(frozen=True)
class Group:
    """Cases that belong together: those not met, those not decided, then one group a family."""

    key: str
    title: str
    blocking: bool
    checks: tuple[Check, ...]

    @property
    def count(self) -> int:
        """Cases in all."""
        return sum(len(check.cases) for check in self.checks)


def groups(cases: list[view.CaseView]) -> list[Group]:
    """In the order of the cases, the worst first."""
    found: dict[str, dict[str, list[view.CaseView]]] = {}
    for case in cases:
        verdict = case.record.verdict
        key = "bad" if verdict.bad else "open" if verdict.blocks else case.record.family
        found.setdefault(key, {}).setdefault(case.record.check, []).append(case)
    return [
        Group(
            key,
            TITLES.get(key, FAMILIES.get(key, "")),
            key in TITLES,
            tuple(Check(tuple(row), view.chips_of(row)) for row in checks.values()),
        )
        for key, checks in found.items()
    ]
