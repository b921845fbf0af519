"""The repository keeps its own habits (STYLE): sizes, names, exports, banned calls, no machine paths, honest tests."""

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
CODE = ("zeitgeist", "sim", "certify")
BANNED_NAMES = {"utils", "helpers", "common", "shared", "misc", "manager"}
BANNED_CALLS = {
    "time.sleep": "poll the event itself with a deadline",
    "pickle.load": "nothing from outside is unpickled",
    "pickle.loads": "nothing from outside is unpickled",
    "eval": "nothing from outside is executed",
    "exec": "nothing from outside is executed",
    "pytest.skip": "a skipped test turns red into green; make the part available",
    "pytest.xfail": "a known failure is mended or listed in the README's limits",
    "pytest.importorskip": "make the part available",
}
BANNED_CALLS_ALLOWED = {
    # The plugin reports UNSUPPORTED and SKIPPED verdicts to pytest as skips; they are printed as loudly as PASS.
    ("certify/plugin.py", "pytest.skip"),
}


def tracked(*suffixes: str) -> list[Path]:
    """Files git knows or would add, by suffix."""
    out = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return sorted(ROOT / line for line in out.splitlines() if line.endswith(suffixes) and (ROOT / line).is_file())


def python_files() -> list[Path]:
    return tracked(".py")


@functools.cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """Every file, parsed once for all tests here."""
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))) for path in python_files())


def name_of(node: ast.expr) -> str:
    """Dotted name of a call target, "" when it is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def test_no_file_is_longer_than_600_lines() -> None:
    """Split by idea, not by length; fixtures' data files are not code."""
    long = {
        str(p.relative_to(ROOT)): n for p in python_files() if (n := len(p.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert not long


def test_no_function_is_longer_than_70_lines() -> None:
    """Counted from `def` to the last line, docstring included."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long


def test_modules_have_a_docstring_and_an_export_list() -> None:
    """Every product and suite module says what it is, and what it promises in `__all__`."""
    bad = []
    for path, tree in trees():
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in CODE:
            continue
        if not ast.get_docstring(tree):
            bad.append(f"{relative}: no docstring")
        checks = relative.parts[:2] == ("certify", "checks") or path.name in ("__init__.py", "conftest.py")
        exports = any(isinstance(n, ast.Assign | ast.AnnAssign) and "__all__" in ast.dump(n) for n in tree.body)
        if not exports and not checks:
            bad.append(f"{relative}: no __all__")
    assert not bad


def test_names_say_what_a_file_holds() -> None:
    """No drawer for everything, no _underscore module."""
    bad = [
        str(p.relative_to(ROOT))
        for p in python_files()
        if p.stem in BANNED_NAMES
        or (p.stem.startswith("_") and p.stem not in ("__init__", "__main__"))
        or "_and_" in p.stem
    ]
    assert not bad


def test_banned_calls_do_not_appear() -> None:
    """Each ban has a reason and a replacement."""
    bad = []
    for path, tree in trees():
        relative = str(path.relative_to(ROOT))
        for node in ast.walk(tree):
            name = name_of(node.func) if isinstance(node, ast.Call) else ""
            if name in BANNED_CALLS and (relative, name) not in BANNED_CALLS_ALLOWED:
                bad.append(f"{relative}:{node.lineno} {name}: {BANNED_CALLS[name]}")
    assert not bad


def test_no_skip_marks() -> None:
    """skip, skipif and xfail marks are not used: a test runs, or it is not there."""
    pattern = re.compile(r"mark\.(skip|skipif|xfail)\b")
    bad = [str(p.relative_to(ROOT)) for p in python_files() if p != Path(__file__) and pattern.search(p.read_text())]
    assert not bad


def promised(tree: ast.Module) -> set[str]:
    """Names in the module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(name_of(target) == "__all__" for target in node.targets):
            return {str(c.value) for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    return set()


def test_promised_things_have_docstrings() -> None:
    """Classes and functions that a module of the product or the suite exports say what they are."""
    bad = []
    for path, tree in trees():
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in CODE:
            continue
        names = promised(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names and not ast.get_docstring(node):
                bad.append(f"{relative}:{node.lineno} {node.name}")
    assert not bad


def test_tests_say_what_they_prove() -> None:
    """Test names claim; a docstring says how. Short ones in tables may let the name speak: at least five words."""
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in trees()
        if path.relative_to(ROOT).parts[0] == "tests"
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
        and len(node.name.split("_")) < 5
    ]
    assert not bad


def test_no_file_names_this_machine() -> None:
    """No absolute home, work or wheel path of a build machine in any tracked text file."""
    pattern = re.compile(r"(/root/|/home/[a-z]+/|/work/|/opt/wheels|/opt/pypi|file:///)")
    bad = []
    for path in tracked(".py", ".md", ".toml", ".json", ".txt", ".yml", ".yaml", ".html", "Makefile", "run"):
        if path == Path(__file__) or "fixtures/models" in str(path):
            continue
        bad += [
            f"{path.relative_to(ROOT)}:{i}"
            for i, line in enumerate(path.read_text().splitlines(), 1)
            if pattern.search(line)
        ]
    assert not bad


def test_no_blob_is_larger_than_the_tiny_model() -> None:
    """6 MB is zg-tiny's weights in float32; anything larger does not belong into the repository."""
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in tracked("") if p.stat().st_size > 6_000_000}
    assert not large


@pytest.mark.parametrize("path", ["README.md"])
def test_the_readme_stays_readable(path: str) -> None:
    """STYLE: 80 to 120 lines; a little air for real output."""
    assert 40 <= len((ROOT / path).read_text().splitlines()) <= 150
