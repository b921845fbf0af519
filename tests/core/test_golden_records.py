"""Golden vectors of every record, in this process and in fresh ones with other hash seeds (A1 A2 A3 A5 A6 A7 A9)."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys

import msgspec
import pytest

import zeitgeist.core
from fixtures.golden_messages import frame_vectors
from fixtures.golden_records import FOLDER, SAMPLES, digest_vectors, vector
from zeitgeist.core.formats import canonical
from zeitgeist.core.wire.frame import FrameDecoder
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.core.wire.registry import REGISTRY

pytestmark = [
    pytest.mark.requirement("A1"),
    pytest.mark.requirement("A2"),
    pytest.mark.requirement("A3"),
    pytest.mark.requirement("A5"),
    pytest.mark.requirement("A6"),
    pytest.mark.requirement("A7"),
    pytest.mark.requirement("A9"),
]

NOT_DIGESTED = {
    "zeitgeist.core.facts": "facts pass between machines inside one step",
    "zeitgeist.core.replay.Difference": "what a replay found, for people",
    "zeitgeist.core.auth.trust.Clock": "the last wall time told, held by the sessions",
}
"""Modules and records that are never digested, recorded nor sent as such, so that no other language meets them."""

PROGRAM = """
import json, sys
from fixtures.golden_messages import frame_vectors
from fixtures.golden_records import SAMPLES, digest_vectors, vector
made = {name: [vector(r)["hex"], vector(r)["digest"]] for name, r in SAMPLES.items()}
json.dump([made, digest_vectors(), [f["hex"] for f in frame_vectors()]], sys.stdout)
"""


def committed(name: str):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_record_has_the_committed_bytes_and_digest(name: str) -> None:
    """Encoding gives the vector; decoding the vector gives the record, and its JSON reads as the same record."""
    record, golden = SAMPLES[name], committed(name)
    made = vector(record)
    assert (made["hex"], made["digest"], made["record"]) == (golden["hex"], golden["digest"], golden["record"])
    assert canonical.decode(bytes.fromhex(golden["hex"]), type(record)) == record
    assert msgspec.convert(golden["value"], type(record)) == record


def test_a_frame_and_a_digest_have_their_committed_bytes() -> None:
    """And the frames decode to what the vector says."""
    assert committed("digests") == digest_vectors()
    for golden, made in zip(committed("frames"), frame_vectors(), strict=True):
        assert golden == made
        (frame,) = FrameDecoder().feed(bytes.fromhex(golden["hex"]))
        assert frame.channel.name.lower() == golden["channel"] and bytes(frame.payload).hex() == golden["payload"]
        assert [frame.kind, frame.stream, frame.sequence, frame.flags] == [
            golden[field] for field in ("kind", "stream", "sequence", "flags")
        ]


def test_every_process_makes_the_same_bytes() -> None:
    """Two fresh processes with different PYTHONHASHSEED against the committed files."""
    golden = {name: [committed(name)["hex"], committed(name)["digest"]] for name in SAMPLES}
    wanted = [golden, committed("digests"), [frame["hex"] for frame in committed("frames")]]
    for seed in ("1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(FOLDER.parents[2])}
        out = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, check=True, text=True)
        assert json.loads(out.stdout) == wanted


def test_every_record_of_the_core_has_a_vector() -> None:
    """All subclasses of Record under zeitgeist.core, found by importing every module there."""
    for module in pkgutil.walk_packages(zeitgeist.core.__path__, "zeitgeist.core."):
        importlib.import_module(module.name)
    core = {k for k in canonical.Record.__subclasses__() if k.__module__.startswith("zeitgeist.core.")}
    kinds = {k for k in core if not {k.__module__, f"{k.__module__}.{k.__name__}"} & NOT_DIGESTED.keys()}
    assert kinds == {type(record) for record in SAMPLES.values()}
    assert len({k.__name__ for k in core}) == len(core), "a digest's domain is the record's name: no two may share one"


def test_every_row_of_the_registry_has_a_frame_on_each_of_its_channels() -> None:
    """Its record decodes as the row says, and content stands beside it exactly where the row allows it."""
    seen = []
    for golden in committed("frames"):
        if "message" not in golden:
            continue
        (frame,) = FrameDecoder().feed(bytes.fromhex(golden["hex"]))
        row = REGISTRY[frame.kind]
        record, content = split_payload(frame.channel, frame.payload)
        assert canonical.decode(record, row.record) in SAMPLES.values()
        assert (record.hex(), content.hex(), row.record.__name__) == (
            golden["record"],
            golden["content"],
            golden["message"],
        )
        assert bool(content) == row.content
        seen.append((frame.kind, frame.channel))
    assert seen == [(row.kind, channel) for row in REGISTRY.values() for channel in row.channels]


def test_no_vector_is_left_behind() -> None:
    """A file without a sample would never be checked."""
    assert {path.stem for path in FOLDER.glob("*.json")} == {*SAMPLES, "frames", "digests"}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_field_stands_in_the_bytes_even_at_its_default(name: str) -> None:
    """So that a default can change in a later version without changing what old bytes mean."""
    record = SAMPLES[name]
    body = msgspec.msgpack.decode(canonical.encode(record))
    for field in msgspec.structs.fields(type(record)):
        assert field.encode_name in body
