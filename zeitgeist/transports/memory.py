"""Links inside one process and one event loop, byte for byte the same frames (G1).

Law: bytes arrive on a later turn of the loop, in order, through a decoder like any other's, in pieces that do not
respect frames; nothing is shared with the sender.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.transports.base import STRANGER_BYTES_MAX, Address, Bytes, CarefulDecoder, Hearer, Link

__all__ = ["MemoryHub", "MemoryLink", "memory_pair"]

PIECE_BYTES = 64 << 10


class MemoryLink:
    """One end. `other` is set by `memory_pair`."""

    other: "MemoryLink"

    def __init__(self, facts: LinkFacts) -> None:
        self.known = facts
        self.loop = asyncio.get_running_loop()
        self.decoder = CarefulDecoder(STRANGER_BYTES_MAX)
        self.arrived: deque[bytes] = deque()
        self.hearer: Hearer | None = None
        self.closing = self.gone = self.ends = self.refused = False

    @property
    def facts(self) -> LinkFacts:
        """What is known of this connection."""
        return self.known

    def start(self, hearer: Hearer) -> None:
        """Begin to read what has come so far, too."""
        self.hearer = hearer
        self.loop.call_soon(self.read)

    def trust(self) -> None:
        """Take payloads as large as their channel allows."""
        self.decoder.bytes_max = None

    def waiting(self) -> int:
        """Bytes that the other end has not read."""
        return sum(map(len, self.other.arrived))

    def send(self, parts: Sequence[Bytes], fd: int | None = None) -> None:
        """Copy to the other end."""
        assert fd is None, "no descriptor travels in memory"
        if not self.closing and not self.gone:
            whole = b"".join(parts)
            self.other.arrived.extend(whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES))
            self.loop.call_soon(self.other.read)

    def read(self) -> None:
        """All that has come."""
        while self.arrived and self.hearer and not self.gone:
            piece = memoryview(self.arrived.popleft())
            while piece and not self.closing and not self.refused:
                piece = self.feed(piece)
        if self.ends and not self.arrived and self.hearer:
            self.lost("closed by the other side")

    def feed(self, piece: memoryview) -> memoryview:
        assert self.hearer is not None
        try:
            target = self.decoder.target()
            count = min(len(target), len(piece))
            target[:count] = piece[:count]
            if frame := self.decoder.advance(count):
                self.hearer.frame(self, frame, None)
        except ZeitgeistError as error:
            self.refused = True
            self.hearer.refused(self, error)
            return piece[:0]
        return piece[count:]

    def close(self) -> None:
        """The other end reads what was sent, then hears of the end."""
        if not self.closing and not self.gone:
            self.closing = True
            self.other.ends = True
            self.loop.call_soon(self.other.read)
            self.loop.call_soon(self.lost, "closed here")

    def abort(self) -> None:
        """End at once, also what is on its way."""
        self.other.arrived.clear()
        self.close()

    def lost(self, reason: str) -> None:
        if not self.gone:
            self.gone = True
            self.other.ends = True
            self.loop.call_soon(self.other.read)
            if self.hearer:
                self.hearer.down(self, reason)


def memory_pair(address: str = "memory:pair") -> tuple[MemoryLink, MemoryLink]:
    """(dialler's end, acceptor's end)."""
    ends = tuple(
        MemoryLink(LinkFacts(transport="memory", inbound=inbound, loopback=True, address=address))
        for inbound in (False, True)
    )
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends[0], ends[1]


class MemoryHub:
    """Names that links can be made to. One for all nodes that should reach one another; there is no global one."""

    def __init__(self) -> None:
        self.listening: dict[str, Callable[[Link], None]] = {}

    def listen(self, address: Address, accepted: Callable[[Link], None]) -> "MemoryListener":
        """Take a name. Error: `zg/transport/listen-failed`."""
        if address.host in self.listening:
            raise ZeitgeistError("zg/transport/listen-failed", "somebody listens there", str(address))
        self.listening[address.host] = accepted
        return MemoryListener(self, address)

    def dial(self, address: Address) -> Link:
        """A link to who listens there. Error: `zg/transport/dial-failed`."""
        accepted = self.listening.get(address.host)
        if accepted is None:
            raise ZeitgeistError("zg/transport/dial-failed", "nobody listens there", str(address))
        ours, theirs = memory_pair(str(address))
        accepted(theirs)
        return ours


class MemoryListener:
    """A name that is taken."""

    def __init__(self, hub: MemoryHub, address: Address) -> None:
        self.hub, self.name, self.address = hub, address.host, str(address)

    async def close(self) -> None:
        """Give the name back."""
        self.hub.listening.pop(self.name, None)
