"""Links that behave and links that do not: each fault really happens, and a party sees what TCP would show it (V1)."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import MILLISECOND, PLAIN_LINK, toys, triangle

from sim.driver import Simulation
from sim.entropy import Entropy
from sim.faults import ATTACKS, FAULT_KINDS, PARAMETERS, Fault, FaultKind, Packet, Pass, Path, Rule, covers
from sim.heap import HeapKernel
from sim.network import LinkProfile, LinkSpec, Network, Side
from sim.party import Party
from zeitgeist.core.effects import Effects, FrameArrived, FrameRefused, Input, LinkDown
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import LinkId
from zeitgeist.core.units import Instant

SECOND = 1000 * MILLISECOND


class Ear:
    """A host that only listens: (instant, bytes) of what comes."""

    def __init__(self, name: str, kernel: HeapKernel) -> None:
        self.name, self.alive, self.kernel = name, True, kernel
        self.heard: list[tuple[int, bytes]] = []
        self.ups: list[Side] = []
        self.downs: list[tuple[int, str]] = []
        self.failed: list[tuple[int, str]] = []

    def link_up(self, side: Side) -> None:
        side.link = len(self.ups) + 1  # pyright: ignore[reportAttributeAccessIssue]
        self.ups.append(side)

    def link_down(self, side: Side, reason: str) -> None:
        self.downs.append((self.kernel.now, reason))

    def bytes_in(self, side: Side, data: bytes) -> None:
        self.heard.append((self.kernel.now, data))

    def dial_failed(self, ticket: int, reason: str) -> None:
        self.failed.append((self.kernel.now, reason))


def pair(profile: LinkProfile, *faults: Fault, seed: int = 1) -> tuple[HeapKernel, Network, Ear, Ear]:
    """Two ears, connected."""
    kernel = HeapKernel()
    network = Network(kernel, Entropy(seed), (LinkSpec(scope="*", profile=profile),), faults)
    one, other = Ear("a", kernel), Ear("b", kernel)
    network.dial(one, other, "control", 1)
    return kernel, network, one, other


@pytest.mark.requirement("V1")
@given(rate=st.integers(1, 10**9), sizes=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=30))
def test_bandwidth_is_exact_in_integers(rate: int, sizes: list[int]) -> None:
    """Frames put on an idle link back to back: the last byte of the first n arrives after exactly
    floor(bytes × 1e9 / rate) ns and the latency; no rounding adds up."""
    kernel, _, one, other = pair(LinkProfile(latency_ns=1000, bytes_per_s=rate))
    kernel.run(5000)
    start = kernel.now
    for size in sizes:
        one.ups[0].send(bytes(size))
    kernel.run(1 << 62)
    totals = [sum(sizes[: count + 1]) for count in range(len(sizes))]
    wanted = [start + 1000 + total * SECOND // rate for total in totals]
    assert [instant for instant, _ in other.heard] == wanted


@pytest.mark.requirement("V1")
@given(
    seed=st.integers(0, 1000),
    loss=st.integers(0, 500_000),
    again=st.integers(0, 500_000),
    mixed=st.integers(0, 500_000),
    shape=st.sampled_from(["constant", "uniform", "tail"]),
)
def test_a_bad_network_shows_as_delay_never_as_disorder(
    seed: int, loss: int, again: int, mixed: int, shape: str
) -> None:
    """Loss, doubles and reordering below an ordered connection: every frame once and in order, or the connection ends
    and what came before is a prefix."""
    profile = LinkProfile(latency_ns=MILLISECOND, jitter_ns=MILLISECOND, shape=shape)  # pyright: ignore[reportArgumentType]
    faults = (
        Fault(kind="loss", start_ns=0, duration_ns=SECOND, parameters={"parts_per_million": loss}),
        Fault(kind="duplicate", start_ns=0, duration_ns=SECOND, parameters={"parts_per_million": again}),
        Fault(kind="reorder", start_ns=0, duration_ns=SECOND, parameters={"parts_per_million": mixed}),
    )
    kernel, _, one, other = pair(profile, *faults, seed=seed)
    kernel.run(SECOND * 60)
    sent = [bytes([index]) for index in range(40)]
    if one.ups:
        for frame in sent:
            one.ups[0].send(frame)
    kernel.run(SECOND * 600)
    got = [data for _, data in other.heard]
    assert got == sent[: len(got)]
    assert got == sent or one.downs or one.failed


@pytest.mark.requirement("V1")
def test_a_one_way_partition_stops_one_way_only() -> None:
    """`a>b` is shut for a second: what b sends still arrives at once, what a sends arrives after, in order."""
    kernel, _, one, other = pair(PLAIN_LINK, Fault(kind="partition", start_ns=SECOND, duration_ns=SECOND, scope="a>b"))
    kernel.run(SECOND + 1)
    one.ups[0].send(b"there")
    other.ups[0].send(b"back")
    kernel.run(SECOND * 5)
    assert [data for _, data in one.heard] == [b"back"] and one.heard[0][0] == SECOND + 1 + MILLISECOND
    assert [data for _, data in other.heard] == [b"there"] and other.heard[0][0] > 2 * SECOND
    assert not one.downs and not other.downs


@pytest.mark.requirement("V1")
def test_a_long_partition_ends_the_connection_for_the_sender_alone() -> None:
    """Who sends into a partition gives up after its attempts; who is silent behind it hears nothing of that."""
    profile = LinkProfile(latency_ns=MILLISECOND, attempts=4)
    kernel, _, one, other = pair(profile, Fault(kind="partition", start_ns=SECOND, duration_ns=100 * SECOND))
    kernel.run(SECOND + 1)
    one.ups[0].send(b"lost")
    kernel.run(SECOND * 50)
    assert [reason for _, reason in one.downs] == ["timed out: no packet came through"]
    assert other.downs == [] and other.heard == []


@pytest.mark.requirement("V1")
def test_a_clog_holds_and_lets_go_all_at_once() -> None:
    """Packets of the window arrive at its end, in order, with the link's own latency."""
    kernel, _, one, other = pair(PLAIN_LINK, Fault(kind="clog", start_ns=SECOND, duration_ns=SECOND))
    for instant in (SECOND + 1, SECOND + 500 * MILLISECOND, SECOND + 900 * MILLISECOND):
        kernel.run(instant)
        one.ups[0].send(b"%d" % instant)
    kernel.run(3 * SECOND)
    assert [instant for instant, _ in other.heard] == [2 * SECOND + MILLISECOND] * 3
    assert [int(data) for _, data in other.heard] == sorted(int(data) for _, data in other.heard)


@pytest.mark.requirement("V1")
def test_a_cut_is_heard_at_both_ends_and_a_closed_end_resets() -> None:
    """A cut tells both; after a close the far end hears an end; nothing is heard after either."""
    kernel, _, one, other = pair(PLAIN_LINK, Fault(kind="cut", start_ns=SECOND))
    kernel.run(2 * SECOND)
    one.ups[0].send(b"late")
    kernel.run(3 * SECOND)
    assert one.downs == other.downs == [(SECOND, "reset: the connection was cut")] and other.heard == []
    kernel, _, one, other = pair(PLAIN_LINK)
    kernel.run(SECOND)
    one.ups[0].close()
    other.ups[0].send(b"crossing")
    kernel.run(2 * SECOND)
    assert one.downs == [] and one.heard == [] and [reason for _, reason in other.downs] == ["closed by the peer"]


@pytest.mark.requirement("V1")
def test_nobody_at_home_fails_a_dial() -> None:
    """A party that does not live answers a dial with a reset; one behind a partition does not answer at all."""
    kernel = HeapKernel()
    network = Network(kernel, Entropy(0), (LinkSpec(scope="*", profile=PLAIN_LINK),))
    one, other = Ear("a", kernel), Ear("b", kernel)
    other.alive = False
    network.dial(one, other, "control", 7)
    kernel.run(SECOND)
    assert one.failed == [(2 * MILLISECOND, "reset by the peer")] and not other.ups


@pytest.mark.requirement("V1")
def test_scopes_cover_what_they_say() -> None:
    """Both ways, one way, from one to all, one lane; local links only by name; nonsense is refused."""
    there = Path(name="1", source="a", target="b", lane="control")
    back = Path(name="2", source="b", target="a", lane="control")
    local = Path(name="3", source="a", target="a.w", lane="local")
    assert [covers("a<>b", path) for path in (there, back, local)] == [True, True, False]
    assert [covers("a>b", path) for path in (there, back)] == [True, False]
    assert [covers("a>*", path) for path in (there, back)] == [True, False]
    assert [covers("*", path) for path in (there, back, local)] == [True, True, False]
    assert [covers("*/local", path) for path in (there, local)] == [False, True]
    assert [covers("a<>b/bulk", path) for path in (there, back)] == [False, False]
    for bad in ("a-b", "", "a<>b/fast"):
        with pytest.raises(ZeitgeistError, match="zg/sim/bad-scenario"):
            covers(bad, there)


WINDOW = {"start_ns": SECOND // 2, "duration_ns": SECOND}


@pytest.mark.requirement("V1")
@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_each_kind_of_fault_happens_and_changes_the_run(kind: FaultKind) -> None:
    """Toys under one fault: its counter moves, and the trace is another one than without it."""
    count_max = 1 if kind in ("corrupt", *ATTACKS) else 0
    fault = Fault(kind=kind, scope="a<>b", count_max=count_max, **WINDOW)
    calm, rough = Simulation(triangle(), toys()), Simulation(triangle(fault), toys())
    calm.run()
    rough.run()
    (rule,) = rough.network.rules
    assert rule.fired >= 1 and sum(rule.spread.values()) == rule.fired
    assert all(path.startswith(("a-b/", "b-a/")) for path in rule.spread)
    if kind == "duplicate":
        assert rough.network.doubles == rule.fired and rough.digest() == calm.digest()
    else:
        assert rough.digest() != calm.digest()


def listen(party: Party, hear: Callable[[Input], None]) -> None:
    """Overhear what a party is told."""
    tell = party.tell

    def overheard(input: Input) -> None:
        hear(input)
        tell(input)

    party.tell = overheard


def inputs_of(kind: FaultKind, **parameters: int) -> tuple[Simulation, list[tuple[str, Input]]]:
    """The toys' inputs under one fault from a to b, struck once."""
    fault = Fault(kind=kind, scope="a>b", count_max=1, parameters=parameters, **WINDOW)
    simulation = Simulation(triangle(fault), toys(), "heap")
    told: list[tuple[str, Input]] = []
    for name, party in simulation.parties.items():
        listen(party, lambda input, name=name: told.append((name, input)))
    simulation.run()
    return simulation, told


@pytest.mark.requirement("V1", "C1")
@pytest.mark.parametrize("bits", [1, 2, 40])
def test_damaged_frames_are_refused_by_name_and_the_link_ends(bits: int) -> None:
    """Flipped bits meet the real decoder: one refusal with a name of the wire, then the link is gone on both sides, and
    a new one takes its place. Nothing damaged is ever told as a frame."""
    simulation, told = inputs_of("corrupt", bits=bits)
    refused = [input for name, input in told if isinstance(input, FrameRefused) and name == "b"]
    assert len(refused) == 1 and refused[0].reason.id.startswith(("zg/wire/", "zg/version/"))
    ends = [name for name, input in told if isinstance(input, LinkDown)]
    assert sorted(ends) == ["a", "b"]
    assert simulation.parties["a"].links == 3, "a dialled twice, and once more"
    frames = [input for _, input in told if isinstance(input, FrameArrived)]
    assert all(len(frame.record) < 32 for frame in frames)


@pytest.mark.requirement("V1", "H3")
@pytest.mark.parametrize("kind", ATTACKS)
def test_who_sits_inside_a_connection_is_caught_by_the_sequence(kind: FaultKind) -> None:
    """A frame swallowed, replayed or swapped above the ordered stream has sound checksums; its number betrays it."""
    simulation, told = inputs_of(kind)
    assert simulation.network.rules[0].fired == 1
    assert not [input for _, input in told if isinstance(input, FrameRefused)], "checksums are sound"
    assert sorted(name for name, input in told if isinstance(input, LinkDown)) == ["a", "b"]


@pytest.mark.requirement("V1")
def test_one_fault_more_leaves_the_other_draws_as_they_were() -> None:
    """Loss with and without a second fault on another link: the same packets are chosen, by number."""
    loss = Fault(kind="loss", start_ns=0, duration_ns=SECOND, scope="a>b", parameters={"parts_per_million": 200_000})
    more = Fault(kind="reorder", start_ns=0, duration_ns=SECOND, scope="c>a")
    path = Path(name="a-b/control/1 a>b", source="a", target="b", lane="control")
    chosen = [
        [
            number
            for number in range(200)
            if not isinstance(
                rule.judge(Packet(path=path, number=number, attempt=0, data=b"x"), 0),
                Pass,
            )
        ]
        for rule in (Rule(loss, Entropy(5)), Network(HeapKernel(), Entropy(5), (), (more, loss)).rules[1])
    ]
    assert chosen[0] == chosen[1] and 20 < len(chosen[0]) < 60


@pytest.mark.requirement("V1")
def test_draws_are_even_and_long_ones_stay_integers() -> None:
    """10,000 draws below 10 fill each tenth within 5 σ; a stretched latency has mean near 1.5 × its scale."""
    draws = Entropy(1).about("test", "x")
    counts = [0] * 10
    for number in range(10_000):
        counts[draws.below(10, number)] += 1
    assert all(abs(count - 1000) < 150 for count in counts), counts
    stretched = [draws.stretch(1000, number) for number in range(10_000)]
    assert all(type(value) is int and value >= 0 for value in stretched)
    assert 1_300 < sum(stretched) / len(stretched) < 1_700 and max(stretched) > 8_000


@pytest.mark.requirement("V1")
@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_refuses_parameters_that_it_does_not_have(kind: FaultKind) -> None:
    """Unknown names and negative numbers are refused by name."""
    bad: list[dict[str, int]] = [{"no_such": 1}, *({name: -1} for name in PARAMETERS[kind])]
    for parameters in bad:
        with pytest.raises(ZeitgeistError, match="zg/sim/bad-scenario"):
            Rule(Fault(kind=kind, start_ns=0, parameters=parameters), Entropy(0))


def test_the_toy_has_the_face_of_a_core() -> None:
    """A step gives effects, whatever it is told."""
    down = LinkDown(link=LinkId(1), reason="")
    assert isinstance(toys().node().step(down, Instant(0)), Effects)
