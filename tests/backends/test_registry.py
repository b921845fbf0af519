"""How a name becomes a backend, and what listing names may not do (I13)."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from zeitgeist.backends import registry
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError

pytestmark = pytest.mark.requirement("I12")


def package(folder: Path, name: str, entry: str, value: str) -> None:
    """A distribution with one entry point and a module that says when it is imported."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\n{entry} = {value}\n")
    (folder / f"{name}.py").write_text("raise RuntimeError('foreign code was imported')\n")


def test_listing_imports_no_engine_and_no_foreign_code(tmp_path: Path) -> None:
    """In a fresh interpreter: torch, mlx, transformers and llama_cpp are not in sys.modules after list_subjects."""
    package(tmp_path, "foreign", "custom/foreign/one", "foreign:create")
    program = (
        "import sys, json; from zeitgeist.backends.registry import list_subjects\n"
        "names = [s.name for s in list_subjects()]\n"
        "engines = ('torch', 'mlx', 'transformers', 'llama_cpp', 'foreign')\n"
        "print(json.dumps([names, [e for e in engines if e in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    names, imported = json.loads(done.stdout)
    assert imported == []
    assert {"reference", "torch", "mlx", "llama_cpp", "mlx:raw", "llama_cpp:kv-f16", "custom/foreign/one"} <= set(names)
    assert names == sorted(names)


def test_an_unknown_name_is_refused_with_its_neighbours() -> None:
    """`zg/backend/unknown`."""
    with pytest.raises(LocalProtocolError, match="torch") as caught:
        registry.split_name("trch")
    assert caught.value.id == "zg/backend/unknown"


@pytest.mark.parametrize("name", ["", ":", "a b:c", "os.path:", "no_such_module_here:create", "../x:y", "os:a.b"])
def test_nonsense_is_refused(name: str) -> None:
    """No name is imported to find out what it is."""
    with pytest.raises(LocalProtocolError) as caught:
        registry.split_name(name)
    assert caught.value.id == "zg/backend/unknown"


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    """The message lists close variants."""
    with pytest.raises(LocalProtocolError, match="reference:kv-f16"):
        registry.create("reference:kvf16", {})


def test_a_variant_sets_options_and_given_options_win() -> None:
    """`reference:kv-f16` keeps its cache in float16; an option says otherwise."""
    assert registry.create("reference:kv-f16", {}).describe().variant
    with pytest.raises(ZeitgeistError):
        registry.create("reference:kv-f16", {"cache": "nonsense"})


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zg/backend/conflict` names both, whichever comes first on the path."""
    package(tmp_path / "a", "first", "custom/acme/x", "first:create")
    package(tmp_path / "b", "second", "custom/acme/x", "second:create")
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    with pytest.raises(RemoteProtocolError, match=r"first:create.*second:create") as caught:
        registry.entry_points()
    assert caught.value.id == "zg/backend/conflict"


def test_a_package_that_takes_a_name_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody replaces `reference` by installing something."""
    package(tmp_path, "usurper", "reference", "usurper:create")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RemoteProtocolError, match="usurper"):
        registry.entry_points()


def test_the_entry_points_of_our_own_package_are_the_built_in_table() -> None:
    """pyproject says the same as the registry."""
    declared = {
        p.name: p.value
        for p in importlib.metadata.entry_points(group=registry.ENTRY_POINT_GROUP)
        if p.dist is not None and p.dist.name == "zeitgeist"
    }
    assert declared == {name: f"{b.module}:{b.factory}" for name, b in registry.BUILT_IN.items()}
