"""Re-pairing: the order of rotary pairs inside a head, `half` (i, i + D/2) against `interleaved` (2i, 2i + 1) (D2).

Law: a permutation of elements, never arithmetic, so it is exact in every element type and for every bit pattern.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.kv import Pairing

__all__ = ["repair"]

BLOCK_BYTES = 128 * 1024
"""Both halves of a head are written by strided passes; in blocks that stay in the second-level cache the second pass
costs little. Measured in CPU time: 0.6 of memcpy in such blocks; `benchmarks/cache_conversion.py` repeats it."""


def repair(keys: NDArray[Any], source: Pairing, target: Pairing) -> NDArray[Any]:
    """keys `[..., head_dim]` in target's order: a new contiguous array, or keys itself when the orders are equal.

    An odd head_dim, and a change from or to `none`, is `zg/convert/bad-form`.
    """
    if source == target:
        return keys
    width = keys.shape[-1]
    if "none" in (source, target) or width % 2:
        raise refuse(
            "zg/convert/bad-form",
            "pairing",
            f"{source} to {target}, head_dim {width}",
            "half or interleaved, head_dim even",
        )
    out = np.empty(keys.shape, keys.dtype)
    heads, moved = np.ascontiguousarray(keys).reshape(-1, width), out.reshape(-1, width)
    step = max(1, BLOCK_BYTES // (width * keys.dtype.itemsize))
    permute = interleave if target == "interleaved" else split_halves
    for start in range(0, len(heads), step):
        permute(heads[start : start + step], moved[start : start + step])
    return out


def interleave(heads: NDArray[Any], out: NDArray[Any]) -> None:
    """half → interleaved, `[heads, head_dim]` each."""
    half = heads.shape[1] // 2
    out[:, 0::2] = heads[:, :half]
    out[:, 1::2] = heads[:, half:]


def split_halves(heads: NDArray[Any], out: NDArray[Any]) -> None:
    """interleaved → half."""
    half = heads.shape[1] // 2
    out[:, :half] = heads[:, 0::2]
    out[:, half:] = heads[:, 1::2]
