"""What both halves of the transfer machine stand on: the sessions, the alarms, and how a transfer moves and ends (E4).

Law: every move goes through `move`, which asks the table and tells the trace. Which side we are does not matter here.
"""

from typing import Final

from zeitgeist.core.effects import Boot, Release
from zeitgeist.core.errors import REGISTRY, ZeitgeistError
from zeitgeist.core.ids import Handle, LinkId, NodeId, TransferId
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.trace import TransferEnded, TransferMoved
from zeitgeist.core.transfer.alarms import Alarms
from zeitgeist.core.transfer.records import Incoming, Outgoing, Peering
from zeitgeist.core.transfer.states import EventName, next_state
from zeitgeist.core.wire.messages import Reason, Withdraw

__all__ = ["Desk", "reason_of", "why"]

NO_SESSIONS: Final[dict[LinkId, Peering]] = {}


def why(id: str, detail: str, field: str = "") -> Reason:
    """A reason by an id of the registry."""
    assert id in REGISTRY, f"error id {id} has no row"
    return Reason(id=id, detail=detail[:1000], field=field)


def reason_of(error: ZeitgeistError) -> Reason:
    """An error as it travels."""
    return Reason(id=error.id, detail=error.detail, field=error.field)


class Desk:
    """Sessions by control link, by bulk link and by peer; the alarms; the last serial number."""

    def __init__(self, boot: Boot) -> None:
        self.config = boot.config
        self.sessions: dict[LinkId, Peering] = {}
        self.bulks: dict[LinkId, Peering] = {}
        self.peers: dict[NodeId, dict[LinkId, Peering]] = {}
        self.alarms = Alarms()
        self.last_serial = 0
        self.draining = False

    def serial(self) -> int:
        """A new one."""
        self.last_serial += 1
        return self.last_serial

    def of(self, peer: NodeId) -> dict[LinkId, Peering]:
        """The sessions with peer, oldest first."""
        return self.peers.get(peer, NO_SESSIONS)

    def move(self, transfer: Outgoing | Incoming, event: EventName, out: Outbox, *, peer_did: bool = False) -> None:
        """Change the state as the table says, and say so when it changes."""
        before = transfer.state
        who = f"transfer {transfer.number}, peer {transfer.peer}"
        after = next_state(before, event, who, peer_did)
        if after != before:
            transfer.state = after
            out.events.append(
                TransferMoved(peer=transfer.peer, transfer=transfer.number, before=before, event=event, after=after)
            )

    def withdraw(self, control: LinkId | None, number: TransferId, reason: Reason, out: Outbox) -> None:
        """Tell the peer, where there still is a session."""
        if control is not None and number:
            out.frame(control, Withdraw(transfer=number, reason=reason))

    def ended(self, transfer: Outgoing | Incoming, handle: Handle, reason: Reason | None, out: Outbox) -> None:
        """Tell the application."""
        chunks, again = (
            (transfer.sent, transfer.resent) if isinstance(transfer, Outgoing) else (transfer.arrived, transfer.unsound)
        )
        self.alarms.stop(transfer.serial)
        out.events.append(
            TransferEnded(
                peer=transfer.peer,
                transfer=transfer.number,
                tensor=transfer.envelope.tensor,
                length=transfer.envelope.length,
                handle=handle,
                chunks=chunks,
                resent=again,
                reason=reason,
            )
        )

    def release(self, handle: Handle, out: Outbox) -> None:
        """Nobody needs the bytes."""
        out.payloads.append(Release(handle=handle))
