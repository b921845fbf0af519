"""Generated pages are fresh, and every due requirement has clause, test and code (X1, X5, A10)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.requirement("X1")
def test_generated_pages_of_the_spec_are_fresh() -> None:
    """`tools/docs.py --check` renders every table again and compares it with the committed page."""
    done = run("tools/docs.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.requirement("X5")
def test_every_due_requirement_has_a_clause_a_test_and_code() -> None:
    """`tools/traceability.py` names each row that lacks one."""
    done = run("tools/traceability.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.requirement("A10")
def test_every_error_id_raised_is_registered_and_every_row_is_used() -> None:
    """Ids in the sources and ids in the table are the same set: no dead row, no unknown id."""
    import re

    from zeitgeist.core.errors import REGISTRY

    sources = [
        p for package in ("zeitgeist", "certify") for p in (ROOT / package).rglob("*.py") if p.name != "error_table.py"
    ]
    used = set().union(*(re.findall(r"zg/[a-z_]+/[a-z0-9-]+", p.read_text()) for p in sources))
    assert used - set(REGISTRY) == set(), "raised but not registered"
    assert set(REGISTRY) - used == set(), "registered but never raised"
    assert all(re.fullmatch(r"zg/[a-z]+/[a-z0-9-]+", id) for id in REGISTRY)


@pytest.mark.requirement("W4")
def test_the_published_kill_score_is_of_these_sources_and_whole() -> None:
    """A certificate carries the score only of the very sources it was measured on; `make selftest` renews it."""
    import json

    from certify.judge_sources import judge_digest
    from certify.mutants.bank import HONEST, MUTANTS
    from certify.run import PUBLISHED_SCORE, kill_score

    published = json.loads(PUBLISHED_SCORE.read_bytes())
    assert published["suite"] == judge_digest(), (
        "what judges has changed since: run `make selftest` and commit the file"
    )
    assert [one["name"] for one in published["mutants"] if not one["caught_by"]] == []
    assert {one["name"] for one in published["mutants"]} == {mutant.name for mutant in MUTANTS}
    assert {one["name"] for one in published["honest"]} == {variant.name for variant in HONEST}
    assert [one for one in published["honest"] if one["flagged"]] == []
    assert kill_score(judge_digest()).killed == len(MUTANTS), "the table does not give the score that it states"
