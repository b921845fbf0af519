"""`make nightly`: what is too long for CI. Writes docs/nightly/DATE.md with real figures, exits 1 on any failure.

Steps: full level on every subject, the mutant bank and honest variants on 10 seeds, ten times the property examples.
"""

import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

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
]


def main() -> int:
    """Run the steps one after another; a failed step does not stop the next."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        f"# Nightly {today}",
        "",
        f"Commit {commit}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
        "Command: `make nightly`.",
        "",
        "| step | result | minutes |",
        "|---|---|---|",
    ]
    tails, failed = [], 0
    for title, command, extra in STEPS:
        print(f"nightly: {title} …", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **extra}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        failed += done.returncode != 0
        result = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
        minutes = (time.monotonic() - began) / 60
        print(f"nightly: {title} – {result}, {minutes:.1f} min", flush=True)
        lines.append(f"| {title} | {result} | {minutes:.1f} |")
        tails += ["", f"## {title}", "", "```", *done.stdout.strip().splitlines()[-40:], "```"]
    out = ROOT / "docs" / "nightly" / f"{today}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*lines, *tails]).replace(str(ROOT), ".") + "\n")
    print(f"nightly: wrote {out.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
