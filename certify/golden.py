"""Golden logits: what the oracle said when it agreed with transformers in float64. `python -m certify.golden`.

One `.npz` for each model (zg-tiny and every geometry of seed 0): ids int32, rows int32, logits float64 `[rows, vocab]`.
Written anew only when a model changes on purpose: a test compares, so that the oracle cannot drift unseen.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from certify.geometry import GEOMETRIES, write_geometry
from certify.oracle import Oracle

__all__ = ["GOLDEN", "golden_ids", "golden_models", "read_golden", "write_golden"]

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "fixtures" / "golden" / "logits"
ZG_TINY = ROOT / "fixtures" / "models" / "zg-tiny"
POSITIONS = 768
ROWS = (0, 63, POSITIONS - 1)
"""First row; the last before a block of 64 is full; the last, beyond llama3's original context of 256."""


def golden_ids(vocab_size: int) -> NDArray[np.int32]:
    """The same ids everywhere: squares modulo a prime spread over the vocabulary, the two specials left out."""
    return (np.arange(POSITIONS, dtype=np.int64) ** 2 * 7919 % 104729 % (vocab_size - 2) + 2).astype(np.int32)


def golden_models(scratch: Path) -> Iterator[tuple[str, Path]]:
    """(name, directory) of every model that has golden logits; geometries are written into scratch."""
    yield "zg-tiny", ZG_TINY
    for geometry in GEOMETRIES:
        yield geometry.name, write_geometry(geometry, 0, scratch / geometry.name)


def write_golden(model: Path, file: Path) -> None:
    """Compute and store one model's rows."""
    oracle = Oracle.open(model)
    ids, rows = golden_ids(oracle.config.vocab_size), np.array(ROWS, dtype=np.int32)
    np.savez_compressed(file, ids=ids, rows=rows, logits=oracle.logits(ids.tolist())[rows])


def read_golden(file: Path) -> tuple[list[int], list[int], NDArray[np.float64]]:
    """(ids, rows, logits) of one file; pickle is never read."""
    with np.load(file, allow_pickle=False) as stored:
        return stored["ids"].tolist(), stored["rows"].tolist(), stored["logits"]


def main() -> None:
    """Command line; prints each file."""
    parser = argparse.ArgumentParser(description="Write golden logits from the float64 oracle.")
    parser.add_argument("--out", type=Path, default=GOLDEN)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in golden_models(Path(scratch)):
            write_golden(model, out / f"{name}.npz")
            print(out / f"{name}.npz", flush=True)


if __name__ == "__main__":
    main()
