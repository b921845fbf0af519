"""What `pip install` alone gives (W1, R3, I2): the wheel is whole, small, and of use without any engine."""

import json
import tomllib
import zipfile
from pathlib import Path

import pytest
from installed import CORE, ROOT, Installed, build_wheel, closure

ENGINES = ("torch", "transformers", "tokenizers", "safetensors", "mlx", "mlx_lm", "llama_cpp", "xllamacpp")
WHEEL_BYTES_MAX = 8 << 20

pytestmark = pytest.mark.xdist_group("wheel")


def test_the_listed_packages_are_those_of_the_tree() -> None:
    """A folder with code that pyproject does not list would be missing in the wheel only: found here, not by a user."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("zeitgeist", "sim", "certify")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert listed == found | {"certify.profiles", "certify.zg-tiny"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install zeitgeist[certify]`; every engine is a trap that leaves a file behind when it is imported."""
    folder = tmp_path_factory.mktemp("stranger")
    metadata = zipfile.Path(wheel) / f"{wheel.name.rsplit('-', 3)[0]}.dist-info" / "METADATA"
    told = [line.partition(": ")[2] for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")]
    made = Installed(folder / "venv", wheel, closure(told, "certify"))
    for name in ENGINES:
        (made.site / name).mkdir()
        trap = f"open({str(folder / ('imported-' + name))!r}, 'w').close()\nraise ImportError({name!r})\n"
        (made.site / name / "__init__.py").write_text(trap)
    return made


@pytest.mark.slow
@pytest.mark.requirement("W1")
def test_the_wheel_has_what_a_first_run_needs_and_no_more(wheel: Path) -> None:
    """The tiny model byte for byte, profile, page; no tests, docs, benchmarks or tools."""
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.namelist()
        for path in sorted((ROOT / "fixtures" / "models" / "zg-tiny").iterdir()):
            assert archive.read(f"certify/zg-tiny/{path.name}") == path.read_bytes()
    names = set(entries)
    data = {"certify/profiles/standard.toml", "certify/report/page.html.jinja", "certify/geometry_tokenizer.json"}
    assert names >= data | {"zeitgeist/py.typed", "certify/checks/test_backend_contract.py"}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"zeitgeist", "sim", "certify"}
    assert len(entries) == len(names) and wheel.stat().st_size < WHEEL_BYTES_MAX


@pytest.mark.slow
@pytest.mark.requirement("W1")
def test_the_first_run_needs_no_argument_no_engine_and_no_network(stranger: Installed, tmp_path: Path) -> None:
    """`zg-certify run` in an empty directory: certificate, page, exit 0; none of its processes imported an engine."""
    ran = stranger.run(tmp_path, "zg-certify", "run", "--peers", "none", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["level"].startswith("L3-x32") and found["model"]["name"] == "zg-tiny" and found["failing"] == []
    assert (tmp_path / found["certificate"]).is_file() and (tmp_path / "reports/certify/report.html").is_file()
    assert [path.name for path in stranger.bin.parent.parent.glob("imported-*")] == []


@pytest.mark.slow
@pytest.mark.requirement("W3")
def test_the_installed_suite_is_the_suite_of_the_checkout(stranger: Installed, wheel: Path, tmp_path: Path) -> None:
    """One digest, so that a certificate from a wheel and one from the checkout state the same sources."""
    from certify.environment import suite_digest

    code = "from certify.environment import suite_digest; print(suite_digest())"
    ran = stranger.run(tmp_path, "python", "-c", code)
    assert ran.stdout.strip() == suite_digest(wheel.parent / "source" / "certify"), ran.stderr


@pytest.mark.slow
@pytest.mark.requirement("W5")
def test_the_checks_run_under_pytest_from_anywhere(stranger: Installed, tmp_path: Path) -> None:
    """`pytest --pyargs certify.checks --zg-subject reference -n 2`, one family of it; the model is found."""
    words = ("-m", "pytest", "--pyargs", "certify.checks", "--zg-subject", "reference", "--zg-families", "B", "-n", "2")
    ran = stranger.run(tmp_path, "python", *words)
    assert ran.returncode == 0 and "verdicts: " in ran.stdout and "FAIL" not in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.requirement("I2")
def test_core_and_reference_need_four_packages(wheel: Path, tmp_path: Path) -> None:
    """Nothing else is there: a worker loads zg-tiny and decodes; the tool says which extra it lacks."""
    bare = Installed(tmp_path / "venv", wheel, set(CORE))
    tops = {path.name for path in bare.site.iterdir() if path.name not in ("__pycache__", "numpy.libs")}
    assert {name for name in tops if not name.endswith(".dist-info")} == {*CORE, "zeitgeist", "sim", "certify"}
    code = (
        "from pathlib import Path; import certify, numpy, sys\n"
        "from zeitgeist.host.workers import Worker, WorkerSpec\n"
        "with Worker.start(WorkerSpec(backend='reference')) as worker:\n"
        "    model = worker.load(Path(certify.__file__).parent / 'zg-tiny')\n"
        "    ids = worker.tokenize('The language ')\n"
        "    session = worker.open(); worker.prefill(session, ids)\n"
        "    rows = worker.decode([session], [ids[0]])\n"
        "    print(model.name, rows.shape[1], bool(numpy.isfinite(rows).all()))\n"
    )
    ran = bare.run(tmp_path, "python", "-c", code)
    assert ran.stdout.split() == ["zg-tiny", "512", "True"], ran.stderr
    told = bare.run(tmp_path, "zg-certify", "run")
    assert told.returncode == 3 and "zeitgeist[certify]" in told.stderr and "Traceback" not in told.stderr, told.stderr


@pytest.mark.slow
@pytest.mark.requirement("W1")
def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    """Neither packages nor the command; what other distributions brought stays."""
    made = Installed(tmp_path / "venv", wheel, set(CORE))
    assert (made.bin / "zg-certify").exists()
    made.pip("uninstall", "--yes", "zeitgeist")
    assert not [path.name for path in made.site.iterdir() if path.name.startswith(("certify", "zeitgeist"))]
    assert not (made.bin / "zg-certify").exists() and (made.site / "numpy").exists()
