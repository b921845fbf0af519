"""SafeTensors, read strictly and without a copy, and written in one canonical way (R3, D1).

Layout: u64 little-endian header length, JSON header, data. Each header entry is `name: {dtype, shape, data_offsets}`;
`__metadata__` maps text to text. Law: every number of the header is checked before a byte of data is looked at.
Refused: a header longer than the limit, duplicate keys, unknown dtypes, shape and length that disagree, overlaps, gaps,
missing and trailing bytes, names that are too long or that UTF-8 cannot hold, shapes that no array can have. The file
may come from a stranger; nothing in it is executed.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.regular_file import open_regular
from zeitgeist.core.errors import RemoteProtocolError, ZeitgeistError, refuse
from zeitgeist.core.limits import TENSOR_ELEMENTS_MAX

__all__ = [
    "HEADER_BYTES_MAX",
    "Header",
    "SafeTensorsFile",
    "TensorSpec",
    "open_safetensors",
    "pack",
    "read_header",
    "read_tensors",
]

HEADER_BYTES_MAX = 100_000_000
"""100 MB: the limit of the reference implementation; its largest public header is under 2 MB."""

AXES_MAX = 8
"""Model weights have 4 axes at most; a stranger's header could otherwise make numpy refuse in its own words."""

NAME_CHARACTERS_MAX = 512
"""The longest public tensor name has 90; past this a name is not a name but a load on every message that quotes it."""

LENGTH_BYTES = 8

DTYPES: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "F64": ("f64", np.dtype("<f8")),
    "F32": ("f32", np.dtype("<f4")),
    "F16": ("f16", np.dtype("<f2")),
    "BF16": ("bf16", np.dtype("<u2")),
    "I64": ("i64", np.dtype("<i8")),
    "I32": ("i32", np.dtype("<i4")),
    "I16": ("i16", np.dtype("<i2")),
    "I8": ("i8", np.dtype("i1")),
    "U64": ("u64", np.dtype("<u8")),
    "U32": ("u32", np.dtype("<u4")),
    "U16": ("u16", np.dtype("<u2")),
    "U8": ("u8", np.dtype("u1")),
    "BOOL": ("bool", np.dtype("?")),
}
"""Header name → (our name, array dtype). bf16 is carried as its bit pattern in uint16: NumPy has no such type."""

HEADER_NAMES = {ours: theirs for theirs, (ours, _) in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Where one tensor lies: dtype in our names, shape in elements, `[start, stop)` in bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header. data_start: bytes before the first tensor; data_bytes: length of the data."""

    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    data_start: int
    data_bytes: int


class SafeTensorsFile:
    """Tensors of one file or buffer, as read-only views that keep the buffer alive. No method copies data."""

    def __init__(self, buffer: memoryview, header: Header) -> None:
        self.buffer = buffer
        self.header = header
        self.metadata: Mapping[str, str] = header.metadata

    def names(self) -> list[str]:
        """Tensor names in the order of their bytes."""
        return [spec.name for spec in sorted(self.header.tensors.values(), key=lambda spec: (spec.start, spec.name))]

    def tensor(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype name, read-only view of the stored shape); bf16 as uint16. Unknown names are refused by name."""
        spec = self.header.tensors.get(name)
        if spec is None:
            raise refuse(
                "zg/safetensors/no-such-tensor", name, "no such tensor", "one of " + ", ".join(self.names()[:4])
            )
        dtype = array_dtype(spec.dtype)
        view = np.frombuffer(self.buffer, dtype, count=prod(spec.shape), offset=self.header.data_start + spec.start)
        view.flags.writeable = False
        return spec.dtype, view.reshape(spec.shape)


def open_safetensors(path: Path) -> SafeTensorsFile:
    """Map a file and check its header. `zg/safetensors/unreadable` when it cannot be read, else as `read_header`."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            if size < LENGTH_BYTES:
                raise refuse("zg/safetensors/truncated", path.name, f"{size} bytes", f"at least {LENGTH_BYTES} bytes")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise RemoteProtocolError("zg/safetensors/unreadable", f"{error.strerror or error}", str(path)) from error
    try:
        return read_tensors(mapped)
    except ZeitgeistError as error:
        where = f"{path.name}: {error.field}" if error.field else path.name
        raise RemoteProtocolError(error.id, error.detail, where) from error


def read_tensors(
    buffer: bytes | bytearray | memoryview | mmap.mmap,
    header_bytes_max: int = HEADER_BYTES_MAX,
) -> SafeTensorsFile:
    """The same over bytes in memory. The views share the buffer: the caller must not change it while they live."""
    view = memoryview(buffer).toreadonly().cast("B")
    return SafeTensorsFile(view, read_header(view, header_bytes_max))


def read_header(buffer: bytes | memoryview, header_bytes_max: int = HEADER_BYTES_MAX) -> Header:
    """Check the header against itself and against the length of the buffer. Errors: `zg/safetensors/…`, field named."""
    size = len(buffer)
    if size < LENGTH_BYTES:
        raise refuse("zg/safetensors/truncated", "header length", f"{size} bytes", f"at least {LENGTH_BYTES} bytes")
    length = int.from_bytes(buffer[:LENGTH_BYTES], "little")
    if length > header_bytes_max:
        raise refuse("zg/safetensors/header-too-long", "header length", length, f"at most {header_bytes_max}")
    if LENGTH_BYTES + length > size:
        raise refuse("zg/safetensors/truncated", "header", f"{size - LENGTH_BYTES} bytes", f"{length} bytes")
    entries = parse_json(bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length]))
    metadata = check_metadata(entries.pop("__metadata__", {}))
    tensors = {name: check_entry(name, entry) for name, entry in entries.items()}
    data_start = LENGTH_BYTES + length
    data_bytes = check_contiguous(tensors.values())
    if data_start + data_bytes > size:
        raise refuse("zg/safetensors/truncated", "data", f"{size - data_start} bytes", f"{data_bytes} bytes")
    if data_start + data_bytes < size:
        raise refuse("zg/safetensors/trailing-bytes", "data", f"{size - data_start} bytes", f"{data_bytes} bytes")
    return Header(tensors=tensors, metadata=metadata, data_start=data_start, data_bytes=data_bytes)


def parse_json(text: bytes) -> dict[str, Any]:
    """One JSON object; duplicate keys, constants such as NaN, and anything that is not an object are refused."""
    try:
        value: Any = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("zg/safetensors/bad-header", str(error)[:120], "header") from error
    if not isinstance(value, dict):
        raise refuse("zg/safetensors/bad-header", "header", type(value).__name__, "a JSON object")
    return cast("dict[str, Any]", value)


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a key twice and readers then differ on which one counts; we refuse it."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def no_constant(text: str) -> NoReturn:
    """NaN and Infinity are not JSON."""
    raise ValueError(f"{text} is not JSON")


def check_text(field: str, text: str) -> None:
    """JSON can escape half of a surrogate pair, which no UTF-8 text holds: it could not even be reported."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise refuse("zg/safetensors/bad-header", field, ascii(text[error.start]), "text of UTF-8") from error


def check_metadata(value: Any) -> dict[str, str]:
    """`__metadata__` maps text to text."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in cast("dict[str, Any]", value).values()):
        raise refuse("zg/safetensors/bad-header", "__metadata__", type(value).__name__, "an object of texts")
    for name, text in cast("dict[str, str]", value).items():
        check_text("__metadata__", name)
        check_text(f"__metadata__.{name}", text)
    return cast("dict[str, str]", value)


def check_entry(name: str, entry: Any) -> TensorSpec:
    """One tensor's row of the header: exactly three keys, a known dtype, and bytes that equal the shape's product."""
    if len(name) > NAME_CHARACTERS_MAX:
        wanted = f"at most {NAME_CHARACTERS_MAX}"
        raise refuse("zg/safetensors/bad-header", f"name {name[:40]}", f"{len(name)} characters", wanted)
    check_text(f"name {name}", name)
    if not isinstance(entry, dict) or set(cast("dict[str, Any]", entry)) != {"dtype", "shape", "data_offsets"}:
        raise refuse("zg/safetensors/bad-header", name, entry, "dtype, shape, data_offsets")
    kind = entry["dtype"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise refuse("zg/safetensors/unknown-dtype", f"{name}.dtype", kind, ", ".join(DTYPES))
    shape = whole_numbers(f"{name}.shape", entry["shape"])
    offsets = whole_numbers(f"{name}.data_offsets", entry["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse("zg/safetensors/bad-offsets", f"{name}.data_offsets", offsets, "[start, stop], start ≤ stop")
    ours, dtype = DTYPES[kind]
    if prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise refuse(
            "zg/safetensors/bad-size",
            f"{name}.data_offsets",
            f"{offsets[1] - offsets[0]} bytes",
            f"{prod(shape) * dtype.itemsize} bytes for {kind} {list(shape)}",
        )
    if prod(size or 1 for size in shape) > TENSOR_ELEMENTS_MAX:
        wanted = f"at most {TENSOR_ELEMENTS_MAX} elements, zeros not counted: no array of it can be described"
        raise refuse("zg/safetensors/bad-header", f"{name}.shape", list(shape), wanted)
    return TensorSpec(name=name, dtype=ours, shape=shape, start=offsets[0], stop=offsets[1])


def whole_numbers(field: str, value: Any) -> tuple[int, ...]:
    """A short list of integers from 0 to 2⁴⁸; True is not an integer here."""
    items = cast("list[int]", value) if isinstance(value, list) else [-1]
    if len(items) > AXES_MAX or not all(type(item) is int and 0 <= item <= 1 << 48 for item in items):
        raise refuse("zg/safetensors/bad-header", field, value, f"at most {AXES_MAX} integers from 0 to 2^48")
    return tuple(items)


def check_contiguous(specs: Any) -> int:
    """Tensors must tile the data from byte 0 without overlap or gap; returns the number of bytes they cover."""
    at = 0
    for spec in sorted(specs, key=lambda spec: (spec.start, spec.stop)):
        if spec.start != at:
            kind = "overlap" if spec.start < at else "gap"
            raise refuse(
                "zg/safetensors/bad-offsets", f"{spec.name}.data_offsets", f"start {spec.start} ({kind})", f"start {at}"
            )
        at = spec.stop
    return at


def array_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that carries one of our dtype names; unknown names are refused."""
    theirs = HEADER_NAMES.get(name)
    if theirs is None:
        raise refuse("zg/safetensors/unknown-dtype", "dtype", name, ", ".join(HEADER_NAMES))
    return DTYPES[theirs][1]


def pack(tensors: Sequence[tuple[str, str, NDArray[Any]]], metadata: Mapping[str, str]) -> bytearray:
    """The bytes of a file with these (name, dtype name, array), in this order of data; one copy of each array.

    The header is sorted, without blanks, and padded with blanks to 8 bytes, so equal content gives equal bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, array in tensors:
        if array.dtype != array_dtype(dtype) or name in header:
            raise AssertionError(f"{name}: {array.dtype} is not how {dtype} is carried, or the name stands twice")
        stop = at + array.nbytes
        header[name] = {"dtype": HEADER_NAMES[dtype], "shape": list(array.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    out = bytearray(LENGTH_BYTES + len(text) + at)
    out[:LENGTH_BYTES] = len(text).to_bytes(LENGTH_BYTES, "little")
    out[LENGTH_BYTES : LENGTH_BYTES + len(text)] = text
    start = LENGTH_BYTES + len(text)
    for _, dtype, array in tensors:
        target = np.frombuffer(out, array_dtype(dtype), count=array.size, offset=start).reshape(array.shape)
        target[...] = array
        start += array.nbytes
    return out
