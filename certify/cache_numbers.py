"""What a cache says in numbers: the suite's own reading of every form; no conversion is judged by itself (D1, D4).

Law: shares no arithmetic with `zeitgeist.convert`. Stored arrays → float64 keys in half-split pairs and values, as the
oracle holds them, and how far honest rounding into a form may move one number.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.oracle import OracleCache
from certify.oracle_rounding import BLOCK, hadamard
from zeitgeist.convert.kv import KVCache
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.kv import CacheForm, ElementForm, Pairing

__all__ = ["form_band", "numbers", "rounding_bound", "rounding_excess", "row_distance", "unrotated"]

F64 = NDArray[np.float64]
QUANT_BANDS = {"ggml_q8_0": "q8", "ggml_q4_0": "q4", "ggml_q4_1": "q4"}
SCALES = {"ggml_q8_0": 1, "ggml_q4_0": 1, "ggml_q4_1": 2}
"""float16 numbers in front of the codes of a block."""
ROTATED = 9 * 2.0**-24
"""A rotation over at most 256 numbers in float32: log2(256) + 1 roundings, relative to the norm of the row."""


def form_band(form: CacheForm) -> str:
    """The precision band of a cache in this form: the coarser of K and V."""
    bands = ("x32", "x16", "q8", "q4")
    found = [QUANT_BANDS.get(side.quant) or ("x32" if side.dtype == "f32" else "x16") for side in (form.k, form.v)]
    return max(found, key=bands.index)


def numbers(cache: KVCache) -> OracleCache:
    """The valid rows as the oracle holds them."""
    form = cache.descriptor.form
    layers = range(cache.descriptor.layer_count)
    return OracleCache(
        [canonical(cache.valid("k", i), form.k, form.pairing) for i in layers],
        [canonical(cache.valid("v", i), form.v, "half") for i in layers],
    )


def canonical(array: NDArray[Any], form: ElementForm, pairing: Pairing) -> F64:
    """One side of one layer: decoded, rotated back, pairs split."""
    values = unrotated(decoded(array, form), form)
    if pairing == "half":
        return values
    return np.concatenate([values[..., 0::2], values[..., 1::2]], axis=-1)


def unrotated(values: F64, form: ElementForm) -> F64:
    """The Walsh-Hadamard rotation of the form taken off (it is its own inverse)."""
    return hadamard(values, form.hadamard) if form.hadamard else values


def as_stored(values: F64, form: ElementForm, pairing: Pairing) -> F64:
    """Canonical numbers in the order and rotation of a form, not rounded."""
    if pairing == "interleaved":
        half = values.shape[-1] // 2
        values = values.reshape(*values.shape[:-1], 2, half).swapaxes(-1, -2).reshape(values.shape)
    return unrotated(values, form)


def blocks_of(array: NDArray[Any], quant: str) -> tuple[F64, NDArray[np.uint8]]:
    """(scales `[…, blocks, scales]`, codes `[…, blocks, bytes]`) of rows of blocks of 32."""
    if quant not in SCALES:
        raise LocalProtocolError("zg/oracle/bad-request", f"got {quant}, wanted {', '.join(SCALES)}", "form.quant")
    head = 2 * SCALES[quant]
    size = head + (BLOCK if quant == "ggml_q8_0" else BLOCK // 2)
    blocks = np.ascontiguousarray(array).reshape(*array.shape[:-1], -1, size)
    scales = np.ascontiguousarray(blocks[..., :head]).view(np.float16).astype(np.float64)
    return scales, blocks[..., head:]


def decoded(array: NDArray[Any], form: ElementForm) -> F64:
    """Numbers in the domain they are stored in."""
    if not form.quant:
        if form.dtype == "bf16":
            return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return array.astype(np.float64)
    scales, codes = blocks_of(array, form.quant)
    if form.quant == "ggml_q8_0":
        values = codes.view(np.int8).astype(np.float64) * scales[..., :1]
    else:
        nibbles = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float64)
        offset = scales[..., 1:2] if SCALES[form.quant] == 2 else -8 * scales[..., :1]
        values = nibbles * scales[..., :1] + offset
    return values.reshape(*array.shape[:-1], -1)


def rounding_bound(array: NDArray[Any], form: ElementForm) -> F64:
    """How far an honest rounding may have moved each stored number: half a step of its type or block.

    Blocks: half a step of the scale, which itself is rounded to float16 (2⁻¹¹ of the largest code); Q4_0 clamps the
    end opposite to its largest value, up to a whole step. A rotation in float32 adds 2⁻²⁰ of the block's largest.
    """
    values = decoded(array, form)
    if not form.quant:
        bits, least = {"f32": (24, 0.0), "f16": (11, 2.0**-25), "bf16": (8, 0.0)}[form.dtype]
        return np.abs(values) * 2.0**-bits + least
    scales = np.abs(blocks_of(array, form.quant)[0])
    share, codes = {"ggml_q8_0": (0.5, 127), "ggml_q4_0": (1.0, 8), "ggml_q4_1": (0.5, 15)}[form.quant]
    shifted = scales[..., 1:2] * 2.0**-11 if SCALES[form.quant] == 2 else 0.0
    step = scales[..., :1] * (share + codes * (2.0**-11 + 2.0**-20)) + shifted + 2.0**-25
    return np.repeat(step, BLOCK, axis=-1).reshape(values.shape)


def rounding_excess(held: KVCache, sent: KVCache) -> float:
    """Largest difference between the numbers held and those sent, in units of the bound of honest rounding.

    Float32 takes every form exactly, so any difference is infinite excess, unless a rotation had to be taken off.
    """
    form, source, truth, worst = held.descriptor.form, sent.descriptor.form, numbers(sent), 0.0
    sides: tuple[tuple[str, ElementForm, ElementForm, Pairing, list[F64]], ...] = (
        ("k", form.k, source.k, form.pairing, truth.k),
        ("v", form.v, source.v, "half", truth.v),
    )
    for side, element, before, pairing, wanted in sides:
        for layer, values in enumerate(wanted):
            rows = held.valid(side, layer)
            difference = np.abs(decoded(rows, element) - as_stored(values, element, pairing))
            if element.dtype == "f32":
                scale = np.linalg.norm(values, axis=-1, keepdims=True) if before.hadamard else 0.0
                bound = np.broadcast_to(ROTATED * scale, difference.shape)
            else:
                bound = rounding_bound(rows, element)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(difference > 0, difference / bound, 0.0)
            worst = max(worst, float(ratio.max(initial=0.0)))
    return worst


def row_distance(found: OracleCache, truth: OracleCache) -> tuple[float, str]:
    """(worst relative L2 distance of one head of one position, where). Infinite for NaN and for other shapes."""
    worst, where = 0.0, "every row is equal"
    if len(found.k) != len(truth.k) or len(found.v) != len(truth.v):
        return float("inf"), f"{len(found.k)} layers, wanted {len(truth.k)}"
    for side, ours, theirs in (("K", found.k, truth.k), ("V", found.v, truth.v)):
        for layer, (got, wanted) in enumerate(zip(ours, theirs, strict=True)):
            if got.shape != wanted.shape:
                return float("inf"), f"{side} of layer {layer} is {got.shape}, wanted {wanted.shape}"
            scale = np.maximum(np.linalg.norm(wanted, axis=-1), 1e-30)
            distance = np.nan_to_num(np.linalg.norm(got - wanted, axis=-1) / scale, nan=np.inf)
            position, head = divmod(int(distance.argmax()), distance.shape[1])
            if distance[position, head] > worst:
                worst = float(distance[position, head])
                where = f"{side} of layer {layer}, position {position}, head {head}: relative L2 {worst:.2e}"
    return worst, where
