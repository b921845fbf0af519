"""Proof of determinism: one seed, many ways to run it, one trace; or the first step where two ways part (V2, DESIGN
§2).

Law: ways are: again in this process, replayed from its recording, on the other kernel, and in fresh processes under two
values of PYTHONHASHSEED. Every step is compared with its time, input and effects, so that a difference is located: step
number, time, party, input. A way that cannot be tried is a failure, never passed over.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from sim.cores import Cores, real_cores
from sim.driver import KernelName, Simulation
from sim.party import Step
from sim.replay import replay
from sim.scenario import Scenario
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core_source import core_digest

__all__ = ["HASH_SEEDS", "WAYS", "Examined", "Finding", "Way", "cores_named", "examine", "first_difference", "steps_of"]

Way: TypeAlias = Literal["again", "replay", "other-kernel", "process-0", "process-1"]
WAYS: tuple[Way, ...] = ("again", "replay", "other-kernel", "process-0", "process-1")
HASH_SEEDS = {"process-0": "0", "process-1": "1"}


class Finding(Record, frozen=True, kw_only=True):
    """Where one way parts from the first run. step: of the party, from 0; at: simulation time; wanted, got: digests of
    input and effects, "" where one of them had no such step."""

    way: str
    step: int
    at_ns: int
    party: str
    input: str
    differs: str
    wanted: str
    got: str


class Examined(Record, frozen=True, kw_only=True):
    """One seed. findings: empty when every way did the same."""

    seed: int
    digest: str
    steps: int
    frames: int
    findings: tuple[Finding, ...]


def cores_named(name: str) -> Cores:
    """The product's cores for "", else what `module:function` gives: how tests bring a party of their own."""
    if not name:
        return real_cores()
    module, _, function = name.partition(":")
    try:
        made = getattr(import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise LocalProtocolError("zg/sim/bad-usage", str(error), "--cores") from error
    if not isinstance(made, Cores):
        raise LocalProtocolError("zg/sim/bad-usage", f"{name} gives no Cores", "--cores")
    return made


def steps_of(
    scenario: Scenario, cores: Cores, kernel: KernelName, record: Path | None = None
) -> tuple[list[Step], Simulation]:
    """Every step of a run, in order."""
    simulation = Simulation(scenario, cores, kernel, record=record, log=True)
    simulation.run()
    assert simulation.log is not None
    return simulation.log, simulation


def first_difference(way: str, wanted: Sequence[Step], got: Sequence[Step]) -> Finding | None:
    """The first step where two runs part."""
    for one, other in zip(wanted, got, strict=False):
        if one != other:
            return finding(way, one, other)
    if len(wanted) == len(got):
        return None
    return finding(way, wanted[len(got)], None) if len(got) < len(wanted) else finding(way, None, got[len(wanted)])


def finding(way: str, one: Step | None, other: Step | None) -> Finding:
    """The two steps as a finding."""
    place = one or other
    assert place is not None
    differs = "one run ends here"
    if one and other:
        fields = ("at", "party", "number", "now", "input", "told", "did")
        names = {"told": "what the input holds", "did": "effects", "at": "time", "number": "step number"}
        first = next(field for field in fields if getattr(one, field) != getattr(other, field))
        differs = names.get(first, first)
    return Finding(
        way=way,
        step=place.number,
        at_ns=place.at,
        party=place.party,
        input=place.input,
        differs=differs,
        wanted=f"{one.told.hex()} {one.did.hex()}" if one else "",
        got=f"{other.told.hex()} {other.did.hex()}" if other else "",
    )


def examine(
    scenario: Scenario,
    cores_name: str = "",
    ways: Sequence[Way] = WAYS,
    advance: Callable[[str], None] = lambda way: None,
) -> Examined:
    """Run one seed all ways."""
    cores = cores_named(cores_name)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="zg-sim-") as folder:
        wanted, first = steps_of(scenario, cores, "simpy", Path(folder))
        for way in ways:
            match way:
                case "again":
                    found = first_difference(way, wanted, steps_of(scenario, cores, "simpy")[0])
                case "other-kernel":
                    found = first_difference(way, wanted, steps_of(scenario, cores, "heap")[0])
                case "replay":
                    found = replayed(first, cores, wanted)
                case _:
                    found = first_difference(way, wanted, steps_elsewhere(scenario, cores_name, HASH_SEEDS[way]))
            if found:
                findings.append(found)
            advance(way)
    return Examined(
        seed=scenario.seed,
        digest=first.digest(),
        steps=len(wanted),
        frames=first.delivered,
        findings=tuple(findings),
    )


def replayed(first: Simulation, cores: Cores, wanted: Sequence[Step]) -> Finding | None:
    """Each recording of the run, done again."""
    assert first.record is not None
    for path in sorted(first.record.iterdir()):
        result = replay(path, cores.makers(), core_digest())
        if result.same:
            continue
        party, step = result.node, result.steps
        place = next((item for item in wanted if item.party == party and item.number == step), None)
        difference = result.difference
        return Finding(
            way="replay",
            step=step,
            at_ns=place.at if place else 0,
            party=party,
            input=place.input if place else "",
            differs=", ".join(difference.about) if difference else "the recording",
            wanted=difference.wanted if difference else "",
            got=difference.found if difference else result.refusal,
        )
    return None


def steps_elsewhere(scenario: Scenario, cores_name: str, hash_seed: str) -> list[Step]:
    """Every step of a run in a fresh process with another order of sets and hashes."""
    words = [sys.executable, "-m", "sim.cli", "steps"] + (["--cores", cores_name] if cores_name else [])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, input=msgspec.json.encode(scenario), capture_output=True, env=environment, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ZeitgeistError(
            "zg/sim/not-deterministic", f"a fresh process ended with {done.returncode}: {last}", "steps"
        )
    return msgspec.msgpack.decode(done.stdout, type=list[Step])
