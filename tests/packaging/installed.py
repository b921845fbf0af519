"""An environment as a stranger has it: our wheel, some distributions of this environment, and nothing else.

No network: pip builds and installs the wheel with what is here; the distributions it needs are linked from here into a
fresh venv. Children of children see the same, because the interpreter is of that venv.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["CORE", "ROOT", "Installed", "build_wheel", "closure"]

ROOT = Path(__file__).resolve().parents[2]
CORE = ("msgspec", "xxhash", "blake3", "numpy")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def build_wheel(folder: Path) -> Path:
    """The wheel of the tree as it is, built from a copy: no build folder is left in the tree or taken from it."""
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("zeitgeist", "sim", "certify", "fixtures/models/zg-tiny"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    words = (*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    subprocess.run(words, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def closure(wheel_requires: list[str], extra: str) -> set[str]:
    """Names of all distributions that the requirements of extra bring, found in this environment."""
    wanted, seen = [Requirement(text) for text in wheel_requires], set[str]()
    while wanted:
        requirement = wanted.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if applies and requirement.name.lower() not in seen:
            seen.add(requirement.name.lower())
            wanted += [Requirement(text) for text in importlib.metadata.requires(requirement.name) or []]
    return seen


class Installed:
    """A venv at folder with the wheel and the named distributions."""

    def __init__(self, folder: Path, wheel: Path, distributions: set[str]) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.site = next((folder / "lib").glob("python*/site-packages"))
        for name in sorted(distributions):
            self.link(importlib.metadata.distribution(name))
        self.pip("install", "--no-deps", "--no-index", str(wheel))

    def link(self, distribution: importlib.metadata.Distribution) -> None:
        """Its top-level files and folders."""
        for top in sorted({file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}):
            source = Path(str(distribution.locate_file(top)))
            if top != "__pycache__" and source.exists() and not (self.site / top).exists():
                (self.site / top).symlink_to(source)

    def pip(self, *words: str) -> None:
        """This environment's pip, working on the venv."""
        subprocess.run([*PIP, "--python", str(self.bin / "python"), *words], check=True, capture_output=True)

    def run(self, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of the venv, with nothing of our environment but PATH and a home of its own."""
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(cwd),
            "XDG_CONFIG_HOME": str(cwd / "config"),
            "XDG_CACHE_HOME": str(cwd / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
