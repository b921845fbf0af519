"""Which cores run in a simulation: the product's own, unless a test puts another in their place (V1).

Law: byte for byte the same classes as on a real host. Nothing is patched; a stand-in is a value that a caller passes.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from sim.payloads import reason_of
from zeitgeist.core.effects import Planned, Result
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.node import Node
from zeitgeist.core.plan.planner import plan, snapshot_digest
from zeitgeist.core.recording import Subject
from zeitgeist.core.session.machine import Sessions
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.worker import Worker

__all__ = ["Cores", "real_cores"]


class Cores(msgspec.Struct, frozen=True, kw_only=True):
    """How a node, a worker and a plan are made."""

    node: Callable[[], Subject]
    worker: Callable[[], Subject]
    plan: Callable[[bytes], Result | Reason]

    def makers(self) -> Mapping[Literal["node", "worker"], Callable[[], Subject]]:
        """By the kind that a recording's header names."""
        return {"node": self.node, "worker": self.worker}


def real_cores() -> Cores:
    """The product's."""
    return Cores(node=Node, worker=lambda: Worker(Sessions, Transfers), plan=real_plan)


def real_plan(snapshot: bytes) -> Result | Reason:
    """The product's planner on one snapshot."""
    try:
        return Planned(snapshot=snapshot_digest(snapshot), plan=plan(snapshot))
    except ZeitgeistError as error:
        return reason_of(error)
