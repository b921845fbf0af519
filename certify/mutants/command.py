"""`zg-certify selftest`: run the bank, a line as each run ends, a table after; `--publish` keeps it for certificates.

Law: the table is published with the digest of these very sources, and only when all mutants and honest variants ran.
"""

import argparse
import difflib
import json
from typing import Any

import msgspec

from certify.mutants.bank import HONEST, MUTANTS, Mutant
from certify.mutants.selftest import HonestRun, MutantRun, SelftestResult, selftest
from certify.results import writing
from certify.run import PUBLISHED_SCORE, default_model
from certify.show import console
from zeitgeist.core.errors import LocalProtocolError

__all__ = ["run"]

CAUGHT_BY_SHOWN = 4
"""Checks named for each mutant in the published table: enough to see whether one alone holds it."""


def run(args: argparse.Namespace) -> int:
    """0 when every mutant was caught and no honest run flagged, 1 when not, 3 when the suite itself failed."""
    chosen = picked(args.mutant)
    model = args.model or default_model()
    if not model.exists():
        raise LocalProtocolError("zg/certify/no-model", f"{model} does not exist", "model")
    if args.seeds < 1 or args.jobs < 1:
        raise LocalProtocolError("zg/certify/usage", "seeds and jobs are at least 1", "seeds")
    out = console()
    result = selftest(
        model,
        seeds=range(args.seed, args.seed + args.seeds),
        mutants=chosen,
        honest=() if args.mutant else HONEST,
        jobs=args.jobs,
        wide=args.wide,
        progress=lambda one: out.print(line(one), markup=False, soft_wrap=True),
    )
    if args.publish:
        publish(result)
    out.print(table(result))
    out.print(f"{result.score.text}; {float(result.seconds):.0f} s")
    if args.json:
        print(json.dumps(msgspec.to_builtins(result)))
    if any(one.defects for one in (*result.mutants, *result.honest)):
        return 3
    return 0 if result.held else 1


def picked(names: list[str]) -> tuple[Mutant, ...]:
    """The mutants of these names; all for none. An unknown name is refused with its neighbours."""
    known = {mutant.name: mutant for mutant in MUTANTS}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)[:3]
            raise LocalProtocolError("zg/certify/unknown", f"no mutant {name!r}; near: {', '.join(close)}", "mutant")
    return tuple(known[name] for name in names) or MUTANTS


def publish(result: SelftestResult) -> None:
    """Write the table beside the bank, to be committed: certificates of these very sources then carry the score."""
    if not result.complete:
        raise LocalProtocolError("zg/certify/usage", "only the whole bank with honest variants is published", "publish")
    short = [msgspec.structs.replace(one, caught_by=one.caught_by[:CAUGHT_BY_SHOWN]) for one in result.mutants]
    data = msgspec.json.encode(msgspec.structs.replace(result, mutants=tuple(short)), order="sorted")
    with writing(PUBLISHED_SCORE):
        PUBLISHED_SCORE.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def line(run: MutantRun | HonestRun) -> str:
    """One run that has ended."""
    if isinstance(run, HonestRun):
        state = "\n  ".join(("FLAGGED", *run.flagged)) if run.flagged else f"{run.case_count} cases, none flagged"
        text = f"honest {run.name} seed {run.seed}: {state}"
    else:
        text = f"{run.name}: {seen(run)}"
    return text + (f"\n  suite defect: {run.defects}" if run.defects else "")


def seen(run: MutantRun) -> str:
    """The first check that caught it and how many more did."""
    if not run.caught:
        return "SURVIVED" + (f", though {run.also_by[0]} saw it" if run.also_by else "")
    more = len(run.caught_by) - 1
    return run.caught_by[0] + (f" and {more} more" if more else "")


def table(result: SelftestResult) -> Any:
    """Mutants with the check that caught each, survivors in red."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title="mutants", title_justify="left")
    for name in ("mutant", "group", "meant", "caught by"):
        shown.add_column(name)
    shown.add_column("s", justify="right")
    for one in result.mutants:
        style = "" if one.caught else "bold red"
        shown.add_row(one.name, one.group, one.families, escape(seen(one)), one.seconds, style=style)
    return shown
