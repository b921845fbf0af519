"""Quantisation schemas as records: where scales and codes lie, and what number they stand for (C4).

Law: a schema is data. The arithmetic stands in `convert/quantise.py` and is held to these layouts by tests; a schema
whose name is not here is refused, never guessed from a tensor's size.
"""

from typing import Final, Literal

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import Record

__all__ = ["AFFINE_BITS", "AFFINE_GROUPS", "SCHEMAS", "PlaneField", "QuantSchema", "schema_named"]

AFFINE_BITS: Final = (4, 8)
AFFINE_GROUPS: Final = (32, 64, 128)


class PlaneField(Record, frozen=True, kw_only=True):
    """One part of a block. In an interleaved block offset counts from the block's first byte; planar parts each start
    an array of their own, so that offset is 0. length in bytes for one block; dtype of its elements."""

    name: str
    dtype: str
    offset: int
    length: int


class QuantSchema(Record, frozen=True, kw_only=True):
    """How a tensor's last axis is cut into groups and stored.

    group_size: elements that share a scale; bits: of one code. packing: `interleaved` (a block is scale, then codes) or
    `planar` (codes, scales and biases are arrays of their own). block_elements, block_bytes: of one block; when planar,
    block_bytes counts the code plane alone. value: the number that a code stands for. code_order: where code i lies.
    scale_dtypes, zero_dtypes: allowed formats; zero_kind: `none`, or what is added after scaling. exceptions: name
    patterns of tensors that a producer leaves unquantised. calibration: `none` when made from the weights alone.
    """

    name: str
    group_size: int
    bits: int
    packing: Literal["interleaved", "planar"]
    block_elements: int
    block_bytes: int
    fields: tuple[PlaneField, ...]
    scale_dtypes: tuple[str, ...]
    zero_kind: Literal["none", "offset", "minimum", "bias"]
    zero_dtypes: tuple[str, ...]
    value: str
    code_order: str
    exceptions: tuple[str, ...]
    calibration: Literal["none", "data"]


NIBBLES = "byte i holds code i in its low half and code i + 16 in its high half"
NORMS = ("*norm*", "*bias*")
"""llama.cpp and mlx-lm keep one-dimensional tensors as they are."""


def ggml(
    name: str, bits: int, scales: tuple[str, ...], zero: Literal["none", "offset", "minimum"], value: str
) -> QuantSchema:
    """A ggml block of 32: float16 numbers named by scales, then the codes."""
    code_bytes = 32 * bits // 8
    heads = tuple(PlaneField(name=scale, dtype="f16", offset=2 * i, length=2) for i, scale in enumerate(scales))
    codes = PlaneField(name="codes", dtype="i8" if bits == 8 else "u8", offset=2 * len(scales), length=code_bytes)
    return QuantSchema(
        name=name,
        group_size=32,
        bits=bits,
        packing="interleaved",
        block_elements=32,
        block_bytes=2 * len(scales) + code_bytes,
        fields=(*heads, codes),
        scale_dtypes=("f16",),
        zero_kind=zero,
        zero_dtypes=("f16",) if zero == "minimum" else (),
        value=value,
        code_order=NIBBLES if bits == 4 else "byte i is code i, signed",
        exceptions=NORMS,
        calibration="none",
    )


def affine(bits: int, group: int) -> QuantSchema:
    """MLX affine groups: codes packed into uint32, a scale and a bias a group in the model's own float type."""
    return QuantSchema(
        name=f"mlx_affine_{bits}_{group}",
        group_size=group,
        bits=bits,
        packing="planar",
        block_elements=group,
        block_bytes=group * bits // 8,
        fields=(
            PlaneField(name="codes", dtype="u32", offset=0, length=group * bits // 8),
            PlaneField(name="scales", dtype="f16", offset=0, length=2),
            PlaneField(name="biases", dtype="f16", offset=0, length=2),
        ),
        scale_dtypes=("f32", "f16", "bf16"),
        zero_kind="bias",
        zero_dtypes=("f32", "f16", "bf16"),
        value="scale * code + bias",
        code_order=f"code i fills bits {bits}*i upwards of the little-endian words",
        exceptions=NORMS,
        calibration="none",
    )


SCHEMAS: Final = {
    schema.name: schema
    for schema in (
        ggml("ggml_q8_0", 8, ("scale",), "none", "scale * code"),
        ggml("ggml_q4_0", 4, ("scale",), "offset", "scale * (code - 8)"),
        ggml("ggml_q4_1", 4, ("scale", "minimum"), "minimum", "scale * code + minimum"),
        *(affine(bits, group) for bits in AFFINE_BITS for group in AFFINE_GROUPS),
    )
}
"""Every schema by name. MLX scales and biases are given as f16; the envelope of each plane states its own type."""


def schema_named(name: str, field: str = "quant") -> QuantSchema:
    """The schema of this name; any other is refused naming field (`zg/format/unknown-schema`)."""
    if name not in SCHEMAS:
        raise refuse("zg/format/unknown-schema", field, name, ", ".join(SCHEMAS))
    return SCHEMAS[name]
