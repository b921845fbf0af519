"""Which sources can change a verdict, and the digest of them that the published kill score is keyed to (W4).

Law: the judging files of the suite; what the mutants are planted in (adapters, conversions, model readers, sampling,
the worker's process) wholly; and every module of the product that one of these imports, at whatever depth and inside
whatever function, or names as text, as a process is started by name. A part of the product that none of them reaches,
a node's runtime for instance, can be written without measuring again. Reads sources, imports none of them.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import zeitgeist
from certify.environment import SCORE_NAME, sources_below

__all__ = ["TABLES", "faults_of", "files_of", "judge_digest", "judge_files"]

PRODUCT = "zeitgeist"
NOT_JUDGES = (
    "certificate.py",
    "cli.py",
    "command.py",
    "commands.py",
    "dsse.py",
    "environment.py",
    "findings.py",
    "golden.py",
    "judge_sources.py",
    "ownership.py",
    "private_folder.py",
    "replay.py",
    "report",
    "results.py",
    "run.py",
    "show.py",
)
"""Files of the suite that no verdict depends on."""
PLANTED_IN = ("backends", "convert", "models", "sampling.py", "host/worker_main.py")
"""Always: mutants are planted here, and engines are loaded by name."""
TABLES = ("core/error_table.py", "core/protocol_errors.py")
"""Only words for people, but for who is wrong: an error of a host is no verdict. Of their rows only the ids and faults
count, and only of ids that the other sources name, so that a new part of the product may bring errors of its own."""
ROW = re.compile(r'\(\s*"(zg/[^"]+)",\s*"([a-z]+)"')
ERROR_ID = re.compile(r"zg/[a-z_]+/[a-z0-9-]+")
IMPORT = re.compile(rf"^[ \t]*((?:from|import)[ \t]+{PRODUCT}\b[^\n(]*(?:\([^)]*\))?)", re.MULTILINE)
"""A statement that imports from the product, wherever it stands. Found as text, for parsing every file would take half
a second of each run; a test holds it to the whole syntax tree of each file."""
WRITTEN = re.compile(rf"[\"']({PRODUCT}(?:\.\w+)+)")


def judge_digest(suite: Path | None = None, product: Path | None = None) -> str:
    """SHA-256 over path and content of `judge_files`, and over who is wrong in each error that they name.

    suite, product: the folders of the two packages; those that run when not given.
    """
    suite, product = suite or Path(__file__).parent, product or Path(zeitgeist.__file__).parent
    total, named = hashlib.sha256(), set[str]()
    for name, path in judge_files(suite, product).items():
        body = path.read_bytes()
        total.update(f"{name}\0{len(body)}\0".encode() + body)
        named.update(ERROR_ID.findall(body.decode()))
    for id, fault in faults_of(product):
        if id in named:
            total.update(f"{id}\0{fault}\0".encode())
    return "sha256:" + total.hexdigest()


def faults_of(product: Path) -> list[tuple[str, str]]:
    """(id, fault) of each row of the error tables, sorted: what of them can change a verdict."""
    return sorted(row for table in TABLES for row in ROW.findall((product / table).read_text(encoding="utf-8")))


def judge_files(suite: Path, product: Path) -> dict[str, Path]:
    """Name from the package on -> path, sorted by name."""
    found = {f"{suite.name}/{name}": path for name, path in sources_below(suite, {SCORE_NAME, *NOT_JUDGES})}
    waiting = [*found.values(), *always(product)]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or path in (product / table for table in TABLES):
            continue
        seen.add(path)
        if path.suffix == ".py":
            names = dict.fromkeys(named_modules(path.read_text(encoding="utf-8")))
            waiting += [file for name in names for file in files_of(product, name)]
    found |= {
        f"{PRODUCT}/{path.relative_to(product).as_posix()}": path for path in seen if path.is_relative_to(product)
    }
    return dict(sorted(found.items()))


def always(product: Path) -> list[Path]:
    """What is digested whether or not it is reached, and the data of the product, which no import shows."""
    return [
        path
        for name, path in sources_below(product, set())
        if path.suffix != ".py" or name.startswith(tuple(f"{part}/" for part in PLANTED_IN)) or name in PLANTED_IN
    ]


def named_modules(source: str) -> Iterator[str]:
    """Dotted names of the product that may be modules: imported, imported from, or written out as text."""
    yield from WRITTEN.findall(source)
    for statement in IMPORT.findall(source):
        node = ast.parse(statement).body[0]
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files_of(product: Path, name: str) -> list[Path]:
    """Files that importing a module runs: the packages above it, then its own. None for what is not of the product."""
    first, *rest = name.split(".")
    if first != PRODUCT:
        return []
    above = [product.joinpath(*rest[:depth], "__init__.py") for depth in range(len(rest) + 1)]
    own = product.joinpath(*rest[:-1], f"{rest[-1]}.py") if rest else product / "__init__.py"
    return [path for path in (*above, own) if path.is_file()]
