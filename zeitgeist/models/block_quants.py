"""Block-quantised weights as stored in GGUF and MLX: values in float32, and how far each may lie from its parent (C4).

Law: dequantisation follows the engine's own formula in float32, so it is bitwise what `ggml` computes. The bounds state
the largest distance that an honest quantiser can produce, block by block; beyond it the file is not made from that parent.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK", "GGUF_BLOCK_BYTES", "dequantise_affine", "dequantise_ggml", "error_bound_affine", "error_bound_ggml",
]

BLOCK = 32
"""Elements in a block of Q8_0, Q4_0, Q4_1 (ggml-common.h: QK8_0, QK4_0, QK4_1)."""

GGUF_BLOCK_BYTES = {"ggml_q8_0": 34, "ggml_q4_0": 18, "ggml_q4_1": 20}
"""float16 scale (and float16 minimum for Q4_1), then 32 signed bytes or 16 bytes of nibble pairs."""

HALF_ULP_F16 = 2.0**-11
SUBNORMAL_F16 = 2.0**-25
"""Half of the smallest step of float16: what rounding a tiny scale to float16 may lose."""


def blocks_of(schema: str, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[out, row_bytes] → [out, blocks, bytes of a block]."""
    return rows.reshape(rows.shape[0], -1, GGUF_BLOCK_BYTES[schema])


def half(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """The float16 at byte start of each block, float32 [out, blocks, 1]."""
    return np.ascontiguousarray(blocks[:, :, start:start + 2]).view("<f2").astype(np.float32)


def nibbles(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """32 values 0…15 of each block: low nibbles are the first half, high nibbles the second (ggml-quants.c)."""
    packed = blocks[:, :, start:start + BLOCK // 2]
    return np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float32)


def dequantise_ggml(schema: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [out, in] of raw rows [out, row_bytes]; source: dequantize_row_{q8_0,q4_0,q4_1} in ggml-quants.c."""
    blocks = blocks_of(schema, rows)
    if schema == "ggml_q8_0":
        values = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).astype(np.float32) * half(blocks, 0)
    elif schema == "ggml_q4_0":
        values = (nibbles(blocks, 2) - np.float32(8)) * half(blocks, 0)
    else:
        values = nibbles(blocks, 4) * half(blocks, 0) + half(blocks, 2)
    return values.reshape(rows.shape[0], -1)


def error_bound_ggml(schema: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [out, blocks]: no parent value of the block may lie farther away.

    Q8_0 rounds to the nearest of steps d: d/2. Q4_0 places the largest at -8 steps, and 8 on the other side is clipped
    to 7: up to one step. Q4_1 rounds between minimum and maximum: d/2. Each plus what rounding d (and m) to float16
    moves the outermost value: levels * d * 2^-11 (source: quantize_row_*_ref in ggml-quants.c). 1 % of a step is
    granted to the float32 arithmetic of the quantiser and to d itself being known only after its rounding.
    """
    blocks = blocks_of(schema, rows)
    step = np.abs(half(blocks, 0))[:, :, 0]
    if schema == "ggml_q8_0":
        return step * np.float32(0.51 + 127 * HALF_ULP_F16) + np.float32(127.5 * SUBNORMAL_F16)
    if schema == "ggml_q4_0":
        return step * np.float32(1.01 + 8 * HALF_ULP_F16) + np.float32(9 * SUBNORMAL_F16)
    minimum = np.abs(half(blocks, 2))[:, :, 0]
    return step * np.float32(0.51 + 15 * HALF_ULP_F16) + minimum * np.float32(1.01 * HALF_ULP_F16) + np.float32(17 * SUBNORMAL_F16)


def dequantise_affine(packed: NDArray[np.uint32], scales: NDArray[np.float32], biases: NDArray[np.float32],
                      bits: int) -> NDArray[np.float32]:
    """float32 [out, in] of MLX affine groups: value = scale * level + bias; levels packed low bits first in uint32.

    packed [out, in * bits / 32], scales and biases float32 [out, in / group]; bits 2, 4 or 8.
    """
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    levels = ((packed[:, :, None] >> shifts) & np.uint32(2**bits - 1)).reshape(packed.shape[0], scales.shape[1], -1)
    return (levels.astype(np.float32) * scales[:, :, None] + biases[:, :, None]).reshape(packed.shape[0], -1)


def error_bound_affine(scales: NDArray[np.float32], biases: NDArray[np.float32], bits: int,
                       dtype: str) -> NDArray[np.float32]:
    """float32 [out, groups]: no parent value may lie farther away.

    MLX moves the edge of larger magnitude onto a level, which stretches or shrinks the step by up to half a level over
    half of the range; the far edge may then lie one step outside (source: affine_quantize in mlx's quantized kernels).
    Rounding scale and bias to their dtype moves a value by u * (levels * scale + bias).
    """
    top = 2**bits - 1
    unit = {"f32": 2.0**-24, "f16": HALF_ULP_F16, "bf16": 2.0**-9}[dtype]
    step = np.abs(scales)
    return step * np.float32(1.01 * (1 + 1 / top) + top * unit) + np.abs(biases) * np.float32(1.01 * unit)
