"""SafeTensors reader and writer against the reference implementation, and against files that lie."""

import importlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.convert.safetensors_file import open_safetensors, pack, read_tensors
from zeitgeist.core.errors import ZeitgeistError

official = importlib.import_module("safetensors.numpy")


def raw_file(header: Any, data: bytes) -> bytes:
    """A file with any header, true or false."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any, shape: Any, offsets: Any) -> dict[str, Any]:
    """One row of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.requirement("R3")
def test_the_reference_implementation_reads_what_we_pack_and_we_read_what_it_saves(tmp_path: Path) -> None:
    """Both directions, several dtypes, a scalar and an empty tensor (R3)."""
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.float16([1, 2]),
        "c": np.zeros((0, 4), np.int64),
        "d": np.array(7, np.uint32),
        "e": np.array([True, False]),
        "f": np.arange(3, dtype=np.uint8),
    }
    names = {"float32": "f32", "float16": "f16", "int64": "i64", "uint32": "u32", "bool": "bool", "uint8": "u8"}
    ours = pack([(name, names[array.dtype.name], array) for name, array in arrays.items()], {"zeitgeist": "x"})
    for name, array in official.load(bytes(ours)).items():
        assert np.array_equal(array, arrays[name])
    path = tmp_path / "theirs.safetensors"
    official.save_file(arrays, path, {"format": "np"})
    file = open_safetensors(path)
    assert sorted(file.names()) == sorted(arrays)
    assert file.metadata == {"format": "np"}
    for name, array in arrays.items():
        dtype, view = file.tensor(name)
        assert (dtype, view.shape) == (names[array.dtype.name], array.shape)
        assert np.array_equal(view, array)
        assert not view.flags.writeable


@pytest.mark.requirement("R3")
def test_reading_does_not_copy() -> None:
    """The view lies inside the buffer (R3)."""
    buffer = pack([("a", "f32", np.ones(8, np.float32))], {})
    _, view = read_tensors(buffer).tensor("a")
    assert np.shares_memory(view, np.frombuffer(buffer, np.uint8))


F32 = entry("F32", [2], [0, 8])
LIES = {
    "empty": (b"", "truncated"),
    "short length": (b"\0\0\0", "truncated"),
    "huge header": (struct.pack("<Q", 1 << 60) + b"{}", "header-too-long"),
    "header past the end": (struct.pack("<Q", 90) + b"{}", "truncated"),
    "not JSON": (raw_file(b"{]", b""), "bad-header"),
    "not UTF-8": (raw_file(b'{"\xff":1}', b""), "bad-header"),
    "not an object": (raw_file(b"[1]", b""), "bad-header"),
    "deep nesting": (raw_file(b"[" * 200_000, b""), "bad-header"),
    "huge integer": (raw_file(b'{"a":' + b"9" * 9000 + b"}", b""), "bad-header"),
    "a key twice": (
        raw_file(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
        ),
        "bad-header",
    ),
    "NaN": (raw_file(b'{"a":NaN}', b""), "bad-header"),
    "metadata not text": (raw_file({"__metadata__": {"a": 1}}, b""), "bad-header"),
    "fourth key": (raw_file({"a": {**F32, "x": 1}}, b"x" * 8), "bad-header"),
    "unknown dtype": (raw_file({"a": entry("F4", [2], [0, 8])}, b"x" * 8), "unknown-dtype"),
    "dtype is a list": (raw_file({"a": entry([], [2], [0, 8])}, b"x" * 8), "unknown-dtype"),
    "negative shape": (raw_file({"a": entry("F32", [-2], [0, 8])}, b"x" * 8), "bad-header"),
    "shape of truth": (raw_file({"a": entry("F32", [True, 2], [0, 8])}, b"x" * 8), "bad-header"),
    "too many axes": (raw_file({"a": entry("F32", [1] * 64 + [2], [0, 8])}, b"x" * 8), "bad-header"),
    "shape overflow": (raw_file({"a": entry("F32", [1 << 40, 1 << 40], [0, 8])}, b"x" * 8), "bad-size"),
    "wrong size": (raw_file({"a": entry("F32", [3], [0, 8])}, b"x" * 8), "bad-size"),
    "backward": (raw_file({"a": entry("F32", [2], [8, 0])}, b"x" * 8), "bad-offsets"),
    "overlap": (raw_file({"a": F32, "b": entry("F32", [2], [4, 12])}, b"x" * 12), "bad-offsets"),
    "gap": (raw_file({"a": F32, "b": entry("F32", [2], [12, 20])}, b"x" * 20), "bad-offsets"),
    "gap at the start": (raw_file({"a": entry("F32", [2], [4, 12])}, b"x" * 12), "bad-offsets"),
    "half a surrogate in a name": (raw_file({"\ud800": F32}, b"x" * 8), "bad-header"),
    "half a surrogate in a dtype": (raw_file({"a": entry("\ud800", [2], [0, 8])}, b"x" * 8), "unknown-dtype"),
    "half a surrogate in metadata": (raw_file({"__metadata__": {"a": "\ud800"}}, b""), "bad-header"),
    "half a surrogate in a key": (raw_file({"__metadata__": {"\ud800": "a"}}, b""), "bad-header"),
    "a name of 513 characters": (raw_file({"a" * 513: F32}, b"x" * 8), "bad-header"),
    "zeros that hide a product": (raw_file({"a": entry("F32", [0, 1 << 48, 1 << 48], [0, 0])}, b""), "bad-header"),
    "truncated data": (raw_file({"a": F32}, b"x" * 7), "truncated"),
    "trailing byte": (raw_file({"a": F32}, b"x" * 9), "trailing-bytes"),
}


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("name", LIES)
def test_a_lying_file_is_refused_by_its_own_error(name: str, tmp_path: Path) -> None:
    """Each lie has its id, in memory and on disk (R3)."""
    data, error_id = LIES[name]
    with pytest.raises(ZeitgeistError) as caught:
        read_tensors(data)
    assert caught.value.id == f"zg/safetensors/{error_id}"
    path = tmp_path / "lie.safetensors"
    path.write_bytes(data)
    with pytest.raises(ZeitgeistError) as caught:
        open_safetensors(path)
    assert caught.value.id == f"zg/safetensors/{error_id}"
    assert "lie.safetensors" in str(caught.value)
    assert len(str(caught.value).encode()) < 2000


@pytest.mark.requirement("R3")
def test_a_file_that_is_not_there_and_a_tensor_that_is_not_there_are_named(tmp_path: Path) -> None:
    """Plain mistakes get plain errors (R3)."""
    with pytest.raises(ZeitgeistError, match=r"absent\.safetensors.*zg/safetensors/unreadable"):
        open_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(ZeitgeistError, match=r"w: got no such tensor"):
        read_tensors(pack([], {})).tensor("w")


@pytest.mark.requirement("R3")
@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_damage_never_escapes_as_another_exception(cut: int, at: int, byte: int) -> None:
    """Truncate anywhere and flip any byte: the reader answers, or refuses in its own words (R3)."""
    tensors = [("a", "f32", np.arange(9, dtype=np.float32)), ("b", "bf16", np.arange(4, dtype=np.uint16))]
    data = pack(tensors, {"k": "v"})
    at %= len(data)
    data[at] = byte
    view = memoryview(data)[: max(0, len(data) - cut)]
    try:
        file = read_tensors(view)
        for name in file.names():
            file.tensor(name)
    except ZeitgeistError:
        pass
