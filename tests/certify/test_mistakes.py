"""A stranger's mistakes, through the real command in a process of its own (R3, A10, W5).

Each gives one clear line, the exit code of DESIGN §9, what to do, and never a traceback. `test_cli.py` has the mistakes
of the command line itself; here are those of files, directories, keys, installations, and of two people at once.
"""

import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from certify import certificate, dsse
from certify.environment import observe, product_digest, suite_digest
from certify.geometry import GEOMETRIES, write_geometry
from certify.profile import load_profile
from certify.results import holding, make_out
from certify.verdict import KillScore
from zeitgeist.backends.registry import create
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle
from zeitgeist.models.to_gguf import write_gguf

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "models" / "zg-tiny"
B_ONLY = ("run", "--peers", "none", "--families", "B")


def environment(home: Path, *paths: Path) -> dict[str, str]:
    """A home of its own; paths are searched first."""
    return {
        **os.environ,
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT))),
    }


def zg(
    home: Path, *words: str, paths: tuple[Path, ...] = (), before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, run from a directory that is not ours."""
    return subprocess.run(
        [sys.executable, "-m", "certify.cli", *words],
        capture_output=True,
        text=True,
        env=environment(home, *paths),
        cwd=home,
        preexec_fn=before,
    )


def one_line(ran: subprocess.CompletedProcess[str], code: int, *hints: str) -> None:
    """Exactly what is wrong and what to do, with that exit code."""
    told = ran.stderr.strip().splitlines()
    assert ran.returncode == code and "Traceback" not in ran.stderr, ran.stderr
    assert [line for line in told if line.startswith("zg-certify: ")], ran.stderr
    assert [line for line in told if line.startswith("  what to do: ")], ran.stderr
    for hint in hints:
        assert hint in ran.stderr, ran.stderr


def copy(tmp_path: Path) -> Path:
    """zg-tiny to be damaged."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def gguf(tmp_path: Path) -> Path:
    """zg-tiny as a sound GGUF file."""
    return write_gguf(open_bundle(MODEL), tmp_path / "tiny.gguf", "f16")


def missing(tmp_path: Path) -> Path:
    return tmp_path / "nowhere"


def without_config(tmp_path: Path) -> Path:
    model = copy(tmp_path)
    (model / "config.json").unlink()
    return model


def empty_directory(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def truncated(tmp_path: Path) -> Path:
    model = copy(tmp_path)
    os.truncate(model / "model.safetensors", 4_000_000)
    return model


def patched(model: Path, offset: int, body: bytes) -> Path:
    """model with a few bytes written over."""
    with model.open("r+b") as file:
        file.seek(offset)
        file.write(body)
    return model


def flipped_header(tmp_path: Path) -> Path:
    """The first quote of the JSON."""
    return patched(copy(tmp_path) / "model.safetensors", 9, b"\xff").parent


def huge_header(tmp_path: Path) -> Path:
    """A header length that would ask for an exabyte."""
    return patched(copy(tmp_path) / "model.safetensors", 0, (1 << 60).to_bytes(8, "little")).parent


def config_of_another(tmp_path: Path) -> Path:
    """Weights of one model beside the configuration of another."""
    model = copy(tmp_path)
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"intermediate_size": fields["intermediate_size"] + 8}))
    return model


def config_no_json(tmp_path: Path) -> Path:
    model = copy(tmp_path)
    (model / "config.json").write_text("{")
    return model


def truncated_gguf(tmp_path: Path) -> Path:
    path = gguf(tmp_path)
    os.truncate(path, path.stat().st_size - 1000)
    return path


def gguf_cut_in_its_header(tmp_path: Path) -> Path:
    path = gguf(tmp_path)
    os.truncate(path, 300)
    return path


def not_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<!doctype html><title>404</title>" * 20)
    return path


def unknown_architecture(tmp_path: Path) -> Path:
    """A sound GGUF of a model whose arithmetic nobody here knows."""
    path = gguf(tmp_path)
    body = path.read_bytes()
    assert body.count(b"\x05\0\0\0\0\0\0\0llama") == 1
    path.write_bytes(body.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"))
    return path


def pickle_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    return path


def pickle_directory(tmp_path: Path) -> Path:
    model = copy(tmp_path)
    (model / "model.safetensors").unlink()
    pickle_file(model).rename(model / "pytorch_model.bin")
    return model


MODELS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "not there": (missing, "nowhere", "zg/certify/no-model"),
    "an empty directory": (empty_directory, "empty", "zg/model/tensor-missing"),
    "no config": (without_config, "config.json", "zg/model/"),
    "config is no JSON": (config_no_json, "config.json", "zg/model/bad-config"),
    "config of another model": (config_of_another, "wanted", "zg/model/bad-shape"),
    "truncated SafeTensors": (truncated, "model.safetensors", "zg/safetensors/truncated"),
    "damaged header": (flipped_header, "model.safetensors", "zg/safetensors/bad-header"),
    "header of an exabyte": (huge_header, "model.safetensors", "zg/safetensors/header-too-long"),
    "truncated GGUF": (truncated_gguf, "tiny.gguf", "zg/model/bad-gguf"),
    "GGUF cut in its header": (gguf_cut_in_its_header, "tiny.gguf", "zg/model/bad-gguf"),
    "a web page called .gguf": (not_gguf, "page.gguf", "zg/model/"),
    "unknown architecture": (unknown_architecture, "mamba", "zg/model/unknown-architecture"),
    "pickle": (pickle_file, "pickle", "zg/model/refused-format"),
    "a directory of pickle": (pickle_directory, "pytorch_model.bin", "zg/model/refused-format"),
}


@pytest.mark.slow
@pytest.mark.requirement("R3")
@pytest.mark.requirement("A10")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_used_is_refused_by_name_before_any_check(name: str, tmp_path: Path) -> None:
    """Exit code 4, the file or field, the error's id; nothing of the model was run and no result was written."""
    make, hint, error = MODELS[name]
    ran = zg(tmp_path, "run", "--model", str(make(tmp_path)), "--out", str(tmp_path / "out"))
    one_line(ran, 4, hint, error)
    assert not (tmp_path / "out" / "reference").exists() and not list(tmp_path.rglob("pwned"))


def issued(tmp_path: Path) -> Path:
    """A signed certificate of the reference on zg-tiny; of no case, since its cases are not what is asked here."""
    key = tmp_path / "config" / "zeitgeist" / "keys" / "certify.pem"
    dsse.make_key(key)
    run = certificate.RunRef(
        subject="reference", service="", model_path=str(MODEL), level="smoke", seed=0, peers=(), command="c"
    )
    made = certificate.build(
        suite_digest=suite_digest(),
        product_digest=product_digest(),
        profile=load_profile(),
        backend=create("reference", {}).describe(),
        model=open_bundle(MODEL).descriptor(),
        run=run,
        environment=observe(),
        records=[],
        matrix=[],
        peers=[],
        kill_score=KillScore(),
        admitted=True,
        today=datetime.date.today(),
    )
    folder = tmp_path / "issued" / "reference"
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("")
    (folder / "certificate.json").write_bytes(certificate.sign(made, dsse.load_private(key)))
    return folder / "certificate.json"


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("command", ["verify", "replay"])
def test_a_certificate_under_a_profile_of_its_issuer_is_refused(command: str, tmp_path: Path) -> None:
    """Signed and whole, but its limits are another's: exit 1, the part named, and nothing is run again."""
    path = issued(tmp_path)
    made = certificate.read_statement(dsse.open_envelope(path.read_bytes())[1]).predicate
    mine = msgspec.structs.replace(made.profile, digest="sha256:" + "0" * 64)
    key = dsse.load_private(tmp_path / "config" / "zeitgeist" / "keys" / "certify.pem")
    path.write_bytes(certificate.sign(msgspec.structs.replace(made, profile=mine), key))
    ran = zg(tmp_path, command, str(path))
    one_line(ran, 1, "profile", "zg/certify/bad-certificate")


@pytest.mark.slow
@pytest.mark.requirement("W3")
def test_a_gguf_of_another_model_is_no_replay(tmp_path: Path) -> None:
    """The model digest decides, not the name or the form: the certificate's own model as GGUF would do."""
    other = write_gguf(open_bundle(write_geometry(GEOMETRIES[0], 0, tmp_path / "other")), tmp_path / "zg-tiny.gguf")
    path = issued(tmp_path)
    one_line(zg(tmp_path, "replay", str(path), "--model", str(other)), 2, "is not that of the certificate")
    assert zg(tmp_path, "verify", str(path)).returncode == 1, (
        "signer unknown, integrity holds: the certificate is sound"
    )


@pytest.mark.requirement("W3")
def test_a_replay_does_not_write_over_the_certificate_it_replays(tmp_path: Path) -> None:
    """--out where the certificate lies is refused; its bytes are as before."""
    path = issued(tmp_path)
    before = path.read_bytes()
    one_line(zg(tmp_path, "replay", str(path), "--out", str(tmp_path / "issued")), 2, "written over")
    assert path.read_bytes() == before


def hidden(tmp_path: Path, *names: str) -> Path:
    """A folder for PYTHONPATH in which those packages cannot be found, in children neither."""
    folder = tmp_path / "shim"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        f"hidden = {names!r}\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None:\n"
        "    None if name.partition('.')[0] in hidden else real(name, path, target))\n"
    )
    return folder


@pytest.mark.requirement("W1")
@pytest.mark.parametrize(
    ("subject", "package", "extra"),
    [
        ("mlx", "mlx_lm", "zeitgeist[mlx]"),
        ("torch", "torch", "zeitgeist[torch]"),
        ("llama_cpp", "llama_cpp", "[llama]"),
    ],
)
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    subject: str, package: str, extra: str, tmp_path: Path
) -> None:
    """Exit code 4 and the line to type; `subjects` says the same and still lists the others."""
    shim = hidden(tmp_path, package)
    one_line(zg(tmp_path, "run", "--subject", subject, paths=(shim,)), 4, extra, package, "zg/backend/not-installed")
    listed = json.loads(zg(tmp_path, "subjects", "--json", paths=(shim,)).stdout)["subjects"]
    missing_here = {row["name"]: row["missing"] for row in listed}
    assert missing_here[subject] == [package] and missing_here["reference"] == []


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("package", ["pytest", "rich", "cryptography"])
def test_the_suite_without_its_own_extra_says_so(package: str, tmp_path: Path) -> None:
    """`pip install zeitgeist` alone, then `zg-certify`: exit code 3 and the extra."""
    words = ("verify", str(issued(tmp_path))) if package == "cryptography" else ("run",)
    one_line(zg(tmp_path, *words, paths=(hidden(tmp_path, package),)), 3, "zeitgeist[certify]", package)


@pytest.mark.requirement("W1")
def test_a_peer_that_does_not_exist_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    """Also when it is the name of a file."""
    one_line(zg(tmp_path, "run", "--peers", "lama_cpp"), 2, "llama_cpp")
    one_line(zg(tmp_path, "run", "--peers", str(gguf(tmp_path))), 2, "tiny.gguf")


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_of_the_results_is_named(below: str, tmp_path: Path) -> None:
    """It is left as it was."""
    way = tmp_path / "way"
    way.write_text("mine")
    one_line(zg(tmp_path, *B_ONLY, "--out", str(way / below)), 2, "way", "--out")
    assert way.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.requirement("W5")
def test_a_full_disk_in_the_middle_of_a_run_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for it: no root, no mount, and the same error of the same write.

    Family B's records do not fit into 8 KiB; everything before them does.
    """
    limited = zg(
        tmp_path,
        *B_ONLY,
        "--out",
        str(tmp_path / "out"),
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    one_line(limited, 3, "zg/certify/no-space", "out/reference")
    assert zg(tmp_path, *B_ONLY, "--out", str(tmp_path / "out")).returncode == 0, "the same run with room"


@pytest.mark.requirement("W5")
def test_a_disk_without_room_is_noticed_before_an_engine_is_started(tmp_path: Path) -> None:
    """This very disk, asked for one byte more than it has in all; and nothing is left where room was looked for."""
    whole = shutil.disk_usage(tmp_path).total
    with pytest.raises(ZeitgeistError, match=r"MiB free, wanted") as refused:
        make_out(tmp_path / "out", whole + 1)
    assert refused.value.id == "zg/certify/no-space" and list((tmp_path / "out").iterdir()) == []
    make_out(tmp_path / "out", 1)


KEYS: dict[str, Callable[[Path], None]] = {
    "damaged": lambda path: path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n") and None,
    "empty": lambda path: path.touch(),
    "a directory": lambda path: path.mkdir(),
    "of another kind": lambda path: path.write_bytes(elliptic()) and None,
}


def elliptic() -> bytes:
    """A private key that is not Ed25519."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return generate_private_key(SECP256R1()).private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_none_is_refused_before_an_engine_is_started(name: str, tmp_path: Path) -> None:
    """To sign with and to verify with."""
    KEYS[name](tmp_path / "key.pem")
    one_line(zg(tmp_path, "run", "--key", str(tmp_path / "key.pem")), 2, "key.pem", "zg/certify/bad-key")
    ran = zg(tmp_path, "verify", str(issued(tmp_path)), "--key", str(tmp_path / "key.pem"))
    one_line(ran, 2, "key.pem", "zg/certify/bad-key")
    assert not (tmp_path / "reports").exists()


@pytest.mark.requirement("W3")
@pytest.mark.parametrize("body", [b"", b"{}", b"[1, 2]", b"\xff\xfe", b"<html>", b'{"payload": 7}'])
def test_a_file_that_is_no_certificate_is_refused_as_such(body: bytes, tmp_path: Path) -> None:
    """By verify and by replay, with exit code 1: it does not hold."""
    path = tmp_path / "certificate.json"
    path.write_bytes(body)
    (tmp_path / "records.jsonl").touch()
    for command in ("verify", "replay"):
        one_line(zg(tmp_path, command, str(path)), 1, "zg/certify/bad-certificate")


@pytest.mark.requirement("W5")
def test_a_reader_that_goes_away_is_no_error_of_ours(tmp_path: Path) -> None:
    """`zg-certify explain … | head -0`: the exit code of a killed writer, and silence."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(
            [sys.executable, "-u", "-m", "certify.cli", "subjects"],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            cwd=tmp_path,
        )
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.slow
@pytest.mark.requirement("W5")
def test_two_runs_at_once_do_not_share_a_results_directory(tmp_path: Path) -> None:
    """While the first is inside its checks the second is refused and changes nothing; the first ends as if alone."""
    words = (*B_ONLY, "--out", str(tmp_path / "out"))
    first = subprocess.Popen(
        [sys.executable, "-m", "certify.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    with first:
        assert first.stderr is not None and "family B" in first.stderr.readline()
        second = zg(tmp_path, *words)
        rest = first.stderr.read()
    one_line(second, 2, "another run is writing", "zg/certify/busy")
    assert first.returncode == 0, rest
    counts = json.loads((tmp_path / "out" / "reference" / "summary.json").read_text())["counts"]["B"]
    assert sum(counts.values()) == len((tmp_path / "out" / "reference" / "records.jsonl").read_text().splitlines())


@pytest.mark.requirement("W5")
def test_a_directory_is_free_again_when_its_run_has_ended_badly(tmp_path: Path) -> None:
    """The lock dies with its holder, and what it left is no obstacle."""
    with pytest.raises(KeyboardInterrupt), holding(tmp_path):
        raise KeyboardInterrupt
    with holding(tmp_path), pytest.raises(Exception, match="another run is writing"), holding(tmp_path):
        pass
