"""The orthonormal Walsh-Hadamard rotation that llama.cpp applies to heads before it quantises them (D2, DESIGN §4).

Sylvester order, per block of consecutive elements *as stored* (before any re-pairing), scaled by 1/sqrt(block). It is
its own inverse; in float32 to within rounding, log2(block) + 1 operations an element.
"""

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import refuse

__all__ = ["key_block", "rotate", "value_block"]


def rotate(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """values `[..., head_dim]` rotated in blocks; block is a power of two that divides head_dim, else refused."""
    if block < 2 or block & (block - 1) or values.shape[-1] % block:
        raise refuse("zg/convert/bad-form", "hadamard", block, f"a power of two that divides {values.shape[-1]}")
    rotated = np.array(values, np.float32, order="C")
    width = 1
    while width < block:
        pairs = rotated.reshape(-1, 2, width)
        low = pairs[:, 0] + pairs[:, 1]
        pairs[:, 1] = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] = low
        width *= 2
    rotated *= np.float32(1 / np.sqrt(block))
    return rotated


def key_block(head_dim: int) -> int:
    """Block that llama.cpp takes for quantised K: the largest power of two from 64 that divides head_dim, else 0."""
    largest = head_dim & -head_dim
    return largest if largest >= 64 else 0


def value_block(head_dim: int) -> int:
    """Block that llama.cpp takes for quantised V: 64 when it divides head_dim, else 0."""
    return 64 if head_dim % 64 == 0 else 0
