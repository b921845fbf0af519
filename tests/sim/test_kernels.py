"""Two kernels, one order: time is an integer, ties are choices, and either kernel is the other's oracle (V1, V2)."""

import os
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import MILLISECOND, toys, triangle

from sim.cores import real_cores
from sim.driver import KERNELS, KernelName, Simulation
from sim.heap import HeapKernel, Kernel, Later, Ties
from sim.network import LinkProfile
from sim.scenario import Scenario, walk

SEEDS = int(os.environ.get("ZG_SIM_SEEDS", "50"))
WILD = LinkProfile(latency_ns=MILLISECOND, jitter_ns=4 * MILLISECOND, shape="tail", bytes_per_s=200_000)


def order_of(kernel: Kernel, plan: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What runs when: each happening plans the next delays of the list, two levels deep."""
    ran: list[tuple[int, int]] = []

    def happen(index: int, again: int) -> None:
        ran.append((kernel.now, index))
        if again:
            kernel.at(kernel.now + again, Later(lambda: happen(index + 1000, 0), f"again {index}"))

    for index, (instant, again) in enumerate(plan):
        kernel.at(instant, Later(lambda index=index, again=again: happen(index, again), f"first {index}"))
    kernel.run(1000)
    return ran


@pytest.mark.requirement("V1")
@given(plan=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=60), seed=st.none() | st.integers(0, 9))
def test_both_kernels_run_the_same_happenings_in_the_same_order(plan: list[tuple[int, int]], seed: int | None) -> None:
    """Many ties, nested plans, ties as planned and permuted: one order, integer times, in both kernels (`V1`)."""
    heap, simpy = (order_of(KERNELS[name](Ties(seed)), plan) for name in ("heap", "simpy"))
    assert heap == simpy
    assert all(type(instant) is int for instant, _ in simpy)
    assert [instant for instant, _ in heap] == sorted(instant for instant, _ in heap)


@pytest.mark.requirement("V1")
def test_what_happens_at_the_end_instant_is_left_for_later() -> None:
    """`run(until)` runs what is before until, in both kernels, and leaves now there."""
    for name in KERNELS:
        kernel = KERNELS[name](None)
        ran: list[int] = []
        for instant in (9, 10, 11):
            kernel.at(instant, Later(partial(ran.append, instant), str(instant)))
        kernel.run(10)
        assert (ran, kernel.now) == ([9], 10)
        kernel.run(12)
        assert (ran, kernel.now) == ([9, 10, 11], 12)


@pytest.mark.requirement("V1")
def test_permuted_ties_are_recorded_and_can_be_given_back() -> None:
    """A seed changes the order of one instant; the choices it made, given without a seed, make the same order."""
    plan = [(5, 0)] * 12
    planned = order_of(HeapKernel(), plan)
    ties = Ties(3)
    permuted = order_of(HeapKernel(ties), plan)
    assert permuted != planned and sorted(permuted) == planned
    assert order_of(HeapKernel(Ties(None, ties.taken)), plan) == permuted


@pytest.mark.requirement("V1", "V2")
def test_both_kernels_give_one_digest_for_every_seed() -> None:
    """50 seeds (ZG_SIM_SEEDS for more) of three toys on wild links: SimPy and the bare heap, every step's digest."""
    seen = set[str]()
    for seed in range(SEEDS):
        scenario = triangle(seed=seed, profile=WILD, seconds=1)
        digests = {digest_of(name, scenario) for name in KERNELS}
        assert len(digests) == 1, f"seed {seed}"
        seen |= digests
    assert len(seen) == SEEDS, "the seed changes nothing"


def digest_of(kernel: KernelName, scenario: Scenario) -> str:
    simulation = Simulation(scenario, toys(), kernel)
    simulation.run()
    return simulation.digest()


@pytest.mark.requirement("V1", "V2")
def test_both_kernels_give_one_digest_for_the_product_on_every_seed() -> None:
    """The real nodes and worker, 50 seeds of the walk (ZG_SIM_SEEDS for more): handshake, completion, tensor."""
    for seed in range(SEEDS):
        scenario = msgspec.structs.replace(walk(), seed=seed, duration_ns=2_000 * MILLISECOND)
        digests = dict[str, str]()
        for name in KERNELS:
            simulation = Simulation(scenario, real_cores(), name)
            simulation.run()
            digests[name] = simulation.digest()
        assert digests["simpy"] == digests["heap"], f"seed {seed}"
