"""Services with one planted fault each, run in the child in front of the reference backend."""

import ctypes
import os

import msgspec

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.host.service import Answer, Service

__all__ = ["Aborts", "Hangs", "Modest", "TooModest", "YesMan"]


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
