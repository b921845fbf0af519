"""What worker tests share: how the toy backend and its mutants are started."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zeitgeist.host.workers import Worker, WorkerSpec

TESTS = str(Path(__file__).parent)


def spec(factory: str = "create", service: str = "", timeout_s: float = 20.0, **options: str) -> WorkerSpec:
    """A worker of tests/host/toy_backend.py (or of a module:factory in this folder)."""
    backend = factory if ":" in factory else f"toy_backend:{factory}"
    return WorkerSpec(backend=backend, options=options, service=service, timeout_s=timeout_s, python_path=(TESTS,))


@contextmanager
def started(*arguments: str, **options: str) -> Iterator[Worker]:
    """A running worker."""
    with Worker.start(spec(*arguments, **options)) as worker:
        yield worker
