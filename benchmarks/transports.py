"""Frames against raw sockets: what headers, two checksums and our own loop cost, in the same run (G4, E4).

Two processes, as two nodes are; TCP over loopback, a Unix socket, TLS 1.3. For each: 1 MiB payloads one way, a round
trip of 8 KiB, by `transports/blocking.py` and by the smallest loop that moves as many bytes unchecked. Rounds are
interleaved, so that other work on the machine disturbs both sides of a ratio; figures are medians, and of the best
round. Bulk has a core for each process; a round trip, where one always waits, has one core for both: what it costs to
wake another core of a virtual machine (30 to 60 µs here) is not ours.

The third way is a sealed memory file, passed by descriptor, digest checked at both ends; its reader's part alone stands
in a line of its own. The last line is of `make walk`: round trips on control between two node processes while a 64 MiB
tensor passes on the bulk connection, in TLS.

    python benchmarks/transports.py [--json] [--rounds N] [--no-walk]
"""

import argparse
import json
import multiprocessing as mp
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zeitgeist.core.wire.frame import Channel, Frame  # noqa: E402
from zeitgeist.host.keyring import load_keyring  # noqa: E402
from zeitgeist.host.keys import make_authority, make_certificate  # noqa: E402
from zeitgeist.host.memory import pack_array, unpack_array  # noqa: E402
from zeitgeist.transports.blocking import BlockingLink  # noqa: E402
from zeitgeist.transports.tls import TlsFiles, client_context, server_context  # noqa: E402

CHUNK = 1 << 20
BULK_FRAMES = 192
TRIPS = 1000
SMALL = 8 << 10
SHARED = 64 << 20
KINDS = ("tcp", "unix", "tls")
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
TARGETS = {"tcp": 45, "unix": 35}
"""Microseconds of a framed round trip of 8 KiB."""


def exactly(sock: socket.socket, view: memoryview) -> None:
    """The raw loop's receive."""
    while view:
        view = view[sock.recv_into(view) :]


def serve(kind: str, folder: str, files: TlsFiles | None, pipe: Connection) -> None:
    """The other process: accepts, then does what the pipe says until it says nothing."""
    listener = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    listener.bind(f"{folder}/s" if kind == "unix" else ("127.0.0.1", 0))
    listener.listen()
    pipe.send(listener.getsockname())
    sock, _ = listener.accept()
    tuned(sock)
    if files is not None:
        sock = server_context(files).wrap_socket(sock, server_side=True)
    link = BlockingLink(sock, reuse=True)
    buffer = memoryview(bytearray(CHUNK))
    while task := pipe.recv():
        placed(task, other=True)
        match task:
            case "raw bulk":
                for _ in range(BULK_FRAMES):
                    exactly(sock, buffer)
                sock.sendall(b"!")
            case "frames bulk":
                for _ in range(BULK_FRAMES):
                    link.receive()
                sock.sendall(b"!")
            case "raw trip":
                for _ in range(TRIPS):
                    exactly(sock, buffer[:SMALL])
                    sock.sendall(buffer[:SMALL])
            case _:
                for number in range(TRIPS):
                    payload = link.receive().payload
                    link.send(Frame(channel=Channel.TENSOR, kind=47, sequence=number, payload=payload))


def placed(task: str, other: bool) -> None:
    """Where this process runs during task: on the first core, or the other process in bulk on the second."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(CORES)
        os.sched_setaffinity(0, {cores[-1] if other and task.endswith("bulk") else cores[0]})


def tuned(sock: socket.socket) -> None:
    """The same for both sides of every comparison, as `transports` sets it."""
    if sock.family == socket.AF_UNIX:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Bench:
    """One connection to a process of its own."""

    def __init__(self, kind: str, folder: str, files: TlsFiles | None) -> None:
        self.pipe, theirs = mp.get_context("spawn").Pipe()
        arguments = (kind, folder, files, theirs)
        self.process = mp.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        sock.connect(self.pipe.recv())
        tuned(sock)
        if files is not None:
            sock = client_context(files, True).wrap_socket(sock)
        self.sock, self.link = sock, BlockingLink(sock, reuse=True)
        self.chunk = memoryview(os.urandom(CHUNK))
        self.buffer = memoryview(bytearray(CHUNK))

    def raw_bulk(self) -> None:
        """Send chunks, wait until the last is there."""
        for _ in range(BULK_FRAMES):
            self.sock.sendall(self.chunk)
        self.sock.recv(1)

    def frames_bulk(self) -> None:
        """The same in frames: header, two checksums made here and two verified there."""
        for number in range(BULK_FRAMES):
            self.link.send(Frame(channel=Channel.TENSOR, kind=47, sequence=number, payload=self.chunk))
        self.sock.recv(1)

    def raw_trip(self) -> None:
        """There and back, one after another."""
        for _ in range(TRIPS):
            self.sock.sendall(self.chunk[:SMALL])
            exactly(self.sock, self.buffer[:SMALL])

    def frames_trip(self) -> None:
        """The same in frames."""
        small = self.chunk[:SMALL]
        for number in range(TRIPS):
            self.link.send(Frame(channel=Channel.TENSOR, kind=47, sequence=number, payload=small))
            self.link.receive()

    def seconds(self, task: str) -> float:
        """One run of a task, both sides."""
        placed(task, other=False)
        self.pipe.send(task)
        run: dict[str, Callable[[], None]] = {
            "raw bulk": self.raw_bulk,
            "frames bulk": self.frames_bulk,
            "raw trip": self.raw_trip,
            "frames trip": self.frames_trip,
        }
        began = time.perf_counter()
        run[task]()
        return time.perf_counter() - began

    def close(self) -> None:
        """End the process."""
        self.pipe.send("")
        self.process.join()
        self.sock.close()


TASKS = ("raw bulk", "frames bulk", "raw trip", "frames trip")


def shared_seconds(source: np.ndarray) -> tuple[float, float]:
    """Hand 64 MiB over by descriptor: written, sealed, passed, mapped, digest compared. (All of it, the last two.)"""
    ours, theirs = socket.socketpair()
    began = time.perf_counter()
    record, fd = pack_array(source)
    assert fd is not None, "a large array travels by descriptor"
    socket.send_fds(ours, [b"!"], [fd])
    os.close(fd)
    _, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
    mapped = time.perf_counter()
    values = unpack_array(record, received)
    ended = time.perf_counter()
    del values
    os.close(received)
    ours.close()
    theirs.close()
    return ended - began, ended - mapped


def measured(rounds: int) -> dict[str, str]:
    """The rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_authority(folder / "ca", "bench")
        make_certificate(folder / "node", "node", ["127.0.0.1"], folder / "ca")
        files = load_keyring(folder / "node").tls
        benches = {kind: Bench(kind, name, files if kind == "tls" else None) for kind in KINDS}
        source = np.random.default_rng(0).integers(0, 256, SHARED, np.uint8)
        times: dict[str, list[float]] = {}
        for round in range(rounds + 1):
            found = {f"{kind} {task}": bench.seconds(task) for kind, bench in benches.items() for task in TASKS}
            placed("bulk", other=False)
            found["shared"], found["mapped"] = shared_seconds(source)
            if round:  # the first warms caches and buffers
                for key, value in found.items():
                    times.setdefault(key, []).append(value)
        for bench in benches.values():
            bench.close()
    return rows({key: median(values) for key, values in times.items()}, times)


def beside_a_tensor() -> dict[str, str]:
    """The row of `make walk`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES)
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, str(ROOT / "tools" / "walk.py"), "--json", "--out", out]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 2 or not done.stdout:
        return {"control beside a 64 MiB tensor": "the walk did not come to its end"}
    told = json.loads(done.stdout)
    busy, quiet = told["busy"], told["quiet"]
    figure = f"p50 {busy['p50_ms']:.2f}, p99 {busy['p99_ms']:.2f}, max {busy['max_ms']:.2f} ms"
    name = f"tls, control beside a 64 MiB tensor, {busy['count']} trips, p99 without it {quiet['p99_ms']:.2f} ms"
    return {name: figure + mark(True, busy["p99_ms"] < 5, "5 ms")}


def rows(middle: dict[str, float], times: dict[str, list[float]]) -> dict[str, str]:
    """Figures with what they were measured against. A ratio is the median of the rounds' own ratios."""
    out: dict[str, str] = {}
    for kind in KINDS:
        raw, framed = (BULK_FRAMES * CHUNK / middle[f"{kind} {task}"] / 1e9 for task in ("raw bulk", "frames bulk"))
        pairs = zip(times[f"{kind} raw bulk"], times[f"{kind} frames bulk"], strict=True)
        ratio = median(a / b for a, b in pairs)
        best = min(times[f"{kind} raw bulk"]) / min(times[f"{kind} frames bulk"])
        out[f"{kind}, 1 MiB frames, of {raw:.2f} GB/s raw"] = (
            f"{framed:.2f} GB/s, {ratio:.0%}, best rounds {best:.0%}" + mark(kind in TARGETS, ratio >= 0.85, "85 %")
        )
        raw, framed = (middle[f"{kind} {task}"] / TRIPS * 1e6 for task in ("raw trip", "frames trip"))
        limit = TARGETS.get(kind, 0)
        least = min(times[f"{kind} frames trip"]) / TRIPS * 1e6
        out[f"{kind}, 8 KiB there and back, raw {raw:.0f} µs"] = f"{framed:.0f} µs, best round {least:.0f}" + mark(
            bool(limit), framed <= limit, f"{limit} µs"
        )
    rate = SHARED / middle["shared"] / 1e9
    out["sealed memory file, 64 MiB, digest at both ends"] = f"{rate:.2f} GB/s" + mark(True, rate >= 6, "6 GB/s")
    out["of it the reader's part, mapped and digested in place"] = f"{SHARED / middle['mapped'] / 1e9:.2f} GB/s"
    return out


def mark(judged: bool, reached: bool, target: str) -> str:
    """Whether the target was reached in this run."""
    return f" ({'reaches' if reached else 'misses'} {target})" if judged else ""


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-walk", action="store_true", help="sockets and memory only")
    options = parser.parse_args()
    found = measured(options.rounds)
    if not options.no_walk:
        found |= beside_a_tensor()
    print(json.dumps({"rows": found}) if options.json else "\n".join(f"{k}: {v}" for k, v in found.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
