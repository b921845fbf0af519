"""Connections of simulated parties: ordered streams on a network that delays, loses, doubles and damages (V1).

Law: below, a packet meets the link's latency, its bandwidth and the rules of the faults that last; above, a party sees
what TCP would show it: frames in order and once, or a connection that ends. A lost packet is sent again after rto_ns,
twice that, and so on; what comes early waits, what comes twice is dropped. Packets carry real encoded frames. Only an
attack (`faults.ATTACKS`) works above the ordered stream. Nothing here reads a frame.
"""

from typing import Literal, Protocol

from sim.entropy import Entropy
from sim.faults import ATTACKS, Deliver, Drop, Fault, Packet, Path, Rule, covers
from sim.heap import Kernel, Later
from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import LinkId

__all__ = ["LOCAL_LINK", "Connection", "Host", "LinkProfile", "LinkSpec", "Network", "Side", "Way", "Word"]

SECOND_NS = 1_000_000_000


class LinkProfile(Record, frozen=True, kw_only=True):
    """How a link behaves in one direction when nothing is wrong.

    latency_ns, and jitter_ns on top by shape: `constant` none, `uniform` up to jitter_ns, `tail` long now and then.
    bytes_per_s: 0 for no bound; what does not fit yet waits in line. rto_ns: until a lost packet is sent again,
    doubling each time; attempts: after which the sender gives the connection up (Linux: 200 ms, 15; 8 are 51 s).
    """

    latency_ns: int = 500_000
    jitter_ns: int = 0
    shape: Literal["constant", "uniform", "tail"] = "constant"
    bytes_per_s: int = 0
    rto_ns: int = 200_000_000
    attempts: int = 8


class LinkSpec(Record, frozen=True, kw_only=True):
    """The profile of each direction that scope covers (`faults.Fault.scope`); of several the first."""

    scope: str
    profile: LinkProfile


LOCAL_LINK = LinkProfile(latency_ns=20_000)
"""A socket pair within one host: 20 µs from write to wake-up."""

Word = Literal["open", "opened", "end", "reset"]
"""What connections say to one another beside data: SYN, SYN-ACK, FIN, RST."""


class Host(Protocol):
    """A party, as its network sees it."""

    name: str
    alive: bool

    def link_up(self, side: "Side") -> None:
        """A connection stands."""
        ...

    def link_down(self, side: "Side", reason: str) -> None:
        """A connection is gone that this party did not close."""
        ...

    def bytes_in(self, side: "Side", data: bytes) -> None:
        """The next bytes of the stream."""
        ...

    def dial_failed(self, ticket: int, reason: str) -> None:
        """Nobody answers."""
        ...


class Arrival:
    """A packet on its way."""

    __slots__ = ("content", "number", "way")

    def __init__(self, way: "Way", number: int, content: bytes | Word) -> None:
        self.way = way
        self.number = number
        self.content: bytes | Word = content

    def fire(self) -> None:
        """It is there: the next in order, or a case for the way."""
        way = self.way
        if self.number == way.expected and not way.early:
            way.expected += 1
            way.target.hear(self.content)
        else:
            way.arrive(self.number, self.content)

    def name(self) -> str:
        """Path and number."""
        return f"packet {self.way.path.name} {self.number}"


class Side:
    """One end of a connection, in the hands of one party. out: the way that it sends on."""

    __slots__ = ("connection", "host", "inbound", "link", "open", "out", "ticket")

    def __init__(self, connection: "Connection", host: Host, inbound: bool, ticket: int) -> None:
        self.connection = connection
        self.host = host
        self.inbound = inbound
        self.ticket = ticket
        self.link = LinkId(0)
        self.open = False
        self.out: Way

    @property
    def lane(self) -> Lane:
        """Control, bulk or local."""
        return self.connection.lane

    @property
    def other(self) -> "Side":
        """The far end."""
        return self.connection.acceptor if self is self.connection.dialler else self.connection.dialler

    def send(self, frame: bytes) -> None:
        """One encoded frame; lost without a word when the connection is gone, as in a socket's buffer."""
        if not self.open:
            return
        if self.out.attacks:
            self.out.attacked(frame)
        else:
            self.out.put(frame)

    def close(self) -> None:
        """End the connection after what was sent on it."""
        if self.open:
            self.open = False
            self.out.put("end")

    def drop(self, reason: str) -> None:
        """This end learns that the connection is gone."""
        was, self.open = self.open, False
        if was:
            self.host.link_down(self, reason)
        elif self.ticket and not self.link:
            self.host.dial_failed(self.ticket, reason)
            self.ticket = 0

    def hear(self, content: bytes | Word) -> None:
        """The next of the stream, in order."""
        if isinstance(content, bytes):
            if self.open:
                self.host.bytes_in(self, content)
            elif self.link:
                self.out.put("reset")
        elif content == "open" and not self.host.alive:
            self.out.put("reset")
        elif content == "open":
            self.open = True
            self.host.link_up(self)
            self.out.put("opened")
        elif content == "opened":
            self.open = True
            self.host.link_up(self)
        else:
            self.drop("closed by the peer" if content == "end" else "reset by the peer")


class Way:
    """One direction of a connection: numbers what is sent, carries it, puts it in order again."""

    def __init__(self, network: "Network", path: Path, profile: LinkProfile, target: Side, source: Side) -> None:
        self.network = network
        self.kernel = network.kernel
        self.path = path
        self.profile = profile
        self.target = target
        self.source = source
        self.latency = network.entropy.about("latency", path.name)
        self.rules: list[Rule] = []
        self.attacks: list[Rule] = []
        self.throttle: Rule | None = None
        self.plain = profile.shape == "constant" and profile.bytes_per_s == 0
        self.quick = self.plain
        self.held_back: bytes | None = None
        self.frames = 0
        self.sent = 0
        self.free_at = 0
        self.owed = 0
        self.expected = 0
        self.early: dict[int, bytes | Word] = {}
        self.dead = False

    def attacked(self, frame: bytes) -> None:
        """A frame enters a stream that somebody sits inside."""
        number, self.frames = self.frames, self.frames + 1
        if self.held_back is not None:
            late, self.held_back = self.held_back, None
            self.put(frame)
            return self.put(late)
        for rule in self.attacks:
            if not rule.strikes(self.path, number):
                continue
            if rule.fault.kind == "swap":
                self.held_back = frame
            elif rule.fault.kind == "replay":
                self.put(frame)
                self.put(frame)
            return None
        return self.put(frame)

    def put(self, content: bytes | Word) -> None:
        """Number it and let it go."""
        number = self.sent
        self.sent = number + 1
        if self.quick:
            self.kernel.at(self.kernel.now + self.profile.latency_ns, Arrival(self, number, content))
        else:
            self.carry(number, content, 0)

    def carry(self, number: int, content: bytes | Word, attempt: int) -> None:
        """One attempt to bring a packet across."""
        if self.dead:
            return None
        now = self.kernel.now
        left = self.line(now, len(content) if isinstance(content, bytes) else 0)
        copy_after_ns, after_ns = 0, 0
        data = content if isinstance(content, bytes) else None
        packet = Packet(path=self.path, number=number, attempt=attempt, data=data) if self.rules else None
        for rule in self.rules if packet else ():
            assert packet
            match rule.judge(packet, now):
                case Drop():
                    return self.lost(number, content, attempt)
                case Deliver() as verdict:
                    after_ns, copy_after_ns = verdict.after_ns, verdict.copy_after_ns
                    content = content if verdict.data is None else verdict.data
                    break
                case _:
                    pass
        arrival = left + self.profile.latency_ns + self.wander(number) + after_ns
        self.kernel.at(arrival, Arrival(self, number, content))
        if copy_after_ns:
            self.kernel.at(arrival + copy_after_ns, Arrival(self, number, content))
        return None

    def die(self) -> None:
        """Nothing more goes this way; what is under way arrives."""
        self.dead, self.quick = True, False

    def line(self, now: int, size: int) -> int:
        """When the last of size bytes has left. Exact: what a division leaves over is owed to the next in line."""
        rate = self.profile.bytes_per_s
        if self.throttle:
            self.throttle.fire(self.path)
            bound = self.throttle.set["bytes_per_s"]
            rate = min(rate, bound) if rate else bound
        if not rate:
            return now
        if self.free_at <= now:
            self.free_at, self.owed = now, 0
        spent, self.owed = divmod(size * SECOND_NS + self.owed, rate)
        self.free_at += spent
        return self.free_at

    def wander(self, number: int) -> int:
        """Jitter of a packet."""
        match self.profile.shape:
            case "uniform":
                return self.latency.below(self.profile.jitter_ns + 1, number)
            case "tail":
                return self.latency.stretch(self.profile.jitter_ns, number)
            case _:
                return 0

    def lost(self, number: int, content: bytes | Word, attempt: int) -> None:
        """Send it again later, or give the connection up."""
        if attempt + 1 >= self.profile.attempts:
            self.die()
            return self.source.drop("timed out: no packet came through")
        self.network.resent += 1
        later = self.kernel.now + (self.profile.rto_ns << attempt)
        resend = Later(lambda: self.carry(number, content, attempt + 1), f"resend {self.path.name} {number} {attempt}")
        return self.kernel.at(later, resend)

    def arrive(self, number: int, content: bytes | Word) -> None:
        """A packet is there: deliver what is in order, keep what is early, drop what came before."""
        if number != self.expected:
            if number < self.expected or number in self.early:
                self.network.doubles += 1
            else:
                self.early[number] = content
            return
        self.expected = number + 1
        self.target.hear(content)
        while self.early:
            following = self.early.pop(self.expected, None)
            if following is None:
                return
            self.expected += 1
            self.target.hear(following)


class Connection:
    """Two sides and the two ways between them."""

    def __init__(self, network: "Network", dialler: Host, acceptor: Host, lane: Lane, ticket: int) -> None:
        self.lane: Lane = lane
        self.dialler = Side(self, dialler, inbound=False, ticket=ticket)
        self.acceptor = Side(self, acceptor, inbound=True, ticket=0)
        self.name = network.name_for(dialler.name, acceptor.name, lane)
        self.dialler.out = self.way(network, self.dialler, self.acceptor)
        self.acceptor.out = self.way(network, self.acceptor, self.dialler)
        self.ways = (self.dialler.out, self.acceptor.out)

    def way(self, network: "Network", source: Side, target: Side) -> Way:
        """The way from source to target."""
        path = Path(
            name=f"{self.name} {source.host.name}>{target.host.name}",
            source=source.host.name,
            target=target.host.name,
            lane=self.lane,
        )
        return Way(network, path, network.profile_of(path), target, source)

    def expire(self) -> None:
        """The dialler waited long enough."""
        if not self.dialler.link and self.dialler.ticket:
            self.cut("timed out: nobody answered")

    def cut(self, reason: str) -> None:
        """Both ends lose it at once."""
        for way in self.ways:
            way.die()
        self.dialler.drop(reason)
        self.acceptor.drop(reason)


class Network:
    """All connections of a run, and the faults that befall them."""

    def __init__(
        self, kernel: Kernel, entropy: Entropy, links: tuple[LinkSpec, ...] = (), faults: tuple[Fault, ...] = ()
    ) -> None:
        self.kernel = kernel
        self.entropy = entropy
        self.links = links
        self.connections: list[Connection] = []
        self.counts: dict[str, int] = {}
        self.resent = 0
        self.doubles = 0
        self.rules = [Rule(fault, entropy) for fault in faults]
        self.lasting: list[Rule] = []
        for rule in self.rules:
            self.plan(rule)

    def plan(self, rule: Rule) -> None:
        """Let a fault begin and end when it says."""
        fault = rule.fault
        self.kernel.at(fault.start_ns, Later(lambda: self.begin(rule), f"begin {fault.named()}"))
        if fault.kind != "cut":
            self.kernel.at(rule.until_ns, Later(lambda: self.cease(rule), f"cease {fault.named()}"))

    def begin(self, rule: Rule) -> None:
        """A fault starts."""
        if rule.fault.kind == "cut":
            for connection in [*self.connections]:
                if any(covers(rule.fault.scope, way.path) for way in connection.ways) and not connection.ways[0].dead:
                    rule.fire(connection.ways[0].path)
                    connection.cut("reset: the connection was cut")
            return
        self.lasting.append(rule)
        self.refresh()

    def cease(self, rule: Rule) -> None:
        """A fault is over."""
        self.lasting.remove(rule)
        self.refresh()

    def refresh(self) -> None:
        """Tell every way which rules last."""
        for connection in self.connections:
            for way in connection.ways:
                self.apply(way)

    def apply(self, way: Way) -> None:
        """The rules that last and cover way, in the order of the scenario."""
        lasting = [rule for rule in self.rules if rule in self.lasting and covers(rule.fault.scope, way.path)]
        way.attacks = [rule for rule in lasting if rule.fault.kind in ATTACKS]
        way.rules = [rule for rule in lasting if rule.fault.kind not in ATTACKS]
        throttles = [rule for rule in way.rules if rule.fault.kind == "throttle"]
        way.throttle = throttles[0] if throttles else None
        way.quick = way.plain and not way.rules and not way.dead
        if way.held_back is not None and not way.attacks:
            late, way.held_back = way.held_back, None
            way.put(late)

    def name_for(self, dialler: str, acceptor: str, lane: Lane) -> str:
        """A name that every run gives to the same connection."""
        base = f"{dialler}-{acceptor}/{lane}"
        self.counts[base] = self.counts.get(base, 0) + 1
        return f"{base}/{self.counts[base]}"

    def profile_of(self, path: Path) -> LinkProfile:
        """The first profile whose scope covers path."""
        for spec in self.links:
            if covers(spec.scope, path):
                return spec.profile
        return LOCAL_LINK if path.lane == "local" else LinkProfile()

    def dial(self, dialler: Host, acceptor: Host, lane: Lane, ticket: int) -> Connection:
        """Begin a connection: the acceptor learns of it by the first packet, the dialler by the answer."""
        connection = Connection(self, dialler, acceptor, lane, ticket)
        self.connections.append(connection)
        for way in connection.ways:
            self.apply(way)
        connection.dialler.out.put("open")
        return connection

    def forget(self, connection: Connection) -> None:
        """A connection that ended is not looked at again."""
        if connection in self.connections:
            self.connections.remove(connection)
