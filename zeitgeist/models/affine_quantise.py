"""Quantising a matrix into MLX affine groups, in NumPy, so that no MLX is needed to write an MLX directory (C4).

Source: `affine_quantize` of MLX's CPU backend: the edge of larger magnitude falls exactly on a level.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantise_affine"]

STEP_MIN = 1e-7
"""MLX's own smallest step."""


def quantise_affine(values: NDArray[np.float32], group_size: int, bits: int) -> tuple[
        NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """(packed uint32 [out, in * bits / 32], scales, biases float32 [out, in / group]) of values float32 [out, in]."""
    top = np.float32(2**bits - 1)
    groups = values.reshape(values.shape[0], -1, group_size)
    low, high = groups.min(axis=2), groups.max(axis=2)
    low_is_edge = np.abs(low) > np.abs(high)
    step = np.maximum((high - low) / top, np.float32(STEP_MIN))
    step = np.where(low_is_edge, step, -step)
    edge = np.where(low_is_edge, low, high)
    level = np.rint(edge / step)
    on_zero = level == 0
    scales = np.where(on_zero, step, edge / np.where(on_zero, 1, level)).astype(np.float32)
    biases = np.where(on_zero, np.float32(0), edge).astype(np.float32)
    levels = np.clip(np.rint((groups - biases[:, :, None]) / scales[:, :, None]), 0, top).astype(np.uint32)
    words = levels.reshape(values.shape[0], -1, 32 // bits)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(words << shifts, axis=2).astype(np.uint32), scales, biases
