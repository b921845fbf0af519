"""Which native libraries an engine really runs on, by content (A2).

A version number does not say how a wheel was built; the digest of the mapped file does. Law: the digest is of the
file that this process has loaded, found in its own memory map where the system shows one.
"""

import functools
import importlib.metadata
import sys
from pathlib import Path

import blake3

from zeitgeist.core.descriptors.backend import Library
from zeitgeist.core.ids import Digest

__all__ = ["native_library", "python_library"]


def native_library(name: str, version: str, file_name: str, folder: Path) -> Library | None:
    """The loaded shared library whose file name starts with file_name; None when the engine did not load it.

    folder: where its package keeps it, asked only where the memory map cannot be read (macOS).
    """
    path = mapped(file_name)
    if path is None and not sys.platform.startswith("linux"):
        path = next(iter(sorted(folder.glob(file_name + "*"))), None)
    return None if path is None else Library(name=name, version=version, digest=file_digest(path))


def python_library(name: str) -> Library:
    """A pure Python package: the digest of its installation record, which lists a digest of each of its files."""
    package = importlib.metadata.distribution(name)
    record = package.read_text("RECORD") or ""
    digest = Digest("blake3:" + blake3.blake3(record.encode()).hexdigest())
    return Library(name=name, version=package.version, digest=digest)


def mapped(file_name: str) -> Path | None:
    """The mapped file whose name starts so, first by path; None when none is, or the map cannot be read."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") > 1 and len(line.split(maxsplit=5)) == 6}
    found = sorted(path for path in paths if path.rsplit("/", 1)[-1].startswith(file_name))
    return Path(found[0]) if found else None


@functools.cache
def file_digest(path: Path) -> Digest:
    """BLAKE3 of a file, read once in this process."""
    hasher = blake3.blake3()
    hasher.update_mmap(path)
    return Digest("blake3:" + hasher.hexdigest())
