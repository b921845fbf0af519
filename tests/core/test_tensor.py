"""Envelopes: each number must follow from the others, and each wrong field is refused by its name (A6, C2)."""

from math import prod

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.golden_engines import ENVELOPE
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import decode, encode
from zeitgeist.core.formats.tensor import (
    Blocked,
    ExtensionLayout,
    QuantisedTile,
    Sparse,
    TensorEnvelope,
    byte_length,
    check_envelope,
    chunk_count_for,
    chunk_span,
)
from zeitgeist.core.limits import CHUNK_BYTES_MAX, TENSOR_BYTES_MAX, TENSOR_ELEMENTS_MAX

ROOM = 1 << 20

WRONG = {
    "tensor_version": 2,
    "tensor": "",
    "op": "x" * 129,
    "model": "sha1:0",
    "job": "a\nb",
    "session": "\x00",
    "shape": (2, 3, 5),
    "dtype": "f31",
    "quant": "ggml_q8_0",
    "length": 23,
    "checksum": "blake3:00",
    "sequence": -1,
    "chunk_bytes": 0,
    "chunk_count": 4,
}
CLOSED = {
    "role": "thing",
    "byte_order": "big",
    "framing": "lines",
    "compression": "zstd",
    "layout": {"type": "swizzled"},
}
"""Fields whose words are part of the type: other words do not decode."""


def changed(**fields: object) -> TensorEnvelope:
    return msgspec.structs.replace(ENVELOPE, **fields)


@pytest.mark.requirement("A6")
@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_refused_by_name(field: str) -> None:
    """Values that contradict the rest, or that are not allowed. A wrong shape shows as the length's fault."""
    check_envelope(ENVELOPE, ROOM)
    named = {"shape": "length", "quant": "dtype"}.get(field, field)
    with pytest.raises(ZeitgeistError) as caught:
        check_envelope(changed(**{field: WRONG[field]}), ROOM)
    assert caught.value.field == named


@pytest.mark.requirement("A6")
@pytest.mark.parametrize("field", CLOSED)
def test_a_word_that_is_not_in_the_type_does_not_decode(field: str) -> None:
    """Big-endian, compressed or unknown layouts are refused on decoding, with the field's name in the message."""
    body = msgspec.msgpack.decode(encode(ENVELOPE)) | {field: CLOSED[field]}
    with pytest.raises(ZeitgeistError, match=rf"\$\.{field}.*zg/wire/bad-record"):
        decode(msgspec.msgpack.encode(body, order="sorted"), TensorEnvelope)


@pytest.mark.requirement("A6")
def test_every_field_has_a_negative_vector() -> None:
    """So that a new field cannot arrive without one."""
    assert {*WRONG, *CLOSED} == {field.name for field in msgspec.structs.fields(TensorEnvelope)}


@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    "fields",
    [
        {"length": ROOM + 1, "shape": (ROOM + 1,)},
        {"length": TENSOR_BYTES_MAX + 1, "shape": (TENSOR_ELEMENTS_MAX,), "dtype": "u16"},
        {"shape": (TENSOR_ELEMENTS_MAX, TENSOR_ELEMENTS_MAX)},
        {"shape": (TENSOR_ELEMENTS_MAX + 1,)},
        {"shape": (0, 1 << 62)},
        {"shape": (-1, -24)},
        {"shape": (1,) * 9},
        {"chunk_bytes": CHUNK_BYTES_MAX + 1},
        {"layout": Blocked(block=(1 << 36, 1, 1))},
        {"layout": Blocked(block=(1 << 35, 1 << 35, 1))},
        {"layout": Blocked(block=(0, 1, 1))},
        {"layout": Blocked(block=(1, 1))},
        {"layout": Sparse(count=-1)},
        {"layout": Sparse(count=25)},
        {"layout": Sparse(count=0), "shape": (1 << 33, 0)},
        {"layout": Sparse(count=0), "shape": (ROOM, 2), "length": 0, "chunk_count": 0},
        {"layout": QuantisedTile(rows=2)},
        {"layout": QuantisedTile(rows=0), "quant": "ggml_q8_0", "dtype": "", "shape": (2, 32)},
        {
            "layout": QuantisedTile(rows=3),
            "quant": "ggml_q8_0",
            "dtype": "",
            "shape": (2, 32),
            "length": 68,
            "chunk_count": 7,
        },
        {"layout": ExtensionLayout(name="acme"), "shape": (1 << 30, 1 << 30)},
        {"layout": QuantisedTile(), "quant": "ggml_q8_0", "dtype": "", "shape": (33,)},
        {"layout": QuantisedTile(), "quant": "mlx_affine_4_32", "dtype": "", "shape": (32,)},
        {"layout": ExtensionLayout(name="")},
        {"quant": "ggml_q8_0", "dtype": ""},
    ],
)
def test_sizes_out_of_bounds_are_refused_before_memory_is_taken(fields: dict[str, object]) -> None:
    """Products past 64 bits, negative sizes, blocks that would pad without end: integers only, no array exists here."""
    with pytest.raises(ZeitgeistError) as caught:
        check_envelope(changed(**fields), ROOM)
    assert caught.value.id.startswith(("zg/tensor/", "zg/format/"))


@pytest.mark.requirement("C2")
@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"dtype": "bf16"}, 48),
        ({"layout": Blocked(block=(2, 2, 4)), "dtype": "f32"}, 128),
        ({"layout": Sparse(count=3), "dtype": "f64"}, 3 * (8 + 12)),
        ({"layout": Sparse(count=3, index_dtype="u64"), "dtype": "u8"}, 3 * (1 + 24)),
        ({"layout": QuantisedTile(rows=2), "quant": "ggml_q4_0", "dtype": "", "shape": (4, 64)}, 4 * 2 * 18),
        ({"layout": ExtensionLayout(name="x")}, None),
        ({"shape": ()}, 1),
        ({"shape": (0, 5)}, 0),
    ],
)
def test_a_layout_fixes_the_length(fields: dict[str, object], length: int | None) -> None:
    """Row-major and column-major by elements, blocks with padding, coordinates with their indices, tiles by blocks."""
    assert byte_length(changed(**fields)) == length


@pytest.mark.requirement("C1")
@given(st.integers(0, 10_000), st.integers(1, 500))
def test_chunks_cover_the_content_once(length: int, chunk_bytes: int) -> None:
    """Spans are adjacent, none is empty, the last ends at the length."""
    count = chunk_count_for(length, chunk_bytes)
    envelope = changed(shape=(length,), length=length, chunk_bytes=chunk_bytes, chunk_count=count)
    check_envelope(envelope, ROOM)
    end = 0
    for index in range(count):
        offset, size = chunk_span(envelope, index)
        assert offset == end and 0 < size <= chunk_bytes
        end = offset + size
    assert end == length == prod(envelope.shape)
