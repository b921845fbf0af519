"""Layout families: every declared path there and back, bit for bit, and a refusal for the rest (C2)."""

from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fixtures.golden_engines import ENVELOPE
from zeitgeist.convert.dtypes import ARRAY_DTYPES
from zeitgeist.convert.layouts import CONVERSIONS, FAMILIES, arrange, convert_layout, family_of, restore, sparse_layout
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.tensor import (
    Blocked,
    ColumnMajor,
    ExtensionLayout,
    Layout,
    QuantisedTile,
    RowMajor,
    Sparse,
    TensorEnvelope,
    check_envelope,
    chunk_count_for,
)

pytestmark = pytest.mark.requirement("C2")

ROOM = 1 << 24
NAMES = sorted(ARRAY_DTYPES)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """A type and an array of any bits, -0.0 and NaN among them, many elements zero."""
    name = draw(st.sampled_from(NAMES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    carrier = ARRAY_DTYPES[name]
    limit = 1 if name == "bool" else 255
    raw = draw(
        hnp.arrays(np.uint8, (int(np.prod(shape)), carrier.itemsize), elements=st.integers(0, limit), fill=st.just(0))
    )
    return name, np.ascontiguousarray(raw).reshape(-1).view(carrier).reshape(shape)


def layout_of(family: str, array: np.ndarray, sides: tuple[int, ...] = (2, 3, 1, 4)) -> Layout:
    return {
        "row_major": RowMajor(),
        "column_major": ColumnMajor(),
        "blocked": Blocked(block=sides[: array.ndim]),
        "sparse": sparse_layout(array),
    }[family]


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def envelope_of(array: np.ndarray, name: str) -> TensorEnvelope:
    length = array.nbytes
    return msgspec.structs.replace(
        ENVELOPE,
        shape=array.shape,
        dtype=name,
        length=length,
        checksum=content_digest(bits(array)),
        chunk_bytes=16,
        chunk_count=chunk_count_for(length, 16),
    )


@given(tensors(), st.sampled_from(sorted(CONVERSIONS - {("quantised_tile", "quantised_tile")})))
def test_every_declared_path_comes_back_bit_for_bit(tensor: tuple[str, np.ndarray], pair: tuple[str, str]) -> None:
    """Row-major to the source, to the target, back to row-major; each envelope is sound and its digest true."""
    name, array = tensor
    raw, envelope = np.frombuffer(bits(array), np.uint8), envelope_of(array, name)
    for family in (*pair, "row_major"):
        raw, envelope = convert_layout(raw, envelope, layout_of(family, array))
        check_envelope(envelope, ROOM)
        assert family_of(envelope.layout) == family and envelope.checksum == content_digest(raw.tobytes())
    assert raw.tobytes() == bits(array) and envelope == envelope_of(array, name)


def test_the_bytes_of_each_family_are_where_the_definition_says() -> None:
    """One small array by hand: axes (2, 3), values 1 … 6 with one zero."""
    array = np.array([[1, 2, 3], [4, 0, 6]], np.uint8)
    assert arrange(array, RowMajor()).tolist() == [1, 2, 3, 4, 0, 6]
    assert arrange(array, ColumnMajor()).tolist() == [1, 4, 2, 0, 3, 6]
    assert arrange(array, Blocked(block=(2, 2))).tolist() == [1, 2, 4, 0, 3, 0, 6, 0]
    sparse = arrange(array, Sparse(count=5))
    where = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]]
    assert sparse[:40].view("<u4").reshape(5, 2).tolist() == where and sparse[40:].tolist() == [1, 2, 3, 4, 6]


def test_negative_zero_and_nan_are_not_zero() -> None:
    """An element is left out only when all its bits are zero."""
    array = np.array([0.0, -0.0, np.nan, 1.0], np.float32)
    layout = sparse_layout(array)
    assert layout.count == 3
    assert bits(restore(arrange(array, layout), layout, (4,), "f32")) == bits(array)


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("quant", ["ggml_q8_0", "ggml_q4_0", "ggml_q4_1"])
def test_interleaved_tiles_come_back_bit_for_bit(quant: str, rows: int) -> None:
    """Blocks of neighbouring rows side by side, block for block, as llama.cpp repacks; the blocks are not opened."""
    size = {"ggml_q8_0": 34, "ggml_q4_0": 18, "ggml_q4_1": 20}[quant]
    plain = np.random.default_rng(0).integers(0, 256, (2, 8, 3, size), dtype=np.uint8)
    envelope = msgspec.structs.replace(
        envelope_of(plain, "u8"), dtype="", quant=quant, shape=(2, 8, 96), layout=QuantisedTile(rows=1)
    )
    made, tiled = convert_layout(plain.reshape(-1), envelope, QuantisedTile(rows=rows))
    group = made.reshape(2, 8 // rows, 3, rows, size)
    assert np.array_equal(group[1, 0, 2, rows - 1], plain[1, rows - 1, 2])
    back, again = convert_layout(made, tiled, QuantisedTile(rows=1))
    assert back.tobytes() == plain.tobytes() and again == envelope
    with pytest.raises(LocalProtocolError, match=r"layout\.rows"):
        convert_layout(made, tiled, QuantisedTile(rows=3))


EXAMPLES: dict[str, Layout] = {
    "row_major": RowMajor(),
    "column_major": ColumnMajor(),
    "blocked": Blocked(block=(1, 32)),
    "sparse": Sparse(count=0),
    "quantised_tile": QuantisedTile(),
    "extension": ExtensionLayout(name="acme"),
}


@pytest.mark.parametrize("pair", sorted(product(EXAMPLES, EXAMPLES)))
def test_a_pair_is_declared_or_refused(pair: tuple[str, str]) -> None:
    """All ordered pairs of the six families: what the table lacks is refused by name, and nothing else is."""
    source, target = pair
    quant = "ggml_q8_0" if source == "quantised_tile" else ""
    raw = np.zeros(0 if source == "sparse" else 34 if quant else 32, np.uint8)
    envelope = msgspec.structs.replace(
        envelope_of(raw, "u8"), shape=(1, 32), dtype="" if quant else "u8", quant=quant, layout=EXAMPLES[source]
    )
    if pair in CONVERSIONS:
        convert_layout(raw, envelope, EXAMPLES[target])
    else:
        with pytest.raises(LocalProtocolError, match=rf"got {source} to {target}.*unsupported-conversion"):
            convert_layout(raw, envelope, EXAMPLES[target])
    assert set(FAMILIES.values()) == set(EXAMPLES)


BASE = np.array([[1, 0, 2], [0, 3, 0]], np.uint8)
COO = arrange(BASE, Sparse(count=3))


def with_word(index: int, value: int) -> np.ndarray:
    raw = COO.copy()
    raw[index * 4 : index * 4 + 4] = np.array([value], "<u4").view(np.uint8)
    return raw


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (COO[:-1], "raw"),
        (np.append(COO, np.uint8(0)), "raw"),
        (with_word(0, 2), "indices"),
        (with_word(1, 0xFFFFFFFF), "indices"),
        (with_word(1, 2), "indices"),
        (with_word(0, 1), "indices"),
        (np.where(np.arange(COO.size) == COO.size - 1, 0, COO).astype(np.uint8), "indices"),
    ],
)
def test_sparse_bytes_from_a_stranger_are_checked(raw: np.ndarray, field: str) -> None:
    """Too few, too many, a coordinate outside, twice, out of order, a listed zero: no element lands anywhere."""
    with pytest.raises(RemoteProtocolError) as caught:
        restore(raw, Sparse(count=3), (2, 3), "u8")
    assert (caught.value.id, caught.value.field) == ("zg/tensor/bad-layout", field)


def test_bits_in_padding_are_refused() -> None:
    """Edge blocks are filled with zero bits; anything else would be bytes that no digest of the elements covers."""
    raw = arrange(BASE, Blocked(block=(2, 2)))
    raw[5] = 9
    with pytest.raises(RemoteProtocolError, match=r"^padding: "):
        restore(raw, Blocked(block=(2, 2)), (2, 3), "u8")


@given(st.binary(max_size=60), st.sampled_from([*EXAMPLES.values(), Sparse(count=2), Blocked(block=(2, 2))]))
def test_noise_is_restored_or_refused_by_name(noise: bytes, layout: Layout) -> None:
    """Whatever the bytes, no exception of NumPy comes out."""
    try:
        array = restore(np.frombuffer(noise, np.uint8), layout, (2, 3), "f16")
    except ZeitgeistError:
        return
    assert array.shape == (2, 3)
