"""`zg-sim` as a person meets it: exit codes, one line for a mistake, JSON for machines (V2)."""

import json
from pathlib import Path

import pytest

from sim.cli import EXIT_CODES, main


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.requirement("V2")
def test_a_run_is_recorded_verified_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """run --record, trace verify, replay: as a person would, exit 0 each, the same number of steps."""
    code, out, _ = told(capsys, "run", "--builtin", "walk", "--seed", "7", "--record", str(tmp_path), "--json")
    report = json.loads(out)
    assert code == 0 and report["passed"] and report["seed"] == 7
    files = sorted(str(path) for path in tmp_path.glob("*.zgtrace"))
    assert sorted(Path(file).stem for file in files) == sorted(report["parties"])
    code, out, _ = told(capsys, "trace", "verify", *files, "--json")
    assert code == 0 and {one["node"]: one["steps"] for one in json.loads(out)} == {
        name: party["steps"] for name, party in report["parties"].items()
    }
    code, out, _ = told(capsys, "replay", *files)
    assert code == 0 and out.count("no difference") == len(files)
    code, out, _ = told(capsys, "run", "--builtin", "walk", "--seed", "7", "--kernel", "heap", "--json")
    assert json.loads(out)["digest"] == report["digest"]


@pytest.mark.requirement("V2")
def test_a_damaged_recording_and_a_difference_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the id on standard error; no traceback."""
    assert main(["run", "--builtin", "walk", "--record", str(tmp_path), "--json"]) == 0
    path = tmp_path / "a.zgtrace"
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    capsys.readouterr()
    code, _, err = told(capsys, "trace", "verify", str(path))
    assert code == 1 and "zg/trace/broken-chain" in err and err.count("\n") == 1
    code, out, err = told(capsys, "replay", str(path))
    assert code == 1 and "zg/trace/broken-chain" in out + err


@pytest.mark.requirement("V2")
def test_the_doctor_says_what_it_examined(capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds, three ways: exit 0 and a table; planted hazard: exit 1 and the first step that differs."""
    code, out, _ = told(capsys, "doctor", "--seeds", "2", "--ways", "again,replay,other-kernel")
    assert code == 0 and "2 seeds, 3 ways each: deterministic" in out
    words = (
        "doctor",
        "--builtin",
        "walk",
        "--seeds",
        "1",
        "--cores",
        "test_doctor:careless",
        "--ways",
        "process-0,process-1",
    )
    code, out, _ = told(capsys, *words)
    assert code == 1 and "first difference at step" in out and "TimerFired: effects" in out
    code, out, _ = told(capsys, *words, "--json")
    assert code == 1 and json.loads(out)[0]["findings"][0]["input"] == "TimerFired"


@pytest.mark.requirement("V2")
@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "no-such-file.toml"),
        ("run", "x.toml", "--builtin", "walk"),
        ("run", "--builtin", "walk", "--record", "/dev/null/x"),
        ("doctor", "--seeds", "0"),
        ("doctor", "--ways", "magic"),
        ("doctor", "--cores", "nothing:here"),
        ("replay", "no-such-file.zgtrace"),
        ("trace", "verify", "no-such-file.zgtrace"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """What was wrong, where, and its id; nothing on standard output."""
    code, out, err = told(capsys, *words)
    assert code == 2 and out == "" and err.startswith("zg-sim: ") and err.count("\n") == 1 and "[zg/sim/" in err


@pytest.mark.requirement("V2")
@pytest.mark.parametrize(
    "words", [(), ("run",), ("replay",), ("trace",), ("trace", "verify"), ("doctor",), ("scenario",)]
)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each, and the exit codes at the top."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and len(out) > 150
    assert words or all(text.split()[0] in out for text in EXIT_CODES.values())


@pytest.mark.requirement("V2")
def test_a_builtin_scenario_can_be_taken_and_changed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """`scenario walk` prints what `run FILE` reads."""
    assert main(["scenario", "walk"]) == 0
    raw = json.loads(capfdbinary.readouterr().out)
    raw["work"] = raw["work"][:1]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(raw))
    assert main(["run", str(path), "--json"]) == 0
    assert len(json.loads(capfdbinary.readouterr().out)["jobs"]) == 1
