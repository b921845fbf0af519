"""What `zg-sim` shows to a person: tables, a progress bar, the neighbourhood of a difference.

Law: nothing is computed here; what is shown stands in the reports, which --json prints whole.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sim.doctor import Examined, Way
from sim.replay import Replayed, Verified
from sim.run import RunReport
from zeitgeist.core.recording import Entry

__all__ = ["show_examined", "show_replayed", "show_run", "show_verified", "watched"]

OUT = Console(highlight=False, soft_wrap=True, width=None if Console().is_terminal else 160)
ERR = Console(stderr=True)
INPUT_CHARACTERS = 300
ROWS_MAX = 12


@contextmanager
def watched(total: int, what: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """A progress bar on standard error while a command works; gives the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=ERR, transient=True, disable=quiet or not ERR.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(detail: str) -> None:
            progress.update(task, advance=1, description=f"{what}: {detail}")

        yield advance


def milliseconds(ns: int) -> str:
    """An instant or a duration for people."""
    return f"{ns // 1000 / 1000:,.3f} ms"


def show_run(report: RunReport, record: Path | None) -> None:
    """A run: parties, work, faults, verdict."""
    OUT.print(f"{report.scenario}, seed {report.seed}, {report.kernel}: {milliseconds(report.simulated_ns)} simulated")
    parties = Table("party", "steps", "trace", "damage refused")
    for name, party in report.parties.items():
        parties.add_row(name, f"{party.steps:,}", party.trace, ", ".join(party.refusals) or "–")
    OUT.print(parties)
    show_work(report)
    if report.faults:
        faults = Table("fault", "happened")
        for fault in report.faults:
            faults.add_row(fault.fault, f"{fault.fired:,}" if fault.fired else "NEVER: the run proves nothing about it")
        OUT.print(faults)
    OUT.print(f"{report.frames:,} frames delivered, {report.resent:,} packets sent again, digest {report.digest}")
    lists = {"never ended": report.missing, "wrong tokens": report.wrong, "vacuous": report.vacuous}
    for text, names in lists.items():
        if names:
            OUT.print(f"{text}: {escape(', '.join(names))}")
    if record:
        OUT.print(f"recordings in {escape(str(record))}; zg-sim replay {escape(str(record))}/*.zgtrace does it again")
    OUT.print("passed" if report.passed else "FAILED")


def show_work(report: RunReport) -> None:
    """Jobs and tensors; of many only those that ended badly."""
    rows: list[tuple[str, str, str, bool]] = []
    for job in report.jobs:
        well = job.outcome in ("stop", "length") and job.right
        tokens = f"{len(job.tokens)} tokens, {'right' if job.right else 'WRONG'}"
        rows.append((job.job, f"{job.outcome} {job.reason}", tokens, well))
    for sent in report.transfers:
        size = f"{sent.length:,} bytes, {sent.chunks} chunks, {sent.resent} again"
        rows.append((f"{sent.tensor} at {sent.node}", sent.reason or "whole", size, not sent.reason))
    rows += [(name, f"refused {reason}", "", False) for name, reason in report.refused.items()]
    short = [row for row in rows if len(rows) <= ROWS_MAX or not row[3]]
    if short:
        work = Table("work", "end", "of")
        for name, end, what, _ in short:
            work.add_row(name, end, what)
        OUT.print(work)
    if rows:
        OUT.print(f"{len(rows)} ends of work, {sum(row[3] for row in rows)} of them well")


def entry_line(step: int, entry: Entry) -> str:
    """One entry of a recording in one line."""
    text = str(entry.input)
    short = text if len(text) <= INPUT_CHARACTERS else text[: INPUT_CHARACTERS - 1] + "…"
    return f"  step {step} at {milliseconds(entry.now)}  {short}"


def show_replayed(results: Sequence[Replayed]) -> None:
    """Replays: a line each, and the neighbourhood of a difference."""
    for result in results:
        if result.same:
            OUT.print(f"{escape(result.path)} ({result.node}): {result.steps:,} steps, no difference")
            continue
        OUT.print(f"{escape(result.path)} ({result.node}): differs after {result.steps:,} equal steps")
        if result.refusal:
            OUT.print(f"  {escape(result.refusal)}")
        difference = result.difference
        if difference is None:
            continue
        OUT.print("recorded before:")
        for index, entry in enumerate(result.before):
            OUT.print(escape(entry_line(difference.step - len(result.before) + index, entry)))
        OUT.print(
            f"DIFFERENCE at step {difference.step}, {milliseconds(difference.now)}: {', '.join(difference.about)}"
        )
        OUT.print(escape(f"  input   {difference.input}"[: 2 * INPUT_CHARACTERS]))
        OUT.print(escape(f"  wanted  {difference.made or difference.wanted}"))
        OUT.print(escape(f"  got     {difference.got or difference.found}"))
        OUT.print("recorded after:")
        for index, entry in enumerate(result.after):
            OUT.print(escape(entry_line(difference.step + 1 + index, entry)))


def show_verified(results: Sequence[Verified]) -> None:
    """Sound files."""
    table = Table("file", "party", "steps", "until", "trace", "core")
    for one in results:
        core = "this one" if one.same_core else f"another: {one.core[:23]}…"
        table.add_row(
            escape(one.path), f"{one.node} ({one.kind})", f"{one.steps:,}", milliseconds(one.last_ns), one.trace, core
        )
    OUT.print(table)


def show_examined(found: Sequence[Examined], ways: Sequence[Way]) -> None:
    """What the doctor found."""
    table = Table("seed", "digest", "steps", "frames", *ways)
    for one in found:
        parted = {finding.way for finding in one.findings}
        verdicts = ["DIFFERS" if way in parted else "same" for way in ways]
        table.add_row(str(one.seed), one.digest, f"{one.steps:,}", f"{one.frames:,}", *verdicts)
    OUT.print(table)
    for one in found:
        for finding in one.findings:
            OUT.print(
                f"seed {one.seed}, {finding.way}: first difference at step {finding.step} of {finding.party}, "
                f"{milliseconds(finding.at_ns)}, {finding.input}: {finding.differs}"
            )
            OUT.print(f"  wanted {finding.wanted or 'no step'}\n  got    {finding.got or 'no step'}")
    total = sum(len(one.findings) for one in found)
    verdict = "deterministic" if not total else f"NOT deterministic: {total} differences"
    OUT.print(f"{len(found)} seeds, {len(ways)} ways each: {verdict}")
