"""Subjects: a backend in a child process with the model loaded, the canary, and what is not claimed (DESIGN §9).

Law: a subject never runs in this process. Before anything else it is asked for a capability that does not exist; one that
accepts it is not admitted.
"""

from pathlib import Path

from certify.case import Case
from zeitgeist.core.descriptors.backend import CAPABILITIES
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.workers import Worker, WorkerSpec

__all__ = ["NONSENSE", "canary", "settle_needs", "start_subject"]

NONSENSE = "levitate/c0ffee"
"""A capability that no engine has. A subject that says yes to everything says yes to this."""


def start_subject(backend: str, service: str, model: Path, timeout_s: float) -> Worker:
    """Start the child and load the model; the child is ended when loading fails."""
    worker = Worker.start(WorkerSpec(backend=backend, service=service, timeout_s=timeout_s))
    try:
        worker.load(model)
    except BaseException:
        worker.kill()
        raise
    return worker


def canary(worker: Worker) -> str:
    """"" when the subject refuses nonsense and claims none; else why it is not admitted."""
    claimed = sorted(set(worker.describe().capabilities) - set(CAPABILITIES))
    if claimed:
        return f"it claims capabilities that do not exist: {', '.join(claimed)}"
    try:
        accepted = worker.probe(NONSENSE)
    except ZeitgeistError as error:
        if error.id == "zg/backend/unsupported":
            return ""
        return f"it answered the capability {NONSENSE!r} with {error}, wanted the refusal zg/backend/unsupported"
    return f"it accepted the capability {NONSENSE!r}" if accepted else ""


def settle_needs(case: Case, worker: Worker, needs: tuple[str, ...]) -> None:
    """End the case as UNSUPPORTED when a needed capability is not claimed and is refused; FAIL when it is not refused."""
    claimed = worker.describe().capabilities
    for need in needs:
        if need not in claimed:
            case.unsupported(f"{need} is not claimed, and was refused", lambda need=need: worker.probe(need))
