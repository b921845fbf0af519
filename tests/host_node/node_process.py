"""A node as a process of its own, for tests: its configuration file, its lines."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


class NodeProcess:
    """`python -m zeitgeist.host.node_main` on a configuration."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any], *more: str) -> None:
        self.path = folder / f"{name}.json"
        self.path.write_text(json.dumps({"node": name, "cluster": "home", **config}))
        self.more = more

    async def __aenter__(self) -> Self:
        words = ["-m", "zeitgeist.host.node_main", "--config", str(self.path), *self.more]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def line(self, event: str) -> dict[str, Any]:
        """The next line about event; others are passed over."""
        assert self.process.stdout is not None and self.process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            while raw := await self.process.stdout.readline():
                found = json.loads(raw)
                if found["event"] == event:
                    return found
            raise AssertionError((await self.process.stderr.read()).decode())
