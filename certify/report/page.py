"""The page: one file that needs nothing else, made from a campaign.

Law: every string of a subject, model or record is escaped by the template; only our own style sheet and script are
inlined as they are. The policy in the page forbids any request; the reader may click links, the page follows none.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from certify.report import view
from certify.report.campaign import Campaign
from certify.verdict import Verdict, count_verdicts

__all__ = ["page"]

HERE = Path(__file__).parent


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
    made.filters["number"] = view.number
    made.filters["pieces"] = view.pieces
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
            verdicts=[verdict for verdict in Verdict],
            letters=view.LETTERS,
            css=asset("page.css"),
            js=asset("page.js"),
        )
    )


def groups(cases: list[view.CaseView]) -> list[tuple[str, str, list[view.CaseView]]]:
    """(key, title, cases): not met, not decided, then by family."""
    from certify.registry import FAMILIES

    out: dict[str, tuple[str, list[view.CaseView]]] = {}
    for case in cases:
        verdict = case.record.verdict
        if verdict.bad:
            key, title = "bad", "The contract is violated"
        elif verdict.blocks:
            key, title = "open", "Not decided: blocks a level"
        else:
            key, title = case.record.family, FAMILIES.get(case.record.family, "")
        out.setdefault(key, (title, []))[1].append(case)
    return [(key, title, found) for key, (title, found) in out.items()]
