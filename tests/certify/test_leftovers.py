"""What a command leaves behind (W1): nothing in the temporary folder and no process, whatever was killed."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from certify import cli
from certify.private_folder import PREFIX, private_folder

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
pytestmark = pytest.mark.requirement("W1")


def environment(home: Path) -> dict[str, str]:
    """Ours, with a temporary folder that is empty, and a mark that every child inherits."""
    (home / "tmp").mkdir()
    path = os.pathsep.join((str(ROOT), str(HERE)))
    return {**os.environ, "TMPDIR": str(home / "tmp"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ZG_HOME": str(home)}


@pytest.mark.parametrize(("service", "code"), [("KillsItself", 1), ("KillsChecker", 3)])
def test_a_killed_worker_or_checker_leaves_no_folder(service: str, code: int, tmp_path: Path) -> None:
    """SIGKILL in a case; the command that started them removes what they had."""
    words = ["run", "--peers", "none", "--service", f"planted_services:{service}", "-n", "1"]
    words += ["--check", "B.truncate-growth-refused", "--check", "B.cancel", "--out", str(tmp_path / "out")]
    ran = subprocess.run([sys.executable, "-m", "certify.cli", *words], cwd=ROOT, env=environment(tmp_path))
    assert ran.returncode == code
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_folder_whose_maker_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that of a living one is kept."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    left, living = tmp_path / f"{PREFIX}{dead.pid}-a", tmp_path / f"{PREFIX}{os.getppid()}-a"
    left.mkdir()
    living.mkdir()
    with private_folder() as folder:
        assert set(tmp_path.iterdir()) == {folder, living}
    assert list(tmp_path.iterdir()) == [living]


def test_the_handler_of_sigterm_is_the_callers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After main in the main thread; main in another thread runs, and sets none."""
    before = signal.getsignal(signal.SIGTERM)
    during: list[object] = []

    def seen(args: object) -> int:
        during.append(signal.getsignal(signal.SIGTERM))
        return 0

    monkeypatch.setattr(cli, "dispatch", seen)
    assert cli.main(["list"]) == 0
    thread = threading.Thread(target=cli.main, args=(["list"],))
    thread.start()
    thread.join()
    assert during == [cli.terminated, before]
    assert signal.getsignal(signal.SIGTERM) == before


if sys.platform == "linux":

    def marked(home: Path) -> list[int]:
        """Descriptors of every living process that has our mark."""
        found: list[int] = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if f"ZG_HOME={home}\0".encode() in (place / "environ").read_bytes():
                    found.append(os.pidfd_open(int(place.name)))
            except OSError:  # it ended meanwhile, or is not ours
                continue
        return found

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_a_self_test_that_is_ended_ends_its_jobs(number: signal.Signals, tmp_path: Path) -> None:
        """In the middle of the bank: every process of it is gone; SIGTERM is exit 143 and leaves no folder."""
        words = [sys.executable, "-m", "certify.cli", "selftest", "-n", "2"]
        with subprocess.Popen(words, cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE) as command:
            assert command.stderr is not None and command.stderr.readline()  # the first run has ended, others go on
            running = marked(tmp_path)
            assert len(running) >= 3
            command.send_signal(number)
            assert command.wait(20) == (143 if number == signal.SIGTERM else -number)
            for one in running:
                poller = select.poll()
                poller.register(one, select.POLLIN)
                assert poller.poll(20_000), "a process of the self-test runs on"
                os.close(one)
        assert number == signal.SIGKILL or list((tmp_path / "tmp").iterdir()) == []
