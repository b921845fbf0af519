"""The tools refuse to run beside another distribution's `certify` (DESIGN §1)."""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from certify.ownership import other_owners

ROOT = Path(__file__).resolve().parents[2]
OTHERS = {
    "its files": ("RECORD", "certify/__init__.py,sha256=x,1\nother/x.py,,\n"),
    "a module": ("RECORD", "certify.py,sha256=x,1\n"),
    "its declared names": ("top_level.txt", "other\ncertify\n"),
}
STRANGERS = {
    "a longer name": ("RECORD", "certifying/__init__.py,,\ncertify_tools/x.py,,\n"),
    "a folder deeper down": ("RECORD", "other/certify/__init__.py,,\n"),
    "another name": ("top_level.txt", "certifi\n"),
}


def installed(folder: Path, name: str, file: str, body: str) -> Path:
    """A folder with the metadata of one distribution."""
    info = folder / f"{name.replace('-', '_')}-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / file).write_text(body)
    return folder


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("how", OTHERS)
def test_another_owner_is_named_by_each_way_it_can_be_known(how: str, tmp_path: Path) -> None:
    """List of files, single module, declared names."""
    folder = installed(tmp_path, "other-certify", *OTHERS[how])
    assert other_owners(distributions(path=[str(folder)])) == [("other-certify", "2.5")]


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("how", STRANGERS)
def test_a_distribution_with_similar_names_is_no_owner(how: str, tmp_path: Path) -> None:
    """Nor are we ourselves, twice."""
    folder = installed(tmp_path, "similar", *STRANGERS[how])
    installed(folder, "Zeitgeist", "top_level.txt", "certify\nzeitgeist\n")
    assert other_owners(distributions(path=[str(folder)])) == []


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("words", [("list",), ("run",), ("verify", "x"), ("subjects", "--json")])
def test_every_command_refuses_beside_another_owner(words: tuple[str, ...], tmp_path: Path) -> None:
    """Exit code 3, the name of the distribution, what to type; before anything else is done."""
    folder = installed(tmp_path, "other-certify", *OTHERS["its files"])
    ran = subprocess.run(
        [sys.executable, "-m", "certify.cli", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    )
    assert ran.returncode == 3 and "pip uninstall other-certify" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "reports").exists()
