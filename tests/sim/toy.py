"""A party that is no node: it dials, greets, answers and complains, so that the simulator is tested without the core.

It has the same face, `step(input, now) -> Effects`. `careless` takes what it says from a set of strings.
"""

import blake3

from sim.cores import Cores
from sim.faults import Fault
from sim.network import LinkProfile, LinkSpec
from sim.scenario import NodeSpec, Scenario
from zeitgeist.core.effects import (
    Boot,
    CallDone,
    CallFailed,
    Close,
    Dial,
    Dialled,
    Effects,
    FrameArrived,
    FrameRefused,
    Input,
    LinkDown,
    LinkUp,
    Planned,
    Result,
    Send,
    TimerFired,
)
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import Digest, LinkId, NodeId, Ticket
from zeitgeist.core.trace import Event, MessageRefused
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import Channel
from zeitgeist.core.wire.messages import Ping, Reason

MILLISECOND = 1_000_000
PERIOD = 10 * MILLISECOND
PING, PONG = 7, 8
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]


class Toy:
    """Every 10 ms it pings each link; a ping is answered; a frame out of sequence or damaged ends its link."""

    def __init__(self, careless: bool = False) -> None:
        self.careless = careless
        self.links: dict[LinkId, int] = {}
        self.heard: dict[LinkId, int] = {}
        self.pongs = 0
        self.tickets = 0
        self.targets: list[str] = []
        self.dialled: dict[Ticket, str] = {}
        self.of_link: dict[LinkId, str] = {}
        self.down: list[str] = []

    def step(self, input: Input, now: Instant) -> Effects:
        self.sends: list[Send] = []
        self.calls: list[Dial] = []
        self.closes: list[Close] = []
        self.events: list[Event] = []
        match input:
            case Boot():
                for target in input.config.dial:
                    self.dial(target.address)
            case LinkUp():
                self.links[input.link], self.heard[input.link] = 0, 0
                if input.ticket:
                    self.of_link[input.link] = self.dialled[input.ticket]
            case CallDone(result=Dialled()):
                self.dialled.pop(input.ticket)
            case CallFailed():
                self.down.append(self.dialled.pop(input.ticket))
            case LinkDown():
                self.links.pop(input.link, None)
                if address := self.of_link.pop(input.link, None):
                    self.down.append(address)
            case FrameArrived():
                self.frame(input)
            case FrameRefused():
                self.refuse(input.link, 0, input.reason)
            case TimerFired():
                self.tick()
            case _:
                pass
        return Effects(
            send=tuple(self.sends),
            close=tuple(self.closes),
            calls=tuple(self.calls),
            events=tuple(self.events),
            wake_at=Instant((now // PERIOD + 1) * PERIOD),
        )

    def state_digest(self) -> Digest:
        state = repr((sorted(self.links.items()), sorted(self.heard.items()), self.pongs, self.tickets))
        return Digest("blake3:" + blake3.blake3(state.encode()).hexdigest())

    def tick(self) -> None:
        for address in self.down:
            self.dial(address)
        self.down = []
        words = [*set(WORDS)] if self.careless else WORDS
        for link in self.links:
            self.send(link, PING, WORDS.index(words[0]))

    def frame(self, frame: FrameArrived) -> None:
        if frame.sequence != self.heard[frame.link]:
            detail = f"got {frame.sequence}, wanted {self.heard[frame.link]}"
            self.refuse(frame.link, frame.kind, Reason(id="zg/node/wrong-sequence", detail=detail))
            return
        self.heard[frame.link] += 1
        if frame.kind == PING:
            self.send(frame.link, PONG, 0)
        else:
            self.pongs += 1

    def refuse(self, link: LinkId, kind: int, reason: Reason) -> None:
        self.events.append(MessageRefused(link=link, peer=NodeId("x"), kind=kind, reason=reason))
        self.closes.append(Close(link=link, reason=reason.id))

    def send(self, link: LinkId, kind: int, number: int) -> None:
        sequence, self.links[link] = self.links[link], self.links[link] + 1
        record = encode(Ping(number=number))
        self.sends.append(
            Send(link=link, channel=int(Channel.CONTROL), kind=kind, stream=0, sequence=sequence, record=record)
        )

    def dial(self, address: str) -> None:
        self.tickets += 1
        self.dialled[Ticket(self.tickets)] = address
        self.calls.append(Dial(ticket=Ticket(self.tickets), address=address, lane="control"))


def no_plan(snapshot: bytes) -> Result:
    return Planned(snapshot=Digest(""), plan=snapshot)


def toys(careless: bool = False) -> Cores:
    """Cores that are toys."""
    return Cores(node=lambda: Toy(careless), worker=Toy, plan=no_plan)


PLAIN_LINK = LinkProfile(latency_ns=MILLISECOND)


def triangle(*faults: Fault, seed: int = 1, profile: LinkProfile = PLAIN_LINK, seconds: int = 2) -> Scenario:
    """Three toys, each connected with each."""
    return Scenario(
        name="triangle",
        nodes=(
            NodeSpec(name="a", dial=("b", "c")),
            NodeSpec(name="b", dial=("c",)),
            NodeSpec(name="c"),
        ),
        links=(LinkSpec(scope="*", profile=profile),),
        faults=faults,
        seed=seed,
        duration_ns=seconds * 1000 * MILLISECOND,
    )
