"""The example package is found by its entry point and computes what the reference computes (I12)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zeitgeist.host.workers import Worker, WorkerSpec

pytestmark = pytest.mark.requirement("I12")
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "fixtures/models/zg-tiny"
NAME = "custom/example/blas"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package installed by pip into a folder of its own, offline."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for path in (ROOT / "docs/examples/zg_example_backend").iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return str(target)


def spec(installed: str, backend: str = NAME) -> WorkerSpec:
    return WorkerSpec(backend=backend, python_path=(installed,))


def test_its_name_is_unknown_without_the_package() -> None:
    """Control of the next test: nothing of ours knows this name."""
    with pytest.raises(Exception, match="no backend"):
        Worker.start(WorkerSpec(backend=NAME))


def test_it_is_found_by_entry_point_and_says_who_it_is(installed: str) -> None:
    """Only PYTHONPATH leads to it."""
    with Worker.start(spec(installed)) as worker:
        assert worker.describe().name == NAME
        with pytest.raises(Exception, match="layer_range"):
            worker.probe("layer_range")


def test_it_computes_what_the_reference_computes(installed: str) -> None:
    """Logits of 121 positions and of a ragged batch: within 64 u(float32) of the largest logit, DESIGN §4's bound."""
    with Worker.start(spec(installed)) as ours, Worker.start(WorkerSpec(backend="reference")) as reference:
        rows = []
        for worker in (ours, reference):
            worker.load(MODEL)
            ids = worker.tokenize("The quick brown fox jumps over the lazy dog. " * 4)
            long, short = worker.open(), worker.open()
            prefilled = worker.prefill(long, ids), worker.prefill(short, ids[:5])
            rows.append(np.concatenate([*prefilled, worker.decode([long, short], [7, 8])]))
    assert np.abs(rows[0] - rows[1]).max() <= 64 * 2**-24 * np.abs(rows[1]).max()


def test_a_cache_goes_from_it_to_the_reference_and_back(installed: str) -> None:
    """Each continues the other's cache as its own, within the same bound."""
    with Worker.start(spec(installed)) as ours, Worker.start(WorkerSpec(backend="reference")) as reference:
        for worker in (ours, reference):
            worker.load(MODEL)
        ids = ours.tokenize("A cache that travels")
        for giver, taker in ((ours, reference), (reference, ours)):
            held = giver.open()
            giver.prefill(held, ids)
            imported = taker.import_cache(giver.export_cache(held), ids)
            mine, theirs = giver.decode([held], [9]), taker.decode([imported.session], [9])
            assert np.abs(mine - theirs).max() <= 64 * 2**-24 * np.abs(mine).max()


def test_it_is_certified_like_one_of_ours(installed: str, tmp_path: Path) -> None:
    """`zg-certify run` from the command line, with only PYTHONPATH leading to the package: every family, level L4."""
    command = [
        Path(sys.executable).parent / "zg-certify",
        "run",
        "--subject",
        NAME,
        "--model",
        MODEL,
        "--level",
        "smoke",
    ]
    command += ["--peers", "reference,llama_cpp", "--require", "L4-x32", "--out", tmp_path, "--json"]
    environment = {**os.environ, "PYTHONPATH": installed}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["subject"], told["failing"]) == (NAME, [])
    assert Path(told["certificate"]).is_file()
