"""GGUF version 3, read strictly (R3): header, metadata, tensor table; tensors as views into the mapped file.

Law: every count, length and offset is checked against the bytes that are left before anything is allocated, so that a
hostile file costs no more than its own size. Refused with file, field and offset: another version or byte order,
duplicate keys or names, unknown types, tables that do not tile the data exactly, missing and trailing bytes.
Source: ggml/docs/gguf.md; the order and padding rules are those that llama.cpp's own reader (gguf.cpp) enforces.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.regular_file import open_regular
from zeitgeist.core.errors import RemoteProtocolError

__all__ = ["GgufFile", "GgufTensor", "Value", "open_gguf"]

Value = int | float | bool | str | list[str] | NDArray[Any]
"""A metadata value; arrays of numbers stay arrays, arrays of texts are lists."""

MAGIC = b"GGUF"
VERSION = 3
KEY_BYTES_MAX = 65_535
"""The specification's limit for a key: 2^16 - 1 bytes."""
TENSOR_NAME_BYTES_MAX = 64
"""GGML_MAX_NAME; llama.cpp refuses longer ones."""
AXES_MAX = 4
ALIGNMENT_MAX = 1 << 16
"""64 KiB, the largest page of a common system; the writers use 32."""
ENTRY_BYTES_MIN = 13
"""A key of no bytes with the smallest value: 8 + 4 + 1. Bounds the count before the loop starts."""
TENSOR_BYTES_MIN = 24
"""Name length, axis count, type and offset without any axis: 8 + 4 + 4 + 8."""

SCALARS: Mapping[int, tuple[str, str]] = {
    0: ("u8", "<B"),
    1: ("i8", "<b"),
    2: ("u16", "<H"),
    3: ("i16", "<h"),
    4: ("u32", "<I"),
    5: ("i32", "<i"),
    6: ("f32", "<f"),
    7: ("bool", "<?"),
    10: ("u64", "<Q"),
    11: ("i64", "<q"),
    12: ("f64", "<d"),
}
STRING, ARRAY = 8, 9

TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("ggml_q4_0", 32, 18),
    3: ("ggml_q4_1", 32, 20),
    8: ("ggml_q8_0", 32, 34),
    30: ("bf16", 1, 2),
}
"""ggml type number → (our name, elements in a block, bytes of a block)."""

ARRAY_DTYPES = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


@dataclass(frozen=True)
class GgufTensor:
    """One row of the tensor table: type in our names, shape as NumPy has it (outermost first), bytes in the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    byte_count: int


class Cursor:
    """A place in the file. Every read is checked against the end first and names the field it was for."""

    def __init__(self, buffer: memoryview, file: str) -> None:
        self.buffer = buffer
        self.file = file
        self.at = 0

    def fail(self, field: str, detail: str) -> NoReturn:
        """Refuse the file: `zg/model/bad-gguf` with file, field and offset."""
        raise RemoteProtocolError("zg/model/bad-gguf", f"{detail}, at byte {self.at}", f"{self.file}: {field}")

    def need(self, field: str, count: int) -> None:
        """At least count bytes must be left."""
        left = len(self.buffer) - self.at
        if count > left:
            self.fail(field, f"got {left} bytes to the end of the file, wanted {count}")

    def scalar(self, field: str, form: str) -> Any:
        """One little-endian number."""
        size = struct.calcsize(form)
        self.need(field, size)
        value = struct.unpack_from(form, self.buffer, self.at)[0]
        self.at += size
        return value

    def count(self, field: str, each_bytes_min: int) -> int:
        """A 64-bit count of things that take each_bytes_min at least; bounded by the bytes that are left."""
        value = int(self.scalar(field, "<Q"))
        if value * each_bytes_min > len(self.buffer) - self.at:
            self.fail(field, f"got a count of {value}, wanted at most {(len(self.buffer) - self.at) // each_bytes_min}")
        return value

    def text(self, field: str, bytes_max: int | None = None) -> str:
        """Length and UTF-8 bytes."""
        length = self.count(field, 1)
        if bytes_max is not None and length > bytes_max:
            self.fail(field, f"got a text of {length} bytes, wanted at most {bytes_max}")
        data = bytes(self.buffer[self.at : self.at + length])
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(field, f"got bytes that are not UTF-8 ({error.reason})")
        self.at += length
        return text

    def value(self, field: str) -> Value:
        """A metadata value with its type number before it."""
        kind = int(self.scalar(field, "<I"))
        if kind == STRING:
            return self.text(field)
        if kind == ARRAY:
            return self.array(field)
        return self.number(field, kind)

    def number(self, field: str, kind: int) -> int | float | bool:
        """One scalar; a boolean is a byte that must be 0 or 1."""
        if kind not in SCALARS:
            self.fail(field, f"got value type {kind}, wanted 0 to 12")
        name, form = SCALARS[kind]
        if name == "bool":
            byte = self.scalar(field, "<B")
            if byte > 1:
                self.fail(field, f"got boolean {byte}, wanted 0 or 1")
            return bool(byte)
        return self.scalar(field, form)

    def array(self, field: str) -> list[str] | NDArray[Any]:
        """Texts or numbers; arrays of arrays are refused: no key that we know has them."""
        kind = int(self.scalar(field, "<I"))
        if kind == STRING:
            return [self.text(f"{field}[{index}]") for index in range(self.count(field, 8))]
        if kind not in SCALARS:
            self.fail(field, f"got an array of type {kind}, wanted numbers or texts")
        dtype = np.dtype("u1" if SCALARS[kind][0] == "bool" else SCALARS[kind][1].replace("B", "u1").replace("b", "i1"))
        count = self.count(field, dtype.itemsize)
        values = np.frombuffer(self.buffer, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values


class GgufFile:
    """A checked GGUF file. Views keep the mapping alive; nothing is copied."""

    def __init__(self, path: Path, buffer: memoryview) -> None:
        self.path = path
        self.buffer = buffer
        cursor = Cursor(buffer, path.name)
        tensor_count, entry_count = read_counts(cursor)
        self.metadata = read_metadata(cursor, entry_count)
        alignment = read_alignment(cursor, self.metadata)
        self.tensors = read_tensor_table(cursor, tensor_count, alignment)
        self.data_start = -(-cursor.at // alignment) * alignment
        check_extent(cursor, self.tensors, self.data_start, alignment)

    def tensor(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype name, view). Plain dtypes have the tensor's shape, bf16 as uint16.

        Blocks are uint8 [out, row_bytes].
        """
        spec = self.tensors[name]
        start = self.data_start + spec.start
        data = np.frombuffer(self.buffer, np.uint8, spec.byte_count, start)
        if spec.dtype in ARRAY_DTYPES:
            return spec.dtype, data.view(ARRAY_DTYPES[spec.dtype]).reshape(spec.shape)
        return spec.dtype, data.reshape(*spec.shape[:-1], -1)


def open_gguf(path: Path) -> GgufFile:
    """Map and check a file. `zg/model/unreadable` when it cannot be read, `zg/model/bad-gguf` when it is damaged."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise RemoteProtocolError("zg/model/unreadable", str(error.strerror or error), str(path)) from error
    return GgufFile(path, memoryview(mapped))


def read_counts(cursor: Cursor) -> tuple[int, int]:
    """Magic and version, then (tensor count, metadata count)."""
    cursor.need("magic", 4)
    if bytes(cursor.buffer[:4]) != MAGIC:
        cursor.fail("magic", f"got {bytes(cursor.buffer[:4])!r}, wanted {MAGIC!r}")
    cursor.at = 4
    version = cursor.scalar("version", "<I")
    if version != VERSION:
        cursor.fail("version", f"got {version}, wanted {VERSION} in little-endian order")
    return cursor.count("tensor count", TENSOR_BYTES_MIN), cursor.count("metadata count", ENTRY_BYTES_MIN)


def read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    """All key-value entries; a key that stands twice is refused, since readers differ on which one counts."""
    found: dict[str, Value] = {}
    for index in range(count):
        key = cursor.text(f"metadata key {index}", KEY_BYTES_MAX)
        if key in found:
            cursor.fail(key, "got the key twice, wanted once")
        found[key] = cursor.value(key)
    return found


def read_alignment(cursor: Cursor, metadata: Mapping[str, Value]) -> int:
    """`general.alignment`, 32 when absent; a power of two, 8 at least so that views are aligned."""
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 8 <= value <= ALIGNMENT_MAX or value & (value - 1):
        cursor.fail("general.alignment", f"got {value!s:.40}, wanted a power of two from 8 to {ALIGNMENT_MAX}")
    return value


def read_tensor_table(cursor: Cursor, count: int, alignment: int) -> dict[str, GgufTensor]:
    """The tensor table. Each tensor must begin where the one before it ends, rounded up to the alignment."""
    found: dict[str, GgufTensor] = {}
    expected = 0
    for index in range(count):
        name = cursor.text(f"tensor name {index}", TENSOR_NAME_BYTES_MAX)
        if name in found:
            cursor.fail(name, "got the tensor twice, wanted once")
        spec = read_tensor(cursor, name)
        if spec.start != expected:
            cursor.fail(f"{name}.offset", f"got {spec.start}, wanted {expected}")
        expected = -(-(spec.start + spec.byte_count) // alignment) * alignment
        found[name] = spec
    return found


def read_tensor(cursor: Cursor, name: str) -> GgufTensor:
    """One row: axes (innermost first in the file), type, offset."""
    axes = cursor.scalar(f"{name}.axes", "<I")
    if not 1 <= axes <= AXES_MAX:
        cursor.fail(f"{name}.axes", f"got {axes}, wanted 1 to {AXES_MAX}")
    sizes = [int(cursor.scalar(f"{name}.shape", "<Q")) for _ in range(axes)]
    kind = cursor.scalar(f"{name}.type", "<I")
    start = cursor.scalar(f"{name}.offset", "<Q")
    if kind not in TYPES:
        cursor.fail(
            f"{name}.type", f"got ggml type {kind}, wanted one of {', '.join(row[0] for row in TYPES.values())}"
        )
    dtype, block, block_bytes = TYPES[kind]
    if min(sizes) < 1 or sizes[0] % block:
        cursor.fail(f"{name}.shape", f"got {sizes}, wanted sizes from 1, rows of whole blocks of {block}")
    byte_count = prod(sizes) // block * block_bytes
    if byte_count > len(cursor.buffer):
        cursor.fail(
            f"{name}.shape", f"got {sizes}, {byte_count} bytes, wanted less than the file's {len(cursor.buffer)}"
        )
    return GgufTensor(name=name, dtype=dtype, shape=tuple(reversed(sizes)), start=start, byte_count=byte_count)


def check_extent(cursor: Cursor, tensors: Mapping[str, GgufTensor], data_start: int, alignment: int) -> None:
    """The last tensor ends at the end of the file, but for padding."""
    end = max((spec.start + spec.byte_count for spec in tensors.values()), default=0)
    size = len(cursor.buffer) - data_start
    if end and size < end:
        cursor.fail("data", f"got {max(size, 0)} bytes, wanted {end}")
    if size > -(-end // alignment) * alignment:
        cursor.fail("data", f"got {size} bytes, wanted {end}: trailing bytes")
