"""`python -m zeitgeist.capture FILE.pcap`: one line a frame. `--json`: one object a line, with the record's fields.

Exit status 1 when a checksum is wrong, a record does not decode, bytes are no frames, or no frame is there; 0 when
all is well. Content, which is prompts, tokens and tensors, is never shown.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from scapy.error import Scapy_Exception

from zeitgeist.capture.dissect import Noise, Sighting, read_capture
from zeitgeist.core.wire.frame import Channel

__all__ = ["line", "main", "summary"]


def channel_name(number: int) -> str:
    """By number; another number as itself."""
    return Channel(number).name.lower() if number < len(Channel) else str(number)


def summary(seen: Sighting | Noise) -> dict[str, Any]:
    """What is known of it, as JSON has it."""
    body: dict[str, Any] = {"time": round(seen.time, 6), "from": seen.ends[0], "to": seen.ends[1]}
    if isinstance(seen, Noise):
        return body | {"lost" if seen.lost else "no_frame": seen.length}
    frame = seen.frame
    return body | {
        "version": frame.version,
        "channel": channel_name(frame.channel),
        "kind": frame.kind,
        "record": seen.record,
        "flags": int(frame.flags),
        "stream": frame.stream,
        "sequence": frame.sequence,
        "length": frame.length,
        "content_length": seen.content_length,
        "header_check": seen.header,
        "payload_check": seen.payload,
        "refusal": seen.refusal,
        "value": seen.value,
    }


def line(seen: Sighting | Noise) -> str:
    """For people."""
    where = f"{seen.time:.6f}  {seen.ends[0]} > {seen.ends[1]}"
    if isinstance(seen, Noise):
        return f"{where}  -- {seen.length} bytes {'are not in the capture' if seen.lost else 'that are no frame'}"
    frame = seen.frame
    checks = "ok" if seen.header == seen.payload == "ok" else f"header {seen.header}, payload {seen.payload}"
    return (
        f"{where}  {channel_name(frame.channel):10} {seen.record or hex(frame.kind):13} stream {frame.stream:<4} "
        f"sequence {frame.sequence:<5} {frame.length:>8} bytes  {checks}"
        + (f"  {seen.refusal}" if seen.refusal else "")
    )


def faulty(seen: Sighting | Noise) -> bool:
    """Is anything wrong with it?"""
    return isinstance(seen, Noise) or seen.header != "ok" or seen.payload != "ok" or bool(seen.refusal)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m zeitgeist.capture", description="Show the frames of a capture.")
    parser.add_argument("file", type=Path, help="pcap or pcapng")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the record's fields")
    chosen = parser.parse_args(arguments)
    frames = faults = 0
    try:
        for seen in read_capture(chosen.file):
            frames += isinstance(seen, Sighting)
            faults += faulty(seen)
            print(json.dumps(summary(seen), sort_keys=True) if chosen.json else line(seen))
    except (OSError, Scapy_Exception) as error:
        print(f"{chosen.file}: {error}", file=sys.stderr)
        return 2
    if not chosen.json:
        print(f"{frames} frames, {faults} of what was seen not as it should be")
    if not frames:
        print("no frames; in TLS only tshark sees them, by the session's keys (docs/spec/wire.md)", file=sys.stderr)
    return 1 if faults or not frames else 0


if __name__ == "__main__":
    sys.exit(main())
