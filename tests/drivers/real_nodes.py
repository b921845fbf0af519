"""Two real nodes in this process: configurations, keys and runtimes for a test, and waiting for what must come.

`Site` makes a folder of keys for a cluster of nodes; `arm` names the transport.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from zeitgeist.core.descriptors.node import DialTarget, NodeConfig, Role, Times, WorkerConfig
from zeitgeist.core.descriptors.trust import AuthConfig, AuthMode, Member, TrustLevel
from zeitgeist.core.ids import NodeId
from zeitgeist.core.trace import Event, PeerJoined
from zeitgeist.core.units import Nanoseconds
from zeitgeist.host.keyring import Keyring, load_keyring, read_record
from zeitgeist.host.keys import add_node_key, add_token, believe, make_authority, make_bundle, make_certificate
from zeitgeist.host.runtime import Runtime
from zeitgeist.transports.memory import MemoryHub

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "fixtures" / "models" / "zg-tiny"
WAIT_S = 60.0
ALL: tuple[TrustLevel, ...] = ("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer")
E = TypeVar("E", bound=Event)


class Site:
    """Keys of nodes a and b, and where they meet. mode: how they prove themselves; arm: memory, unix, tcp, tls."""

    def __init__(self, folder: Path, mode: AuthMode, arm: str) -> None:
        self.folder, self.mode, self.arm, self.hub = folder, mode, arm, MemoryHub()
        make_authority(folder / "ca", "home")
        for node in ("a", "b"):
            add_node_key(folder / node, node)
            add_token(folder / node, b"\x07" * 32)
            if arm == "tls":
                make_certificate(folder / node, node, ["localhost", "127.0.0.1"], folder / "ca")
        self.bundle()

    def bundle(self, trust: Sequence[TrustLevel] = ALL) -> None:
        """Everyone believes everyone."""
        members = [read_record(self.folder / node / "member.json", Member) for node in ("a", "b")]
        made = make_bundle(self.folder / "ca", members, "home", trust=trust)
        for node in ("a", "b"):
            believe(self.folder / node, made)

    def keyring(self, node: str) -> Keyring:
        return load_keyring(self.folder / node)

    def config(
        self, node: str, *, roles: Sequence[Role] = ("coordinator", "executor"), dial: str = "", worker: bool = False
    ) -> NodeConfig:
        """The node's configuration. dial: the address of the other; worker: a reference backend on zg-tiny."""
        ring = self.keyring(node)
        auth = AuthConfig(
            modes=(self.mode,),
            key=ring.keys[-1].id,
            public=ring.keys[-1].public,
            tokens=tuple(token.member_key() for token in ring.tokens),
            token_trust=ALL,
            local_trust=ALL,
        )
        return NodeConfig(
            node=NodeId(node),
            cluster="home",
            roles=tuple(roles),
            auth=auth,
            bundle=ring.bundle if self.mode in ("ed25519", "mtls") else None,
            dial=(DialTarget(address=dial),) if dial else (),
            workers=(WorkerConfig(name="w", backend="reference", model_path=str(TINY)),) if worker else (),
            times=Times(handshake_ns=Nanoseconds(30_000_000_000), silence_ns=Nanoseconds(30_000_000_000)),
        )

    def address(self, node: str) -> str:
        """Where a node listens."""
        by_arm = {"memory": f"memory:{node}", "unix": f"unix:{self.folder}/{node}.sock"}
        return by_arm.get(self.arm, "tcp:127.0.0.1:0")

    def runtime(self, config: NodeConfig, *, record: Path | None = None, state: Path | None = None) -> Runtime:
        """A node that is not started yet."""
        return Runtime(
            config,
            listen=[self.address(config.node)],
            keyring=self.keyring(config.node),
            hub=self.hub,
            record=record,
            state=state,
        )


class Log:
    """All events of a runtime from its start, and waiting for one."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.events: list[Event] = []
        self.subscription = runtime.events.subscribe()

    async def until(self, kind: type[E], wanted: Callable[[E], bool] = lambda event: True, count: int = 1) -> E:
        """The count-th event that is wanted, from those heard already on."""
        heard = 0
        for event in self.events:
            if isinstance(event, kind) and wanted(event):
                heard += 1
                if heard == count:
                    return event
        async with asyncio.timeout(WAIT_S):
            while True:
                event = await self.subscription.take()
                self.events.append(event)
                if isinstance(event, kind) and wanted(event):
                    heard += 1
                    if heard == count:
                        return event

    def rest(self) -> list[Event]:
        """All that was heard to the end."""
        self.events.extend(self.subscription.waiting)
        self.subscription.waiting.clear()
        return self.events


async def joined(*logs: Log) -> None:
    """Each has a peer that is another node."""
    for log in logs:
        await log.until(PeerJoined, lambda event: event.peer in ("a", "b"))
