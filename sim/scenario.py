"""A scenario as data: who there is, how they are connected, what goes wrong, what is asked of them.

Law: a scenario and a seed are the whole of a run. Everything that is not stated has a default here, everything unknown
is refused by name. The library of scenarios in YAML builds on this record (V4).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from sim.faults import FAULT_KINDS, Fault, FaultKind, covers, parameters_of
from sim.faults import Path as Way
from sim.network import LinkProfile, LinkSpec
from zeitgeist.core.descriptors.node import Role
from zeitgeist.core.descriptors.trust import AuthMode, TrustLevel
from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import Record

__all__ = ["BUILTIN", "Completion", "NodeSpec", "Scenario", "Tensor", "Work", "check_scenario", "read_scenario"]

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
Name = Annotated[str, Meta(min_length=1, max_length=48, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Time = Annotated[int, Meta(ge=0, le=1 << 60)]

EXECUTOR: tuple[TrustLevel, ...] = ("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer")


class NodeSpec(Record, frozen=True, kw_only=True):
    """One node. dial: names of nodes that it calls; workers: names of its workers, each with a synthetic engine; trust:
    what the others trust it with."""

    name: Name
    roles: tuple[Role, ...] = ("executor",)
    dial: tuple[Name, ...] = ()
    workers: tuple[Name, ...] = ()
    trust: tuple[TrustLevel, ...] = EXECUTOR


class Completion(Record, frozen=True, kw_only=True, tag="completion"):
    """node submits a job at at_ns. think_ns: how long its application takes over each token."""

    at_ns: Time
    node: Name
    job: Name
    prompt: str = "Once upon a time"
    token_count: Annotated[int, Meta(ge=1, le=4096)] = 16
    think_ns: Time = 0

    @property
    def named(self) -> str:
        """How reports call it."""
        return self.job


class Tensor(Record, frozen=True, kw_only=True, tag="tensor"):
    """node sends peer a tensor of length bytes at at_ns."""

    at_ns: Time
    node: Name
    peer: Name
    name: Name
    length: Annotated[int, Meta(ge=0, le=1 << 30)]
    chunk_bytes: Annotated[int, Meta(ge=1, le=4 << 20)] = 1 << 18

    @property
    def named(self) -> str:
        """How reports call it."""
        return self.name


Work: TypeAlias = Completion | Tensor


class Scenario(Record, frozen=True, kw_only=True):
    """One world. auth: how nodes prove themselves to one another."""

    name: str
    nodes: tuple[NodeSpec, ...]
    links: tuple[LinkSpec, ...] = ()
    faults: tuple[Fault, ...] = ()
    work: tuple[Work, ...] = ()
    auth: AuthMode = "ed25519"
    seed: int = 0
    duration_ns: Annotated[int, Meta(ge=1, le=1 << 60)] = 10 * SECOND


def check_scenario(scenario: Scenario) -> Scenario:
    """scenario, once all its names and scopes were found to mean something (`zg/sim/bad-scenario`)."""
    names = [node.name for node in scenario.nodes]
    if len(set(names)) != len(names) or not names:
        raise refuse("zg/sim/bad-scenario", "nodes", names, "names, each once")
    for node in scenario.nodes:
        for peer in node.dial:
            known("nodes.dial", peer, names)
    for item in scenario.work:
        known("work.node", item.node, names)
        if isinstance(item, Tensor):
            known("work.peer", item.peer, names)
    labels = [item.named for item in scenario.work]
    if len(set(labels)) != len(labels):
        raise refuse("zg/sim/bad-scenario", "work", "a name twice", "a name of its own for each job and tensor")
    probe = Way(name="probe", source="", target="", lane="control")
    for fault in scenario.faults:
        parameters_of(fault)
        covers(fault.scope, probe)
        if fault.start_ns < 0 or fault.duration_ns < 0 or fault.start_ns >= scenario.duration_ns:
            raise refuse("zg/sim/bad-scenario", fault.named(), fault.start_ns, "a time within the scenario")
    for link in scenario.links:
        covers(link.scope, probe)
    return scenario


def known(field: str, name: str, names: list[str]) -> None:
    """Refuse a name that no node has."""
    if name not in names:
        raise refuse("zg/sim/bad-scenario", field, name, f"one of {', '.join(names)}")


def read_scenario(path: Path) -> Scenario:
    """A scenario from a `.json` or `.toml` file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise refuse("zg/sim/bad-scenario", str(path), error.strerror, "a file that can be read") from error
    decode: Mapping[str, Callable[[bytes], Scenario]] = {
        ".json": lambda data: msgspec.json.decode(data, type=Scenario),
        ".toml": lambda data: msgspec.toml.decode(data, type=Scenario),
    }
    if path.suffix not in decode:
        raise refuse("zg/sim/bad-scenario", str(path), path.suffix or "no suffix", ".json or .toml")
    try:
        return check_scenario(decode[path.suffix](raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse("zg/sim/bad-scenario", str(path), error, "a scenario") from error


NODES = (
    NodeSpec(name="client", roles=("client",), dial=("a",), trust=("untrusted_client", "trusted_tensor_peer")),
    NodeSpec(name="a", roles=("coordinator",), dial=("b",)),
    NodeSpec(name="b", roles=("executor",), workers=("engine",)),
)
ETHERNET = LinkProfile(latency_ns=200_000, jitter_ns=50_000, shape="uniform", bytes_per_s=125_000_000)


def walk() -> Scenario:
    """Client, owner, executor with a worker: one completion streamed, one tensor of 1 MiB over the bulk connection."""
    return Scenario(
        name="walk",
        nodes=NODES,
        links=(LinkSpec(scope="*", profile=ETHERNET),),
        work=(
            Completion(at_ns=SECOND, node="client", job="first", token_count=32, think_ns=MILLISECOND),
            Tensor(at_ns=SECOND + 10 * MILLISECOND, node="a", peer="b", name="hidden", length=1 << 20),
        ),
        duration_ns=5 * SECOND,
    )


STORM: Mapping[FaultKind, tuple[str, int, int, dict[str, int], int]] = {
    "delay": ("*", 1_000, 600, {"after_ns": 30 * MILLISECOND, "jitter_ns": 20 * MILLISECOND}, 0),
    "throttle": ("a<>b/bulk", 1_000, 2_000, {"bytes_per_s": 2_000_000}, 0),
    "loss": ("client<>a", 2_000, 1_500, {"parts_per_million": 200_000}, 0),
    "duplicate": ("a<>b", 3_000, 1_500, {"parts_per_million": 300_000}, 0),
    "reorder": ("*", 4_000, 1_500, {"parts_per_million": 300_000}, 0),
    "partition": ("b>a", 6_000, 700, {}, 0),
    "clog": ("a<>b/control", 8_000, 500, {}, 0),
    "corrupt": ("client>a", 10_000, 4_000, {}, 1),
    "cut": ("a<>b/control", 15_000, 0, {}, 0),
    "swallow": ("a>b/control", 20_000, 4_000, {}, 1),
    "replay": ("b>a/control", 25_000, 4_000, {}, 1),
    "swap": ("a>client", 30_000, 4_000, {}, 1),
}
"""One fault of each kind: scope, start and duration in milliseconds, parameters, count_max."""


def storm() -> Scenario:
    """The same three with every kind of fault of a link, one after another, and work all the while."""
    faults = tuple(
        Fault(
            kind=kind,
            start_ns=STORM[kind][1] * MILLISECOND,
            duration_ns=STORM[kind][2] * MILLISECOND,
            scope=STORM[kind][0],
            parameters=STORM[kind][3],
            count_max=STORM[kind][4],
        )
        for kind in FAULT_KINDS
    )
    completions = tuple(
        Completion(
            at_ns=SECOND + index * 500 * MILLISECOND,
            node="client",
            job=f"job-{index}",
            token_count=24,
            think_ns=20 * MILLISECOND,
        )
        for index in range(70)
    )
    tensors = tuple(
        Tensor(at_ns=SECOND + index * 2 * SECOND, node="a", peer="b", name=f"hidden-{index}", length=1 << 20)
        for index in range(18)
    )
    return Scenario(
        name="storm",
        nodes=NODES,
        links=(LinkSpec(scope="*", profile=ETHERNET),),
        faults=faults,
        work=(*completions, *tensors),
        duration_ns=45 * SECOND,
    )


BUILTIN: Mapping[Literal["walk", "storm"], Callable[[], Scenario]] = {"walk": walk, "storm": storm}
