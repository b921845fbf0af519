"""`make walk`: two nodes, a client, one completion, one tensor, their recordings replayed, a capture dissected (V2).

Two node processes on loopback (TLS 1.3, signed identity) and a client of this process. Each claim is shown or named as
not shown; exit code 0 when none is untrue, 1 when one is, 2 when the walk did not come to its end. A target of speed
that is missed is printed as missed; with `--strict` it fails the walk too.

Law: figures come from the recordings and from clocks around a call; none is assumed. Nothing outlives the walk but what
it puts into --out: recordings, captures, summary.
"""

import argparse
import asyncio
import codecs
import contextlib
import fcntl
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from walk_capture import Captured, dissected
from walk_client import Streamed, TensorSent, client, direct, random_bytes, streamed, tensor_sent
from walk_report import Claim, Summary, markdown, show
from walk_site import CLIENT, EXECUTOR, OWNER, ROOT, NodeProcess, Site, WalkFailed
from walk_traces import Examined, Replay, examine, latency, replayed

from zeitgeist.capture.relay import Relay
from zeitgeist.capture.write import write_capture
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.host.application import ReceivedToken

__all__ = ["Options", "main", "walk"]

P99_MS = 5.0
"""What control must keep to beside a tensor (issue 3)."""
QUIET_S = 1.0
LATE_MAX = 8
"""Frames of each direction that may be on their way while a connection is closed: credits, pings, pongs."""
CAPTURED_TOKENS = 8
CAPTURED_MIB = 1
TRACES = ("a.zgtrace", "b.zgtrace", "client.zgtrace", "captured.zgtrace")
KEPT = (*TRACES, "walk.pcap", "walk-tls.pcap", "walk-keys.log", "summary.json", "summary.md", "a.log", "b.log")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What may be chosen. sends: how often the tensor is sent, for enough round trips beside it."""

    out: Path
    tensor_mib: int = 64
    sends: int = 4
    token_count: int = 48
    prompt: str = "Once upon a time"
    heartbeat_ms: float = 3.0
    strict: bool = False


class Seen(msgspec.Struct, kw_only=True):
    """What a walk gathers on its way."""

    stream: Streamed
    stream_again: Streamed
    tensors: list[TensorSent]
    digests: Counter[tuple[int, str]]
    drained: dict[str, str]
    load: float


async def walk(options: Options, folder: Path, out: Console) -> Summary:
    """All of it, in folder; claims in the order in which they were shown."""
    out.print("keys, certificates and a trust bundle for a, b and client …")
    site = await asyncio.to_thread(Site, folder, options.heartbeat_ms)
    seen = await walked(site, options, out)
    out.print("replaying the recordings …")
    replays = [await replayed(folder / name) for name in TRACES]
    peers = {"a.zgtrace": CLIENT}
    examined = {
        name: await asyncio.to_thread(examine, folder / name, peers.get(name, OWNER))
        for name, replay in zip(TRACES, replays, strict=True)
        if not replay.why
    }
    out.print("opening the capture …")
    capture = await asyncio.to_thread(dissected, folder / "walk-tls.pcap", folder / "walk-keys.log")
    out.print("asking the engine directly …")
    wanted = await asyncio.to_thread(direct, options.prompt, options.token_count)
    return judged(options, seen, wanted, replays, examined, capture)


async def walked(site: Site, options: Options, out: Console) -> Seen:
    """The part with sockets. Ends with every process gone."""
    folder = site.folder
    async with NodeProcess(OWNER, site.owner(), folder / "a.zgtrace", folder / "a.log") as a:
        line = await a.until("listening", lambda said: said["event"] == "listening")
        address: str = line["addresses"][0]
        out.print(f"node a listens at {address}, process {a.process.pid}")
        config = site.executor(address)
        async with NodeProcess(EXECUTOR, config, folder / "b.zgtrace", folder / "b.log") as b:
            await b.until("ready", lambda said: said["event"] == "ready")
            await a.event("PeerJoined", peer=EXECUTOR)
            out.print(f"node b joined it with its worker, process {b.process.pid}")
            seen = await asked(site, address, options, out)
            out.print("draining both nodes …")
            seen.drained[EXECUTOR] = await b.drained()
            seen.drained[OWNER] = await a.drained()
    return seen


async def asked(site: Site, address: str, options: Options, out: Console) -> Seen:
    """The client's part: once by itself, once more through a relay that writes down what passes."""
    folder = site.folder
    large, small = random_bytes(options.tensor_mib), random_bytes(CAPTURED_MIB)
    digests = Counter({(len(large), str(content_digest(large))): options.sends})
    digests[(len(small), str(content_digest(small)))] += 1
    async with client(site, address, folder / "client.zgtrace") as runtime:
        out.print(f"the client joined a; {options.prompt!r} goes on, from b's worker through a:")
        stream = await streamed(runtime, options.prompt, options.token_count, printer(out))
        out.print()
        await asyncio.sleep(QUIET_S)  # round trips with nothing beside them
        tensors: list[TensorSent] = []
        for number in range(options.sends):
            out.print(f"tensor {number + 1} of {options.sends}, {options.tensor_mib} MiB: ", end="")
            tensors.append(await tensor_sent(runtime, large))
            out.print(f"{len(large) / tensors[-1].seconds / 1e6:,.0f} MB/s")
        load = os.getloadavg()[0]
    out.print("the client again, through a relay that writes down what passes …")
    host, port = address.removeprefix("tcp:").rsplit(":", 1)
    keys = folder / "walk-keys.log"
    keys.touch(0o600)
    with Relay((host, int(port))) as relay:
        through = f"tcp:{relay.address[0]}:{relay.address[1]}"
        async with client(site, through, folder / "captured.zgtrace", keys) as runtime:
            again = await streamed(runtime, options.prompt, min(CAPTURED_TOKENS, options.token_count), lambda _: None)
            await tensor_sent(runtime, small)
    await asyncio.to_thread(write_capture, folder / "walk-tls.pcap", relay.sent)
    return Seen(stream=stream, stream_again=again, tensors=tensors, digests=digests, drained={}, load=load)


def printer(out: Console):
    """Prints tokens as they come; a letter may need two of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def say(token: ReceivedToken) -> None:
        out.print(decoder.decode(token.data), end="", markup=False, highlight=False, soft_wrap=True)

    return say


def judged(
    options: Options,
    seen: Seen,
    wanted: Sequence[tuple[int, bytes, float]],
    replays: Sequence[Replay],
    examined: dict[str, Examined],
    capture: Captured,
) -> Summary:
    """What was seen, claim by claim."""
    everyone = list(examined.values())
    ends = [examined[name] for name in ("client.zgtrace", "a.zgtrace") if name in examined]
    quiet = latency(trip for one in ends for trip in one.quiet)
    busy = latency(trip for one in ends for trip in one.busy)
    rates = [options.tensor_mib * (1 << 20) / sent.seconds / 1e6 for sent in seen.tensors]
    tls, modes = merged(one.tls for one in everyone), merged(one.modes for one in everyone)
    received = Counter(examined["a.zgtrace"].received if "a.zgtrace" in examined else [])
    apart = differing(seen, wanted)
    bad_ends = [f"{node}: {why}" for node, why in seen.drained.items() if why]
    stream, chunks = seen.stream, sum(sent.chunks for sent in seen.tensors)
    well = set(tls) == {"TLSv1.3"} and set(modes) == {"ed25519"}
    claims = [
        Claim.of("identity", well, f"links by TLS version {counts(tls)}; proofs verified by mode {counts(modes)}"),
        Claim.of(
            "streaming",
            stream.outcome in ("length", "stop") and len(stream.tokens) > 0,
            f"{len(stream.tokens)} tokens, first after {stream.first_s * 1e3:.0f} ms, "
            f"{len(stream.tokens) / stream.total_s:.0f} tokens/s",
        ),
        Claim.of("equality", not apart, apart or "ids, bytes and log probabilities are the engine's own"),
        Claim.of(
            "tensor",
            received == seen.digests,
            f"{options.sends} × {options.tensor_mib} MiB, {statistics.median(rates):,.0f} MB/s "
            f"(best {max(rates):,.0f}), {chunks} chunks; a's BLAKE3 of every byte is "
            + ("the sender's" if received == seen.digests else "OTHER"),
        ),
        Claim(
            name="control p99",
            state="shown" if busy.count and busy.p99_ms < P99_MS else "missed",
            detail=f"{busy.p99_ms:.2f} ms beside the tensor, {quiet.p99_ms:.2f} ms without, wanted below {P99_MS:.0f}",
        ),
        Claim.of("drained", not bad_ends, "; ".join(bad_ends) or "both nodes left by SIGTERM with exit code 0"),
        *(
            Claim.of(f"replay {one.name.split('.')[0]}", not one.why, one.why or f"{one.steps:,} steps, no difference")
            for one in replays
        ),
        captured(capture, examined.get("captured.zgtrace", Examined())),
    ]
    return Summary(
        claims=tuple(claims),
        tensor_mb_s=tuple(round(rate, 1) for rate in rates),
        first_token_ms=round(stream.first_s * 1e3, 1),
        tokens_per_s=round(len(stream.tokens) / stream.total_s, 1),
        quiet=quiet,
        busy=busy,
        steps={name.split(".")[0]: dict(one.steps.most_common()) for name, one in examined.items()},
        frames=capture.kinds,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=round(seen.load, 1),
        strict=options.strict,
    )


def captured(capture: Captured, recorded: Examined) -> Claim:
    """The file against the client's own recording. Only what was on its way when the client left may stand in one of
    them: the dissector has seen that no number is missing before."""
    late = (recorded.sent - capture.frames_out, capture.frames_in - recorded.heard)
    text = f"{capture.frames_out:,} frames from the client, {capture.frames_in:,} to it; its recording has " + (
        f"{recorded.sent:,} and {recorded.heard:,}"
    )
    well = not capture.why and all(0 <= count <= LATE_MAX for count in late)
    return Claim.of("capture", well, f"{capture.why}; {text}" if capture.why else text)


def differing(seen: Seen, wanted: Sequence[tuple[int, bytes, float]]) -> str:
    """Where the streams part from what the engine gives directly; "" where they do not."""
    for got, want in (
        (seen.stream.tokens, wanted),
        (seen.stream_again.tokens, wanted[: len(seen.stream_again.tokens)]),
    ):
        if list(got) != list(want):
            pairs = enumerate(zip(got, want, strict=False))
            index = next((i for i, (one, other) in pairs if one != other), min(len(got), len(want)))
            return f"token {index} differs: {got[index : index + 1]} instead of {want[index : index + 1]}"
    return ""


def merged(parts: Iterable[Counter[str]]) -> Counter[str]:
    """One count of many."""
    return sum(parts, Counter[str]())


def counts(counter: Counter[str]) -> str:
    """`TLSv1.3: 8`."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(counter.items())) or "none"


# ---- the command


def published(folder: Path, out: Path) -> None:
    """Put what is kept into out, all of one walk: two that end together take turns."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in KEPT:
            (out / name).unlink(missing_ok=True)
            if (folder / name).exists():
                shutil.move(folder / name, out / name)


async def to_its_end(options: Options, out: Console) -> Summary | None:
    """The walk in a folder of its own. Signals end it as an error does: nothing is left."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="zg-walk-") as name:
        folder = Path(name)
        try:
            summary = await walk(options, folder, out)
            (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")
            (folder / "summary.md").write_text(markdown(summary))
            return summary
        except (WalkFailed, ZeitgeistError, OSError) as error:
            out.print(f"\nthe walk did not come to its end: {error}", markup=False, highlight=False)
            return None
        finally:
            published(folder, options.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="walk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "walk")
    parser.add_argument("--tensor-mib", type=int, default=64, help="size of the tensor (default: 64)")
    parser.add_argument("--sends", type=int, default=4, help="how often it is sent (default: 4)")
    parser.add_argument("--tokens", type=int, default=48, dest="token_count", help="of the completion (default: 48)")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--heartbeat-ms", type=float, default=3.0, help="between two pings (default: 3)")
    parser.add_argument("--strict", action="store_true", help="a missed p99 fails the walk, too")
    parser.add_argument(
        "--json", action="store_true", help="the summary as one JSON object; progress on standard error"
    )
    words = vars(parser.parse_args(arguments))
    as_json: bool = words.pop("json")
    options = Options(**words)
    out = Console(stderr=as_json, highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        summary = asyncio.run(to_its_end(options, out))
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.print("\nstopped; nothing is left running")
        return 2
    if summary is None:
        return 2
    show(summary, options.out, out)
    if as_json:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(msgspec.to_builtins(summary), sort_keys=True))
    return 0 if summary.passed else 1


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
