"""Every record that crosses a link: any value comes back, and only its one encoding is taken (A7 A9)."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_messagepack import WAYS, Spoil, places, write
from record_strategies import records

from fixtures.golden_records import SAMPLES
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.wire.messages import Hello
from zeitgeist.core.wire.registry import KINDS

pytestmark = [pytest.mark.requirement("A7"), pytest.mark.requirement("A9")]

SENT = list(KINDS)
KEPT = sorted({type(record) for record in SAMPLES.values()} - set(SENT), key=lambda kind: kind.__name__)
"""Parts of messages, and what recordings and digests hold."""
slow = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def name(kind: type[Record]) -> str:
    return kind.__name__


def round_trip(record: Record) -> None:
    data = encode(record)
    back = decode(data, type(record))
    assert back == record and encode(back) == data
    assert write(msgspec.msgpack.decode(data)) == data, "another encoder, written from the spec, gives other bytes"


@pytest.mark.parametrize("kind", SENT, ids=name)
@settings(max_examples=30, deadline=None, suppress_health_check=slow)
@given(data=st.data())
def test_any_message_comes_back_as_it_was_sent(kind: type[Record], data: st.DataObject) -> None:
    """Values from the record's own types and bounds, through our codec, and against one written from the spec."""
    round_trip(data.draw(records(kind)))


@pytest.mark.parametrize("kind", KEPT, ids=name)
@settings(max_examples=5, deadline=None, suppress_health_check=slow)
@given(data=st.data())
def test_any_part_or_kept_record_comes_back_as_it_was(kind: type[Record], data: st.DataObject) -> None:
    """The same for what stands inside messages, in recordings and under digests."""
    round_trip(data.draw(records(kind)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sample", sorted(SAMPLES))
def test_no_other_encoding_of_a_record_is_taken(sample: str, way: str) -> None:
    """Every place of every golden record spoilt in turn: long forms, keys out of order or twice, unknown fields, bytes
    after the end. Refused as not canonical, or as no such record; a spoilt place that gives the same bytes is none."""
    record = SAMPLES[sample]
    good = encode(record)
    value = msgspec.msgpack.decode(good)
    for place in range(places(value, way)):
        bad = write(value, Spoil(place, way))
        if bad == good:
            assert way == "long", "only what has no longer form may stay as it was"
            continue
        with pytest.raises(RemoteProtocolError) as caught:
            decode(bad, type(record))
        wanted = {"long": ("not-canonical",), "swap": ("not-canonical", "bad-record"), "double": ("not-canonical",)}
        assert caught.value.id.removeprefix("zg/wire/") in wanted.get(way, ("bad-record", "not-canonical"))


@pytest.mark.parametrize("text", ["node\n", "", "Node", "a" * 65, "-a", "a b", "ä"])
def test_a_name_that_is_none_is_refused_before_anyone_reads_it(text: str) -> None:
    """A line end behind a name would forge lines in logs and traces: `$` alone lets it pass."""
    hello = msgspec.structs.replace(SAMPLES["hello"], node=text)
    with pytest.raises(RemoteProtocolError, match=r"zg/wire/bad-record"):
        decode(encode(hello), Hello)
