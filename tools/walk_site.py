"""What a walk stands on: keys of three parties, configurations of two nodes, and the nodes as processes.

Law: everything is made with the product's own means and lives in one temporary folder. A process that is left is ended,
whatever happens: asked, asked again, then killed.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from zeitgeist.core.descriptors.node import DialTarget, NodeConfig, Times
from zeitgeist.core.descriptors.trust import AuthConfig, Member, TrustLevel
from zeitgeist.core.ids import NodeId
from zeitgeist.core.units import Nanoseconds
from zeitgeist.host.config import parse_join
from zeitgeist.host.keyring import Keyring, load_keyring, read_record
from zeitgeist.host.keys import add_node_key, believe, join_line, make_authority, make_bundle, make_certificate

__all__ = ["CLIENT", "CLUSTER", "EXECUTOR", "OWNER", "ROOT", "TINY", "NodeProcess", "Site", "WalkFailed"]

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures" / "models" / "zg-tiny"
CLUSTER, OWNER, EXECUTOR, CLIENT = "walk", "a", "b", "client"
TRUST: dict[str, tuple[TrustLevel, ...]] = {
    OWNER: ("trusted_executor", "trusted_tensor_peer"),
    EXECUTOR: ("trusted_executor", "trusted_tensor_peer"),
    CLIENT: ("untrusted_client", "trusted_tensor_peer"),
}
"""The least that each part of the walk needs."""
START_S = 60.0
STOP_S = 15.0
LINE_BYTES_MAX = 1 << 22


class WalkFailed(Exception):
    """A step did not come to its end; the text says which, and what the process said."""


class Site:
    """Folder with keys and configurations. heartbeat_ms: of a and client, whose round trips are measured."""

    def __init__(self, folder: Path, heartbeat_ms: float) -> None:
        self.folder = folder
        self.times = Times(heartbeat_ns=Nanoseconds(round(heartbeat_ms * 1e6)))
        make_authority(folder / "ca", CLUSTER)
        members: list[Member] = []
        for node, trust in TRUST.items():
            add_node_key(folder / node, node)
            make_certificate(folder / node, node, ["127.0.0.1"], folder / "ca")
            member = read_record(folder / node / "member.json", Member)
            members.append(msgspec.structs.replace(member, trust=trust))
        bundle = make_bundle(folder / "ca", members, CLUSTER)
        for node in TRUST:
            believe(folder / node, bundle)

    def join(self, address: str) -> str:
        """The line by which others join a. address: where it listens, or a relay to there."""
        return join_line(self.folder / OWNER, address, OWNER)

    def owner(self) -> Path:
        """a: takes jobs, runs none. The kernel chooses its port."""
        return self.written(
            OWNER,
            {"roles": ["coordinator"], "listen": ["tcp:127.0.0.1:0"], "times": msgspec.to_builtins(self.times)},
        )

    def executor(self, address: str) -> Path:
        """b: calls a; one worker with the reference backend on zg-tiny."""
        worker = {"name": "reference", "backend": "reference", "model": str(TINY)}
        roles = ["executor"]
        return self.written(EXECUTOR, {"roles": roles, "listen": [], "dial": [self.join(address)], "workers": [worker]})

    def written(self, node: str, fields: dict[str, Any]) -> Path:
        body = {"node": node, "cluster": CLUSTER, "auth": ["ed25519"], "keys": node, **fields}
        path = self.folder / f"{node}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(body)))
        return path

    def client(self, address: str) -> tuple[NodeConfig, Keyring]:
        """The client, for a runtime of this process."""
        ring = load_keyring(self.folder / CLIENT)
        key = ring.keys[-1]
        target: DialTarget = parse_join(self.join(address))
        config = NodeConfig(
            node=NodeId(CLIENT),
            cluster=CLUSTER,
            roles=("client",),
            auth=AuthConfig(modes=("ed25519",), key=key.id, public=key.public),
            bundle=ring.bundle,
            dial=(target,),
            times=self.times,
        )
        return config, ring


class NodeProcess:
    """`python -m zeitgeist.host.node_main` on a configuration; what it says is kept line by line in `said`."""

    def __init__(self, node: str, config: Path, record: Path, log: Path) -> None:
        self.node, self.config, self.record, self.log = node, config, record, log
        self.said: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    async def __aenter__(self) -> Self:
        command = ["-m", "zeitgeist.host.node_main", "--config", str(self.config), "--record", str(self.record)]
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                "--events",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                limit=LINE_BYTES_MAX,
            )
        self.reading = asyncio.create_task(self.read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A node that still runs is not waited for: two signals, then the kill."""
        for number, wait_s in ((signal.SIGTERM, 0.5), (signal.SIGTERM, 3.0), (signal.SIGKILL, STOP_S)):
            if self.process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self.process.send_signal(number)
                await asyncio.wait_for(self.process.wait(), wait_s)
        self.reading.cancel()

    async def read(self) -> None:
        """Its standard output, to the end."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(msgspec.json.decode(line))
            self.news.set()
        self.news.set()

    async def until(self, what: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line that is wanted, said already or to come."""
        looked = 0
        try:
            async with asyncio.timeout(START_S):
                while True:
                    self.news.clear()
                    for line in self.said[looked:]:
                        if wanted(line):
                            return line
                    looked = len(self.said)
                    if self.reading.done() or self.process.returncode is not None:
                        raise WalkFailed(f"node {self.node} ended before it said {what}: {self.words()}")
                    await self.news.wait()
        except TimeoutError:
            raise WalkFailed(f"node {self.node} did not say {what} in {START_S:.0f} s: {self.words()}") from None

    async def event(self, type_: str, **fields: object) -> dict[str, Any]:
        """The first event of the core of this type with these fields."""

        def wanted(line: dict[str, Any]) -> bool:
            if line["event"] != "core" or line["type"] != type_:
                return False
            return all(line["detail"].get(name) == value for name, value in fields.items())

        return await self.until(type_, wanted)

    async def drained(self) -> str:
        """SIGTERM, and its last word. "" when it went as it should, else what was wrong."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self.process.wait(), STOP_S)
        except TimeoutError:
            return f"still there {STOP_S:.0f} s after SIGTERM"
        await self.reading
        last: dict[str, Any] = self.said[-1] if self.said else {}
        if code or last.get("event") != "stopped" or last.get("failure"):
            return f"exit code {code}, last word {last}: {self.words()}"
        return ""

    def words(self) -> str:
        """The end of its standard error."""
        lines: Sequence[str] = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:]) or "nothing on its standard error"
