"""Canonical records: one encoding each, and a named refusal for everything else (A9, A8)."""

import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.golden_records import SAMPLES
from zeitgeist.core.descriptors.cache import CacheDescriptor, Extension
from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS, require_version
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import Record, decode, digest, encode
from zeitgeist.core.formats.tensor import TENSOR_VERSION, TensorEnvelope
from zeitgeist.core.limits import CONTROL_BYTES_MAX
from zeitgeist.core.wire.chunks import ChunkHead

REFUSALS = {"zg/wire/bad-record", "zg/wire/not-canonical", "zg/wire/record-too-large"}

HEAD = ChunkHead(tensor="a", index=0, offset=0, length=1, xxh3=5)
BODY = encode(HEAD)
"""Five sorted keys; the last byte is the value 5 of xxh3."""

texts, naturals = st.text(max_size=20), st.integers(0, (1 << 64) - 1)
heads = st.builds(ChunkHead, tensor=texts, index=naturals, offset=naturals, length=naturals, xxh3=naturals)
extensions = st.dictionaries(
    texts, st.builds(Extension, critical=st.booleans(), body=st.binary(max_size=20)), max_size=5
)


@pytest.mark.requirement("A9")
@given(heads, extensions)
def test_what_is_encoded_decodes_to_itself(head: ChunkHead, named: dict[str, Extension]) -> None:
    """Any field values; map keys in any order give the same bytes."""
    assert decode(encode(head), ChunkHead) == head
    sample = SAMPLES["cache-descriptor"]
    one = msgspec.structs.replace(sample, extensions=named)
    other = msgspec.structs.replace(sample, extensions=dict(reversed(named.items())))
    assert encode(one) == encode(other) and decode(encode(one), CacheDescriptor) == one


@pytest.mark.requirement("A9")
@pytest.mark.parametrize("name", sorted(SAMPLES))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_mutated_bytes_never_raise_anything_but_a_named_refusal(name: str, data: st.DataObject) -> None:
    """A byte changed, removed or inserted: refused by id, or another record that has just these bytes."""
    kind, body = type(SAMPLES[name]), bytearray(encode(SAMPLES[name]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        record = decode(bytes(body), kind)
    except RemoteProtocolError as error:
        assert error.id in REFUSALS and kind.__name__ in str(error)
    else:
        assert encode(record) == body


@pytest.mark.requirement("A9")
@given(st.binary(max_size=64))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    """No bytes at random reach a caller as another exception."""
    for kind in (ChunkHead, TensorEnvelope, CacheDescriptor):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(noise, kind)
        assert caught.value.id in REFUSALS


HOSTILE = {
    "deep arrays": b"\x91" * 200_000,
    "deep maps": b"\x81\xa1a" * 200_000,
    "deep value of an unknown field": b"\x86" + BODY[1:] + b"\xa1z" + b"\x91" * 200_000,
    "map of 4 G entries": b"\xdf\xff\xff\xff\xff",
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "text of 4 GB": b"\x85\xa6tensor\xdb\xff\xff\xff\xff",
    "field of 4 GB": b"\x81\xc6\xff\xff\xff\xff",
    "repeated field": b"\x86" + BODY[1:] + b"\xa4xxh3\x05",
    "number in two bytes": BODY[:-1] + b"\xcc\x05",
    "number in nine bytes": BODY[:-1] + b"\xcf" + b"\0" * 7 + b"\x05",
    "negative form of a number": BODY[:-1] + b"\xd0\x05",
    "float for an integer": BODY[:-1] + b"\xcb" + struct.pack(">d", 5.0),
    "NaN for an integer": BODY[:-1] + b"\xcb" + struct.pack(">d", float("nan")),
    "bool for an integer": BODY[:-1] + b"\xc3",
    "text in five bytes": BODY.replace(b"\xa1a", b"\xd9\x01a"),
    "text that is not UTF-8": BODY.replace(b"\xa1a", b"\xa1\xff"),
    "unsorted fields": b"\x85\xa4xxh3\x05" + BODY[1:-6],
    "trailing byte": BODY + b"\0",
    "nothing": b"",
    "missing field": b"\x84" + BODY[1:-6],
    "extension type": b"\xc7\x00\x01",
    "timestamp": b"\xd6\xff\0\0\0\0",
}


@pytest.mark.requirement("A9")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_by_name(name: str) -> None:
    """Depth, claimed lengths, repeats, longer forms, floats, foreign types: msgspec's limits and ours (DESIGN §3)."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(HOSTILE[name], ChunkHead)
    assert caught.value.id in REFUSALS


@pytest.mark.requirement("A9")
def test_a_claimed_length_takes_no_memory() -> None:
    """Arrays, maps and texts that claim 4 G entries; tracemalloc sees no large block."""

    claims = [b"\xa6layers\xdd", b"\xaaextensions\xdf", b"\xa7made_by\xdb"]
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(RemoteProtocolError, match="zg/wire/bad-record"):
            decode(b"\x81" + claim + b"\xff\xff\xff\xff\xa1x", CacheDescriptor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.requirement("A9")
def test_a_record_longer_than_its_limit_is_refused_before_it_is_read() -> None:
    """The bound is inclusive, and is checked on the bytes, not on what they say."""
    with pytest.raises(RemoteProtocolError, match="zg/wire/record-too-large"):
        decode(b"\xc1" * (CONTROL_BYTES_MAX + 1), ChunkHead)
    with pytest.raises(RemoteProtocolError, match="zg/wire/record-too-large"):
        decode(BODY, ChunkHead, bytes_max=len(BODY) - 1)
    assert decode(BODY, ChunkHead, bytes_max=len(BODY)) == HEAD


@pytest.mark.requirement("A9")
def test_records_hold_no_floats() -> None:
    """Two encoders may print one float in two ways (DESIGN §3), so no field of any record may be one."""
    for kind in {type(record) for record in SAMPLES.values()}:
        assert "'type': 'number'" not in str(msgspec.json.schema(kind)), kind.__name__


@pytest.mark.requirement("A9")
def test_what_messagepack_cannot_say_is_the_callers_fault() -> None:
    """An integer past 64 bits, a lone surrogate: refused before anything is sent."""
    for wrong in (msgspec.structs.replace(HEAD, xxh3=1 << 64), msgspec.structs.replace(HEAD, tensor="\ud800")):
        with pytest.raises(LocalProtocolError, match="zg/wire/bad-record"):
            encode(wrong)


@pytest.mark.requirement("A9")
def test_two_kinds_with_equal_bytes_have_two_digests() -> None:
    """The type's name is part of the digest."""

    class One(Record, frozen=True, kw_only=True):
        x: int

    class Two(Record, frozen=True, kw_only=True):
        x: int

    assert encode(One(x=1)) == encode(Two(x=1)) and digest(One(x=1)) != digest(Two(x=1))


@pytest.mark.requirement("A8")
@pytest.mark.parametrize("schema", sorted(SCHEMA_VERSIONS))
@pytest.mark.parametrize("step", [-1, 1, 255])
def test_any_other_version_is_refused_naming_both(schema: str, step: int) -> None:
    """Exact match, older and newer alike."""
    ours = SCHEMA_VERSIONS[schema]
    require_version(schema, ours)
    with pytest.raises(ZeitgeistError, match=rf"^{schema}_version: theirs is {ours + step}, ours is {ours} "):
        require_version(schema, ours + step)


@pytest.mark.requirement("A8")
def test_there_are_six_schema_versions_and_the_tensor_format_is_one() -> None:
    """The catalogue's six; two tables must not drift apart."""
    assert sorted(SCHEMA_VERSIONS) == ["backend", "cache", "kernel", "model", "protocol", "tensor"]
    assert SCHEMA_VERSIONS["tensor"] == TENSOR_VERSION
