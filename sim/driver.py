"""The simulation: parties, a network between them, and a kernel that gives time and order (DESIGN §8, V1).

Law: the driver decides nothing. SimPy is a queue of events with callbacks here, never a process for each message, and
its time stays an integer; the bare heap beside it must give the same run. This file is the one owner of simpy.
"""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import simpy
import xxhash

from sim.backend import Engine
from sim.cores import Cores
from sim.entropy import Entropy
from sim.heap import PLAIN, Happening, HeapKernel, Kernel, Ties
from sim.network import Network, Side
from sim.nodes import address_of, boot_of, certificate_of, clock_at, config_of, worker_config
from sim.party import Durations, Party, Step
from sim.record import SUFFIX, TraceFile
from sim.scenario import Scenario, check_scenario
from sim.workload import User
from zeitgeist.core.descriptors.link import LinkFacts, TlsFacts
from zeitgeist.core.effects import Dial, Result, StartWorker
from zeitgeist.core.recording import Header
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core_source import core_digest

__all__ = ["KERNELS", "KernelName", "SimPyKernel", "Simulation"]

KernelName = Literal["simpy", "heap"]
COLLECT = (50_000, 20, 100)
"""Thresholds of Python's garbage collector during a run: the default of 700 takes a sixth of the time, and a step makes
no cycles."""
DIAL_NS = 1_000_000
"""How long it takes to learn that nobody listens, or that somebody else does."""


class Shot(simpy.Event):
    """A happening as an event of SimPy: one callback, and no process waits for it. Like `simpy.Timeout`, but scheduled
    with a priority of its own. What all shots of a kernel share, the class that it makes for itself holds: its list of
    callbacks, which SimPy never changes, and that all went well."""

    _value = None
    _ok = True

    def __init__(self, happening: Happening, instant: int) -> None:
        self.happening = happening
        self.instant = instant


class SimPyKernel:
    """SimPy's queue: events ordered by (time, priority, number)."""

    def __init__(self, ties: Ties | None = None) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.shot = type("ShotOfKernel", (Shot,), {"env": self.env, "callbacks": [self.fire]})
        self.now: int = 0
        self.fired: int = 0
        self.ties = ties if ties and ties.permuted else None

    def at(self, instant: int, happening: Happening) -> None:
        """Plan happening for instant."""
        assert instant >= self.now, f"{happening.name()} is planned for {instant}, and it is {self.now}"
        priority = PLAIN if self.ties is None else self.ties.priority(happening)
        self.env.schedule(self.shot(happening, instant), priority, instant - self.now)  # pyright: ignore[reportArgumentType]

    def fire(self, shot: Shot) -> None:
        """One event's callback."""
        self.now = shot.instant
        self.fired += 1
        shot.happening.fire()

    def run(self, until: int) -> None:
        """Run all that happens before until, and leave now at until."""
        if until > self.now:
            self.env.run(until=until)
            self.now = until
        assert type(self.env.now) is int, "SimPy's time became a float"


KERNELS: Mapping[KernelName, Callable[[Ties | None], Kernel]] = {"simpy": SimPyKernel, "heap": HeapKernel}


class Simulation:
    """One run of a scenario. record: a folder for the recordings; log: keep every step, for comparisons."""

    def __init__(
        self,
        scenario: Scenario,
        cores: Cores,
        kernel: KernelName = "simpy",
        *,
        ties: Ties | None = None,
        record: Path | None = None,
        log: bool = False,
        durations: Durations | None = None,
    ) -> None:
        self.scenario = check_scenario(scenario)
        self.cores = cores
        self.kernel = KERNELS[kernel](ties)
        self.durations = durations or Durations()
        self.entropy = Entropy(scenario.seed)
        self.network = Network(self.kernel, self.entropy, scenario.links, scenario.faults)
        self.record = record
        self.delivered = 0
        self.log: list[Step] | None = [] if log else None
        self.users = {node.name: User(node.name, scenario, self.entropy) for node in scenario.nodes}
        self.parties: dict[str, Party] = {}
        self.births: dict[str, int] = {}
        for node in scenario.nodes:
            self.parties[node.name] = Party(self, node.name, config_of(scenario, node), self.users[node.name])
            self.parties[node.name].later(0, lambda name=node.name: self.boot(name), "boot")

    def boot(self, name: str) -> None:
        """Start a node, and its user."""
        self.begin(self.parties[name], "node", "")
        self.users[name].start(self.parties[name])

    def begin(self, party: Party, kind: Literal["node", "worker"], worker: str) -> None:
        """Boot a party: its first input, its wall clock, its recording."""
        births = self.births[party.name] = self.births.get(party.name, 0) + 1
        core = self.cores.node() if kind == "node" else self.cores.worker()
        file = None
        if self.record:
            path = self.record / f"{party.name}{f'.{births}' if births > 1 else ''}{SUFFIX}"
            file = TraceFile(path, core, Header(core=core_digest(), node=party.name, kind=kind))
        first = boot_of(party.config, core_digest(), self.entropy, births, party.durable, worker)
        party.boot(core, first, clock_at(self.kernel.now), file)

    # ---- what parties ask of their world

    def facts(self, side: Side) -> LinkFacts:
        """What a host would know of this connection."""
        other = side.other.host.name
        if side.lane == "local":
            return LinkFacts(transport="process", inbound=side.inbound, loopback=True, address=f"process:{other}")
        server = side.connection.acceptor.host.name
        mutual = self.scenario.auth == "mtls"
        tls = TlsFacts(
            version="TLSv1.3",
            server_certificate=certificate_of(server),
            peer_certificate="" if side.inbound and not mutual else certificate_of(other),
            peer_subject=other if mutual else "",
        )
        address = f"tcp:{other}:0" if side.inbound else address_of(server)
        return LinkFacts(transport="tcp", inbound=side.inbound, loopback=False, address=address, tls=tls)

    def dial(self, party: Party, call: Dial) -> None:
        """Open a connection to who listens at the address, and give up after a while."""
        targets = {address_of(name): self.parties[name] for name in self.users}
        target = targets.get(call.address)
        if target is None:
            detail = f"nobody listens at {call.address}"
            party.answer(DIAL_NS, call.ticket, Reason(id="zg/transport/dial-failed", detail=detail, field="address"))
        elif call.certificate not in ("", certificate_of(target.name)):
            detail = f"got {certificate_of(target.name)}, wanted {call.certificate}"
            party.answer(
                DIAL_NS, call.ticket, Reason(id="zg/transport/certificate", detail=detail, field="certificate")
            )
        else:
            connection = self.network.dial(party, target, call.lane, call.ticket)
            party.later(self.durations.dial_ns, connection.expire, f"dial {call.ticket} expires")

    def start_worker(self, party: Party, call: StartWorker) -> None:
        """Start a worker beside party: a process of its own on a local link, which the party dials."""
        name = f"{party.name}.{call.name}"
        config = worker_config(party.name, call.name)

        def started() -> None:
            worker = Party(self, name, config, engine=Engine)
            self.parties[name] = worker
            self.begin(worker, "worker", call.name)
            self.network.dial(party, worker, "local", call.ticket)

        party.later(self.durations.start_worker_ns, started, f"start {call.name} {call.ticket}")

    def kill_worker(self, side: Side) -> None:
        """End the worker behind side."""
        name = side.other.host.name
        self.parties[name].stop()

    def plan(self, snapshot: bytes) -> Result | Reason:
        """The planner of this run's cores."""
        return self.cores.plan(snapshot)

    # ---- the run

    def run(self) -> None:
        """To the end of the scenario; recordings are whole afterwards, whatever happened."""
        thresholds = gc.get_threshold()
        gc.set_threshold(*COLLECT)
        try:
            self.kernel.run(self.scenario.duration_ns)
        finally:
            gc.set_threshold(*thresholds)
            for party in self.parties.values():
                party.finish()

    def digest(self) -> str:
        """One digest over every step of every party: equal for two runs that did the same."""
        hasher = xxhash.xxh3_128()
        for name in sorted(self.parties):
            trace = self.parties[name].trace
            hasher.update(f"{name} {trace.steps} ".encode() + trace.value())
        return hasher.hexdigest()
