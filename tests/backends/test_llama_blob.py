"""The state blob of llama.cpp: what we build we read back, and what is damaged we refuse before an array is made."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.backends.llama_blob import ELEMENTS, BlobLayout, build, parse
from zeitgeist.core.errors import ZeitgeistError


def arrays(layout: BlobLayout, element: Any, count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, *layout.row_shape(element))
    if element.dtype == "u1":
        return [rng.integers(0, 256, shape, np.uint8) for _ in range(layout.layer_count)]
    return [rng.standard_normal(shape).astype(element.dtype) for _ in range(layout.layer_count)]


@st.composite
def layouts(draw: Any) -> BlobLayout:
    v = draw(st.sampled_from(sorted(ELEMENTS)))
    return BlobLayout(
        stream_count=draw(st.integers(1, 4)),
        v_transposed=ELEMENTS[v].block == 1 and draw(st.booleans()),
        layer_count=draw(st.integers(1, 3)),
        kv_head_count=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from((32, 64, 128))),
        k=ELEMENTS[draw(st.sampled_from(sorted(ELEMENTS)))],
        v=ELEMENTS[v],
    )


@pytest.mark.requirement("D2")
@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 9), st.data())
def test_a_blob_that_we_build_reads_back_as_the_same_arrays(layout: BlobLayout, count: int, data: Any) -> None:
    """Any layout, any length, any sequence: parse(build(x)) is x bit for bit (DESIGN §4)."""
    k, v = arrays(layout, layout.k, count, 1), arrays(layout, layout.v, count, 2)
    blob = build(k, v, layout, count, data.draw(st.integers(0, layout.stream_count - 1)))
    got_k, got_v = parse(blob, layout, count)
    assert [a.tobytes() for a in (*got_k, *got_v)] == [a.tobytes() for a in (*k, *v)]
    assert [a.shape for a in (*got_k, *got_v)] == [a.shape for a in (*k, *v)]


LAYOUT = BlobLayout(
    stream_count=2, v_transposed=True, layer_count=2, kv_head_count=2, head_dim=32, k=ELEMENTS["f32"], v=ELEMENTS["f16"]
)


def sample(count: int = 3) -> bytearray:
    return bytearray(build(arrays(LAYOUT, LAYOUT.k, count, 1), arrays(LAYOUT, LAYOUT.v, count, 2), LAYOUT, count, 1))


@pytest.mark.requirement("D2")
def test_every_truncation_and_any_trailing_byte_is_refused() -> None:
    """llama.cpp ignores trailing bytes; we do not. Every prefix is tried."""
    blob = sample()
    for length in range(len(blob)):
        with pytest.raises(ZeitgeistError, match="bad-blob"):
            parse(blob[:length], LAYOUT, 3)
    with pytest.raises(ZeitgeistError, match="length"):
        parse(bytes(blob) + b"\0", LAYOUT, 3)


# offsets: magic 0, sequence 4, streams 8, cells of stream 0 12, of stream 1 16, table 20 … 56, V transposed, layers
@pytest.mark.requirement("D2")
@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, 1, "magic"),
        (8, 1, "streams"),
        (8, 0xFFFFFFFF, "streams"),
        (12, 3, "cell"),
        (12, 0xFFFFFFFF, "cells"),
        (16, 0xFFFFFFFF, "cells"),
        (16, 2, "cells"),
        (16, 0, "length"),
        (20, 1, "positions"),
        (20, 0xFFFFFFFF, "positions"),
        (24, 2, "cell sequences"),
        (24, 0xFFFFFFFF, "cell sequences"),
        (56, 0, "V transposed"),
        (60, 3, "layers"),
        (64, 1, "K type"),
        (68, 128, "K row bytes"),
        (72, 1, "K row bytes"),
    ],
)
def test_a_changed_header_word_is_refused_by_name(offset: int, value: int, field: str) -> None:
    """Each word of the header set to what would misread the rest; huge counts must not allocate."""
    blob = sample()
    struct.pack_into("<I", blob, offset, value)
    with pytest.raises(ZeitgeistError, match=field):
        parse(blob, LAYOUT, 3)


@pytest.mark.requirement("D2")
def test_cells_out_of_order_are_sorted_by_position() -> None:
    """llama.cpp writes cells in the order of its buffer: swapping two cells with their rows changes nothing."""
    layout = BlobLayout(
        stream_count=1,
        v_transposed=False,
        layer_count=1,
        kv_head_count=1,
        head_dim=32,
        k=ELEMENTS["f32"],
        v=ELEMENTS["f32"],
    )
    k, v = arrays(layout, layout.k, 3, 1), arrays(layout, layout.v, 3, 2)
    order = [2, 0, 1]
    blob = bytearray(build([k[0][order]], [v[0][order]], layout, 3, 0))
    for cell, position in enumerate(order):
        struct.pack_into("<i", blob, 16 + 12 * cell, position)
    got_k, got_v = parse(blob, layout, 3)
    assert np.array_equal(got_k[0], k[0])
    assert np.array_equal(got_v[0], v[0])
