"""One name for one finding: in the table, in the check that reports it, and in the adapter that works around it."""

import ast
import importlib
from pathlib import Path

import pytest

import certify.checks
from certify.findings import FINDINGS
from certify.registry import load_checks
from zeitgeist.backends.registry import BUILT_IN

pytestmark = pytest.mark.requirement("W1")


def reported() -> dict[str, tuple[str, str]]:
    """id -> (kind, file) of each finding that a file of checks reports: `case.finding`, or a kind of `invariance`."""
    found: dict[str, tuple[str, str]] = {}
    for path in Path(certify.checks.__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call):
                continue
            words = [word.value if isinstance(word, ast.Constant) else "" for word in node.args]
            if isinstance(node.func, ast.Attribute) and node.func.attr == "finding" and words[0]:
                found[str(words[0])] = (str(words[1]), str(path))
            elif isinstance(node.func, ast.Name) and node.func.id == "invariance":
                found[f"not-{words[3]}"] = ("property", str(path))
    return found


def test_every_finding_that_a_check_reports_is_in_the_table() -> None:
    """With its kind, and with checks of the file that reports it."""
    known = load_checks()
    for name, (kind, file) in reported().items():
        assert FINDINGS[name].kind == kind, name
        assert file in {known[check].file for check in FINDINGS[name].checks}, name


def test_every_check_that_the_table_names_exists() -> None:
    """No row of a check that was renamed; more than these are reported."""
    assert {check for row in FINDINGS.values() for check in row.checks} <= set(load_checks())
    assert {name for name, row in FINDINGS.items() if row.checks} - set(reported()) == {"key-pairing-unsaid"}


@pytest.mark.parametrize("backend", BUILT_IN)
def test_what_an_adapter_handles_has_the_name_of_the_finding(backend: str) -> None:
    """`handled` of a descriptor is the adapter's HANDLED: each a known finding, none of them a control."""
    module = importlib.import_module(BUILT_IN[backend].module)
    handled = getattr(module, "HANDLED", ())
    assert ("handled=" in Path(str(module.__file__)).read_text(encoding="utf-8")) == bool(handled)
    assert [name for name in handled if name not in FINDINGS or FINDINGS[name].kind == "control"] == []
