"""Where a run happened, and which sources ran: facts that a certificate binds (W3). Imports nothing heavy."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import zeitgeist
from zeitgeist.core.formats.canonical import Record

__all__ = [
    "SCORE_NAME",
    "Environment",
    "Package",
    "digest_without",
    "observe",
    "product_digest",
    "sources_below",
    "suite_digest",
]

PACKAGES = (
    "blake3",
    "cryptography",
    "gguf",
    "llama-cpp-python",
    "mlx",
    "mlx-lm",
    "msgspec",
    "numpy",
    "pytest",
    "pytest-xdist",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "xllamacpp",
    "xxhash",
    "zeitgeist",
)
SCORE_NAME = "kill_score.json"
"""`certify/mutants/kill_score.json`: what `zg-certify selftest --publish` measured."""
SOURCES = (".py", ".toml", ".html", ".jinja", ".css", ".js", ".json")


class Package(Record, frozen=True, kw_only=True):
    """An installed distribution."""

    name: str
    version: str


class Environment(Record, frozen=True, kw_only=True):
    """Machine and software of a run. cpu: the model's name; cores: those this process may use; threads:
    OMP_NUM_THREADS."""

    cpu: str
    cores: int
    machine: str
    system: str
    python: str
    threads: str
    packages: tuple[Package, ...]


def cpu_name() -> str:
    """The processor's own name, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def observe() -> Environment:
    """This machine, this interpreter, and the packages that can change a number."""
    packages: list[Package] = []
    for name in PACKAGES:
        try:
            packages.append(Package(name=name, version=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Environment(
        cpu=cpu_name(),
        cores=cores,
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        threads=os.environ.get("OMP_NUM_THREADS", ""),
        packages=tuple(packages),
    )


def suite_digest(root: Path | None = None) -> str:
    """SHA-256 over path and content of every source file of this suite, in order of path.

    The same for a checkout and for the wheel made from it, so the model that travels in the wheel is left out; a
    certificate binds it by its own digest. The published kill score names a digest of these, so it cannot be of them.
    """
    return digest_without(root or Path(__file__).parent, {SCORE_NAME})


def product_digest(root: Path | None = None) -> str:
    """The same over the package `zeitgeist`: our adapters, conversions and reference are what is certified."""
    return digest_without(root or Path(zeitgeist.__file__).parent, set())


def digest_without(root: Path, names: set[str]) -> str:
    """SHA-256 over the sources below root but for files and first folders of these names."""
    total = hashlib.sha256()
    for name, path in sources_below(root, names):
        body = path.read_bytes()
        total.update(f"{name}\0{len(body)}\0".encode() + body)
    return "sha256:" + total.hexdigest()


def sources_below(root: Path, names: set[str]) -> Iterator[tuple[str, Path]]:
    """(path from root, path) of the same sources, in order of path."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.name in names or relative.parts[0] in names or {"__pycache__", "zg-tiny"} & set(relative.parts):
            continue
        if path.suffix in SOURCES:
            yield relative.as_posix(), path
