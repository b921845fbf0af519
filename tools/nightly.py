"""`make nightly`: what is too long for CI. Writes docs/nightly/DATE.md with real figures, what
each step says into reports/nightly/step-N.log as it says it, exits 1 on any failure.

Steps: full level on every subject, the mutant bank and honest variants on 10 seeds, ten times the property examples,
ten million broken frames, 1,000 seeds of the simulator.
"""

import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

from certify.environment import observe
from certify.report.campaign import commit

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CERTIFY = str(BIN / "zg-certify")
STEPS: list[tuple[str, list[str], dict[str, str]]] = [
    (
        "certify, full level, four engines",
        [
            CERTIFY,
            "run",
            "--subject",
            "reference,torch,mlx,llama_cpp",
            "--level",
            "full",
            "--require",
            "L4",
            "--jobs",
            "2",
            "--out",
            "reports/nightly",
        ],
        {},
    ),
    ("selftest: every mutant, honest variants on 10 seeds", [CERTIFY, "selftest", "--seeds", "10", "--publish"], {}),
    (
        "property tests, ten times the examples",
        [sys.executable, "-m", "pytest", "-n", "2", "tests/core", "tests/convert", "tests/models"],
        {"ZG_PROPERTY_FACTOR": "10"},
    ),
    (
        "the decoder's bound over ten million broken frames",
        [sys.executable, "-m", "pytest", "tests/core/wire/test_decoder_bound.py"],
        {"ZG_FUZZ_FRAMES": "10000000"},
    ),
    ("zg-sim doctor: 1,000 seeds in every way", [str(BIN / "zg-sim"), "doctor", "--seeds", "1000"], {}),
]


LOGS = ROOT / "reports" / "nightly"
REPORT_S = 60.0
"""How often a step that runs says so."""


def run_step(title: str, command: list[str], extra: dict[str, str], log: Path) -> int:
    """The exit code of a step. Its output goes into log as it comes; the console has its last line once a minute."""
    began = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", **extra}, stdout=out, stderr=out
        )
        try:
            while True:
                try:
                    return child.wait(REPORT_S)
                except subprocess.TimeoutExpired:
                    minutes = (time.monotonic() - began) / 60
                    print(f"nightly: {title}, {minutes:.0f} min: {' '.join(tail(log, 1))[:100]}", flush=True)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def tail(log: Path, count: int) -> list[str]:
    """The last lines of a log; its end only, for it may be long."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return file.read().decode(errors="replace").strip().splitlines()[-count:]


def heading(today: str) -> list[str]:
    """Which sources ran where, and the head of the table."""
    here = observe()
    where = f"{here.cpu}, {here.cores} cores, {here.machine}, {here.system}, Python {here.python}"
    return [
        f"# Nightly {today}",
        "",
        f"Commit {commit() or 'unknown'}, {where}.",
        "Command: `make nightly`.",
        "",
        "| step | result | minutes |",
        "|---|---|---|",
    ]


def main() -> int:
    """Run the steps one after another; a failed step does not stop the next."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines, tails, failed = heading(today), [], 0
    LOGS.mkdir(parents=True, exist_ok=True)
    for number, (title, command, extra) in enumerate(STEPS, 1):
        log = LOGS / f"step-{number}.log"
        print(f"nightly: {title} … ({log.relative_to(ROOT)})", flush=True)
        began = time.monotonic()
        code = run_step(title, command, extra, log)
        failed += code != 0
        result = "ok" if code == 0 else f"FAILED ({code})"
        minutes = (time.monotonic() - began) / 60
        print(f"nightly: {title} – {result}, {minutes:.1f} min", flush=True)
        lines.append(f"| {title} | {result} | {minutes:.1f} |")
        tails += ["", f"## {title}", "", "```", *tail(log, 40), "```"]
    out = ROOT / "docs" / "nightly" / f"{today}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*lines, *tails]).replace(str(ROOT), ".") + "\n")
    print(f"nightly: wrote {out.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
