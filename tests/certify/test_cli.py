"""`zg-certify` (W1, W3, W5): a useful first run, exit codes, one object of JSON, and one line for each mistake."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
MODEL = ROOT / "fixtures" / "models" / "zg-tiny"


def zg(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with a home of its own."""
    env = {
        **os.environ,
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
    }
    return subprocess.run(
        [sys.executable, "-m", "certify.cli", *words], capture_output=True, text=True, env=env, cwd=ROOT
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run of all of family B and more on the reference at smoke level, without peers."""
    home = tmp_path_factory.mktemp("home")
    return home, zg(home, "run", "--peers", "none", "--out", str(home / "out"), "--json")


@pytest.mark.slow
@pytest.mark.requirement("W1")
def test_a_run_prints_one_object_and_leaves_its_results(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Standard output is one JSON object; records, certificate, summary and JUnit lie under DIR/<subject>."""
    home, ran = done
    found = json.loads(ran.stdout)
    folder = home / "out" / "reference"
    assert found["subject"] == "reference" and found["counts"]["B"] and found["defects"] == "", ran.stderr
    assert ran.returncode == (1 if found["failing"] else 0)
    assert json.loads((folder / "summary.json").read_text()) == found
    kept = {"records.jsonl", "certificate.json", "summary.json", "junit.xml", "durations.json"}
    assert {p.name for p in folder.iterdir()} >= kept
    seconds = json.loads((folder / "durations.json").read_text())
    assert len(seconds) == sum(found["counts"]["*"].values()) and sum(seconds.values()) > 1


@pytest.mark.slow
@pytest.mark.requirement("W3")
def test_it_verifies_with_the_issuers_key_and_not_without(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Exit 0 with --key, 1 without; with a record taken away it is refused as tampered."""
    home, _ = done
    path = home / "out" / "reference" / "certificate.json"
    key = home / "config" / "zeitgeist" / "keys" / "certify.pub"
    assert zg(home, "verify", str(path), "--key", str(key)).returncode == 0
    assert zg(home, "verify", str(path)).returncode == 1
    fewer = home / "fewer.jsonl"
    fewer.write_text("".join((path.parent / "records.jsonl").read_text().splitlines(keepends=True)[1:]))
    refused = zg(home, "verify", str(path), "--key", str(key), "--records", str(fewer), "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["error"]["field"] == "records"


@pytest.mark.slow
@pytest.mark.requirement("W3")
def test_a_replay_on_the_same_build_is_exact(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Same seed, subject, level: every verdict and every digest; the mode is printed."""
    home, _ = done
    ran = zg(home, "replay", str(home / "out" / "reference" / "certificate.json"), "--json")
    found = json.loads(ran.stdout)
    assert (found["mode"], found["differences"], ran.returncode) == ("exact", [], 0)
    assert found["digests"] > 0


@pytest.mark.requirement("W1")
def test_require_decides_the_exit_code(tmp_path: Path) -> None:
    """One family alone holds no level above L0 and gives no certificate."""
    words = ("run", "--peers", "none", "--families", "B", "--out", str(tmp_path / "out"))
    assert zg(tmp_path, *words, "--require", "L0").returncode == 0
    assert zg(tmp_path, *words, "--require", "L4-x32").returncode == 1
    assert not (tmp_path / "out" / "reference" / "certificate.json").exists()


@pytest.mark.requirement("W2")
def test_a_profile_of_ones_own_holds_no_level_and_gives_no_certificate(tmp_path: Path) -> None:
    """Though only its name differs: the checks run and are shown, and even L0 is not met."""
    text = (ROOT / "certify" / "profiles" / "standard.toml").read_text(encoding="utf-8")
    profile = tmp_path / "mine.toml"
    profile.write_text(text.replace('name = "standard"', 'name = "mine"', 1), encoding="utf-8")
    assert 'name = "mine"' in profile.read_text(encoding="utf-8")
    words = ("run", "--peers", "none", "--families", "B", "--profile", str(profile), "--out", str(tmp_path / "out"))
    ran = zg(tmp_path, *words, "--require", "L0", "--json")
    found = json.loads(ran.stdout)
    assert ran.returncode == 1 and found["failing"] == [] and found["level"] == "none", ran.stderr
    assert found["profile"]["name"] == "mine" and found["profile"]["digest"] in found["why_no_certificate"]
    assert "is not the suite's own" in ran.stderr and found["certificate"] is None
    assert not (tmp_path / "out" / "reference" / "certificate.json").exists()


@pytest.mark.requirement("W1")
def test_a_crash_of_the_subject_is_exit_1(tmp_path: Path) -> None:
    """abort() inside truncate: one CRASH with the command that repeats it."""
    ran = zg(
        tmp_path,
        "run",
        "--peers",
        "none",
        "--service",
        "planted_services:Aborts",
        "--check",
        "B.truncate-growth-refused",
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    failing = json.loads(ran.stdout)["failing"]
    assert ran.returncode == 1 and [case["verdict"] for case in failing] == ["CRASH"]
    assert "--check B.truncate-growth-refused" in failing[0]["command"]


TWO = ("--check", "B.truncate-growth-refused", "--check", "B.cancel", "--peers", "none")


@pytest.mark.requirement("W1")
def test_a_case_whose_checker_dies_does_not_vanish(tmp_path: Path) -> None:
    """SIGKILL of the xdist process in the middle of a case: exit 3, the case is named, the other has its record."""
    words = ("run", "--service", "planted_services:KillsChecker", *TWO, "--jobs", "1", "--out", str(tmp_path / "out"))
    ran = zg(tmp_path, *words, "--json")
    assert ran.returncode == 3, ran.stdout + ran.stderr
    folder = tmp_path / "out" / "reference"
    assert "crashed while running" in (folder / "defects.txt").read_text()
    assert "B.cancel" in (folder / "records.jsonl").read_text()


if sys.platform == "linux":

    @pytest.mark.requirement("W1")
    @pytest.mark.parametrize(("number", "jobs"), [(signal.SIGTERM, 0), (signal.SIGKILL, 0), (signal.SIGKILL, 1)])
    def test_what_checks_ends_with_the_command(number: signal.Signals, jobs: int, tmp_path: Path) -> None:
        """The process that runs the check is gone while its case would wait 120 s; it leaves no records."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        words = ("run", "--service", "planted_services:Waits", *TWO, "-n", str(jobs), "--out", str(tmp_path / "out"))
        path = os.pathsep.join((str(ROOT), str(HERE)))
        env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": path, "ZG_TEST_PIPE": str(pipe)}
        with subprocess.Popen([sys.executable, "-m", "certify.cli", *words], cwd=ROOT, env=env) as command:
            checker = os.pidfd_open(int(pipe.read_text()))
            command.send_signal(number)
            poller = select.poll()
            poller.register(checker, select.POLLIN)
            ended = poller.poll(20_000)
            os.close(checker)
            assert ended, "it runs on without the command"
        assert command.returncode == (143 if number == signal.SIGTERM else -number)
        assert not (tmp_path / "out" / "reference" / "records.jsonl").exists()


def damaged(tmp_path: Path) -> Path:
    """zg-tiny with the end of its weights missing."""
    model = tmp_path / "damaged"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return model


MISTAKES = {
    "no such model": (["run", "--model", "/no/such/model"], 4, "model"),
    "unknown subject": (["run", "--subject", "lama_cpp"], 2, "llama_cpp"),
    "unknown variant": (["run", "--subject", "reference:gold"], 2, "reference:"),
    "unknown check": (["run", "--check", "B.gold"], 2, "zg-certify list"),
    "unknown family": (["run", "--families", "Q"], 2, "families"),
    "unknown level": (["run", "--level", "gold"], 2, "smoke, standard, full"),
    "unknown require": (["run", "--require", "gold"], 2, "L0"),
    "a level that is not in the table": (["run", "--require", "L9"], 2, "L4"),
    "a self-test in no process": (["selftest", "-n", "0"], 2, "jobs"),
    "unwritable out": (["run", "--out", "/proc/nowhere"], 2, "out"),
    "no profile": (["run", "--profile", "/no/profile.toml"], 2, "profile"),
    "no key": (["run", "--key", "/no/key.pem"], 2, "key"),
    "no certificate": (["verify", "/no/certificate.json"], 1, "certificate"),
    "not a certificate": (["verify", str(ROOT / "pyproject.toml")], 1, "DSSE"),
    "unknown name": (["explain", "B.cancle"], 2, "B.cancel"),
}


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(name: str, tmp_path: Path) -> None:
    """Exit code, the right word, what to do, and no traceback."""
    words, code, hint = MISTAKES[name]
    ran = zg(tmp_path, *words)
    assert ran.returncode == code and hint in ran.stderr and "what to do" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.requirement("W1")
def test_a_damaged_model_is_refused_before_any_check(tmp_path: Path) -> None:
    """Truncated SafeTensors: exit 4, the file is named."""
    ran = zg(tmp_path, "run", "--model", str(damaged(tmp_path)), "--out", str(tmp_path / "out"))
    assert ran.returncode == 4 and "model.safetensors" in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.requirement("W5")
def test_list_subjects_and_explain_are_made_from_the_registries(tmp_path: Path) -> None:
    """Every check has a clause and an expectation; a check and an error id can be explained."""
    checks = json.loads(zg(tmp_path, "list", "--json").stdout)["checks"]
    assert len(checks) >= 20 and all(check["clause"] and check["expectation"] for check in checks)
    names = [subject["name"] for subject in json.loads(zg(tmp_path, "subjects", "--json").stdout)["subjects"]]
    assert {"reference", "torch", "mlx", "llama_cpp"} <= set(names)
    assert "growing is refused" in zg(tmp_path, "explain", "B.truncate-growth-refused").stdout
    assert "remedy" not in zg(tmp_path, "explain", "zg/backend/unsupported").stdout
    assert "G.published-engine" in zg(tmp_path, "explain", "rope-theta-ignored").stdout
    assert "pick a backend" in zg(tmp_path, "explain", "zg/backend/unsupported").stdout
