"""`make check`: format, lint, strict types, import contracts, tidy and core tests, side by side; under a minute.

Prints one line a gate with its time, and the whole output of each gate that failed. Exit 1 when any failed.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
GATES: dict[str, list[str]] = {
    "types": [str(BIN / "basedpyright"), "--level", "error"],
    "tests": [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-m",
        "not slow and not engine",
        "-p",
        "no:cacheprovider",
        "tests/core",
        "tests/convert",
        "tests/repo",
    ],
    "imports": [str(BIN / "lint-imports"), "--no-cache"],
    "lint": [str(BIN / "ruff"), "check", "."],
    "format": [str(BIN / "ruff"), "format", "--check", "."],
}


SETTINGS = {"ZG_PROPERTY_FACTOR": "1/5"}
"""A fifth of each property's examples; `make test` runs them all, `make nightly` ten times as many."""


def run(gate: str) -> tuple[str, int, float, str]:
    """One gate: (name, exit status, seconds, output)."""
    began = time.monotonic()
    done = subprocess.run(
        GATES[gate],
        cwd=ROOT,
        env={**os.environ, **SETTINGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return gate, done.returncode, time.monotonic() - began, done.stdout


def main() -> int:
    """Run all gates, two at a time (the smallest machine we promise has two cores)."""
    failed = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for gate, status, seconds, output in pool.map(run, GATES):
            print(f"check: {gate:8} {'ok' if status == 0 else 'FAILED':6} {seconds:5.1f} s", flush=True)
            if status != 0:
                failed += 1
                print(output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
