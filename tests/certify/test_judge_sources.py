"""The digest that the kill score is keyed to (W4): what can change a verdict changes it, and nothing else does."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import certify
import zeitgeist
from certify.judge_sources import TABLES, faults_of, files_of, judge_digest, judge_files
from zeitgeist.core.errors import REGISTRY

pytestmark = pytest.mark.requirement("W4")
SUITE, PRODUCT = Path(certify.__file__).parent, Path(zeitgeist.__file__).parent
IGNORED = shutil.ignore_patterns("__pycache__", "zg-tiny")


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Path, Path]:
    """(suite, product): both packages, to be edited."""
    for package in (SUITE, PRODUCT):
        shutil.copytree(package, tmp_path / package.name, ignore=IGNORED)
    return tmp_path / SUITE.name, tmp_path / PRODUCT.name


def append(path: Path, text: str) -> None:
    """More at the end of a file, or a new file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_part_of_the_product_that_nothing_reaches_does_not_count(copied: tuple[Path, Path]) -> None:
    """A new transport, a new core module, its own errors, other words of an error: the score stays valid."""
    before = judge_digest(*copied)
    assert before == judge_digest()
    product = copied[1]
    append(product / "transports" / "tcp.py", "from zeitgeist.backends.base import Backend\n")
    append(product / "core" / "election.py", "TERM = 1\n")
    table = product / "core" / "error_table.py"
    append(table, 'NEW = [\n    ("zg/election/past-term", "peer", True, "a", "b")]\n')
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("the engine raised an error of its own", "the engine broke"), encoding="utf-8")
    assert table.read_text(encoding="utf-8") != text
    assert judge_digest(*copied) == before


@pytest.mark.parametrize(
    "name",
    [
        "certify/case.py",
        "certify/checks/test_numerics.py",
        "certify/profiles/standard.toml",
        "zeitgeist/backends/new_engine.py",
        "zeitgeist/convert/kv.py",
        "zeitgeist/models/hf.py",
        "zeitgeist/sampling.py",
        "zeitgeist/host/service.py",
        "zeitgeist/host/worker_main.py",
        "zeitgeist/core/errors.py",
        "zeitgeist/core/formats/canonical.py",
        "zeitgeist/core/table.json",
    ],
)
def test_a_letter_of_what_judges_or_is_judged_counts(name: str, copied: tuple[Path, Path]) -> None:
    """Of the suite, of an adapter, of what the worker runs, of what those reach."""
    before = judge_digest(*copied)
    append(copied[0].parent / name, "# x\n")
    assert judge_digest(*copied) != before


@pytest.mark.parametrize("name", ["certify/cli.py", "certify/report/page.css", "certify/mutants/kill_score.json"])
def test_what_shows_and_signs_does_not_count(name: str, copied: tuple[Path, Path]) -> None:
    """And the score itself cannot be of itself."""
    before = judge_digest(*copied)
    append(copied[0].parent / name, "# x\n")
    assert judge_digest(*copied) == before


def test_who_is_wrong_in_an_error_counts(copied: tuple[Path, Path]) -> None:
    """An engine's own failure that became the host's would be a defect of the suite and no FAIL."""
    before = judge_digest(*copied)
    table = copied[1] / "core" / "error_table.py"
    text = table.read_text(encoding="utf-8")
    table.write_text(
        text.replace('("zg/backend/cancelled", "caller"', '("zg/backend/cancelled", "host"'), encoding="utf-8"
    )
    assert table.read_text(encoding="utf-8") != text
    assert judge_digest(*copied) != before


def test_a_module_becomes_part_of_it_when_it_is_reached(copied: tuple[Path, Path]) -> None:
    """By an import inside a function of a module that is reached itself, or by its name alone."""
    product = copied[1]
    append(product / "core" / "late.py", "A = 1\n")
    append(product / "core" / "named.py", "A = 1\n")
    before = set(judge_files(*copied))
    append(product / "host" / "service.py", "\ndef f():\n    from zeitgeist.core import late\n")
    append(product / "host" / "child.py", "\nSTARTED = 'zeitgeist.core.named:main'\n")
    assert set(judge_files(*copied)) - before == {"zeitgeist/core/late.py", "zeitgeist/core/named.py"}


def test_the_closure_holds_what_is_started_by_name_and_what_checks_reach() -> None:
    """The worker is started by `-m`, engines by the registry's names; admission and the cache are imported."""
    found = judge_files(SUITE, PRODUCT)
    for name in (
        "backends/llama_cpp.py", "backends/reference_variants.py", "convert/admit.py", "convert/kv.py",
        "core/formats/kv.py", "host/channel.py", "host/child.py", "host/service.py", "host/worker_main.py",
        "host/workers.py", "models/gguf_file.py", "sampling.py",
    ):  # fmt: skip
        assert f"zeitgeist/{name}" in found
    assert "certify/plugin.py" in found and "certify/mutants/cache_bugs.py" in found
    assert "certify/cli.py" not in found and "zeitgeist/core/error_table.py" not in found


def imported(tree: ast.Module) -> Iterator[str]:
    """By the syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isascii():
            yield node.value.partition(":")[0]


def test_no_import_is_overlooked() -> None:
    """The syntax tree of every file in the closure names no file of the product outside it but the error tables."""
    found = set(judge_files(SUITE, PRODUCT).values())
    trees = [ast.parse(path.read_bytes()) for path in found if path.suffix == ".py"]
    reached = {file for tree in trees for name in imported(tree) for file in files_of(PRODUCT, name)}
    assert reached - found == {PRODUCT / table for table in TABLES}


def test_every_row_of_the_error_table_is_read() -> None:
    """Whatever its layout, in whichever file: ids and faults are those of the registry."""
    assert dict(faults_of(PRODUCT)) == {str(id): spec.fault for id, spec in REGISTRY.items()}
