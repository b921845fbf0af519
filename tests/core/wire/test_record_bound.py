"""What a record's bytes can grow to in memory: every list and map in a message has a bound in its type (C1, G4)."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from fixtures.golden_records import SAMPLES
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.limits import FRAME_BYTES_MAX
from zeitgeist.core.wire.registry import KINDS

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G4")]


def unbounded(info: inspect.Type, path: str) -> Iterator[str]:
    """Paths of lists and maps below info that may have any number of entries."""
    match info:
        case inspect.StructType():
            for field in info.fields:
                yield from unbounded(field.type, f"{path}.{field.encode_name}")
        case inspect.UnionType():
            for one in info.types:
                yield from unbounded(one, path)
        case inspect.VarTupleType() | inspect.ListType() | inspect.DictType():
            if info.max_length is None:
                yield path
            inner = info.value_type if isinstance(info, inspect.DictType) else info.item_type
            yield from unbounded(inner, f"{path}[]")
        case _:
            assert not isinstance(info, inspect.AnyType | inspect.CustomType), f"{path} holds anything"


@pytest.mark.parametrize("kind", list(KINDS), ids=lambda kind: kind.__name__)
def test_every_list_and_map_in_a_message_is_bounded_in_its_type(kind: type[Record]) -> None:
    """So that the decoder refuses it by the number in front, before it takes memory for the entries."""
    assert list(unbounded(inspect.type_info(kind), kind.__name__)) == []


def swollen(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, **changes)


CASES = {
    "transports": swollen(
        SAMPLES["capabilities"], descriptor=swollen(SAMPLES["node-descriptor"], transports=("ab",) * 330_000)
    ),
    "shape": swollen(SAMPLES["offer"], envelope=swollen(SAMPLES["tensor-envelope"], shape=(300,) * 340_000)),
    "fallbacks": swollen(SAMPLES["plan-proposal"], plan=swollen(SAMPLES["plan"], fallbacks=("",) * 1_000_000)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_list_of_a_million_is_refused_before_memory_is_taken_for_it(case: str) -> None:
    """Each would take 15 to 23 times its bytes; refused, it takes nothing worth naming."""
    data = encode(CASES[case])
    gc.collect()
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match=rf"{case}.*zg/wire/bad-record"):
        decode(data, type(CASES[case]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 10


def test_the_largest_capabilities_that_are_allowed_take_no_more_than_a_frame() -> None:
    """64 backends, each list filled with distinct words up to the payload's bound: the worst that a node may say."""
    lists = ("classes", "capabilities", "families", "weight_dtypes", "quantization", "attention", "handled")
    words = tuple(f"{i:02}" for i in range(64))
    backend = swollen(SAMPLES["backend-descriptor"], **dict.fromkeys(lists, words))
    record = swollen(SAMPLES["capabilities"], descriptor=swollen(SAMPLES["node-descriptor"], backends=(backend,) * 64))
    data = encode(record)
    gc.collect()
    tracemalloc.start()
    decode(data, type(record))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= FRAME_BYTES_MAX + (64 << 10), f"{peak:,} bytes of {len(data):,}"
