"""One node as a process: `python -m zeitgeist.host.node_main --config FILE [--record FILE] [--events]`.

Law: what a program needs to know stands on standard output, one JSON object a line: `listening` with the addresses that
were taken, `worker` when one died or was given up, `ready` once all have settled, `stopped` at the end. SIGTERM and
SIGINT drain: nothing new is started, what runs may finish for `DRAIN_S`; a second one ends at once.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from zeitgeist.core.effects import DrainCommand
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import Handle
from zeitgeist.core.job.states import TERMINAL
from zeitgeist.core.trace import Drained, JobEnded, JobMoved, TransferEnded, WorkerChanged
from zeitgeist.host.config import HostConfig, host_config, node_config
from zeitgeist.host.events import Subscription
from zeitgeist.host.runtime import Runtime
from zeitgeist.transports.tls import own_fingerprint

__all__ = ["DRAIN_S", "main"]

DRAIN_S = 30.0
SETTLED = ("ready", "given_up")
FAILED = ("died", "given_up")
"""States of a worker that an operator must hear of, with the reason."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 after a drain, 1 when the node failed, 2 when it could not start."""
    parser = argparse.ArgumentParser(prog="zeitgeist.host.node_main", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--record", type=Path, help="write the recording there (mode 0600)")
    parser.add_argument("--events", action="store_true", help="print every event of the core, too")
    parser.add_argument("--verbose", action="store_true", help="log to standard error")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if chosen.verbose else logging.WARNING, stream=sys.stderr)
    try:
        return asyncio.run(serve(host_config(chosen.config), chosen.record, chosen.events))
    except (ZeitgeistError, OSError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 2


def say(event: str, **fields: Any) -> None:
    """One line for programs."""
    print(msgspec.json.encode({"event": event, **fields}).decode(), flush=True)


async def serve(host: HostConfig, record: Path | None, events: bool) -> int:
    """Run until a signal, or until the core fails."""
    config, ring = node_config(host)
    runtime = Runtime(
        config,
        listen=host.listen,
        keyring=ring,
        state=Path(host.state) if host.state else None,
        record=record,
        payload_bytes_max=host.payload_bytes_max,
    )
    heard = runtime.events.subscribe()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await runtime.__aenter__()
    try:
        certificate = own_fingerprint(ring.tls) if ring.tls else ""
        say("listening", node=host.node, addresses=runtime.addresses, certificate=certificate)
        watch = Watch(heard, {worker.name for worker in host.workers}, events, runtime.release)
        watching = asyncio.create_task(watch.run())
        await first(stop.wait(), runtime.stopped.wait())
        if runtime.failure is None:
            await drained(runtime, watch, stop)
        watching.cancel()
    finally:
        await runtime.close()
    say("stopped", node=host.node, failure=repr(runtime.failure) if runtime.failure else "")
    return 1 if runtime.failure else 0


class Watch:
    """Reads all events: which workers have settled, which jobs live. A tensor that arrives has no taker in this
    process: it is released, or peers would fill the memory for good."""

    def __init__(self, heard: Subscription, workers: set[str], events: bool, release: Callable[[Handle], None]) -> None:
        self.heard, self.unsettled, self.events, self.release = heard, workers, events, release
        self.jobs: set[str] = set()
        self.drained = asyncio.Event()

    async def run(self) -> None:
        """Until the node stops."""
        if not self.unsettled:
            say("ready")
        async for event in self.heard:
            if isinstance(event, WorkerChanged) and event.state in FAILED:
                say("worker", name=event.name, state=event.state, reason=event.reason)
            match event:
                case WorkerChanged(name=name, state=state) if state in SETTLED and name in self.unsettled:
                    self.unsettled.remove(name)
                    if not self.unsettled:
                        say("ready")
                case JobMoved(job=job, after=after) if after not in TERMINAL:
                    self.jobs.add(job)
                case JobMoved(job=job) | JobEnded(job=job):  # an executor's job ends with its move
                    self.jobs.discard(job)
                case TransferEnded(handle=handle, reason=None) if handle % 2 == 0:  # the core's: it came to us
                    self.release(handle)
                case Drained():
                    self.drained.set()
                case _:
                    pass
            if self.events:
                say("core", type=type(event).__name__, detail=msgspec.to_builtins(event))


async def drained(runtime: Runtime, watch: Watch, stop: asyncio.Event) -> None:
    """Start nothing new; wait until what runs has ended, for a while, or for a second signal."""
    stop.clear()
    runtime.tell(DrainCommand(reason="the operator stops this node"))
    try:
        async with asyncio.timeout(DRAIN_S):
            await first(watch.drained.wait(), stop.wait(), runtime.stopped.wait())
    except TimeoutError:
        say("undrained", jobs=sorted(watch.jobs))


async def first(*waits: Any) -> None:
    """Until one of them ends."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    sys.exit(main())
