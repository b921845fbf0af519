"""The compile-once tool: its cache, its lock, its refusals. The build itself is proven by every llama.cpp test."""

import hashlib
import importlib.util
import multiprocessing
from pathlib import Path
from types import ModuleType

import pytest

from zeitgeist.backends.llama_library import own_build_directory

pytestmark = pytest.mark.requirement("F8")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool as a module, with an engines folder of its own."""
    monkeypatch.setenv("ZEITGEIST_ENGINES", str(tmp_path / "engines"))
    return load_tool()


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_llama", Path(__file__).parents[2] / "tools" / "build_llama.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_compiler_it_says_so_before_it_downloads(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty PATH: exit code 1, the names that were tried, a remedy; nothing is left but the lock."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert tool.main([]) == 1
    said = capsys.readouterr()
    assert "no C compiler found (tried cc, gcc, clang)" in said.err
    assert "fetching" not in said.out
    assert [path.suffix for path in (tmp_path / "engines").iterdir()] == [".lock"]


def test_a_build_in_the_cache_is_used_as_it_is(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamped folder means built: no compiler is asked for."""
    monkeypatch.setenv("PATH", "")
    lib = own_build_directory() / "lib"
    lib.mkdir(parents=True)
    (lib / "stamp.json").write_text("{}")
    assert tool.build() == own_build_directory()


def test_sources_of_another_digest_are_refused(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An index that serves other bytes under the name: refused with both digests, nothing unpacked."""
    archive = tmp_path / f"{tool.SDIST}.tar.gz"
    archive.write_bytes(b"other")
    monkeypatch.setattr(tool.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 0})())
    with pytest.raises(tool.BuildFailed, match=hashlib.sha256(b"other").hexdigest()):
        tool.fetch(tmp_path)
    assert list(tmp_path.glob("llama_cpp_python*")) == [archive]


def hold(path: str, held: "multiprocessing.synchronize.Event", go: "multiprocessing.synchronize.Event") -> None:
    with load_tool().locked(Path(path)):
        held.set()
        go.wait(30)


def test_a_second_build_waits_for_the_first(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process holds the lock; we say that we wait, and go on when it is given back."""
    context = multiprocessing.get_context("spawn")
    held, go = context.Event(), context.Event()
    first = context.Process(target=hold, args=(str(tmp_path / "x.lock"), held, go))
    first.start()
    assert held.wait(30)
    real = tool.fcntl.flock

    def release_then_lock(handle: object, operation: int) -> None:
        if not operation & tool.fcntl.LOCK_NB:
            go.set()
        real(handle, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool.fcntl, "flock", release_then_lock)
        with tool.locked(tmp_path / "x.lock"):
            assert "waiting for it" in capsys.readouterr().out
    first.join(30)
    assert first.exitcode == 0


def test_progress_is_each_tenth_in_a_log(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Ninja's [n/m] and make's [ nn%] lines; other lines print nothing."""
    shown = -1
    for line in ("[1/81] Building", "noise", "[40/81] x", "[41/81] y", "[ 72%] make", "[ 73%] make"):
        shown = tool.show_progress(line, shown, 3.0)
    percents = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert percents == ["1", "49", "50", "72"]
