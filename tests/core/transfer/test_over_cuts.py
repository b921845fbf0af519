"""Whole nodes with sessions, redials and real frames in the simulator: tensors over links that are cut (C1, E4, G1)."""

import pytest

from sim.cores import real_cores
from sim.faults import Fault
from sim.network import LinkProfile
from sim.run import run
from sim.scenario import LinkSpec, NodeSpec, Scenario, Tensor

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G1")]

MILLISECOND = 1_000_000
CHUNK = 1 << 16
WINDOW = 8


@pytest.mark.parametrize("scope", ["a<>b/bulk", "a<>b/control"])
def test_two_cuts_cost_two_windows_at_most(scope: str) -> None:
    """8 MiB one way and 4 the other in chunks of 64 KiB at 1 Gbit/s. The receivers count each chunk once; what the
    senders sent beyond was in flight when a link went."""
    sizes = {"there": 8 << 20, "back": 4 << 20}
    scenario = Scenario(
        name="cuts",
        nodes=(
            NodeSpec(name="a", roles=("coordinator",), dial=("b",)),
            NodeSpec(name="b", roles=("executor",), workers=("engine",)),
        ),
        links=(LinkSpec(scope="*", profile=LinkProfile(latency_ns=200_000, jitter_ns=0, bytes_per_s=125_000_000)),),
        faults=tuple(
            Fault(kind="cut", start_ns=at * MILLISECOND, duration_ns=0, scope=scope, parameters={}, count_max=0)
            for at in (1020, 1400)
        ),
        work=(
            Tensor(at_ns=1000 * MILLISECOND, node="a", peer="b", name="there", length=8 << 20, chunk_bytes=CHUNK),
            Tensor(at_ns=1380 * MILLISECOND, node="b", peer="a", name="back", length=4 << 20, chunk_bytes=CHUNK),
        ),
        duration_ns=6000 * MILLISECOND,
    )
    report, _ = run(scenario, real_cores())
    assert report.passed and [fault.fired for fault in report.faults] == [1, 1], "both cuts happened"
    ends = {(end.tensor, end.node): end.chunks for end in report.transfers}
    assert len(ends) == 4 and not any(end.reason for end in report.transfers)
    lost = 0
    for tensor, sender, receiver in (("there", "a", "b"), ("back", "b", "a")):
        assert ends[tensor, receiver] == sizes[tensor] // CHUNK, "each chunk arrived once"
        lost += ends[tensor, sender] - ends[tensor, receiver]
    assert 0 < lost <= 2 * WINDOW, "the cuts fell into a transfer, and cost what was on the way"
