"""Metrics of errors (W2): pure functions of arrays, each in float64, none with a limit of its own.

Errors are graded by exact probes, worst-row relative L2 in units of u(dtype) and condition-aware ULP; the mean hides
one bad row, top-1 and KL hide one wrong head (note §3.4). logits are `[rows, vocab]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WorstRow", "condition_ulp", "kl", "log_softmax", "max_abs", "mean_kl", "noise_floor", "top1", "worst_row"]

F64 = NDArray[np.float64]
Array = NDArray[Any]


@dataclass(frozen=True)
class WorstRow:
    """The row that is farthest off: relative L2 error as such and in units of u; `text` for the report."""

    row: int
    relative: float
    units: float
    text: str


def log_softmax(logits: Array) -> F64:
    """Natural log of the softmax over the last axis."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def kl(reference: Array, observed: Array) -> F64:
    """KL(reference || observed) of each row, in nats; never below 0 but for rounding; NaN where either is NaN."""
    p = log_softmax(reference)
    return (np.exp(p) * (p - log_softmax(observed))).sum(axis=-1)


def mean_kl(reference: Array, observed: Array) -> float:
    """Mean over rows of `kl`, clipped at 0."""
    mean = float(kl(reference, observed).mean())
    return mean if mean > 0 or np.isnan(mean) else 0.0


def top1(reference: Array, observed: Array, near_tie: float) -> tuple[float, int]:
    """(fraction of rows with the same argmax, rows that counted).

    A row whose two best reference logits are within near_tie does not count; with none left the fraction is NaN, which
    no limit admits: whoever judges asks first how many rows counted.
    """
    ref = np.asarray(reference, np.float64)
    best = np.partition(ref, -2, axis=-1)[:, -2:]
    clear = (best[:, 1] - best[:, 0]) > near_tie
    same = ref.argmax(-1) == np.asarray(observed).argmax(-1)
    count = int(clear.sum())
    return (float(same[clear].mean()) if count else float("nan")), count


def max_abs(reference: Array, observed: Array) -> float:
    """Largest absolute difference; NaN when either has one; 0 for empty arrays."""
    if np.shape(reference) != np.shape(observed):
        raise ValueError(f"shapes differ: {np.shape(reference)} and {np.shape(observed)}")
    difference = np.abs(np.asarray(reference, np.float64) - np.asarray(observed, np.float64))
    return float(difference.max()) if difference.size else 0.0


def worst_row(observed: Array, reference: Array, mantissa_bits: int = 24) -> WorstRow:
    """The row with the largest ||observed - reference|| / ||reference||, in units of u = 2^-mantissa_bits.

    mantissa_bits: 24 for float32, 11 for float16, 8 for bfloat16. A NaN or an infinity that the reference does not
    have makes its row infinitely wrong. A zero reference row counts absolutely.
    """
    ref = np.atleast_2d(np.asarray(reference, np.float64))
    got = np.atleast_2d(np.asarray(observed, np.float64))
    if ref.shape != got.shape or not ref.size:
        raise ValueError(f"shapes differ or are empty: {got.shape} and {ref.shape}")
    scale = np.linalg.norm(ref, axis=-1)
    with np.errstate(invalid="ignore"):
        error = np.linalg.norm(got - ref, axis=-1) / np.where(scale > 0, scale, 1.0)
    error = np.where(np.isfinite(error), error, np.inf)
    row = int(error.argmax())
    units = float(error[row]) * 2.0**mantissa_bits
    column = int(np.nan_to_num(np.abs(got[row] - ref[row]), nan=np.inf).argmax())
    text = (
        f"row {row} of {len(ref)}: relative L2 {float(error[row]):.3g} = {units:.3g} u (u = 2^-{mantissa_bits}); "
        f"largest at column {column}: got {got[row, column]:.9g}, reference {ref[row, column]:.9g}"
    )
    return WorstRow(row, float(error[row]), units, text)


def condition_ulp(observed: Array, reference: Array, magnitude: Array, c: float = 4.0) -> float:
    """Largest error in ULP of the reference after allowing c·2^-24·magnitude; magnitude = sum|a·b| of each element.

    Cancellation makes plain ULP meaningless near 0: a sum of large terms may be off by many ULP of its small result.
    Float32 outputs. 0.5 is a correctly rounded result.
    """
    ref = np.asarray(reference, np.float64)
    error = np.abs(np.asarray(observed, np.float64) - ref) - c * 2.0**-24 * np.asarray(magnitude, np.float64)
    spacing = np.spacing(np.abs(ref).astype(np.float32)).astype(np.float64)
    units = np.maximum(error, 0.0) / spacing
    return float(np.where(np.isnan(units), np.inf, units).max())


def noise_floor(runs: Sequence[Array]) -> float:
    """Largest absolute difference between any two of equal-shaped runs of the same thing; 0 for bitwise equality."""
    if len(runs) < 2:
        raise ValueError("a floor needs at least two runs")
    stack = np.stack([np.asarray(run, np.float64) for run in runs])
    return float((stack.max(axis=0) - stack.min(axis=0)).max())
