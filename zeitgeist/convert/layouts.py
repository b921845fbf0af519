"""Arrays in the layout families, and the declared paths between them; every path is exact (C2).

A logical array is C order, whatever the bytes. Law: the layout is an argument, never read from a shape; a pair that
`CONVERSIONS` lacks is refused. Between values and quantised blocks there is no layout path: that is a change of numbers
and stands in `convert/quantise.py` with its loss. Bytes from outside are checked before they are read.
"""

from math import prod
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.dtypes import ARRAY_DTYPES, require_carrier
from zeitgeist.core.errors import LocalProtocolError, refuse
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.dtype import dtype_named
from zeitgeist.core.formats.quant import schema_named
from zeitgeist.core.formats.tensor import (
    Blocked,
    ColumnMajor,
    ExtensionLayout,
    Layout,
    QuantisedTile,
    RowMajor,
    Sparse,
    TensorEnvelope,
    check_envelope,
    chunk_count_for,
)
from zeitgeist.core.limits import TENSOR_BYTES_MAX

__all__ = ["CONVERSIONS", "FAMILIES", "arrange", "convert_layout", "family_of", "restore", "sparse_layout"]

Array = NDArray[Any]
Raw = NDArray[np.uint8]

FAMILIES: Final = {
    RowMajor: "row_major",
    ColumnMajor: "column_major",
    Blocked: "blocked",
    QuantisedTile: "quantised_tile",
    Sparse: "sparse",
    ExtensionLayout: "extension",
}
ELEMENTWISE: Final = ("row_major", "column_major", "blocked", "sparse")

CONVERSIONS: Final = frozenset((a, b) for a in ELEMENTWISE for b in ELEMENTWISE) | {
    ("quantised_tile", "quantised_tile")
}
"""The declared pairs (source, target). All are exact: the same elements, bit for bit, in another order."""


def family_of(layout: Layout) -> str:
    """The family's name, as the wire has it."""
    return FAMILIES[type(layout)]


def sparse_layout(array: Array) -> Sparse:
    """The sparse layout that fits array: as many entries as elements with any bit set."""
    return Sparse(
        count=int(set_elements(array).size), index_dtype="u32" if max(array.shape, default=0) < 1 << 32 else "u64"
    )


def arrange(array: Array, layout: Layout) -> Raw:
    """The bytes of a logical array in layout, uint8 `[length]`. Quantised tiles hold no elements and go by
    `convert_layout`."""
    match layout:
        case RowMajor():
            return bytes_of(array)
        case ColumnMajor():
            return bytes_of(array.T)
        case Blocked():
            return bytes_of(to_blocks(array, layout.block))
        case Sparse():
            return to_sparse(array, layout)
        case QuantisedTile() | ExtensionLayout():
            raise undeclared("row_major", family_of(layout))


def restore(raw: Raw, layout: Layout, shape: tuple[int, ...], dtype: str) -> Array:
    """The logical array of bytes in layout; a view where it can be. dtype: a name, its carrier is the array's type."""
    carrier = ARRAY_DTYPES[dtype_named(dtype).name]
    match layout:
        case RowMajor():
            return elements(raw, carrier, shape)
        case ColumnMajor():
            return elements(raw, carrier, shape[::-1]).T
        case Blocked():
            return from_blocks(raw, carrier, layout.block, shape)
        case Sparse():
            return from_sparse(raw, carrier, layout, shape)
        case QuantisedTile() | ExtensionLayout():
            raise undeclared(family_of(layout), "row_major")


def convert_layout(raw: Raw, envelope: TensorEnvelope, target: Layout) -> tuple[Raw, TensorEnvelope]:
    """The same tensor in another layout: its bytes, and its envelope with layout, length, checksum and chunks made new.

    envelope was admitted with the receiver's own limit, which bounds a sparse tensor's dense size too. A Sparse target
    may say count 0; the true count is put in. Undeclared pairs are `zg/format/unsupported-conversion`.
    """
    check_envelope(envelope, TENSOR_BYTES_MAX)
    if raw.nbytes != envelope.length:
        raise refuse("zg/tensor/bad-layout", "raw", f"{raw.nbytes} bytes", f"{envelope.length} as the envelope says")
    pair = (family_of(envelope.layout), family_of(target))
    if pair not in CONVERSIONS:
        raise undeclared(*pair)
    if isinstance(envelope.layout, QuantisedTile) and isinstance(target, QuantisedTile):
        made = interleave(deinterleave(raw, envelope, envelope.layout.rows), envelope, target.rows)
    else:
        logical = restore(raw, envelope.layout, envelope.shape, envelope.dtype)
        require_carrier(logical, envelope.dtype, "raw")
        target = sparse_layout(logical) if isinstance(target, Sparse) else target
        made = arrange(logical, target)
    renewed = msgspec.structs.replace(
        envelope,
        layout=target,
        length=made.nbytes,
        checksum=content_digest(made.data),
        chunk_count=chunk_count_for(made.nbytes, envelope.chunk_bytes),
    )
    check_envelope(renewed, TENSOR_BYTES_MAX)
    return made, renewed


def bytes_of(array: Array) -> Raw:
    """The array's elements in C order, as bytes."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def elements(raw: Raw, carrier: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Bytes as elements; the count must fit exactly."""
    if raw.nbytes != prod(shape) * carrier.itemsize:
        raise refuse(
            "zg/tensor/bad-layout", "raw", f"{raw.nbytes} bytes", f"{prod(shape) * carrier.itemsize} for {shape}"
        )
    return np.ascontiguousarray(raw).view(carrier).reshape(shape)


def to_blocks(array: Array, block: tuple[int, ...]) -> Array:
    """`[blocks of axis 0, …, block[0], …]`, edges filled with zero bits."""
    require_block(block, array.shape)
    whole = tuple(-(-size // side) * side for size, side in zip(array.shape, block, strict=True))
    padded = np.zeros(whole, array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    split = [part for size, side in zip(padded.shape, block, strict=True) for part in (size // side, side)]
    axes = [*range(0, 2 * array.ndim, 2), *range(1, 2 * array.ndim, 2)]
    return padded.reshape(split).transpose(axes)


def from_blocks(raw: Raw, carrier: np.dtype[Any], block: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The inverse of `to_blocks`; padding must be zero bits, or a stranger could hide bytes in it."""
    require_block(block, shape)
    counts = tuple(-(-size // side) for size, side in zip(shape, block, strict=True))
    axes = [axis for i in range(len(shape)) for axis in (i, len(shape) + i)]
    whole = tuple(count * side for count, side in zip(counts, block, strict=True))
    padded = elements(raw, carrier, counts + block).transpose(axes).reshape(whole)
    array = np.array(padded[tuple(slice(size) for size in shape)], order="C")
    if np.count_nonzero(bytes_of(padded)) != np.count_nonzero(bytes_of(array)):
        raise refuse("zg/tensor/bad-layout", "padding", "bits that are set", "zero bits in the padding of edge blocks")
    return array


def set_elements(array: Array) -> NDArray[np.intp]:
    """Flat indices of elements with any bit set, ascending: -0.0 and NaN are among them."""
    width = array.dtype.itemsize
    return np.flatnonzero(bytes_of(array).reshape(-1, width).any(axis=1))


def to_sparse(array: Array, layout: Sparse) -> Raw:
    """Coordinates, then values."""
    flat = set_elements(array)
    if flat.size != layout.count:
        raise LocalProtocolError(
            "zg/tensor/bad-layout", f"got {flat.size} elements, wanted {layout.count}", "layout.count"
        )
    where = np.stack(np.unravel_index(flat, array.shape), axis=-1) if array.ndim else np.empty((flat.size, 0))
    return np.concatenate([bytes_of(where.astype(ARRAY_DTYPES[layout.index_dtype])), bytes_of(array.reshape(-1)[flat])])


def from_sparse(raw: Raw, carrier: np.dtype[Any], layout: Sparse, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_sparse`: coordinates inside the shape, ascending, none twice, no listed zero."""
    index = ARRAY_DTYPES[layout.index_dtype]
    cut = layout.count * len(shape) * index.itemsize
    where = elements(raw[:cut], index, (layout.count, len(shape)))
    values = elements(raw[cut:], carrier, (layout.count,))
    if layout.count and (where >= np.array(shape, np.uint64)).any():
        raise refuse("zg/tensor/bad-layout", "indices", "a coordinate outside", f"coordinates inside {shape}")
    flat = np.zeros(layout.count, np.int64)
    if len(shape):
        flat = np.ravel_multi_index(tuple(where.T.astype(np.int64)), shape)
    if (np.diff(flat) <= 0).any() or set_elements(values).size != layout.count:
        raise refuse(
            "zg/tensor/bad-layout", "indices", "another order, a repeat or a listed zero", "ascending, once each"
        )
    array = np.zeros(shape, carrier)
    array.reshape(-1)[flat] = values
    return array


def deinterleave(raw: Raw, envelope: TensorEnvelope, rows: int) -> Raw:
    """Tile bytes as plain blocks `[groups, rows, blocks, block_bytes]`."""
    blocks, size = tile(envelope)
    return raw.reshape(-1, blocks, rows, size).transpose(0, 2, 1, 3)


def interleave(plain: Raw, envelope: TensorEnvelope, rows: int) -> Raw:
    """Plain blocks with the blocks of `rows` neighbouring rows side by side, as bytes."""
    blocks, size = tile(envelope)
    if rows > 1 and (len(envelope.shape) < 2 or envelope.shape[-2] % rows):
        raise LocalProtocolError("zg/tensor/bad-layout", f"got {rows}, wanted a divisor of the rows", "layout.rows")
    return bytes_of(np.ascontiguousarray(plain).reshape(-1, rows, blocks, size).transpose(0, 2, 1, 3))


def tile(envelope: TensorEnvelope) -> tuple[int, int]:
    """(blocks in a row, bytes of a block)."""
    schema = schema_named(envelope.quant)
    return envelope.shape[-1] // schema.block_elements, schema.block_bytes


def require_block(block: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """One positive side an axis."""
    if len(block) != len(shape) or min(block, default=1) < 1:
        raise refuse("zg/tensor/bad-layout", "layout.block", block, f"{len(shape)} positive sides")


def undeclared(source: str, target: str) -> LocalProtocolError:
    """The refusal of a pair that `CONVERSIONS` lacks."""
    return LocalProtocolError(
        "zg/format/unsupported-conversion", f"got {source} to {target}, wanted a declared pair", "layout"
    )
