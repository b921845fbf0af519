"""One play, two stages: two nodes of the same core under the simulator, and on real sockets with real keys and engine.

Node a calls node b; a asks b for a completion and sends it a tensor. `Account` is what both stages must agree on.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from real_nodes import ALL, TINY, WAIT_S, Log, Site

from sim.cores import real_cores
from sim.driver import Simulation
from sim.party import Party
from sim.scenario import Completion, NodeSpec, Scenario, Tensor
from sim.workload import User
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthMode
from zeitgeist.core.trace import Event, JobEnded, PeerJoined, PeerRefused, SessionMoved, TransferEnded
from zeitgeist.host.application import completion, send_tensor
from zeitgeist.host.runtime import Runtime
from zeitgeist.host.workers import Worker, WorkerSpec

__all__ = ["ARMS", "Account", "Play", "play"]

ARMS = ("simulated", "memory", "unix", "tcp", "tls")
PROMPT = "Once upon a time"
SECOND = 10**9
Alter = Callable[[NodeConfig], NodeConfig]


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """token_count: of the completion; tensor: bytes; alter: what somebody got wrong, by node."""

    mode: AuthMode
    token_count: int = 24
    tensor: int = 8 << 20
    alter: dict[str, Alter] = {}


class Account(msgspec.Struct, kw_only=True):
    """moves: of each node's session with the other; refused: (node, was it the refuser, ids); right: tokens are those
    of the engine called directly; moved: both sides say that the tensor arrived; sent, received: chunks that each side
    counts."""

    moves: dict[str, list[tuple[str, str, str]]]
    joined: dict[str, list[tuple[str, tuple[str, ...]]]]
    refused: dict[str, list[tuple[bool, tuple[str, ...]]]]
    outcome: str = ""
    tokens: int = 0
    right: bool = False
    moved: bool = False
    sent: int = 0
    received: int = 0


def play(arm: str, play: Play, folder: Path) -> Account:
    """On the stage of that name."""
    return simulated(play) if arm == "simulated" else asyncio.run(real(play, arm, folder))


def account_of(events: dict[str, list[Event]]) -> Account:
    """What the events of a and b say, but for the work. Workers' sessions are not of the play."""
    moves: dict[str, list[tuple[str, str, str]]] = {}
    joined: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    refused: dict[str, list[tuple[bool, tuple[str, ...]]]] = {}
    for node, heard in events.items():
        other = "b" if node == "a" else "a"
        first = [e for e in heard if isinstance(e, SessionMoved)]
        control = next((e.link for e in first if e.peer == other), next((e.link for e in first), None))
        moves[node] = [(e.before, e.event, e.after) for e in first if e.link == control]
        ready = next((i for i, (_, _, after) in enumerate(moves[node], 1) if after == "ready"), None)
        moves[node] = moves[node][:ready]  # how it ends is the stage's: one stops, the other is stopped
        joined[node] = [(e.peer, e.trust) for e in heard if isinstance(e, PeerJoined) and e.peer == other]
        refused[node] = [
            (e.ours, tuple(reason.id for reason in e.reasons)) for e in heard if isinstance(e, PeerRefused)
        ][:1]
    return Account(moves=moves, joined=joined, refused=refused)


def ended(account: Account, events: dict[str, list[Event]]) -> Account:
    """The work's part."""
    for event in events["a"]:
        if isinstance(event, JobEnded):
            account.outcome = event.outcome
        if isinstance(event, TransferEnded) and event.reason is None:
            account.sent = event.chunks
    for event in events["b"]:
        if isinstance(event, TransferEnded) and event.reason is None:
            account.received = event.chunks
    account.moved = all(
        any(isinstance(event, TransferEnded) and event.reason is None for event in heard) for heard in events.values()
    )
    return account


# ---- simulated


class Tee:
    """A simulated user, and everything that it hears."""

    def __init__(self, user: User, heard: list[Event]) -> None:
        self.user, self.heard = user, heard

    def hear(self, event: Event, party: Party) -> None:
        self.heard.append(event)
        self.user.hear(event, party)


def simulated(play: Play) -> Account:
    """The synthetic engine; keys and certificates are the simulator's."""
    work = (
        Completion(at_ns=SECOND, node="a", job="job", token_count=play.token_count),
        Tensor(at_ns=SECOND, node="a", peer="b", name="tensor", length=play.tensor, chunk_bytes=1 << 20),
    )
    scenario = Scenario(
        name="drivers",
        nodes=(
            NodeSpec(name="a", roles=("client",), dial=("b",), trust=ALL),
            NodeSpec(name="b", roles=("coordinator", "executor"), workers=("w",), trust=ALL),
        ),
        work=() if play.alter else work,
        auth=play.mode,
    )
    simulation = Simulation(scenario, real_cores())
    events: dict[str, list[Event]] = {"a": [], "b": []}
    for name, heard in events.items():
        party = simulation.parties[name]
        if play.mode in ("none", "token"):  # whom a bundle lists must prove itself by what it lists
            party.config = msgspec.structs.replace(party.config, bundle=None)
        if name in play.alter:
            party.config = play.alter[name](party.config)
        party.application = Tee(simulation.users[name], heard)
    simulation.run()
    account = ended(account_of(events), events)
    if "job" in simulation.users["a"].jobs:
        done = simulation.users["a"].jobs["job"]
        account.tokens, account.right = len(done.tokens), done.right
    return account


# ---- real


async def real(play: Play, arm: str, folder: Path) -> Account:
    """Sockets, certificates, keys, the reference backend on zg-tiny in its worker."""
    folder.chmod(0o700)
    site = Site(folder, play.mode, arm)
    alter = {name: play.alter.get(name, lambda config: config) for name in ("a", "b")}
    b = site.runtime(alter["b"](site.config("b", worker=not play.alter)), record=folder / "b.zgtrace")
    log_b = Log(b)
    async with b:
        config = alter["a"](site.config("a", dial=b.addresses[0], roles=("client",)))
        a = site.runtime(config, record=folder / "a.zgtrace", state=folder / "a-state")
        log_a = Log(a)
        async with a:
            if play.alter:
                await asyncio.gather(log_a.until(SessionMoved, closed), log_b.until(SessionMoved, closed))
                return account_of({"a": log_a.events, "b": log_b.events})
            tokens, received = await asyncio.gather(tokens_of(a, play), tensor_to(a, log_b, play))
            assert received is True, "bit for bit"
    events = {"a": log_a.rest(), "b": log_b.rest()}
    account = ended(account_of(events), events)
    account.tokens, account.right = len(tokens), tokens == direct(play)
    return account


def closed(event: SessionMoved) -> bool:
    return event.after == "closed"


async def tokens_of(a: Runtime, play: Play) -> list[int]:
    async with asyncio.timeout(WAIT_S):
        async with completion(a, PROMPT, model=TINY.name, token_count_max=play.token_count) as stream:
            return [token.id async for token in stream]


async def tensor_to(a: Runtime, log_b: Log, play: Play) -> bool:
    """Send random bytes; what b holds of them is what was sent."""
    data = os.urandom(play.tensor)
    async with asyncio.timeout(WAIT_S):
        await log_b.until(PeerJoined, lambda event: event.peer == "a")
        await send_tensor(a, "b", data, dtype="u8", shape=(len(data),))
        event = await log_b.until(TransferEnded)
    held = log_b.runtime.content(event.handle)
    same = held == data
    log_b.runtime.release(event.handle)
    return same


DIRECT: dict[int, list[int]] = {}


def direct(play: Play) -> Sequence[int]:
    """The same engine without any of this: tokenize, prefill, greedy decoding in its own worker."""
    if play.token_count not in DIRECT:
        with Worker.start(WorkerSpec(backend="reference")) as worker:
            worker.load(TINY)
            made = worker.generate(worker.tokenize(PROMPT), play.token_count)
            DIRECT[play.token_count] = [token.id for token in made.tokens]
    return DIRECT[play.token_count]
