"""Subjects: a backend in a child process with the model loaded, the canary, and what is not claimed (DESIGN §9).

Law: a subject never runs in this process. Before anything else it is asked for a capability that does not exist; one
that
accepts it is not admitted.
"""

from pathlib import Path

from certify.case import Case
from zeitgeist.core.descriptors.backend import CAPABILITIES
from zeitgeist.core.descriptors.model import ModelDescriptor
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.workers import Worker, WorkerSpec

__all__ = ["NONSENSE", "Subject", "canary", "settle_needs", "start_subject"]

NONSENSE = "levitate/c0ffee"
"""A capability that no engine has. A subject that says yes to everything says yes to this."""


class Subject(Worker):
    """A worker with a model. `model`: its descriptor; `name`: the subject's; `path`: of the model."""

    model: ModelDescriptor
    path: Path

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.spec.backend

    @property
    def alive(self) -> bool:
        """False after a crash, a time-out, a lie or `stop`."""
        return self.failure is None


def start_subject(backend: str, service: str, model: Path, timeout_s: float) -> Subject:
    """Start the child and load the model; the child is ended when loading fails."""
    subject = Subject.start(WorkerSpec(backend=backend, service=service, timeout_s=timeout_s))
    try:
        subject.model = subject.load(model)
        subject.path = model
    except BaseException:
        subject.stop()
        raise
    return subject


def canary(worker: Worker) -> str:
    """ "" when the subject refuses nonsense and claims none; else why it is not admitted."""
    claimed = sorted(set(worker.describe().capabilities) - set(CAPABILITIES))
    if claimed:
        return f"it claims capabilities that do not exist: {', '.join(claimed)}"
    try:
        accepted = worker.probe(NONSENSE)
    except ZeitgeistError as error:
        if error.id == "zg/backend/unsupported":
            return ""
        return f"it answered the capability {NONSENSE!r} with {error}, wanted the refusal zg/backend/unsupported"
    return f"it answered the capability {NONSENSE!r} with {accepted}, wanted the refusal zg/backend/unsupported"


def settle_needs(case: Case, worker: Worker, needs: tuple[str, ...]) -> None:
    """End the case as UNSUPPORTED when a needed capability is not claimed and is refused; FAIL when it is not
    refused."""
    claimed = worker.describe().capabilities
    for need in needs:
        if need not in claimed:
            case.unsupported(f"{need} is not claimed, and was refused", lambda need=need: worker.probe(need))
