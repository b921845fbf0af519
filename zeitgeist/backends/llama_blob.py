"""llama.cpp's state of one sequence (`llama_state_seq_get_data`) as arrays, and arrays as that state, byte for byte.

Law: nothing in a blob is believed. Every count is checked against the layout that the context must have, every length
against the bytes left, before an array is made; trailing bytes are refused (llama.cpp itself ignores them).
Layout is that of state version 3, llama.cpp 0c1e57098 (research note feasibility-backends §4.2). Version 4 has the same
magic and two more words, so the version cannot be read here: `llama_stage` reads it once from the library.

u32 magic, i32 source sequence, u32 streams; for each stream u32 cells, then, unless 0: cells of (i32 pos, u32 1,
i32 seq), u32 V transposed, u32 layers, K blocks (i32 type, u64 row bytes, rows), V blocks: rows alike, or when
transposed (i32 type, u32 element bytes, u32 width, [kv_head, head_dim, cell]).
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import refuse

__all__ = ["ELEMENTS", "BlobLayout", "Element", "build", "parse"]

MAGIC = 0xAF143CD8


@dataclass(frozen=True)
class Element:
    """How numbers of one ggml type are stored: `block` numbers in `block_bytes`. dtype: of the arrays we hand out."""

    ggml_type: int
    block: int
    block_bytes: int
    dtype: str


ELEMENTS = {
    "f32": Element(ggml_type=0, block=1, block_bytes=4, dtype="<f4"),
    "f16": Element(ggml_type=1, block=1, block_bytes=2, dtype="<f2"),
    "q8_0": Element(ggml_type=8, block=32, block_bytes=34, dtype="u1"),
    "q4_0": Element(ggml_type=2, block=32, block_bytes=18, dtype="u1"),
}
"""By the name that llama.cpp's own tools use for a cache type."""


@dataclass(frozen=True)
class BlobLayout:
    """What a context writes and takes. Made from the context's own parameters, never from a blob."""

    stream_count: int
    v_transposed: bool
    layer_count: int
    kv_head_count: int
    head_dim: int
    k: Element
    v: Element

    def row_shape(self, element: Element) -> tuple[int, int]:
        """Shape of one position: (kv_head, head_dim), or (kv_head, bytes) for blocks."""
        width = self.head_dim // element.block
        return self.kv_head_count, width if element.block == 1 else width * element.block_bytes

    def row_bytes(self, element: Element) -> int:
        """Bytes of one position, all heads."""
        return self.kv_head_count * self.head_dim // element.block * element.block_bytes


class Reader:
    """Takes from the front of a buffer; never past its end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.offset = 0

    def take(self, count: int, what: str) -> memoryview:
        left = len(self.data) - self.offset
        if count > left:
            raise refuse("zg/llama/bad-blob", what, f"{left} bytes left", f"{count} bytes")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def expect(self, form: str, what: str, wanted: int) -> None:
        (got,) = struct.unpack(form, self.take(struct.calcsize(form), what))
        if got != wanted:
            raise refuse("zg/llama/bad-blob", what, got, wanted)

    def count(self, what: str, most: int) -> int:
        (got,) = struct.unpack("<I", self.take(4, what))
        if got > most:
            raise refuse("zg/llama/bad-blob", what, got, f"at most {most}")
        return got


Arrays = list[NDArray[Any]]


def parse(blob: bytes | bytearray | memoryview, layout: BlobLayout, position_count: int) -> tuple[Arrays, Arrays]:
    """K and V per layer, rows in order of position 0 … position_count - 1, copied out of the blob.

    Error `zg/llama/bad-blob`: another layout, other positions than exactly these, truncated or trailing bytes.
    """
    reader = Reader(memoryview(blob).cast("B"))
    reader.expect("<I", "magic", MAGIC)
    reader.take(4, "sequence")
    reader.expect("<I", "streams", layout.stream_count)
    held: tuple[Arrays, Arrays] | None = None
    for _ in range(layout.stream_count):
        cells = reader.count("cells", position_count)
        if cells and (held is not None or cells != position_count):
            raise refuse("zg/llama/bad-blob", "cells", f"{cells} in a stream", f"{position_count} in one stream")
        if cells:
            held = read_stream(reader, layout, cells)
    if reader.offset != len(reader.data):
        raise refuse("zg/llama/bad-blob", "length", len(reader.data), reader.offset)
    if held is None and position_count:
        raise refuse("zg/llama/bad-blob", "cells", 0, position_count)
    return held if held is not None else (empty(layout, layout.k), empty(layout, layout.v))


def empty(layout: BlobLayout, element: Element) -> Arrays:
    return [np.empty((0, *layout.row_shape(element)), element.dtype) for _ in range(layout.layer_count)]


def read_stream(reader: Reader, layout: BlobLayout, cells: int) -> tuple[Arrays, Arrays]:
    table = np.frombuffer(reader.take(12 * cells, "cell table"), "<i4").reshape(cells, 3)
    if not (table[:, 1] == 1).all():
        raise refuse("zg/llama/bad-blob", "cell sequences", "a cell of several sequences", "one sequence a cell")
    order = np.argsort(table[:, 0], kind="stable")
    if not np.array_equal(table[order, 0], np.arange(cells)):
        raise refuse("zg/llama/bad-blob", "positions", "a gap or a repeat", f"0 … {cells - 1}")
    reader.expect("<I", "V transposed", int(layout.v_transposed))
    reader.expect("<I", "layers", layout.layer_count)
    k = [read_rows(reader, layout, layout.k, cells, "K")[order] for _ in range(layout.layer_count)]
    if not layout.v_transposed:
        return k, [read_rows(reader, layout, layout.v, cells, "V")[order] for _ in range(layout.layer_count)]
    return k, [read_columns(reader, layout, cells)[order] for _ in range(layout.layer_count)]


def read_rows(reader: Reader, layout: BlobLayout, element: Element, cells: int, what: str) -> NDArray[Any]:
    reader.expect("<i", f"{what} type", element.ggml_type)
    reader.expect("<Q", f"{what} row bytes", layout.row_bytes(element))
    data = reader.take(cells * layout.row_bytes(element), f"{what} rows")
    return np.frombuffer(data, element.dtype).reshape(cells, *layout.row_shape(element))


def read_columns(reader: Reader, layout: BlobLayout, cells: int) -> NDArray[Any]:
    width = layout.kv_head_count * layout.head_dim
    reader.expect("<i", "V type", layout.v.ggml_type)
    reader.expect("<I", "V element bytes", layout.v.block_bytes)
    reader.expect("<I", "V width", width)
    data = reader.take(cells * layout.row_bytes(layout.v), "V columns")
    columns = np.frombuffer(data, layout.v.dtype).reshape(width, cells)
    return columns.T.reshape(cells, layout.kv_head_count, layout.head_dim)


def build(k: Arrays, v: Arrays, layout: BlobLayout, position_count: int, sequence: int) -> bytes:
    """The blob that llama.cpp writes for `sequence` holding these rows. Shapes are asserted: the worker checked them.

    position_count 0 gives a blob without cells.
    """
    stream = sequence if layout.stream_count > 1 else 0
    parts: list[bytes] = [struct.pack("<IiI", MAGIC, sequence, layout.stream_count)]
    for index in range(layout.stream_count):
        if index != stream or not position_count:
            parts.append(struct.pack("<I", 0))
            continue
        parts.append(struct.pack("<I", position_count))
        table = np.ones((position_count, 3), "<i4")
        table[:, 0] = np.arange(position_count)
        table[:, 2] = sequence
        parts += [table.tobytes(), struct.pack("<II", int(layout.v_transposed), layout.layer_count)]
        for rows in k:
            parts += [
                struct.pack("<iQ", layout.k.ggml_type, layout.row_bytes(layout.k)),
                contents(rows, layout, layout.k, position_count),
            ]
        for rows in v:
            parts += write_values(rows, layout, position_count)
    assert len(k) == len(v) == layout.layer_count
    return b"".join(parts)


def write_values(rows: NDArray[Any], layout: BlobLayout, position_count: int) -> list[bytes]:
    data = contents(rows, layout, layout.v, position_count)
    if not layout.v_transposed:
        return [struct.pack("<iQ", layout.v.ggml_type, layout.row_bytes(layout.v)), data]
    width = layout.kv_head_count * layout.head_dim
    columns = np.frombuffer(data, layout.v.dtype).reshape(position_count, width).T
    return [struct.pack("<iII", layout.v.ggml_type, layout.v.block_bytes, width), columns.tobytes()]


def contents(rows: NDArray[Any], layout: BlobLayout, element: Element, position_count: int) -> bytes:
    assert rows.shape == (position_count, *layout.row_shape(element)), (rows.shape, layout.row_shape(element))
    assert rows.dtype == np.dtype(element.dtype), (rows.dtype, element.dtype)
    return rows.tobytes()
