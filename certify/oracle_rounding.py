"""Rounding as engines do it: what a lossy cache or a quantised product makes of float64 numbers.

The block schemas follow ggml (llama.cpp of llama-cpp-python 0.3.36): `quantize_row_q8_0` of ggml-cpu/arch/x86/quants.c
(d = amax / 127 stored as f16, multiplied by 127 / amax in float32, rounded to nearest even; the portable reference of
ggml-quants.c rounds halves away from zero and multiplies by 1 / d, which differs by one step in rare ties) and
`quantize_row_q4_0_ref` of ggml-quants.c (d = the value of largest magnitude / -8, q = trunc(x / d + 8.5), at most 15).
"""

from collections.abc import Callable

import numpy as np

from certify.oracle_config import F64
from zeitgeist.core.errors import LocalProtocolError

__all__ = ["BLOCK", "ROUNDINGS", "hadamard", "q8_1_sums", "rounding"]

BLOCK = 32
"""Numbers in a block of q8_0 and q4_0: QK8_0, QK4_0."""


def to_f16(x: F64) -> F64:
    """Nearest float16."""
    return x.astype(np.float32).astype(np.float16).astype(np.float64)


def to_bf16(x: F64) -> F64:
    """Nearest bfloat16, ties to even, by the upper half of the float32's bits."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))
    return (bits & np.uint64(0xFFFF0000)).astype(np.uint32).view(np.float32).astype(np.float64)


def q8_0(x: F64) -> F64:
    """Blocks of 32 along the last axis as int8 times an f16 scale."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    scale = (largest / np.float32(127)).astype(np.float16).astype(np.float64)
    return (np.rint(blocks * inverse).astype(np.float64) * scale).reshape(x.shape)


def q8_1_sums(x: F64) -> F64:
    """Sum of each block as `quantize_row_q8_1` stores it beside the integers of Q8_0: d · Σq in float32, then f16."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    sums = (largest / np.float32(127))[..., 0] * np.rint(blocks * inverse).sum(axis=-1)
    return sums.astype(np.float16).astype(np.float64)


def q4_0(x: F64) -> F64:
    """Blocks of 32 along the last axis as 4-bit integers around 8 times an f16 scale."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    scale = peak / np.float32(-8)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    steps = np.minimum(np.trunc(blocks * inverse + np.float32(8.5)), np.float32(15)).astype(np.float64)
    return ((steps - 8) * scale.astype(np.float16).astype(np.float64)).reshape(x.shape)


ROUNDINGS: dict[str, Callable[[F64], F64]] = {"f16": to_f16, "bf16": to_bf16, "ggml_q8_0": q8_0, "ggml_q4_0": q4_0}


def rounding(name: str, field: str) -> Callable[[F64], F64]:
    """The rounding called name; an unknown one is refused naming field."""
    if name not in ROUNDINGS:
        raise LocalProtocolError("zg/oracle/bad-request", f"got {name!r}, wanted {', '.join(ROUNDINGS)}", field)
    return ROUNDINGS[name]


def hadamard(x: F64, block: int) -> F64:
    """x times the orthonormal Walsh-Hadamard matrix (Sylvester's order), in blocks along the last axis."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    if matrix.shape[0] != block or x.shape[-1] % block:
        raise LocalProtocolError(
            "zg/oracle/bad-request",
            f"got {block} for rows of {x.shape[-1]}, wanted a power of two that divides them",
            "kv_hadamard",
        )
    return (x.reshape(*x.shape[:-1], -1, block) @ (matrix / np.sqrt(block))).reshape(x.shape)
