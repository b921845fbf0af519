"""What a person sees in the terminal: progress while it runs, a table of verdicts after, findings, and what to do
next."""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from certify.registry import FAMILIES
from certify.run import Progress, RunResult
from certify.verdict import MatrixCell, Verdict, count_verdicts

__all__ = ["console", "progress_of", "show_matrix", "show_result"]

STYLES = {
    Verdict.EXACT: "bold green",
    Verdict.PASS: "green",
    Verdict.NON_STRICT: "yellow",
    Verdict.INFO: "cyan",
    Verdict.UNSUPPORTED: "magenta",
    Verdict.SKIPPED: "bold yellow",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.FAIL: "bold red",
    Verdict.CRASH: "bold white on red",
}


def console() -> Any:
    """Standard error, so that `--json` on standard output stays one object."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def progress_of(subject: str) -> Generator[Progress]:
    """A bar with the counts so far on a terminal; elsewhere a line a family."""
    if sys.stderr.isatty():
        with bar(subject) as progress:
            yield progress
        return
    seen: dict[str, int] = {}

    def line(event: dict[str, Any]) -> None:
        if "family" in event:
            seen[event["family"]] = seen.get(event["family"], 0) + 1
            if seen[event["family"]] == 1:
                print(f"{subject}: family {event['family']} …", file=sys.stderr, flush=True)
            if event["verdict"] in ("FAIL", "CRASH"):
                print(f"{subject}: {event['verdict']} {event['case']}", file=sys.stderr, flush=True)

    yield line


@contextmanager
def bar(subject: str) -> Generator[Progress]:
    """A rich progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Bar(*columns, console=console()) as shown:
        task = shown.add_task(subject, total=None, state="")
        counts: dict[str, int] = {}

        def update(event: dict[str, Any]) -> None:
            if "total" in event:
                shown.update(task, total=event["total"])
                return
            counts[event["verdict"]] = counts.get(event["verdict"], 0) + 1
            state = f"{event['family']}: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items()))
            shown.update(task, advance=1, state=state)

        yield update


def show_result(result: RunResult) -> None:
    """Table, failures with their command, findings, level, where the results lie."""
    out = console()
    out.print(table(result))
    for record in result.failures:
        out.print(f"[bold red]{record.verdict}[/] {record.case} ({record.clause})", soft_wrap=True)
        for label, text in (
            ("expected", record.expectation),
            ("observed", record.observation),
            ("worst row", record.worst_row),
            ("repeat", record.command),
        ):
            if text:
                out.print(f"  {label}: {text}", markup=False, soft_wrap=True)
    for finding in result.findings:
        handled = f" Handled: {finding.handled}" if finding.handled else ""
        out.print(
            f"{finding.kind} {finding.id} [{finding.family}]: {finding.statement}{handled}",
            markup=False,
            soft_wrap=True,
        )
    if result.not_admitted:
        out.print(f"[bold red]not admitted[/]: {result.not_admitted}")
    if result.defects:
        out.print(f"[bold red]the suite itself failed[/] (exit code 3); see {result.request.folder / 'defects.txt'}")
    if not result.why_no_certificate:
        out.print(
            f"[bold]{result.request.subject}[/] on {result.model.name}: [bold]{result.grade.text}[/] "
            f"({result.request.level}, profile {result.profile.name} {result.profile.digest[:19]}…); "
            f"kill score: {result.kill_score.text}"
        )
        for reason in result.grade.why_not:
            out.print(f"  not higher: {reason}", markup=False, soft_wrap=True)
    else:
        out.print(f"no certificate: {result.why_no_certificate}", markup=False, soft_wrap=True)
    if result.certificate_path:
        out.print(f"certificate: {result.certificate_path}", soft_wrap=True)


def table(result: RunResult) -> Any:
    """Families down, verdicts across; only verdicts that occurred."""
    from rich.table import Table

    counts = count_verdicts(result.records)
    used = [verdict for verdict in Verdict if counts["*"].get(verdict.value)]
    shown = Table(
        title=f"{result.request.subject} · {result.model.name} · seed {result.request.seed}", title_justify="left"
    )
    shown.add_column("family")
    for verdict in used:
        shown.add_column(verdict.value, justify="right", style=STYLES[verdict])
    for family, row in sorted(counts.items(), key=lambda item: (item[0] == "*", item[0])):
        name = "all" if family == "*" else f"{family}  {FAMILIES[family].partition(':')[0]}"
        shown.add_row(name, *(str(row.get(verdict.value, "")) for verdict in used))
    return shown


def show_matrix(cells: Sequence[MatrixCell]) -> None:
    """Exporters down, importers across: fidelity, loss below it; pipelines after. Cells that do not hold say why."""
    if not cells:
        return
    out = console()
    exchanges = {(cell.exporter, cell.importer): cell for cell in cells if cell.importer}
    if exchanges:
        out.print(matrix_table(exchanges))
    for cell in cells:
        if not cell.importer:
            out.print(f"pipeline {cell.exporter}: {cell_text(cell, ', loss ')}, limit {short(cell.fidelity_limit)}")
    for cell in cells:
        if cell.verdict.blocks:
            where = f"{cell.exporter} -> {cell.importer}" if cell.importer else f"pipeline {cell.exporter}"
            text = f"{cell.verdict} {where}: {cell.detail}"
            out.print(text, style=STYLES[cell.verdict], markup=False, soft_wrap=True)


def matrix_table(exchanges: Mapping[tuple[str, str], MatrixCell]) -> Any:
    """Letters stand for subjects, so that seven of them fit into 80 columns; the last row is the widest limit."""
    from rich.table import Table

    names = list(dict.fromkeys(name for pair in exchanges for name in pair))
    letters = dict(zip(names, "abcdefghijklmnopqrstuvwxyz" * 9, strict=False))
    title = "KV cache made by the row, continued by the column: fidelity, loss (logits)"
    shown = Table(title=title, title_justify="left", show_lines=True)
    shown.add_column("made by", no_wrap=True)
    for name in names:
        shown.add_column(letters[name], justify="right")
    for exporter in names:
        row = (exchanges.get((exporter, importer)) for importer in names)
        shown.add_row(f"{letters[exporter]} {exporter}", *(cell_text(cell) if cell else "" for cell in row))
    limits = [max((c.fidelity_limit for (_, to), c in exchanges.items() if to == name), key=number) for name in names]
    shown.add_row("fidelity limit", *(short(limit) for limit in limits))
    return shown


def number(text: str) -> float:
    """A real of a cell; what was not measured is below everything."""
    return float(text) if text else -1.0


def short(text: str) -> str:
    """One figure of a real, or a dash: the report has the others."""
    return f"{float(text):.0e}" if text else "–"


def cell_text(cell: MatrixCell, between: str = "\n") -> str:
    """Fidelity in the colour of the verdict, then loss; only the verdict when nothing was measured."""
    shown = short(cell.fidelity) if cell.fidelity else str(cell.verdict)
    return f"[{STYLES[cell.verdict]}]{shown}[/]{between}{short(cell.loss)}"
