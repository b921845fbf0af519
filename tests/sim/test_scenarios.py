"""The product in the simulator: the walk succeeds, the storm is survived, and a report is what really happened (V1)."""

from pathlib import Path

import msgspec
import pytest

from sim.backend import Engine, SyntheticToken, descriptor, reference_tokens
from sim.cores import real_cores
from sim.faults import ATTACKS, FAULT_KINDS, Fault
from sim.heap import Ties
from sim.run import RunReport, run
from sim.scenario import BUILTIN, Completion, Scenario, Tensor, read_scenario, storm, walk
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import decode

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


def with_fault(
    kind: str, scope: str, start_ms: int, duration_ms: int, count_max: int = 0, **parameters: int
) -> RunReport:
    """The walk, longer and with one fault."""
    fault = Fault(
        kind=kind,  # pyright: ignore[reportArgumentType]
        scope=scope,
        start_ns=start_ms * MILLISECOND,
        duration_ns=duration_ms * MILLISECOND,
        count_max=count_max,
        parameters=parameters,
    )
    scenario = msgspec.structs.replace(walk(), faults=(fault,), duration_ns=30 * SECOND)
    report, simulation = run(scenario, real_cores())
    for party in simulation.parties.values():
        assert not party.payloads.held, f"{party.name} still holds payloads"
    return report


@pytest.mark.requirement("V1", "E4", "C1")
def test_the_walk_gives_the_reference_tokens_and_the_whole_tensor() -> None:
    """Client → owner → executor → worker → back: 32 tokens as the engine's reference says, each once; 1 MiB over the
    bulk connection in 4 chunks, whole at both ends; no payload is left behind."""
    report, simulation = run(walk(), real_cores())
    assert report.passed and not report.failed
    (job,) = report.jobs
    assert list(job.tokens) == reference_tokens(list(b"Once upon a time"), 32) and job.outcome == "length"
    assert [(sent.node, sent.length, sent.chunks, sent.resent) for sent in report.transfers] == [
        ("a", 1 << 20, 4, 0),
        ("b", 1 << 20, 4, 0),
    ]
    lanes = {way.path.lane for connection in simulation.network.connections for way in connection.ways}
    assert lanes == {"control", "bulk", "local"}
    assert all(not party.payloads.held for party in simulation.parties.values())


@pytest.mark.requirement("V1")
def test_every_token_of_the_synthetic_engine_says_so() -> None:
    """The content of a token carries the mark, and the backend's name is its own (I11)."""
    assert descriptor().name == "synthetic"
    seen: list[SyntheticToken] = []
    scenario = walk()
    from sim.driver import Simulation

    simulation = Simulation(scenario, real_cores())
    made = Engine.step

    def step(self: Engine, name: str) -> object:
        out = made(self, name)  # pyright: ignore[reportArgumentType]
        assert out.content is not None
        seen.append(decode(bytes(self.payloads.get(out.content.handle)), SyntheticToken))
        return out

    Engine.step = step  # pyright: ignore[reportAttributeAccessIssue]
    try:
        simulation.run()
    finally:
        Engine.step = made
    assert len(seen) == 32 and all(token.synthetic for token in seen)


@pytest.mark.requirement("V1")
@pytest.mark.parametrize("kind", [kind for kind in FAULT_KINDS if kind not in ("corrupt", "cut", *ATTACKS)])
def test_what_tcp_hides_only_costs_time(kind: str) -> None:
    """Delay, throttle, loss, doubles, reordering, a short partition and a clog around the work: all of it succeeds."""
    report = with_fault(kind, "*", 900, 400)
    assert report.passed and not report.failed and report.faults[0].fired > 0
    calm, _ = run(msgspec.structs.replace(walk(), duration_ns=30 * SECOND), real_cores())
    assert (report.digest == calm.digest) == (kind == "duplicate")


@pytest.mark.requirement("V1", "C1")
def test_a_damaged_bulk_link_ends_by_name_and_the_tensor_arrives_over_another() -> None:
    """A flipped bit in a chunk's frame: the decoder names it, the link ends, the transfer resumes on the next one."""
    report = with_fault("corrupt", "a>b/bulk", 1000, 3000, count_max=1)
    assert report.passed and not report.failed
    assert report.parties["b"].refusals == ("zg/wire/bad-payload-checksum",)
    (received,) = [sent for sent in report.transfers if sent.node == "b"]
    assert received.length == 1 << 20 and not received.reason


@pytest.mark.requirement("V1", "H3")
@pytest.mark.parametrize("kind", ATTACKS)
def test_who_meddles_with_a_control_link_of_the_product_ends_it(kind: str) -> None:
    """A swallowed, replayed or swapped frame between client and owner: the sequence check ends the link, the client
    dials again, and the job ends for both sides; no token is wrong or doubled."""
    report = with_fault(kind, "a>client/control", 1005, 3000, count_max=1)
    assert report.passed and report.faults[0].fired == 1
    calm, _ = run(msgspec.structs.replace(walk(), duration_ns=30 * SECOND), real_cores())
    assert report.digest != calm.digest
    assert all(job.right for job in report.jobs)


@pytest.mark.requirement("V1")
@pytest.mark.parametrize("seed", range(5))
def test_the_storm_is_survived_with_every_fault_real(seed: int) -> None:
    """All twelve kinds, one after another, under 88 pieces of work: each piece ends, no token is wrong, each fault
    happened, and after the last fault all work succeeds again."""
    report, _ = run(msgspec.structs.replace(storm(), seed=seed), real_cores())
    assert report.passed, (report.missing, report.wrong, report.vacuous)
    assert {fault.kind for fault in report.faults} == set(FAULT_KINDS)
    assert len(report.failed) < 15
    assert "zg/wire/" in report.parties["a"].refusals[0]


@pytest.mark.requirement("V1")
def test_a_fault_that_never_happens_makes_the_run_vacuous() -> None:
    """A partition of a link that nobody has proves nothing, and the run says so by failing."""
    report = with_fault("partition", "client>b", 0, 1000)
    assert report.vacuous == ("partition client>b 0",) and not report.passed


@pytest.mark.requirement("V1")
def test_work_that_cannot_end_fails_the_run() -> None:
    """Nobody has the model: without faults a refused job is a failure of the run."""
    scenario = walk()
    nodes = tuple(msgspec.structs.replace(node, workers=()) for node in scenario.nodes)
    report, _ = run(msgspec.structs.replace(scenario, nodes=nodes), real_cores())
    assert not report.passed and "first" in report.failed


@pytest.mark.requirement("V1", "H1")
@pytest.mark.parametrize("auth", ["ed25519", "token", "mtls"])
def test_the_walk_succeeds_under_every_way_to_prove_oneself(auth: str) -> None:
    """Signed identity, shared token, mTLS: proofs by the keyed stub, the same work."""
    report, _ = run(msgspec.structs.replace(walk(), auth=auth), real_cores())
    assert report.passed and not report.failed


@pytest.mark.requirement("V1")
def test_permuted_ties_are_another_run_of_the_same_work() -> None:
    """Ties drawn from 20 seeds: the work is right each time."""
    for seed in range(20):
        report, _ = run(walk(), real_cores(), "heap", ties=Ties(seed))
        assert report.passed and not report.failed, seed


@pytest.mark.requirement("V1")
@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_scenario_is_read_back_from_json_as_it_was(name: str, tmp_path: Path) -> None:
    """What `zg-sim scenario` prints is the scenario."""
    scenario = {str(key): make for key, make in BUILTIN.items()}[name]()
    path = tmp_path / "it.json"
    path.write_bytes(msgspec.json.encode(scenario))
    assert read_scenario(path) == scenario


TOML = """
name = "small"
duration_ns = 20_000_000_000
nodes = [{name = "a", roles = ["coordinator"], dial = ["b"]}, {name = "b", workers = ["engine"]}]
work = [{type = "tensor", at_ns = 1_000_000_000, node = "a", peer = "b", name = "t", length = 1000}]
faults = [{kind = "loss", start_ns = 900_000_000, duration_ns = 1_000_000_000, scope = "a<>b"}]
"""


@pytest.mark.requirement("V1")
def test_a_scenario_can_be_written_in_toml(tmp_path: Path) -> None:
    """A tensor between two nodes on a lossy link."""
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    report, _ = run(read_scenario(path), real_cores())
    assert report.passed and [sent.length for sent in report.transfers] == [1000, 1000]


@pytest.mark.requirement("V1")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('dial = ["b"]', 'dial = ["c"]'),
        ('peer = "b"', 'peer = "c"'),
        ('node = "a"', 'node = "x"'),
        ('kind = "loss"', 'kind = "rain"'),
        ('scope = "a<>b"', 'scope = "a-b"'),
        ("start_ns = 900_000_000", "start_ns = 90_000_000_000"),
        ('name = "small"', 'name = "small"\nweather = 1'),
        ('{name = "b", w', '{name = "a", w'),
        ('scope = "a<>b"', 'scope = "a<>b", parameters = {speed = 1}'),
        ("length = 1000", "length = -1"),
        ("nodes", "n odes"),
    ],
)
def test_a_scenario_that_means_nothing_is_refused(before: str, after: str, tmp_path: Path) -> None:
    """Unknown names, kinds, scopes, fields, numbers out of range, broken syntax: `zg/sim/bad-scenario`."""
    path = tmp_path / "bad.toml"
    assert before in TOML
    path.write_text(TOML.replace(before, after, 1))
    with pytest.raises(ZeitgeistError, match="zg/sim/bad-scenario"):
        read_scenario(path)


@pytest.mark.requirement("V1")
def test_work_may_not_share_a_name() -> None:
    """Outcomes are told by name."""
    twice = (
        Completion(at_ns=0, node="client", job="same"),
        Tensor(at_ns=0, node="a", peer="b", name="same", length=1),
    )
    with pytest.raises(ZeitgeistError, match="zg/sim/bad-scenario"):
        run(Scenario(name="x", nodes=walk().nodes, work=twice), real_cores())
