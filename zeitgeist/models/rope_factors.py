"""Divisors of the inverse rotary frequencies: one number for each rotary pair says all that a scaling does (A3, G).

The angle of pair i at position p is p * theta^(-2i/D) / factors[i]. Linear and llama3 scaling of Hugging Face and the
`rope_freqs` tensor of GGUF are the same numbers, so the model digest covers these and not the words for them.
"""

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import RopeConfig

__all__ = ["rope_factors"]


def rope_factors(rope: RopeConfig, head_dim: int) -> NDArray[np.float32]:
    """float32 `[head_dim / 2]`, computed in float64 and rounded once.

    Not for scaling `factors`: those are in the file.
    """
    pairs = head_dim // 2
    if rope.scaling == "none":
        return np.ones(pairs, np.float32)
    if rope.scaling == "linear":
        return np.full(pairs, float(rope.factor), np.float32)
    if rope.scaling == "llama3":
        return llama3_factors(rope, pairs)
    raise AssertionError("factors are read from the file")


def llama3_factors(rope: RopeConfig, pairs: int) -> NDArray[np.float32]:
    """By wavelength: short ones stay, long ones are divided by factor, between them a linear blend of frequencies.

    Source: transformers `_compute_llama3_parameters`; llama.cpp's converter writes the same as `rope_freqs`.
    """
    frequencies = float(rope.theta) ** -(np.arange(pairs, dtype=np.float64) / pairs)
    turns = rope.original_context * frequencies / (2 * np.pi)
    low, high, factor = float(rope.low_freq_factor), float(rope.high_freq_factor), float(rope.factor)
    smooth = (turns - low) / (high - low)
    blend = 1 / ((1 - smooth) / factor + smooth)
    return np.where(turns > high, 1.0, np.where(turns < low, factor, blend)).astype(np.float32)
