"""Make the environment of `make certify` and `make test`: venv, engines at pinned versions, llama.cpp compiled once.

Standard library only: it runs before anything is installed. Each step prints one line with its time; a step whose
inputs did not change (constraints.txt, pyproject.toml, the arguments) is skipped. Safe to run twice at once.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
ENGINES = ["transformers", "tokenizers", "safetensors", "mlx-lm"]


def main() -> int:
    """Set up; 0 when the environment is ready, 1 with one line that says what failed and what to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch-index", default="", help="package index of a torch build (CPU, CUDA); empty: PyPI")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs before pip could refuse an old Python
        print(
            f"setup: Python {platform.python_version()} is too old, 3.11 or newer is needed: make PYTHON=python3.12 …"
        )
        return 1
    try:
        with lock(arguments.venv.resolve()):
            setup(arguments.venv.resolve(), arguments.torch_index)
    except subprocess.CalledProcessError as error:
        print(f"setup: FAILED at: {' '.join(map(str, error.cmd))}\n{(error.output or '')[-4000:]}")
        print("setup: fix the cause and run the same command again; finished steps are kept")
        return 1
    return 0


class lock:
    """Hold an exclusive lock beside the environment, so that two `make` do not install into one place at once."""

    def __init__(self, venv_path: Path) -> None:
        venv_path.parent.mkdir(parents=True, exist_ok=True)
        self.file = (venv_path.parent / f".{venv_path.name.lstrip('.')}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def setup(venv_path: Path, torch_index: str) -> None:
    """Run all steps whose stamp is stale."""
    python = venv_path / "bin" / "python"
    stamp = venv_path / ".zeitgeist-stamp"
    inputs = [ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__)]
    wanted = hashlib.sha256(b"\0".join([*(p.read_bytes() for p in inputs), torch_index.encode()])).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        packages(venv_path, python, torch_index)
        stamp.write_text(wanted)
    step("llama.cpp, compiled once and cached", [python, ROOT / "tools" / "build_llama.py"], show=True)
    browser(python)


def packages(venv_path: Path, python: Path, torch_index: str) -> None:
    """Create the venv and install the pinned packages, engines last."""
    if not python.exists():
        print(f"setup: creating {venv_path}", flush=True)
        venv.create(venv_path, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    step("pip and build tools", [*pip, "-U", "pip", "setuptools>=77,<90", "wheel"])
    index = ["--index-url", torch_index] if torch_index else []
    step(f"engine: {TORCH}", [*pip, *index, TORCH])
    step("engines: transformers, MLX", [*pip, *ENGINES, mlx_requirement()])
    half = {**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
    step("engine: llama-cpp-python (Python half)", [*pip, "llama-cpp-python==0.3.36"], env=half)
    step("engine: prebuilt llama.cpp (second specimen)", [*pip, "xllamacpp==2026.9.11063"])
    step("zeitgeist, certify, development tools", [*pip, "-e", f"{ROOT}[certify,node,sim,dev]"])


def mlx_requirement() -> str:
    """MLX has a CPU build on Linux as an extra; on macOS the plain package drives Metal."""
    return "mlx" if sys.platform == "darwin" else "mlx[cpu]"


def browser(python: Path) -> None:
    """A browser for the report's test: the system's Chromium or Chrome, else Playwright's own build."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")):
        return
    cache = Path.home() / ".cache" / "ms-playwright"
    if not any(cache.glob("chromium*")):
        step("a browser for the report's test", [python, "-m", "playwright", "install", "chromium"])


def step(title: str, command: list[object], env: dict[str, str] | None = None, show: bool = False) -> None:
    """Run one command; print its title at once and its time when it ends. Output is shown only on failure, or live."""
    print(f"setup: {title} …", flush=True)
    began = time.monotonic()
    words = [str(word) for word in command]
    if show:
        subprocess.run(words, check=True, env=env)
    else:
        subprocess.run(words, check=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"setup: {title} – {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
