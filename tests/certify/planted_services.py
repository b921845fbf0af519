"""Services with one planted fault each, run in the child in front of the reference backend."""

import ctypes
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.host.messages import Prefill, SessionInfo
from zeitgeist.host.service import Answer, Held, Service

__all__ = ["Aborts", "Hangs", "KillsChecker", "KillsItself", "Lax", "Modest", "TooModest", "Waits", "YesMan"]


class YesMan(Service):
    """Accepts every capability."""

    def probe(self, capability: str) -> bool:
        return True


class Modest(Service):
    """Does not claim fork and layer_range, and refuses them."""

    def describe(self) -> BackendDescriptor:
        full = super().describe()
        return msgspec.structs.replace(
            full, capabilities=tuple(c for c in full.capabilities if c not in ("fork", "layer_range"))
        )


class TooModest(Modest):
    """Does not claim fork, and yet grants it."""

    def probe(self, capability: str) -> bool:
        return True if capability == "fork" else super().probe(capability)


class Aborts(Service):
    """abort() in the middle of truncate, as an engine's assertion does."""

    def truncate(self, number: int, position_count: int) -> Answer:
        os.abort()


class Hangs(Service):
    """Never answers truncate, with the interpreter locked."""

    def truncate(self, number: int, position_count: int) -> Answer:
        ctypes.PyDLL(None).pause()
        raise AssertionError("unreachable")


class KillsChecker(Service):
    """Kills the process that runs the check, as a machine short of memory does."""

    def truncate(self, number: int, position_count: int) -> Answer:
        os.kill(os.getppid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class KillsItself(Service):
    """Dies with a file in its temporary folder, as an engine does that was short of memory."""

    def truncate(self, number: int, position_count: int) -> Answer:
        with tempfile.NamedTemporaryFile(delete=False):
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class Waits(Service):
    """Tells the pipe at ZG_TEST_PIPE who runs the check, and never answers."""

    def truncate(self, number: int, position_count: int) -> Answer:
        Path(os.environ["ZG_TEST_PIPE"]).write_text(str(os.getppid()))
        signal.pause()
        raise AssertionError("unreachable")


class Lax(Service):
    """Checks nothing that came from the caller, and never counts, cancels or forgets."""

    def check_ids(self, ids: Sequence[int]) -> None:
        pass

    def check_room(self, held: Held, count: int) -> None:
        pass

    def truncate(self, number: int, position_count: int) -> SessionInfo:
        return self.session_info(number)

    def metrics(self) -> Mapping[str, int]:
        return {"tokens_prefilled": 0, "sessions_open": 0}

    def serves(self, path: Path) -> tuple[str, ...]:
        return ()

    def close(self, number: int) -> None:
        pass

    def prefill(self, request: Prefill, cancelled: Callable[[], bool]) -> NDArray[np.float32]:
        ids = tuple(id % self.config.vocab_size for id in request.ids)[:64] or (0,)
        return super().prefill(msgspec.structs.replace(request, ids=ids), lambda: False)

    def fork(self, number: int) -> int:
        return number

    def describe(self) -> BackendDescriptor:
        self.asked = getattr(self, "asked", 0) + 1
        return msgspec.structs.replace(super().describe(), context_max=4096 + self.asked, libraries=())
