"""Compile llama.cpp once, with the flags that make it batch-invariant and give it RPC; about two minutes, then cached.

Usage: python tools/build_llama.py [--force]. The sources come from the llama-cpp-python sdist on PyPI (pip's build
isolation fetches scikit-build-core for the metadata, so the network is needed), checked against a pinned SHA-256.
Needs a C and a C++ compiler; CMake and Ninja come from PyPI wheels when the system has none.
The result is `<engines>/llama.cpp-<version>-<digest of flags>/lib`, where `zeitgeist.backends.llama_library` looks.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zeitgeist.backends.llama_library import CMAKE_FLAGS, SDIST_SHA256, SDIST_VERSION, own_build_directory

__all__ = ["build", "main"]

SDIST = f"llama_cpp_python-{SDIST_VERSION}"
TARGETS = ("llama", "ggml-rpc")
CMAKE_WHEELS = ("cmake>=3.28,<5", "ninja>=1.11,<2")
STEP = re.compile(r"^\[\s*(\d+)(?:/(\d+)|%)\]")


class BuildFailed(Exception):
    """One line for the user: what failed and what to do about it."""


def main(arguments: list[str] | None = None) -> int:
    """Build unless built; print where. Exit code 0 built or cached, 1 failed."""
    parser = argparse.ArgumentParser(prog="build_llama", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--force", action="store_true", help="build again even if the cache has it")
    options = parser.parse_args(arguments)
    try:
        print(f"llama.cpp: {build(force=options.force) / 'lib'}")
    except BuildFailed as error:
        print(f"llama.cpp was not built: {error}", file=sys.stderr)
        return 1
    return 0


def build(force: bool = False) -> Path:
    """The folder of our build, made if absent. A second caller waits for the first; a half-made build is never seen."""
    target = own_build_directory()
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(target.name + ".lock")):
        if (target / "lib" / "stamp.json").is_file() and not force:
            return target
        compilers = {name: compiler(name) for name in ("CC", "CXX")}
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".work-") as scratch:
            work = Path(scratch)
            sources = fetch(work)
            configure(sources, work / "build", compilers)
            compile_targets(work / "build")
            collect(work / "build" / "bin", work / "done" / "lib", compilers)
            shutil.rmtree(target, ignore_errors=True)
            (work / "done").rename(target)
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("llama.cpp: another build is running, waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def compiler(variable: str) -> str:
    """Path of the C or C++ compiler, asked for before a 77 MB download and not after it."""
    names = [os.environ[variable]] if os.environ.get(variable) else ["cc", "gcc", "clang"]
    if variable == "CXX" and not os.environ.get(variable):
        names = ["c++", "g++", "clang++"]
    for name in names:
        if found := shutil.which(name):
            return found
    remedy = "xcode-select --install" if sys.platform == "darwin" else "for instance: apt-get install build-essential"
    raise BuildFailed(f"no {'C++' if variable == 'CXX' else 'C'} compiler found (tried {', '.join(names)}); {remedy}")


def fetch(work: Path) -> Path:
    """Download the sdist, check its digest, unpack it; the folder of llama.cpp's sources."""
    print(f"llama.cpp: fetching {SDIST} (77 MB)", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "--dest",
        str(work),
        f"llama-cpp-python=={SDIST_VERSION}",
    ]
    if subprocess.run(command, check=False).returncode:
        raise BuildFailed("pip could not download the sdist; is the network there? (its message is above)")
    archive = work / f"{SDIST}.tar.gz"
    if not archive.is_file():
        raise BuildFailed(f"pip downloaded no {archive.name}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise BuildFailed(f"{archive.name} has SHA-256 {digest}, wanted {SDIST_SHA256}; an index served other sources")
    if not hasattr(tarfile, "data_filter"):
        raise BuildFailed(f"Python {sys.version.split()[0]} cannot unpack safely; 3.11.4 or newer is needed")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    archive.unlink()
    return work / SDIST / "vendor" / "llama.cpp"


def tool(name: str) -> str | None:
    """A program on PATH or beside this Python."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def cmake() -> str:
    """CMake of the system, else from PyPI (with Ninja) into this environment."""
    found = tool("cmake")
    if not found:
        print("llama.cpp: no cmake here, installing it from PyPI", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", *CMAKE_WHEELS]
        if subprocess.run(command, check=False).returncode or not (found := tool("cmake")):
            raise BuildFailed("cmake is absent and could not be installed from PyPI; install cmake 3.14 or newer")
    return found


def configure(sources: Path, folder: Path, compilers: dict[str, str]) -> None:
    program = cmake()
    ninja = tool("ninja")
    flags = [f"-D{flag}" for flag in CMAKE_FLAGS]
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else ["-G", "Unix Makefiles"]
    chosen = [f"-DCMAKE_C_COMPILER={compilers['CC']}", f"-DCMAKE_CXX_COMPILER={compilers['CXX']}"]
    command = [program, "-S", str(sources), "-B", str(folder), *generator, *chosen, *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BuildFailed("cmake failed:\n" + (done.stdout + done.stderr)[-3000:])


def compile_targets(folder: Path) -> None:
    """Run the build, showing how far it is; on failure the last lines are the message."""
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    command = [cmake(), "--build", str(folder), "--parallel", jobs, "--target", *TARGETS]
    print(f"llama.cpp: compiling on {jobs} cores, about {200 // int(jobs) or 1} s", flush=True)
    began = time.monotonic()
    tail: list[str] = []
    shown = -1
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-40:], line]
            shown = show_progress(line, shown, time.monotonic() - began)
    if process.returncode:
        raise BuildFailed("the compiler failed:\n" + "".join(tail))
    print(f"llama.cpp: compiled in {time.monotonic() - began:.0f} s", flush=True)


def show_progress(line: str, shown: int, elapsed_s: float) -> int:
    """Print a percentage: each one on a terminal, each tenth in a log. Returns the last printed."""
    found = STEP.match(line)
    if not found:
        return shown
    percent = int(found[1]) if found[2] is None else 100 * int(found[1]) // int(found[2])
    terminal = sys.stdout.isatty()
    if percent <= shown or (not terminal and percent // 10 == shown // 10):
        return shown
    end = "\r" if terminal and percent < 100 else "\n"
    print(f"llama.cpp: {percent:3d} %  {elapsed_s:4.0f} s", end=end, flush=True)
    return percent


def collect(binaries: Path, lib: Path, compilers: dict[str, str]) -> None:
    """Copy the libraries, links kept, and stamp them with what they were made from."""
    lib.mkdir(parents=True)
    found = sorted(path for path in binaries.iterdir() if re.match(r"lib(llama|ggml).*\.(so|dylib)", path.name))
    if not any(path.name.startswith("libllama.") for path in found):
        raise BuildFailed(f"the build left no libllama in {binaries}")
    for path in found:
        shutil.copy2(path, lib / path.name, follow_symlinks=False)
    version = subprocess.run([compilers["CXX"], "--version"], check=False, capture_output=True, text=True).stdout
    stamp = {
        "sdist": f"{SDIST}.tar.gz",
        "sha256": SDIST_SHA256,
        "flags": list(CMAKE_FLAGS),
        "targets": list(TARGETS),
        "compiler": version.split("\n")[0],
        "libraries": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found if not p.is_symlink()},
    }
    (lib / "stamp.json").write_text(json.dumps(stamp, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
