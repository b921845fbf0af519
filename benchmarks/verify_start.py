"""How long `zg-certify verify` takes from the shell: the promise is a second (W3).

One partial-free run of the reference at smoke level gives the certificate; then verify with the issuer's key, as a
process of its own, wall and CPU time of the child, medians.

    python benchmarks/verify_start.py [--json]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 9


def command(*words: str) -> list[str]:
    """The tool of this interpreter's environment."""
    return [sys.executable, "-m", "certify.cli", *words]


def measure(home: Path) -> tuple[list[float], list[float]]:
    """(wall, CPU) seconds of each verify."""
    env = {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    ran = subprocess.run(command("run", "--peers", "none", "--out", str(home / "out")), env=env, capture_output=True)
    if ran.returncode:
        raise SystemExit(f"no certificate to verify: {ran.stderr.decode()[-2000:]}")
    key = home / "zeitgeist" / "keys" / "certify.pub"
    words = command("verify", str(home / "out" / "reference" / "certificate.json"), "--key", str(key))
    walls: list[float] = []
    processors: list[float] = []
    for _ in range(ROUNDS + 1):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, env=env, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - start)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return walls[1:], processors[1:]


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        walls, processors = measure(Path(home))
    rows = {
        f"`zg-certify verify`, wall, median of {ROUNDS}": f"{median(walls):.2f} s",
        "the same, slowest": f"{max(walls):.2f} s",
        "the same, CPU, median": f"{median(processors):.2f} s",
    }
    print(json.dumps({"rows": rows}) if options.json else "\n".join(f"{name}: {value}" for name, value in rows.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
