"""Cache conversion against memcpy in the same run (C5): fp32 ↔ fp16, rope re-pairing, Q8_0, digest and finite check.

Each figure is the median over rounds in which every operation and memcpy run once, interleaved, in CPU time of this
thread: in wall time a short memcpy slips between two time slices of a busy machine and a longer operation does not.
ratio = memcpy time / operation time over the bytes of the source, results freshly allocated on both sides. `--torch`
imports torch first (one thread), as in a worker that serves it.

    python benchmarks/cache_conversion.py [--torch] [--json] [--rounds N] [--require]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from zeitgeist.convert.kv import all_finite, raw_bytes
from zeitgeist.convert.path import cast
from zeitgeist.convert.quantise import dequantise, quantise
from zeitgeist.convert.rope import repair
from zeitgeist.core.formats.digest import content_digest

SHAPE = (2048, 8, 128)
"""One layer of K of an 8B model at 2,048 tokens: 8 MiB in float32."""

FLOOR = {"numpy": 0.10, "torch": 1 / 3}
JUDGED = ("f32 → f16", "f16 → f32", "f32 half → interleaved", "f32 interleaved → half")


def operations() -> dict[str, tuple[Callable[[], object], int]]:
    """Name → (call, bytes of its source)."""
    wide = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    narrow, rows = wide.astype(np.float16), quantise(wide, "ggml_q8_0")
    return {
        "f32 → f16": (lambda: cast(wide, "f32", "f16"), wide.nbytes),
        "f16 → f32": (lambda: cast(narrow, "f16", "f32"), narrow.nbytes),
        "f32 → bf16": (lambda: cast(wide, "f32", "bf16"), wide.nbytes),
        "f32 half → interleaved": (lambda: repair(wide, "half", "interleaved"), wide.nbytes),
        "f32 interleaved → half": (lambda: repair(wide, "interleaved", "half"), wide.nbytes),
        "f16 half → interleaved": (lambda: repair(narrow, "half", "interleaved"), narrow.nbytes),
        "f32 → ggml_q8_0": (lambda: quantise(wide, "ggml_q8_0"), wide.nbytes),
        "ggml_q8_0 → f32": (lambda: dequantise(rows, "ggml_q8_0"), rows.nbytes),
        "digest of f32": (lambda: content_digest(raw_bytes(wide)), wide.nbytes),
        "finite check of f32": (lambda: all_finite(wide, "f32"), wide.nbytes),
    }


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds and ratio against memcpy of as many bytes, by operation."""
    table = operations()
    source = np.ones(SHAPE, np.float32)
    copies: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds + 1):
        copies.append(seconds(source.copy))
        for name, (call, _) in table.items():
            times[name].append(seconds(call))
    per_byte = median(copies[1:]) / source.nbytes
    return {
        name: {
            "gigabytes_per_second": size / median(times[name][1:]) / 1e9,
            "ratio": per_byte * size / median(times[name][1:]),
        }
        for name, (_, size) in table.items()
    } | {"memcpy": {"gigabytes_per_second": 1 / per_byte / 1e9, "ratio": 1.0}}


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of this thread for one call, its allocation of the result included, as it is for memcpy."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def main() -> int:
    """Print the table; with --require exit 1 when a judged ratio is under its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="import torch first")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--require", action="store_true", help="exit 1 below 10 % (NumPy) or a third (torch present)")
    options = parser.parse_args()
    if options.torch:
        import torch

        torch.set_num_threads(1)
    kind = "torch" if "torch" in sys.modules else "numpy"
    figures = measure(options.rounds)
    under = [name for name in JUDGED if figures[name]["ratio"] < FLOOR[kind]]
    if options.json:
        print(
            json.dumps(
                {
                    "environment": kind,
                    "shape": SHAPE,
                    "rounds": options.rounds,
                    "figures": figures,
                    "floor": FLOOR[kind],
                    "under_floor": under,
                }
            )
        )
    else:
        print(f"{kind}, one layer {SHAPE}, {options.rounds} rounds; floor {FLOOR[kind]:.2f} for the first four")
        for name, figure in figures.items():
            print(f"  {name:<26}{figure['gigabytes_per_second']:8.2f} GB/s  {figure['ratio']:6.2f} of memcpy")
    return 1 if options.require and under else 0


if __name__ == "__main__":
    raise SystemExit(main())
