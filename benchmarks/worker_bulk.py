"""What the process boundary costs: a call's round trip, and bulk through a sealed memory file against memcpy.

`written` copies an array into a memory file, digests and seals it; `mapped` checks size, seals and digest and maps it.
Both ends of a transfer in one figure: `there`. CPU time of this thread, interleaved, medians; the round trip is wall
time, since it waits for another process.

    python benchmarks/worker_bulk.py [--json]
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from zeitgeist.host.memory import pack_array, unpack_array
from zeitgeist.host.workers import Worker, WorkerSpec

BYTES = 64 << 20
"""64 MiB: far beyond every cache of the processor."""
ROUNDS = 9
CALLS = 300


def round_trip_us() -> tuple[float, float]:
    """(median, 99th percentile) microseconds of the smallest call to a reference worker."""
    with Worker.start(WorkerSpec(backend="reference")) as worker:
        times: list[float] = []
        for _ in range(CALLS):
            start = time.perf_counter()
            worker.metrics()
            times.append((time.perf_counter() - start) * 1e6)
    return median(times), float(np.percentile(times, 99))


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def there(source: np.ndarray) -> None:
    """Sender's and receiver's part of one transfer."""
    record, fd = pack_array(source)
    assert fd is not None, "a large array travels by descriptor"
    try:
        unpack_array(record, fd)
    finally:
        os.close(fd)


def bulk() -> tuple[float, float]:
    """(GB/s of a transfer, GB/s of memcpy)."""
    source = np.random.default_rng(0).integers(0, 256, BYTES, np.uint8)
    moves: list[float] = []
    copies: list[float] = []
    for _ in range(ROUNDS + 1):
        moves.append(seconds(lambda: there(source)))
        copies.append(seconds(source.copy))
    return BYTES / median(moves[1:]) / 1e9, BYTES / median(copies[1:]) / 1e9


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    middle, slow = round_trip_us()
    moved, copied = bulk()
    rows = {
        f"round trip of a small call, median of {CALLS}": f"{middle:.0f} µs",
        "the same, 99th percentile": f"{slow:.0f} µs",
        f"{BYTES >> 20} MiB by sealed memory file, both ends, digest checked": f"{moved:.2f} GB/s",
        "memcpy of as much": f"{copied:.2f} GB/s",
        "ratio": f"{moved / copied:.2f}",
    }
    print(json.dumps({"rows": rows}) if options.json else "\n".join(f"{name}: {value}" for name, value in rows.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
