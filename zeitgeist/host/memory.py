"""Bulk between processes of one host: a sealed memory file whose descriptor is passed over the socket.

Law: nothing is mapped before its size is compared with the length that was announced, and nothing is used before its
XXH3 digest is. On Linux the writer seals the file, so that it can neither shrink under the reader (SIGBUS) nor change
after the check; elsewhere an unlinked temporary file is read, not mapped. The reader owns the mapping; the writer keeps
nothing.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.host.messages import Array

__all__ = ["BULK_BYTES_MAX", "INLINE_BYTES_MAX", "pack_array", "unpack_array", "write_shared"]

DTypeName = Literal["f32", "u8"]

INLINE_BYTES_MAX = 64 << 10
"""64 KiB: one decode row of a 16k vocabulary; making, passing and mapping a memory file costs more than this copy."""

BULK_BYTES_MAX = 64 << 30
"""64 GiB: a 128k-token float32 cache of an 8B model is 34 GB. Above it the announced length is taken for damage."""

DTYPES: dict[DTypeName, np.dtype] = {"f32": np.dtype("<f4"), "u8": np.dtype("u1")}
LINUX = sys.platform == "linux"


def pack_array(
    values: NDArray[np.float32] | NDArray[np.uint8] | bytes | bytearray | memoryview,
) -> tuple[Array, int | None]:
    """The record of values and, when they are many, the descriptor to pass (the caller closes it)."""
    array = np.ascontiguousarray(values if isinstance(values, np.ndarray) else np.frombuffer(values, np.uint8))
    name: DTypeName = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    raw = array.reshape(-1).view(np.uint8).data
    small = raw.nbytes <= INLINE_BYTES_MAX
    record = Array(
        dtype=name,
        shape=array.shape,
        length=raw.nbytes,
        xxh3=xxhash.xxh3_64_intdigest(raw),
        inline=raw.tobytes() if small else None,
    )
    return record, None if small else write_shared(raw)


def write_shared(raw: memoryview) -> int:
    """A descriptor of shared memory that holds raw, sealed on Linux."""
    if LINUX:
        fd = os.memfd_create("zeitgeist", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        fd, path = tempfile.mkstemp(prefix="zg-bulk-")
        Path(path).unlink()
    try:
        offset = 0
        while offset < raw.nbytes:
            offset += os.pwrite(fd, raw[offset : offset + (1 << 30)], offset)
        if LINUX:
            seal(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, required_seals() | fcntl.F_SEAL_SEAL)


def required_seals() -> int:
    import fcntl

    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def unpack_array(record: Array, fd: int | None) -> NDArray[np.float32] | NDArray[np.uint8]:
    """The array of record, read-only; `zg/worker/bad-bulk` when size, seal or digest disagree. fd stays open."""
    dtype = DTYPES[record.dtype]
    if any(size < 0 for size in record.shape) or prod(record.shape) * dtype.itemsize != record.length:
        raise bad("shape", f"{record.shape} of {record.dtype}", f"{record.length} bytes")
    if record.length > BULK_BYTES_MAX:
        raise bad("length", record.length, f"at most {BULK_BYTES_MAX}")
    data = inline_bytes(record) if record.inline is not None or fd is None else read_shared(fd, record.length)
    found = xxhash.xxh3_64_intdigest(data)
    if found != record.xxh3:
        raise bad("xxh3", f"{found:016x}", f"{record.xxh3:016x}")
    return as_array(data, dtype, record.shape)


def as_array(data: bytes | memoryview, dtype: np.dtype, shape: Sequence[int]) -> NDArray:
    array = np.frombuffer(data, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def inline_bytes(record: Array) -> bytes:
    if record.inline is None or len(record.inline) != record.length:
        raise bad("inline", "no bytes" if record.inline is None else len(record.inline), f"{record.length} bytes")
    return record.inline


def read_shared(fd: int, length: int) -> bytes | memoryview:
    size = os.fstat(fd).st_size
    if size != length:
        raise bad("length", size, length)
    if not LINUX or length == 0:
        return os.pread(fd, length, 0)
    import fcntl

    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise bad("seals", f"no memory file ({error})", "a sealed memory file") from error
    if seals & required_seals() != required_seals():
        raise bad("seals", seals, required_seals())
    return memoryview(mmap.mmap(fd, length, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE))


def bad(field: str, got: object, wanted: object) -> RemoteProtocolError:
    return RemoteProtocolError("zg/worker/bad-bulk", f"got {got}, wanted {wanted}", field)
