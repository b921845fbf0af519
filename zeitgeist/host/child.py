"""One child process: how it is started, watched, killed and cleaned up after.

Law: whatever happens, the process is reaped, its private folder removed, its descriptors closed, also when the
interpreter ends. On Linux a child is killed when the *thread* that made it ends, so one thread, which lives as long as
we do, makes them all.
"""

import contextlib
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import zeitgeist
from zeitgeist.core.errors import ZeitgeistError

__all__ = ["OUTPUT_BYTES_MAX", "Child", "WorkerSpec", "environment", "start_child", "sweep"]

OUTPUT_BYTES_MAX = 16 << 10
"""16 KiB: a Python traceback through torch has 6."""

FOLDER_PREFIX = "zg-worker-"
KEPT = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "SYSTEMROOT",
    }
)
KEPT_PREFIXES = ("LC_", "ZG_", "ZEITGEIST_", "LLAMA_", "GGML_", "MLX_")


@dataclass(frozen=True)
class WorkerSpec:
    """What to start. backend: a name of `backends/registry.py`; service: `module:Class`, a subclass of Service, or "".

    python: the interpreter, which may be of another environment; python_path: folders searched before its own;
    threads: of the engine's arithmetic libraries; address_bytes_max: limit of address space, 0 for none.
    name, cluster: as whom and where the worker speaks; model: what it loads before it speaks, "" for nothing.
    """

    backend: str
    options: Mapping[str, str] = field(default_factory=dict)
    service: str = ""
    timeout_s: float = 120.0
    start_timeout_s: float = 120.0
    python: str = sys.executable
    python_path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    address_bytes_max: int = 0
    name: str = "worker"
    cluster: str = "local"
    model: str = ""


def environment(spec: WorkerSpec, folder: str) -> dict[str, str]:
    """The child's environment: few of our variables (no tokens, no keys), its folder, threads pinned, hubs offline."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    threads = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    )
    own_root = str(Path(zeitgeist.__file__).parent.parent)
    search = [*spec.python_path, *filter(None, kept.pop("PYTHONPATH", "").split(os.pathsep)), own_root]
    return {
        **kept,
        **dict.fromkeys(threads, str(spec.threads)),
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
        "TMPDIR": folder,
        "XDG_CACHE_HOME": folder,
        "HF_HOME": f"{folder}/hf",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **spec.env,
    }


class Spawner:
    """The thread that starts processes. A daemon: it ends with the interpreter, after `atexit`."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.asked: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self.asked = queue.SimpleQueue()
        threading.Thread(target=self.run, name="zeitgeist-spawner", daemon=True).start()

    def run(self) -> None:
        while True:
            make, future = self.asked.get()
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 — it is raised again in the thread that asked
                future.set_exception(error)

    def spawn(self, make: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self.asked.put((make, future))
        return future.result()


SPAWNER_LOCK = threading.Lock()
SPAWNERS: list[Spawner] = []


def spawner() -> Spawner:
    with SPAWNER_LOCK:
        if not SPAWNERS or SPAWNERS[0].pid != os.getpid():
            SPAWNERS[:] = [Spawner()]
            sweep(Path(tempfile.gettempdir()))
        return SPAWNERS[0]


def sweep(parent: Path, prefix: str = FOLDER_PREFIX) -> None:
    """Remove private folders whose maker, named in the folder's name, is gone: its own clean-up was killed with it."""
    for folder in sorted(parent.glob(f"{prefix}*-*")):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Tail(threading.Thread):
    """Reads what the child prints until it ends, and keeps the end of it."""

    def __init__(self, fd: int) -> None:
        super().__init__(name="zeitgeist-worker-output", daemon=True)
        self.fd = fd
        self.kept = b""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65536):
                self.kept = (self.kept + data)[-OUTPUT_BYTES_MAX:]
        os.close(self.fd)


class Child:
    """The process, our end of its socket, its output, its folder. ready: it is about to speak, or has ended."""

    def __init__(
        self,
        spec: WorkerSpec,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        tail: Tail,
        folder: str,
        ready: int,
    ) -> None:
        self.spec, self.process, self.sock, self.tail, self.folder = spec, process, sock, tail, folder
        self.ready = ready
        self.finalizer = weakref.finalize(self, clean, process, sock, tail, folder, ready)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL (a stopped process dies of it too) and reap."""
        kill(self.process)

    def wait(self, timeout_s: float) -> bool:
        """True when the process ended within timeout_s."""
        return wait(self.process, timeout_s)

    def wait_ready(self, timeout_s: float) -> bool:
        """True when its engine is made and its model loaded, or it ended, within timeout_s."""
        return select_one(self.ready, timeout_s)

    def output(self) -> str:
        """The end of what it printed, stdout and stderr together. Complete once the process has ended."""
        if self.process.poll() is not None:
            self.tail.join(1.0)
        return self.tail.kept.decode(errors="replace")

    def exit_code(self) -> int | None:
        """Exit code, None while it runs or when a signal ended it."""
        code = self.process.poll()
        return code if code is not None and code >= 0 else None

    def signal_name(self) -> str:
        """`SIGABRT` …, "" when no signal ended it."""
        code = self.process.poll()
        return signal.Signals(-code).name if code is not None and code < 0 else ""

    def ending(self) -> str:
        """How it ended, in words."""
        return (
            f"was ended by {self.signal_name()}" if self.signal_name() else f"ended with exit code {self.exit_code()}"
        )

    def discard(self) -> None:
        """Kill if alive, reap, close, remove. Idempotent."""
        self.finalizer()


def clean(process: subprocess.Popen[bytes], sock: socket.socket, tail: Tail, folder: str, ready: int) -> None:
    kill(process)
    sock.close()
    os.close(ready)
    tail.join(1.0)
    shutil.rmtree(folder, ignore_errors=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait by a process descriptor where there is one: no polling interval."""
    if sys.platform == "linux" and process.poll() is None:
        fd = os.pidfd_open(process.pid)
        try:
            select_one(fd, timeout_s)
        finally:
            os.close(fd)
        return process.poll() is not None
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def select_one(fd: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def start_child(spec: WorkerSpec) -> Child:
    """Start the process of spec; it has not said anything yet. Errors: `zg/worker/start`."""
    launcher = spawner()
    folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    read_end, write_end = os.pipe()
    ready_end, saying_end = os.pipe()

    def make() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command_of(spec, theirs.fileno(), saying_end),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            cwd=folder,
            env=environment(spec, folder),
            pass_fds=(theirs.fileno(), saying_end),
            start_new_session=True,
        )

    try:
        process = launcher.spawn(make)
    except OSError as error:
        ours.close()
        os.close(read_end)
        os.close(ready_end)
        shutil.rmtree(folder, ignore_errors=True)
        raise ZeitgeistError("zg/worker/start", f"{spec.python}: {error}", spec.backend) from error
    finally:
        theirs.close()
        os.close(write_end)
        os.close(saying_end)
    return Child(spec, process, ours, Tail(read_end), folder, ready_end)


def command_of(spec: WorkerSpec, fd: int, ready: int) -> list[str]:
    """The child's command line. fd: its end of the socket; ready: where it says that it is about to speak."""
    words = {
        "fd": str(fd),
        "ready": str(ready),
        "parent": str(os.getpid()),
        "name": spec.name,
        "cluster": spec.cluster,
        "backend": spec.backend,
        "service": spec.service,
        "model": spec.model,
        "address-bytes-max": str(spec.address_bytes_max),
    }
    options = [f"--option={name}={value}" for name, value in sorted(spec.options.items())]
    flags = [word for name, value in words.items() for word in (f"--{name}", value)]
    return [spec.python, "-P", "-m", "zeitgeist.host.worker_main", *flags, *options]
