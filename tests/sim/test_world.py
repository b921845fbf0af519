"""What stands around a simulated core: keys, payloads, alarms, and the guard against a loop without time (V1)."""

import msgspec
import pytest
from toy import Toy, toys, triangle

import sim.party
from sim.cores import Cores
from sim.driver import Simulation
from sim.entropy import Entropy
from sim.nodes import config_of
from sim.payloads import Payloads
from sim.scenario import Tensor, walk
from sim.signing import Keyring, key_of, public_of
from sim.workload import User, tensor_bytes
from zeitgeist.core.effects import Effects, Expect, Input, PayloadReady, Release, SendChunk, Sign, Signed, Verify
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import Handle, KeyId, LinkId, Ticket, TransferId
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import Channel, Frame
from zeitgeist.core.wire.messages import Reason

ONE = Ticket(1)


@pytest.mark.requirement("V1", "H1")
def test_a_simulated_proof_verifies_only_for_its_holder_and_its_bytes() -> None:
    """The stub refuses what a signature would: another key, other bytes, a cut proof; a key one does not hold."""
    scenario = walk()
    owner, other = (Keyring(config_of(scenario, node)) for node in scenario.nodes[1:])
    made = owner.sign(Sign(ticket=ONE, mode="ed25519", key=key_of("a"), message=b"hello"))
    assert isinstance(made, Signed) and len(made.proof) == 64
    good = Verify(
        ticket=ONE, mode="ed25519", key=key_of("a"), public=public_of("a"), message=b"hello", proof=made.proof
    )
    assert other.verify(good).ok
    for change in ({"message": b"hellO"}, {"public": public_of("b")}, {"proof": made.proof[:63]}, {"mode": "token"}):
        assert not other.verify(msgspec.structs.replace(good, **change)).ok, change
    assert isinstance(other.sign(Sign(ticket=ONE, mode="ed25519", key=key_of("a"), message=b"x")), Reason)
    assert isinstance(other.sign(Sign(ticket=ONE, mode="ed25519", key=KeyId(""), message=b"x")), Reason)


def sent(user: User, payloads: Payloads, length: int) -> tuple[Expect, list[Frame]]:
    """A tensor as an expectation and the frames of its chunks."""
    item = Tensor(at_ns=0, node="a", peer="b", name="t", length=length, chunk_bytes=1000)

    class Holder:
        """Only the payloads of a party."""

    holder = Holder()
    holder.payloads = payloads  # type: ignore[attr-defined]
    command = user.sending(holder, item)  # pyright: ignore[reportArgumentType]
    frames = [
        Frame(
            channel=Channel.TENSOR,
            kind=0x2F,
            stream=1,
            sequence=index,
            payload=payloads.cut(
                SendChunk(
                    link=LinkId(1),
                    channel=2,
                    stream=TransferId(1),
                    sequence=index,
                    handle=command.content.handle,
                    envelope=command.envelope,
                    index=index,
                )
            ),
        )
        for index in range(command.envelope.chunk_count)
    ]
    return Expect(handle=Handle(2), link=LinkId(1), stream=TransferId(1), envelope=command.envelope), frames


@pytest.mark.requirement("V1", "C1")
def test_chunks_are_judged_by_the_wires_own_assembler() -> None:
    """Out of order, twice, damaged, unexpected: the verdicts of the door; whole once the last is there; gone once
    released; the same handle on another link goes on with what it has."""
    entropy = Entropy(1)
    expect, frames = sent(User("a", walk(), entropy), Payloads(1 << 20), 3500)
    receiver = Payloads(1 << 20)
    assert receiver.arrived(LinkId(1), frames[0]).verdict == "unexpected"
    receiver.apply(expect)
    assert receiver.arrived(LinkId(1), frames[3]).verdict == "accepted"
    assert receiver.arrived(LinkId(1), frames[3]).verdict == "duplicate"
    damaged = bytearray(frames[1].payload)
    damaged[-1] ^= 1
    corrupt = receiver.arrived(LinkId(1), msgspec.structs.replace(frames[1], payload=bytes(damaged)))
    assert (corrupt.verdict, corrupt.index) == ("corrupt", 1) and corrupt.reason is not None
    assert receiver.arrived(LinkId(1), msgspec.structs.replace(frames[1], payload=b"\xff")).verdict == "refused"
    receiver.apply(msgspec.structs.replace(expect, link=LinkId(2)))
    for index in (0, 1, 2):
        assert receiver.whole(LinkId(2), 1) is None
        assert receiver.arrived(LinkId(2), frames[index]).verdict == "accepted"
    whole = receiver.whole(LinkId(2), 1)
    assert isinstance(whole, PayloadReady) and whole.content.length == 3500
    content = tensor_bytes(entropy, Tensor(at_ns=0, node="a", peer="b", name="t", length=3500))
    assert bytes(receiver.get(Handle(2))) == content
    receiver.apply(Release(handle=Handle(2)))
    assert not receiver.held and not receiver.assemblers and not receiver.expected


class Restless(Toy):
    """A defect: it wants to be woken in the past."""

    def step(self, input: Input, now: Instant) -> Effects:
        return msgspec.structs.replace(super().step(input, now), wake_at=now)


@pytest.mark.requirement("V1")
def test_a_loop_without_time_ends_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that always asks to be woken now: `zg/sim/stuck`, with party, instant and input."""
    monkeypatch.setattr(sim.party, "CROWD_MAX", 1000)
    cores = Cores(node=Restless, worker=Toy, plan=toys().plan)
    with pytest.raises(ZeitgeistError, match="zg/sim/stuck"):
        Simulation(triangle(), cores).run()


@pytest.mark.requirement("V1")
def test_an_alarm_rings_at_its_instant_and_once() -> None:
    """Toys ask for each 10 ms: each hears exactly one timer for each, at that instant."""
    simulation = Simulation(triangle(seconds=1), toys(), log=True)
    simulation.run()
    assert simulation.log is not None
    rung = [step.now for step in simulation.log if step.party == "a" and step.input == "TimerFired"]
    assert rung == [10_000_000 * tick for tick in range(1, 100)]
