"""MLX's `.npz` weights, read without pickle (R3): a zip of `.npy` members, each checked before it is read.

Law: an object array (the only kind that needs pickle) is refused by its dtype; a member's announced size must equal
what its shape needs and what the archive says, and neither a member nor all of them together may unpack to more than
`EXPANSION_MAX` times the bytes they come from: members that share their bytes are how small archives hide large ones.
"""

import io
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.regular_file import open_regular
from zeitgeist.core.errors import RemoteProtocolError, ZeitgeistError, refuse

__all__ = ["NpzFile", "open_npz"]

EXPANSION_MAX = 64
"""A deflated float array shrinks a few times at most; a member that claims more is a bomb."""
NAMES = {"<f4": "f32", "<f2": "f16", "<u4": "u32"}
HEADER_BYTES_MAX = 10_000
"""NumPy's own limit for a header that it parses without being asked to trust it."""


@dataclass(frozen=True)
class NpzFile:
    """Tensors by name; each call reads its member again."""

    path: Path
    members: dict[str, zipfile.ZipInfo]

    def names(self) -> list[str]:
        """Member names without `.npy`."""
        return list(self.members)

    def tensor(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype name, array)."""
        where = f"{self.path.name}: {name}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = archive.read(self.members[name])
            return parse_npy(data, where)
        except ZeitgeistError:
            raise
        except (
            OSError,
            ValueError,
            zipfile.BadZipFile,
            EOFError,
            NotImplementedError,
            RuntimeError,
            SyntaxError,
            UnicodeError,
            TypeError,
            MemoryError,
            RecursionError,
            zlib_error(),
        ) as error:
            raise RemoteProtocolError(
                "zg/model/bad-shape", f"the member cannot be read: {error!s:.120}", where
            ) from error


def zlib_error() -> type[Exception]:
    """What a damaged deflate stream raises; `zipfile` does not translate it."""
    import zlib

    return zlib.error


def open_npz(path: Path) -> NpzFile:
    """Check the directory of the archive; nothing is unpacked yet."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            size = file.seek(0, 2)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
        raise RemoteProtocolError(
            "zg/model/unreadable", f"not a zip archive that can be read: {error!s:.120}", path.name
        ) from error
    together = sum(info.file_size for info in infos)
    if together > EXPANSION_MAX * size:
        raise refuse(
            "zg/model/refused-format",
            f"{path.name}: all members",
            f"{together} bytes from {size}",
            f"at most {EXPANSION_MAX} times",
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in members or name == info.filename:
            raise refuse(
                "zg/model/refused-format", f"{path.name}: {info.filename}", "another member", "one .npy for each tensor"
            )
        if info.file_size > EXPANSION_MAX * max(info.compress_size, 1):
            raise refuse(
                "zg/model/refused-format",
                f"{path.name}: {info.filename}",
                f"{info.file_size} bytes from {info.compress_size}",
                f"at most {EXPANSION_MAX} times",
            )
        members[name] = info
    return NpzFile(path, members)


def parse_npy(data: bytes, where: str) -> tuple[str, NDArray[Any]]:
    """One `.npy` file: header by NumPy's reader, then bytes that must be exactly as many as the shape needs."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise refuse("zg/model/refused-format", where, f"npy version {version}", "version (1, 0)")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER_BYTES_MAX)
    if dtype.hasobject or dtype.str not in NAMES:
        raise refuse("zg/model/refused-format", where, f"dtype {dtype.str}", ", ".join(NAMES))
    left = len(data) - stream.tell()
    if by_column or prod(shape) * dtype.itemsize != left or any(size < 0 for size in shape):
        raise refuse(
            "zg/model/bad-shape",
            where,
            f"{left} bytes",
            f"{prod(shape) * dtype.itemsize} bytes, rows first, for {shape}",
        )
    return NAMES[dtype.str], np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
