"""`make walk` from end to end: its claims hold, it leaves nothing behind, and a damaged recording is named."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sim.record import TraceReader, compress
from zeitgeist.core.recording import BlockWriter, Entry, TraceDigest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from walk_tls import open_capture  # noqa: E402 - beside the tool
from walk_traces import examine, latency, replayed  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.engine("reference")]
SPEED = {"control p99"}
"""The one claim that depends on how busy the machine is."""


class Walked:
    """One walk: what it printed as JSON, its files, what it left in its own temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.out, temporary = folder / "out", folder / "tmp"
        temporary.mkdir()
        options = ["--tensor-mib", "4", "--sends", "2", "--tokens", "12", "--json"]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        command = [sys.executable, str(ROOT / "tools" / "walk.py"), "--out", str(self.out), *options]
        self.done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180)
        self.left = [path.name for path in temporary.iterdir()]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary; what went wrong where there is none."""
        assert self.done.stdout, self.done.stderr
        return json.loads(self.done.stdout)

    def claims(self, *names: str) -> dict[str, str]:
        """The state of these claims, or of all."""
        return {one["name"]: one["state"] for one in self.summary["claims"] if not names or one["name"] in names}


def failures(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Claims that are not shown, with what was seen instead."""
    return [one for one in summary["claims"] if one["state"] != "shown" and one["name"] not in SPEED]


@pytest.fixture(scope="module")
def walked() -> Iterator[Walked]:
    """Two node processes, a client, 4 MiB: walked once for all tests of this file. A short path, for worker sockets."""
    with tempfile.TemporaryDirectory(prefix="zg-test-") as folder:
        yield Walked(Path(folder))


@pytest.mark.requirement("V2")
def test_a_walk_shows_every_claim_and_leaves_nothing_behind(walked: Walked) -> None:
    """Exit code 0 with the speed alone forgiven; both recordings, captures and summaries stand in the folder; no
    process of this walk and no temporary folder is left."""
    assert failures(walked.summary) == []
    assert walked.done.returncode == 0, walked.done.stderr
    names = {"a.zgtrace", "b.zgtrace", "client.zgtrace", "captured.zgtrace", "walk.pcap", "walk-tls.pcap", "summary.md"}
    assert names <= {path.name for path in walked.out.iterdir()}
    assert walked.left == []
    assert running(walked.out.parent) == []


def running(folder: Path) -> list[bytes]:
    """Command lines of processes that name folder."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if str(folder).encode() in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_walk_that_is_stopped_leaves_nothing_behind(number: signal.Signals) -> None:
    """Stopped when both nodes and the worker run: exit code 2, every process and the temporary folder are gone."""
    with tempfile.TemporaryDirectory(prefix="zg-stop-") as name:
        folder = Path(name)
        command = [sys.executable, str(ROOT / "tools" / "walk.py"), "--out", str(folder / "out"), "--json"]
        environment = {**os.environ, "TMPDIR": name}
        walk = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True)
        assert walk.stderr is not None
        assert any("node b joined" in line for line in walk.stderr)
        assert len(running(folder)) >= 3
        walk.send_signal(number)
        assert (walk.wait(60), running(folder)) == (2, [])
        walk.stderr.close()
        assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.requirement("E4")
def test_a_completion_streams_through_two_nodes_as_the_engine_gives_it(walked: Walked) -> None:
    """Client to owner to executor to worker and back: ids, bytes and log probabilities equal the engine's own; the
    tensor's digest as the receiver computed it is the sender's."""
    assert walked.claims("streaming", "equality", "tensor") == dict.fromkeys(
        ("streaming", "equality", "tensor"), "shown"
    )


@pytest.mark.requirement("H1")
@pytest.mark.requirement("G1")
def test_every_link_of_a_walk_is_tls_with_identities_that_were_verified(walked: Walked) -> None:
    """By the recordings: TLS 1.3 on each link between processes, and nothing but Ed25519 proofs, each found good."""
    found = [examine(walked.out / f"{name}.zgtrace", "a") for name in ("a", "b", "client", "captured")]
    assert all(set(one.tls) == {"TLSv1.3"} and set(one.modes) == {"ed25519"} for one in found)


@pytest.mark.requirement("G5")
def test_a_tensor_travels_on_its_own_channel_and_connection(walked: Walked) -> None:
    """By the capture: chunks on the tensor channel alone, control on control; two connections, each with its hello."""
    kinds = {(one["record"], one["channel"]): one["frames"] for one in walked.summary["frames"]}
    assert {channel for record, channel in kinds if record == "ChunkHead"} == {"tensor"}
    assert {channel for record, channel in kinds if record in ("Offer", "Accept", "Received", "Ping")} == {"control"}
    assert {channel for record, channel in kinds if record in ("Submit", "Token", "Finished")} == {"job"}
    assert kinds["Hello", "control"] == 2


@pytest.mark.requirement("V2")
def test_a_damaged_recording_fails_the_walk_s_replay_by_name(walked: Walked, tmp_path: Path) -> None:
    """One byte flipped in a block: the chain is broken. A recording whose chain is sound and whose effects are not the
    core's: the step that differs."""
    raw = bytearray((walked.out / "client.zgtrace").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "flipped.zgtrace").write_bytes(raw)
    assert "zg/trace/broken-chain" in asyncio.run(replayed(tmp_path / "flipped.zgtrace")).why
    other = rewritten(walked.out / "client.zgtrace", tmp_path / "other.zgtrace", step=7)
    assert asyncio.run(replayed(other)).why == "step 7 differs in effects"


def rewritten(source: Path, target: Path, step: int) -> Path:
    """A sound file of the same recording, but for the digest of one step's effects."""
    reader = TraceReader(source)
    writer = BlockWriter(reader.header, compress)
    data, trace = writer.start(), TraceDigest()
    for item in reader.items():
        if isinstance(item, Entry):
            wrong = msgspec.structs.replace(item, effects=bytes(16)) if trace.steps == step else item
            trace.steps += 1
            data += writer.add(wrong) or b""
    target.write_bytes(data + writer.end(trace))
    return target


def test_a_capture_opens_with_its_own_keys_alone(walked: Walked, tmp_path: Path) -> None:
    """Without the session's keys both connections stay shut; with a wrong one the first record is named."""
    tls, keys = walked.out / "walk-tls.pcap", tmp_path / "keys.log"
    keys.write_text("")
    shut = open_capture(tls, keys, tmp_path / "shut.pcap")
    assert (shut.connections, shut.closed, shut.data) == (0, 2, 0)
    lines = (walked.out / "walk-keys.log").read_text().splitlines()
    wrong = [line[:-2] + ("00" if line[-2:] != "00" else "01") if "CLIENT_TRAFFIC" in line else line for line in lines]
    keys.write_text("\n".join(wrong))
    with pytest.raises(ValueError, match="record 0 of the client does not open"):
        open_capture(tls, keys, tmp_path / "wrong.pcap")


def test_two_walks_at_once_do_not_meet(walked: Walked, tmp_path: Path) -> None:
    """A second and a third at the same time, into the same folder: both come to their end, and what stands there in
    the end is one of them, whole."""
    short = Path(tempfile.mkdtemp(prefix="zg-two-"))
    command = [sys.executable, str(ROOT / "tools" / "walk.py"), "--out", str(short), "--json"]
    command += ["--tensor-mib", "1", "--sends", "1", "--tokens", "4"]
    try:
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
        said = [one.communicate(timeout=180)[0] for one in both]
        assert [failures(json.loads(one)) for one in said] == [[], []]
        assert [one.returncode for one in both] == [0, 0]
        stands = json.loads((short / "summary.json").read_text())
        assert stands in [json.loads(one) for one in said]
        assert asyncio.run(replayed(short / "a.zgtrace")).steps == sum(stands["steps"]["a"].values())
    finally:
        shutil.rmtree(short)


def test_a_percentile_is_a_measured_value() -> None:
    """Nearest rank: of a hundred the 99th, of one that one, of none nothing."""
    hundred = latency(range(10**6, 101 * 10**6, 10**6))
    assert (hundred.p50_ms, hundred.p99_ms, hundred.max_ms) == (50, 99, 100)
    assert latency([3 * 10**6]).p99_ms == 3
    assert latency([]).count == 0
