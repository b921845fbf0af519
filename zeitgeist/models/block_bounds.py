"""How far a quantised weight may lie from its parent: a bound for each block, from what the quantiser does (C4, A3).

Law: the bounds state the largest distance that an honest quantiser can produce; beyond it the file is not made from
that parent. They use what the file stores, so they need no trust in how it was made.
"""

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.quantise import block_scales

__all__ = ["error_bound_affine", "error_bound_ggml"]

HALF_ULP_F16 = 2.0**-11
SUBNORMAL_F16 = 2.0**-25
"""Half of the smallest step of float16: what rounding a tiny scale to float16 may lose."""


def error_bound_ggml(schema: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [out, blocks] of raw rows [out, row_bytes]: no parent value of the block may lie farther away.

    Q8_0 rounds to the nearest of steps d: d/2. Q4_0 places the largest at -8 steps, and 8 on the other side is clipped
    to 7: up to one step. Q4_1 rounds between minimum and maximum: d/2. Each plus what rounding d (and m) to float16
    moves the outermost value: levels * d * 2^-11 (source: quantize_row_*_ref in ggml-quants.c). 1 % of a step is
    granted to the float32 arithmetic of the quantiser and to d itself being known only after its rounding.
    """
    heads = np.abs(block_scales(rows, schema).astype(np.float32))
    if schema == "ggml_q8_0":
        return heads * np.float32(0.51 + 127 * HALF_ULP_F16) + np.float32(127.5 * SUBNORMAL_F16)
    if schema == "ggml_q4_0":
        return heads * np.float32(1.01 + 8 * HALF_ULP_F16) + np.float32(9 * SUBNORMAL_F16)
    if schema == "ggml_q4_1":
        step, minimum = heads[:, 0::2], heads[:, 1::2]
        return (
            step * np.float32(0.51 + 15 * HALF_ULP_F16)
            + minimum * np.float32(1.01 * HALF_ULP_F16)
            + np.float32(17 * SUBNORMAL_F16)
        )
    raise AssertionError(f"no bound is known for {schema}")


def error_bound_affine(
    scales: NDArray[np.float32], biases: NDArray[np.float32], bits: int, dtype: str
) -> NDArray[np.float32]:
    """float32 [out, groups]: no parent value may lie farther away. dtype: that of scales and biases as stored.

    MLX moves the edge of larger magnitude onto a level, which stretches or shrinks the step by up to half a level over
    half of the range; the far edge may then lie one step outside (source: affine_quantize in mlx's quantized kernels).
    Rounding scale and bias to their dtype moves a value by u * (levels * scale + bias).
    """
    top = 2**bits - 1
    unit = {"f32": 2.0**-24, "f16": HALF_ULP_F16, "bf16": 2.0**-9}[dtype]
    step = np.abs(scales)
    return step * np.float32(1.01 * (1 + 1 / top) + top * unit) + np.abs(biases) * np.float32(1.01 * unit)
