"""ggml block quantisation and MLX affine groups: quantise, dequantise, and exact repacking between them (C4).

ggml rows are uint8: blocks of 32 elements along the last axis, float16 scale (and minimum for Q4_1), then the codes;
bit for bit what `gguf.quants` writes. MLX keeps three arrays: codes packed into uint32 (lowest bits first), scales and
biases per group, value = scale · code + bias. Law: repacking keeps every dequantised value bitwise, or is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.quant import SCHEMAS

__all__ = [
    "BLOCKS",
    "AffineGroups",
    "BlockSchema",
    "affine_dequantise",
    "affine_from_ggml",
    "affine_quantise",
    "block_scales",
    "dequantise",
    "ggml_from_affine",
    "quantise",
    "repack",
]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class BlockSchema:
    """One ggml block: elements and bytes in it, and how many float16 numbers stand before the codes."""

    elements: int
    bytes: int
    scales: int


BLOCKS: Mapping[str, BlockSchema] = {
    schema.name: BlockSchema(schema.block_elements, schema.block_bytes, len(schema.fields) - 1)
    for schema in SCHEMAS.values()
    if schema.packing == "interleaved"
}
"""The block schemas whose arithmetic stands here. A schema that is not here is refused by name."""


@dataclass(frozen=True)
class AffineGroups:
    """MLX affine groups of `[..., n]`: weight uint32 `[..., n·bits/32]`, scales and biases `[..., n/group_size]`."""

    weight: NDArray[np.uint32]
    scales: NDArray[Any]
    biases: NDArray[Any]
    bits: int
    group_size: int


def schema_of(name: str, width: int, per_block: int) -> BlockSchema:
    """The schema of this name; refuse a last axis that is not whole blocks. per_block 0: in elements, 1: in bytes."""
    schema = BLOCKS.get(name)
    if schema is None:
        raise refuse("zg/convert/bad-form", "quant", name, ", ".join(BLOCKS))
    unit = schema.bytes if per_block else schema.elements
    if width % unit:
        raise refuse("zg/convert/bad-form", "quant", f"a last axis of {width}", f"a multiple of {unit} for {name}")
    return schema


def quantise(values: F32, name: str) -> U8:
    """float32 `[..., n]` to rows uint8 `[..., n/32·block_bytes]`. A scale beyond float16 is `zg/convert/overflow`."""
    schema = schema_of(name, values.shape[-1], 0)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, schema.elements)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        rows = {"ggml_q8_0": quantise_q8_0, "ggml_q4_0": quantise_q4_0, "ggml_q4_1": quantise_q4_1}[name](blocks)
    if not np.isfinite(block_scales(rows, name)).all():
        raise refuse("zg/convert/overflow", "quant", "a value too large for a float16 scale", name)
    return rows.reshape(*values.shape[:-1], values.shape[-1] // schema.elements * schema.bytes)


def reciprocal(scale: F32) -> F32:
    """1/scale; 0 where it is not finite: such a scale is 0 in float16, so the codes do not count."""
    inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def quantise_q8_0(blocks: F32) -> U8:
    """scale = max|x| / 127; codes rounded half away from zero, as ggml's roundf does."""
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * reciprocal(scale)
    magnitude = np.abs(scaled)
    floored = np.floor(magnitude)
    rounded = floored + np.floor(2 * (magnitude - floored))
    codes = np.copysign(rounded, scaled).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), codes.view(np.uint8)], axis=1)


def quantise_q4_0(blocks: F32) -> U8:
    """scale = (the element of largest magnitude) / -8, so that this element is code 0 or, never, 16."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-8)
    codes = np.trunc(blocks * reciprocal(scale) + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), pack_nibbles(codes)], axis=1)


def quantise_q4_1(blocks: F32) -> U8:
    """scale = (max - min) / 15, minimum stored beside it."""
    low = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - low) / np.float32(15)
    codes = np.trunc((blocks - low) * reciprocal(scale) + np.float32(0.5)).clip(0, 15).astype(np.uint8)
    head = [scale.astype(np.float16).view(np.uint8), low.astype(np.float16).view(np.uint8)]
    return np.concatenate([*head, pack_nibbles(codes)], axis=1)


def pack_nibbles(codes: U8) -> U8:
    """Element i in the low half of byte i, element i + 16 in the high half."""
    half = codes.shape[-1] // 2
    return codes[..., :half] | (codes[..., half:] << np.uint8(4))


def unpack_nibbles(packed: U8) -> U8:
    """The inverse of `pack_nibbles`."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def split_blocks(rows: U8, name: str) -> tuple[NDArray[np.float16], U8]:
    """(float16 numbers `[..., blocks, scales]`, code bytes `[..., blocks, bytes]`) of rows."""
    schema = schema_of(name, rows.shape[-1], 1)
    blocks = rows.reshape(*rows.shape[:-1], rows.shape[-1] // schema.bytes, schema.bytes)
    head = np.ascontiguousarray(blocks[..., : 2 * schema.scales]).view(np.dtype("<f2"))
    return head, blocks[..., 2 * schema.scales :]


def block_scales(rows: U8, name: str) -> NDArray[np.float16]:
    """The float16 numbers of every block, `[..., blocks · scales]`: all that can be NaN or infinite in a row."""
    head, _ = split_blocks(rows, name)
    return head.reshape(*rows.shape[:-1], -1)


def dequantise(rows: U8, name: str) -> F32:
    """Rows uint8 `[..., row_bytes]` to float32 `[..., n]`; products and sums in float32, as ggml does."""
    head, codes = split_blocks(rows, name)
    scale = head[..., :1].astype(np.float32)
    if name == "ggml_q8_0":
        values = codes.view(np.int8) * scale
    elif name == "ggml_q4_0":
        values = (unpack_nibbles(codes).view(np.int8) - np.int8(8)) * scale
    else:
        values = unpack_nibbles(codes) * scale + head[..., 1:].astype(np.float32)
    return values.reshape(*rows.shape[:-1], -1)


def affine_quantise(values: F32, bits: int, group_size: int) -> AffineGroups:
    """What `mlx.core.quantize` stores for float32 values: the edge of larger magnitude is represented exactly."""
    require_affine(values.shape[-1], bits, group_size)
    groups = np.ascontiguousarray(values, np.float32).reshape(*values.shape[:-1], -1, group_size)
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    top = np.float32((1 << bits) - 1)
    scale = np.maximum((high - low) / top, np.float32(1e-7))
    low_is_edge = np.abs(low) > np.abs(high)
    scale = np.where(low_is_edge, scale, -scale)
    edge = np.where(low_is_edge, low, high)
    steps = np.rint(edge / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(steps != 0, edge / steps, scale).astype(np.float32)
    bias = np.where(steps == 0, np.float32(0), edge).astype(np.float32)
    codes = np.clip(np.rint((groups - bias) / scale), 0, top).astype(np.uint32)
    weight = pack_codes(codes.reshape(values.shape), bits)
    return AffineGroups(weight, scale[..., 0], bias[..., 0], bits, group_size)


def affine_dequantise(groups: AffineGroups) -> F32:
    """scale · code + bias in float32. With float16 scales the product is exact, so every engine gets these bits."""
    codes = unpack_codes(groups.weight, groups.bits).astype(np.float32)
    codes = codes.reshape(*groups.scales.shape, groups.group_size)
    scale, bias = (array.astype(np.float32)[..., None] for array in (groups.scales, groups.biases))
    return (codes * scale + bias).reshape(*groups.weight.shape[:-1], -1)


def require_affine(width: int, bits: int, group_size: int) -> None:
    """4 or 8 bits, groups of 32, 64 or 128 that divide the last axis."""
    if bits not in (4, 8) or group_size not in (32, 64, 128) or width % group_size:
        raise refuse(
            "zg/convert/bad-form",
            "quant",
            f"{bits} bits, groups of {group_size} in {width}",
            "4 or 8 bits, groups of 32, 64 or 128 that divide the last axis",
        )


def pack_codes(codes: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """`[..., n]` codes into uint32 `[..., n·bits/32]`, first code in the lowest bits."""
    narrow = codes.astype(np.uint8)
    if bits == 4:
        narrow = narrow[..., 0::2] | (narrow[..., 1::2] << np.uint8(4))
    return np.ascontiguousarray(narrow).view(np.dtype("<u4"))


def unpack_codes(weight: NDArray[np.uint32], bits: int) -> U8:
    """The inverse of `pack_codes`, as uint8."""
    packed = np.ascontiguousarray(weight).view(np.uint8)
    if bits == 8:
        return packed
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(*packed.shape[:-1], -1)


def affine_from_ggml(rows: U8, name: str) -> AffineGroups:
    """The same numbers as MLX groups of 32 with float16 scales, as `mlx.core.load` of a GGUF gives them; exact.

    Q4_0 is bias -8·scale, Q8_0 bias -128·scale; a bias beyond float16 is `zg/convert/not-exact`.
    """
    head, codes = split_blocks(rows, name)
    scales = head[..., 0]
    if name == "ggml_q8_0":
        bits, biases, unsigned = 8, scales.astype(np.float32) * -128, codes ^ np.uint8(0x80)
    elif name == "ggml_q4_0":
        bits, biases, unsigned = 4, scales.astype(np.float32) * -8, unpack_nibbles(codes)
    else:
        bits, biases, unsigned = 4, head[..., 1].astype(np.float32), unpack_nibbles(codes)
    weight = pack_codes(unsigned.reshape(*rows.shape[:-1], -1).astype(np.uint32), bits)
    return AffineGroups(weight, scales, as_float16(biases, "biases"), bits, 32)


def as_float16(values: NDArray[Any], field: str) -> NDArray[np.float16]:
    """Values that float16 holds exactly; any other is refused (`zg/convert/not-exact`)."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.array_equal(narrow.astype(np.float32), values.astype(np.float32)):
        raise refuse("zg/convert/not-exact", field, "values that float16 does not hold", "float16 scales and biases")
    return narrow


def ggml_from_affine(groups: AffineGroups, name: str) -> U8:
    """The same numbers as ggml rows; exact or refused (`zg/convert/not-exact`). Wider groups repeat their scale.

    4 bits go to Q4_1, and to Q4_0 when every bias is -8·scale; 8 bits to Q8_0 when every bias is -128·scale.
    """
    wanted = {"ggml_q4_1": 4, "ggml_q4_0": 4, "ggml_q8_0": 8}
    if wanted.get(name) != groups.bits:
        raise refuse("zg/convert/not-exact", "quant", f"{groups.bits} bits", f"{wanted.get(name)} for {name}")
    repeat = groups.group_size // 32
    scales = as_float16(groups.scales, "scales").repeat(repeat, axis=-1)[..., None]
    biases = as_float16(groups.biases, "biases").repeat(repeat, axis=-1)[..., None]
    codes = unpack_codes(groups.weight, groups.bits)
    codes = codes.reshape(*codes.shape[:-1], -1, 32)
    if name != "ggml_q4_1" and not np.array_equal(biases, scales * np.float32(-128 if name == "ggml_q8_0" else -8)):
        raise refuse("zg/convert/not-exact", "biases", "free biases", f"symmetric groups for {name}")
    body = codes ^ np.uint8(0x80) if name == "ggml_q8_0" else pack_nibbles(codes)
    head = [scales.view(np.uint8)] + ([biases.view(np.uint8)] if name == "ggml_q4_1" else [])
    return np.concatenate([*head, body], axis=-1).reshape(*groups.weight.shape[:-1], -1)


def repack(rows: U8, source: str, target: str) -> U8:
    """Rows of one ggml schema in a wider one with the same numbers: Q4_0 to Q8_0 or Q4_1; others are refused."""
    if (source, target) == ("ggml_q4_0", "ggml_q4_1"):
        return ggml_from_affine(affine_from_ggml(rows, source), target)
    if (source, target) != ("ggml_q4_0", "ggml_q8_0"):
        raise refuse("zg/convert/not-exact", "quant", f"{source} to {target}", "ggml_q4_0 to ggml_q8_0 or ggml_q4_1")
    head, codes = split_blocks(rows, source)
    signed = unpack_nibbles(codes).view(np.int8) - np.int8(8)
    return np.concatenate([head.view(np.uint8), signed.view(np.uint8)], axis=-1).reshape(*rows.shape[:-1], -1)
