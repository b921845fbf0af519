"""The threat model names tests; each of them exists (H1)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()


def named(page: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", page))


def missing(page: str) -> set[str]:
    """Names without a test function under tests/."""
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return named(page) - there


@pytest.mark.requirement("H1")
def test_every_test_that_the_threat_model_names_exists() -> None:
    """A name that is none is found too: the check can fail."""
    assert len(named(PAGE)) > 40 and missing(PAGE) == set()
    assert missing("`test_that_nobody_ever_wrote`") == {"test_that_nobody_ever_wrote"}


@pytest.mark.requirement("H1")
def test_every_row_of_the_threat_model_names_a_test() -> None:
    """What is said to be stopped is shown to be."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| to ")]
    assert len(rows) > 20 and all(named(row) for row in rows)


@pytest.mark.requirement("H1")
def test_every_attack_that_is_tested_stands_in_the_threat_model() -> None:
    """The other way round, for the file of attacks."""
    attacks = ast.parse((Path(__file__).parent / "test_attacks.py").read_text()).body
    tests = {node.name for node in attacks if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    assert len(tests) > 20 and tests <= named(PAGE)
