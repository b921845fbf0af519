"""Faults of links as data, and the rules that they become while they last (V1, DESIGN §8).

Law: a fault is a record: kind, start, duration, scope, parameters; shrinking, people and files work on the same thing.
A rule sees a packet and returns Pass, Deliver or Drop; the first that is not Pass wins. Draws are keyed by the fault,
the packet's path and its number. Each rule counts what it did: a fault that did nothing proves nothing.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import msgspec

from sim.entropy import Draws, Entropy
from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import Record

__all__ = [
    "ATTACKS",
    "FAULT_KINDS",
    "PARAMETERS",
    "Deliver",
    "Drop",
    "Fault",
    "FaultKind",
    "Packet",
    "Pass",
    "Path",
    "Rule",
    "Verdict",
    "covers",
]

FaultKind = Literal[
    "delay",
    "throttle",
    "loss",
    "duplicate",
    "reorder",
    "corrupt",
    "partition",
    "clog",
    "cut",
    "swallow",
    "replay",
    "swap",
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

ATTACKS: tuple[FaultKind, ...] = ("swallow", "replay", "swap")
"""What no network does to an ordered connection, but who sits inside it can: a frame vanishes, comes twice, or changes
places with the next. The sequence numbers of the frames must catch each."""

PARAMETERS: Mapping[FaultKind, Mapping[str, int]] = {
    "delay": {"after_ns": 50_000_000, "jitter_ns": 0},
    "throttle": {"bytes_per_s": 1_000_000},
    "loss": {"parts_per_million": 100_000},
    "duplicate": {"parts_per_million": 100_000, "spread_ns": 5_000_000},
    "reorder": {"parts_per_million": 100_000, "window_ns": 20_000_000},
    "corrupt": {"parts_per_million": 1_000_000, "bits": 1},
    "partition": {},
    "clog": {},
    "cut": {},
    "swallow": {"parts_per_million": 1_000_000},
    "replay": {"parts_per_million": 1_000_000},
    "swap": {"parts_per_million": 1_000_000},
}
"""What a kind can be told, and what it takes when it is not told. Any other name is refused."""


class Fault(Record, frozen=True, kw_only=True):
    """One fault. scope: `*` for every link between nodes, `a<>b` both ways, `a>b` what a sends to b, `a>*`; then
    `/control`, `/bulk` or `/local` for one lane. count_max: how often at most, 0 for no bound."""

    kind: FaultKind
    start_ns: int
    duration_ns: int = 0
    scope: str = "*"
    parameters: dict[str, int] = {}  # noqa: RUF012 - msgspec copies an empty default
    count_max: int = 0

    def named(self) -> str:
        """How reports and draws call it."""
        return f"{self.kind} {self.scope} {self.start_ns}"


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of one connection: who sends to whom, on which lane; name is unique in a run."""

    name: str
    source: str
    target: str
    lane: Lane


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule sees. number: on its path; attempt: 0, or how often it was sent before; data: None for the words of a
    connection itself (open, end, reset)."""

    path: Path
    number: int
    attempt: int
    data: bytes | None


class Pass(msgspec.Struct, frozen=True):
    """Not this rule's business."""


class Deliver(msgspec.Struct, frozen=True):
    """It arrives, after_ns later than the link alone would make it; other bytes than were sent, when data is given;
    copy_after_ns: a second copy arrives that much after the first."""

    after_ns: int = 0
    data: bytes | None = None
    copy_after_ns: int = 0


class Drop(msgspec.Struct, frozen=True):
    """It does not arrive."""


Verdict: TypeAlias = Pass | Deliver | Drop
PASS, DROP = Pass(), Drop()


class Rule:
    """A fault while it lasts. fired: how often it did something; spread: paths that it did it to."""

    def __init__(self, fault: Fault, entropy: Entropy) -> None:
        self.fault = fault
        self.until_ns = fault.start_ns + fault.duration_ns
        self.set = parameters_of(fault)
        self.entropy = entropy
        self.streams: dict[str, Draws] = {}
        self.fired = 0
        self.spread: dict[str, int] = {}

    def draws(self, path: Path) -> Draws:
        """The draws of this fault about path."""
        found = self.streams.get(path.name)
        if found is None:
            found = self.streams[path.name] = self.entropy.about(f"fault {self.fault.named()}", path.name)
        return found

    def fire(self, path: Path) -> None:
        """Count once."""
        self.fired += 1
        self.spread[path.name] = self.spread.get(path.name, 0) + 1

    def spent(self) -> bool:
        """True when it did all that it may."""
        return 0 < self.fault.count_max <= self.fired

    def strikes(self, path: Path, number: int, attempt: int = 0) -> bool:
        """Does chance choose this message? Counts it when it does."""
        if self.spent() or not self.draws(path).chance(self.set.get("parts_per_million", 1_000_000), number, attempt):
            return False
        self.fire(path)
        return True

    def judge(self, packet: Packet, now: int) -> Verdict:
        """What becomes of packet."""
        kind = self.fault.kind
        if kind in ("throttle", "cut") or kind in ATTACKS:
            return PASS
        if kind == "corrupt" and not packet.data:
            return PASS
        if not self.strikes(packet.path, packet.number, packet.attempt):
            return PASS
        match kind:
            case "loss" | "partition":
                return DROP
            case "clog":
                return Deliver(after_ns=self.until_ns - now)
            case "delay":
                return Deliver(after_ns=self.set["after_ns"] + self.drawn(packet, "jitter_ns"))
            case "reorder":
                return Deliver(after_ns=1 + self.drawn(packet, "window_ns"))
            case "duplicate":
                return Deliver(copy_after_ns=1 + self.drawn(packet, "spread_ns"))
            case _:
                return Deliver(data=self.flipped(packet))

    def drawn(self, packet: Packet, name: str) -> int:
        """A draw below a parameter, about packet."""
        return self.entropy.about(f"{name} {self.fault.named()}", packet.path.name).below(
            self.set[name], packet.number, packet.attempt
        )

    def flipped(self, packet: Packet) -> bytes:
        """The packet's bytes with some bits turned over; never the bytes as they were."""
        assert packet.data
        data = bytearray(packet.data)
        draws = self.entropy.about(f"bits {self.fault.named()}", packet.path.name)
        places: dict[int, None] = {}
        for again in range(self.set["bits"]):
            places[draws.below(8 * len(data), packet.number, again)] = None
        for place in places:
            data[place >> 3] ^= 1 << (place & 7)
        return bytes(data)


def parameters_of(fault: Fault) -> dict[str, int]:
    """The fault's parameters with defaults; unknown names and negative numbers are refused."""
    known = dict(PARAMETERS[fault.kind])
    for name, value in fault.parameters.items():
        if name not in known:
            raise refuse("zg/sim/bad-scenario", f"{fault.kind}.{name}", name, ", ".join(known) or "no parameter")
        if not 0 <= value < 1 << 60:
            raise refuse("zg/sim/bad-scenario", f"{fault.kind}.{name}", value, "0 to 2^60")
        known[name] = value
    if fault.kind == "throttle" and not known["bytes_per_s"]:
        raise refuse("zg/sim/bad-scenario", "throttle.bytes_per_s", 0, "more than 0; a partition stops everything")
    if fault.kind == "corrupt" and not known["bits"]:
        raise refuse("zg/sim/bad-scenario", "corrupt.bits", 0, "at least one")
    return known


def covers(scope: str, path: Path) -> bool:
    """Is path in scope?"""
    pair, _, lane = scope.partition("/")
    if lane not in ("", "control", "bulk", "local"):
        raise refuse("zg/sim/bad-scenario", "scope", scope, "a lane of control, bulk, local after /")
    if lane != path.lane and (lane or path.lane == "local"):
        return False
    if pair == "*":
        return True
    if "<>" in pair:
        one, _, other = pair.partition("<>")
        return (one, other) in ((path.source, path.target), (path.target, path.source))
    if ">" in pair:
        source, _, target = pair.partition(">")
        return source in ("*", path.source) and target in ("*", path.target)
    raise refuse("zg/sim/bad-scenario", "scope", scope, "*, a<>b, a>b, a>* with /control, /bulk, /local after it")
