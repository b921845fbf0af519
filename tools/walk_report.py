"""What a walk shows in the end: claims, latencies, steps and frames, as tables for people and as Markdown.

Law: nothing is computed here.
"""

import sys
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from walk_capture import Kind
from walk_traces import Latency

__all__ = ["Claim", "Summary", "markdown", "show"]

MARKS = {"shown": "[green]shown[/]", "missed": "[yellow]MISSED[/]", "failed": "[red]FAILED[/]"}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the walk is there to show. missed: a target of speed; failed: not true."""

    name: str
    state: Literal["shown", "missed", "failed"]
    detail: str

    @staticmethod
    def of(name: str, shown: bool, detail: str) -> "Claim":
        """A claim that is true or not."""
        return Claim(name=name, state="shown" if shown else "failed", detail=detail)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """quiet, busy: round trips on control without a tensor in flight and beside one; steps: of each recording by kind
    of input; frames: of the capture; cores, load: of the machine, and how many wanted them beside the tensor."""

    claims: tuple[Claim, ...]
    tensor_mb_s: tuple[float, ...]
    first_token_ms: float
    tokens_per_s: float
    quiet: Latency
    busy: Latency
    steps: dict[str, dict[str, int]]
    frames: tuple[Kind, ...]
    cores: int
    load: float
    strict: bool

    @property
    def passed(self) -> bool:
        """Nothing is untrue; in a strict walk no target of speed was missed either."""
        bad = ("failed", "missed") if self.strict else ("failed",)
        return not any(claim.state in bad for claim in self.claims)


def tables(summary: Summary) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, columns, rows)."""
    claims = [(claim.name, claim.state, claim.detail) for claim in summary.claims]
    trips = [
        (name, f"{one.count:,}", *(f"{value:.2f}" for value in (one.p50_ms, one.p99_ms, one.max_ms)))
        for name, one in (("nothing beside", summary.quiet), ("tensor in flight", summary.busy))
    ]
    kinds = sorted({kind for steps in summary.steps.values() for kind in steps})
    steps = [(kind, *(f"{of.get(kind, 0):,}" for of in summary.steps.values())) for kind in kinds]
    steps.append(("all", *(f"{sum(of.values()):,}" for of in summary.steps.values())))
    frames = [(one.record, one.channel, f"{one.frames:,}", f"{one.data:,}") for one in summary.frames]
    return [
        ("the walk", ("claim", "", "what was seen"), claims),
        ("round trips on control, ms", ("", "trips", "p50", "p99", "max"), trips),
        ("steps replayed", ("input", *summary.steps), steps),
        ("frames in the capture", ("record", "channel", "frames", "bytes"), frames),
    ]


def show(summary: Summary, folder: Path, out: Console) -> None:
    """For people."""
    for title, columns, rows in tables(summary):
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            words = title == "the walk" or index == 0 or column == "channel"
            table.add_column(column, justify="left" if words else "right", overflow="fold")
        for row in rows:
            table.add_row(*(MARKS.get(cell, cell) for cell in row))
        out.print(table)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    bad = [claim.name for claim in summary.claims if claim.state != "shown"]
    tools = Path(sys.executable).parent
    bin = tools.relative_to(Path.cwd()) if tools.is_relative_to(Path.cwd()) else tools
    lines = (
        f"recordings   {bin}/zg-sim replay {shown}/*.zgtrace",
        f"capture      {bin}/python -m zeitgeist.capture {shown}/walk.pcap",
        f"as it was    tshark -r {shown}/walk-tls.pcap -o tls.keylog_file:{shown}/walk-keys.log "
        "-X lua_script:docs/spec/zeitgeist.lua -Y zeitgeist",
        f"summary      {shown}/summary.md, summary.json",
        f"{len(summary.claims) - len(bad)} of {len(summary.claims)} claims shown"
        + (f"; not: {', '.join(bad)}" if bad else ""),
    )
    out.print(f"{summary.cores} cores, load {summary.load:.1f} while the tensor was sent", markup=False)
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def markdown(summary: Summary) -> str:
    """The same as a page."""
    text = f"# A walk\n\n{summary.cores} cores, load {summary.load:.1f} while the tensor was sent.\n"
    for title, columns, rows in tables(summary):
        text += f"\n## {title.capitalize()}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text
