"""A relay between two nodes that cuts one connection after so many bytes, as a router that restarts does."""

import asyncio
import contextlib
from typing import Self

PIECE = 64 << 10


class Cutter:
    """Listens, relays to target (host, port). cut: number of the connection, from 0, and bytes from its caller."""

    def __init__(self, target: str, cut: tuple[int, int]) -> None:
        host, port = target.removeprefix("tcp:").rsplit(":", 1)
        self.host, self.port = host, int(port)
        self.number, self.after = cut
        self.count = self.cuts = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = f"tcp:127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        number, self.count = self.count, self.count + 1
        there, back = await asyncio.open_connection(self.host, self.port)
        left = self.after if number == self.number else -1
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.wait(
                [
                    asyncio.ensure_future(self.relay(reader, back, left)),
                    asyncio.ensure_future(self.relay(there, writer, -1)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        for end in (writer, back):
            end.transport.abort()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
        while data := await reader.read(PIECE):
            if left >= 0:
                left -= len(data)
                if left < 0:
                    self.cuts += 1
                    return
            writer.write(data)
            await writer.drain()
