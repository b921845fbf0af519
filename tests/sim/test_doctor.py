"""The doctor finds what is not deterministic, and says where; what is deterministic it lets pass (V2)."""

import msgspec
import pytest
from toy import Toy, toys, triangle

from sim.cores import Cores
from sim.doctor import WAYS, Finding, cores_named, examine, first_difference, steps_of
from sim.party import Step
from sim.scenario import walk
from zeitgeist.core.effects import Effects, Input, TimerFired
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.units import Instant

COUNTER = [0]


class Remembering(Toy):
    """Planted: state of the process outlives the run."""

    def step(self, input: Input, now: Instant) -> Effects:
        effects = super().step(input, now)
        COUNTER[0] += 1
        if COUNTER[0] < 500 or not isinstance(input, TimerFired):
            return effects
        return msgspec.structs.replace(effects, wake_at=Instant((effects.wake_at or 0) + COUNTER[0] // 500))


class Identified(Toy):
    """Planted: order by address. Objects are kept, so that each run has others."""

    kept: list[object] = []  # noqa: RUF012

    def tick(self) -> None:
        super().tick()
        marks = [object() for _ in self.sends]
        self.kept.extend(marks)
        order = sorted(range(len(marks)), key=lambda index: id(marks[index]) * 2654435761 % (1 << 32))
        self.sends = [self.sends[index] for index in order]


def careless() -> Cores:
    """Toys that take what they say from a set of strings."""
    return toys(careless=True)


def remembering() -> Cores:
    """Toys that remember the run before."""
    return Cores(node=Remembering, worker=Toy, plan=toys().plan)


def identified() -> Cores:
    """Toys that order by address."""
    return Cores(node=Identified, worker=Toy, plan=toys().plan)


SHORT = triangle(seconds=1)


@pytest.mark.requirement("V2")
def test_a_set_of_strings_is_found_and_located() -> None:
    """Planted: what is sent comes from a set of strings. Runs of one process agree; of two fresh processes under two
    hash seeds one does not, and the finding names the first timer of a party that has a link."""
    found = examine(SHORT, "test_doctor:careless")
    ways = {finding.way for finding in found.findings}
    assert ways & {"process-0", "process-1"} and not ways & {"again", "other-kernel"}
    wanted, _ = steps_of(SHORT, careless(), "heap")
    for finding in found.findings:
        located(finding, wanted)
        assert (finding.input, finding.differs) == ("TimerFired", "effects")


def located(finding: Finding, wanted: list[Step]) -> None:
    """The finding is about a step that the run has, at its time."""
    (step,) = [step for step in wanted if (step.party, step.number) == (finding.party, finding.step)]
    assert (step.at, step.input) == (finding.at_ns, finding.input)


@pytest.mark.requirement("V2")
def test_state_that_outlives_a_run_is_found() -> None:
    """Planted: a counter of the process. The second run in the same process parts from the first."""
    COUNTER[0] = 0
    found = examine(SHORT, "test_doctor:remembering", ("again",))
    assert [finding.way for finding in found.findings] == ["again"]
    assert found.findings[0].input == "TimerFired"


@pytest.mark.requirement("V2")
def test_an_order_by_address_is_found() -> None:
    """Planted: sends sorted by id(). Some way to run it again gives another order."""
    assert examine(SHORT, "test_doctor:identified", ("again", "process-0", "process-1")).findings


@pytest.mark.requirement("V2")
def test_what_is_deterministic_passes_all_ways() -> None:
    """A toy and the product's walk: again, replay, other kernel, two processes with two hash seeds; no finding."""
    calm = examine(SHORT, "toy:toys")
    assert calm.findings == () and calm.steps > 500
    product = examine(msgspec.structs.replace(walk(), duration_ns=2_000_000_000))
    assert product.findings == () and product.steps > 300
    assert len(WAYS) == 5


@pytest.mark.requirement("V2")
def test_the_first_difference_is_the_first() -> None:
    """Among many differing steps the earliest is named, and a run that only ends early is told as that."""
    steps, _ = steps_of(SHORT, toys(), "heap")
    other = [*steps]
    for index in (700, 300, 900):
        other[index] = msgspec.structs.replace(other[index], did=b"x" * 16)
    found = first_difference("x", steps, other)
    assert found is not None and (found.at_ns, found.party) == (steps[300].at, steps[300].party)
    ended = first_difference("x", steps, steps[:400])
    assert ended is not None and ended.at_ns == steps[400].at and ended.got == ""
    assert first_difference("x", steps, [*steps]) is None


@pytest.mark.requirement("V2")
@pytest.mark.parametrize("name", ["no_such_module:x", "toy:no_such_function", "os:getcwd"])
def test_cores_that_are_none_are_refused(name: str) -> None:
    """A name that gives no cores is a usage error, by name."""
    with pytest.raises(ZeitgeistError, match="zg/sim/bad-usage"):
        cores_named(name)
