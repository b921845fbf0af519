"""Which cores run in a simulation: the product's own, unless a test puts another in their place (V1).

Law: byte for byte the same classes as on a real host. Nothing is patched; a stand-in is a value that a caller passes.
"""

from collections.abc import Callable

import msgspec
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.transfer.machine import Transfers

from zeitgeist.core.effects import Result
from zeitgeist.core.node import Node
from zeitgeist.core.recording import Subject
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.worker import Worker

__all__ = ["Cores", "real_cores"]


class Cores(msgspec.Struct, frozen=True, kw_only=True):
    """How a node, a worker and a plan are made."""

    node: Callable[[], Subject]
    worker: Callable[[], Subject]
    plan: Callable[[bytes], Result | Reason]


def real_cores() -> Cores:
    """The product's."""
    return Cores(node=Node, worker=lambda: Worker(Sessions, Transfers), plan=real_plan)


def real_plan(snapshot: bytes) -> Result | Reason:
    """The product's planner on one snapshot."""
    raise NotImplementedError
