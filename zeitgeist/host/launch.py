"""How a node's driver starts a configured worker: a process, and our end of its socket (I13).

Law: the socket is handed over when the worker is about to speak, so that making an engine and loading a model, which
take minutes, are no part of a handshake, which takes seconds. A worker that could not make its engine says so itself,
by the `Refused` that the handshake then hears.
"""

import socket

from zeitgeist.core.descriptors.node import WorkerConfig
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.child import Child, WorkerSpec, start_child

__all__ = ["START_TIMEOUT_S", "launch_worker", "start_worker_process"]

START_TIMEOUT_S = 600.0
"""Ten minutes: 140 GB of weights from a disk that reads 0.3 GB/s take eight."""


def start_worker_process(spec: WorkerSpec) -> tuple[Child, socket.socket]:
    """The process, and our end of its socket, which the child's `discard` closes. Blocks until it is about to speak.

    Errors: `zg/worker/start`, `zg/worker/timeout` (it was killed). A process that ended meanwhile is no error here: its
    socket is closed.
    """
    child = start_child(spec)
    if not child.wait_ready(spec.start_timeout_s):
        child.discard()
        detail = f"its engine was not made in {spec.start_timeout_s:g} s, and it was killed"
        raise ZeitgeistError("zg/worker/timeout", detail, spec.backend)
    return child, child.sock


def launch_worker(worker: WorkerConfig, cluster: str) -> Child:
    """The same for a worker of a node's configuration."""
    spec = WorkerSpec(
        backend=worker.backend,
        options=dict(worker.options),
        start_timeout_s=START_TIMEOUT_S,
        name=worker.name,
        cluster=cluster,
        model=worker.model_path,
    )
    return start_worker_process(spec)[0]
