"""One run of a scenario, and what is reported of it (V1, V2).

Law: a run passes when all work came to its end, no token was wrong, and every fault of the scenario did something; a
fault that did nothing makes the run vacuous, which is a failure. Work may end badly only where something went wrong: in
a scenario without faults all of it succeeds. The report is a value, equal for two runs that did the same.
"""

from pathlib import Path

from sim.cores import Cores
from sim.driver import KernelName, Simulation
from sim.heap import Ties
from sim.scenario import Scenario
from sim.workload import JobOutcome, TransferOutcome
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.canonical import Record

__all__ = ["FaultReport", "PartyReport", "RunReport", "report_of", "run"]


class PartyReport(Record, frozen=True, kw_only=True):
    """One party's steps, and the digest of its trace. refusals: damage that its decoders named."""

    steps: int
    trace: str
    refusals: tuple[str, ...]


class FaultReport(Record, frozen=True, kw_only=True):
    """How often a fault did something, and on which ways."""

    fault: str
    kind: str
    fired: int
    ways: dict[str, int]


class RunReport(Record, frozen=True, kw_only=True):
    """What came of a run. digest: over every step of every party; resent, doubled: packets that were lost and sent
    again, that came twice; missing: work that never ended; refused: commands that a node refused to its user; failed:
    work that ended badly; wrong: jobs with other tokens; vacuous: faults that never did anything."""

    scenario: str
    seed: int
    kernel: str
    digest: str
    simulated_ns: int
    frames: int
    happenings: int
    resent: int
    doubled: int
    parties: dict[str, PartyReport]
    jobs: tuple[JobOutcome, ...]
    transfers: tuple[TransferOutcome, ...]
    missing: tuple[str, ...]
    refused: dict[str, str]
    faults: tuple[FaultReport, ...]
    failed: tuple[str, ...]
    wrong: tuple[str, ...]
    vacuous: tuple[str, ...]
    passed: bool


def run(
    scenario: Scenario,
    cores: Cores,
    kernel: KernelName = "simpy",
    *,
    ties: Ties | None = None,
    record: Path | None = None,
) -> tuple[RunReport, Simulation]:
    """Run scenario to its end. record: a folder for the recordings, made when it is not there."""
    if record:
        try:
            record.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalProtocolError("zg/sim/out-dir", f"{record}: {error.strerror}", "--record") from error
    simulation = Simulation(scenario, cores, kernel, ties=ties, record=record)
    simulation.run()
    return report_of(simulation, kernel), simulation


def report_of(simulation: Simulation, kernel: KernelName) -> RunReport:
    """What came of a run that is over."""
    scenario = simulation.scenario
    users = simulation.users.values()
    jobs = tuple(outcome for user in users for outcome in user.jobs.values())
    transfers = tuple(outcome for user in users for outcome in user.transfers)
    refused = {name: reason for user in users for name, reason in user.refusals.items()}
    failed = {job.job: None for job in jobs if job.outcome not in ("stop", "length")}
    failed |= {transfer.tensor: None for transfer in transfers if transfer.reason} | dict.fromkeys(refused)
    ended = {job.job for job in jobs} | {transfer.tensor for transfer in transfers} | set(refused)
    rules = simulation.network.rules
    missing = tuple(item.named for item in scenario.work if item.named not in ended)
    wrong = tuple(job.job for job in jobs if not job.right)
    vacuous = tuple(rule.fault.named() for rule in rules if not rule.fired)
    return RunReport(
        scenario=scenario.name,
        seed=scenario.seed,
        kernel=kernel,
        digest=simulation.digest(),
        simulated_ns=simulation.kernel.now,
        frames=simulation.delivered,
        happenings=simulation.kernel.fired,
        resent=simulation.network.resent,
        doubled=simulation.network.doubles,
        parties={
            name: PartyReport(
                steps=party.steps,
                trace=party.trace.value().hex(),
                refusals=tuple(id for _, _, id in party.refusals),
            )
            for name, party in simulation.parties.items()
        },
        jobs=jobs,
        transfers=transfers,
        missing=missing,
        refused=refused,
        faults=tuple(
            FaultReport(fault=rule.fault.named(), kind=rule.fault.kind, fired=rule.fired, ways=dict(rule.spread))
            for rule in rules
        ),
        failed=tuple(failed),
        wrong=wrong,
        vacuous=vacuous,
        passed=not (missing or wrong or vacuous or (failed and not rules)),
    )
