"""`make bench`: run every benchmark and write its table between the markers of docs/benchmarks.md, with where and when.

Law: figures are written by this command only, next to date, machine, commit, load and the command of each table; no
test judges a time. Child processes inherit OMP_NUM_THREADS=1, so that one engine does not starve the other.

    python benchmarks/run.py [--only NAME,NAME]
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certify.environment import observe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
CONVERSION = "benchmarks/cache_conversion.py"
EXCHANGE = "benchmarks/cache_exchange.py"
BULK = "benchmarks/worker_bulk.py"
START = "benchmarks/verify_start.py"
TRANSPORTS = "benchmarks/transports.py"
STEPS = "benchmarks/core_steps.py"
TABLES: dict[str, list[str]] = {
    "conversion-numpy": [CONVERSION],
    "conversion-torch": [CONVERSION, "--torch"],
    "worker": [BULK],
    "verify": [START],
    "transports": [TRANSPORTS],
    "steps": [STEPS],
    "exchange": [EXCHANGE],
}
"""Marker in the page → what is run; the longest last."""


def ran(words: list[str]) -> dict[str, Any]:
    """The JSON of one benchmark in a fresh interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(words)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def conversion(found: dict[str, Any]) -> str:
    """Table of cache_conversion."""
    lines = ["| operation | GB/s of its source | of memcpy |", "|---|--:|--:|"]
    lines += [
        f"| {name} | {figure['gigabytes_per_second']:.2f} | {figure['ratio']:.2f} |"
        for name, figure in found["figures"].items()
    ]
    judged = ", ".join(found["under_floor"]) or "none"
    floor = f"Floor for re-pairing and fp32 ↔ fp16: {found['floor']:.2f} of memcpy; below it: {judged}."
    return "\n".join([*lines, "", floor])


def exchange(found: dict[str, Any]) -> str:
    """Table of cache_exchange."""
    from benchmarks.cache_exchange import table

    return f"{found['tokens']} tokens of zg-tiny, median of {found['rounds']} rounds.\n\n{table(found['rows'])}"


def figures(found: dict[str, Any]) -> str:
    """Two columns."""
    rows = [f"| {name} | {value} |" for name, value in found["rows"].items()]
    return "\n".join(["| what | figure |", "|---|--:|", *rows])


def steps(found: dict[str, Any]) -> str:
    """Table of core_steps."""
    judged = found["figures"][found["judged"]]
    lines = ["| what | each second of CPU | µs each | of the first |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {figure:,.0f} | {1e6 / figure:.1f} | {figure / judged:.2f} |"
        for name, figure in found["figures"].items()
    ]
    met = "met" if judged >= found["floor"] else "missed"
    return "\n".join([*lines, "", f"Floor: {found['floor']:,} delivered frames a second, {met}."])


SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    CONVERSION: conversion,
    EXCHANGE: exchange,
    BULK: figures,
    START: figures,
    TRANSPORTS: figures,
    STEPS: steps,
}


def where() -> str:
    """Date, commit, machine, load now."""
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "zeitgeist", "benchmarks"], cwd=ROOT, capture_output=True, text=True
    )
    here = observe()
    commit = (told.stdout.strip() or "no commit") + (" with local changes" if changed.stdout.strip() else "")
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, commit {commit}, {here.cpu}, {here.cores} cores, "
        f"{here.system}, Python {here.python}; load average {os.getloadavg()[0]:.1f}"
    )


def write(name: str, body: str) -> None:
    """Replace what stands between the markers of name. The page is replaced whole, or not at all."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = PAGE.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"bench: {PAGE} has no markers {begin} … {end}")
    with tempfile.NamedTemporaryFile("w", dir=PAGE.parent, delete=False, encoding="utf-8") as file:
        file.write(f"{before}{begin}\n{body}\n{end}{after}")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(PAGE)


def main() -> int:
    """Run, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TABLES), help="names of tables, with commas")
    for name in parser.parse_args().only.split(","):
        words, began = TABLES[name], time.monotonic()
        print(f"bench: {name}: python {' '.join(words)} …", flush=True)
        place = where()
        body = SHOWN[words[0]](ran(words))
        write(name, f"`python {' '.join(words)}` · {place}\n\n{body}")
        print(f"bench: {name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"bench: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
