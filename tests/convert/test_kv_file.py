"""The SafeTensors form of a cache: one meaning, one byte string, and no damage unnoticed (D1, A5)."""

import contextlib
import importlib
import json

import msgspec
import numpy as np
import pytest
from cache_samples import form_of, small_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.convert.kv import KVCache
from zeitgeist.convert.kv_file import METADATA_KEY, descriptor_from_json, descriptor_to_json, dump, load
from zeitgeist.convert.safetensors_file import pack
from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.errors import ZeitgeistError

FORMS = [form_of("f32"), form_of("f16"), form_of("bf16", "f16"), form_of("ggml_q8_0"), form_of("ggml_q4_0", "f16")]


@pytest.mark.requirement("D1")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}-{form.v.dtype}{form.v.quant}")
def test_a_cache_reads_back_as_itself_without_a_copy(form) -> None:
    """load(dump(x)) is x, shares the buffer's memory, and dumps to the same bytes (D1)."""
    cache = small_cache(form)
    data = dump(cache)
    again = load(data)
    assert again.descriptor == cache.descriptor
    for ours, theirs in zip((*cache.k, *cache.v), (*again.k, *again.v), strict=True):
        assert ours.tobytes() == theirs.tobytes()
        assert np.shares_memory(theirs, np.frombuffer(data, np.uint8))
    assert dump(again) == data


@pytest.mark.requirement("D1")
def test_the_reference_reader_sees_layers_of_the_model_and_one_metadata_key(tmp_path) -> None:
    """The official library opens it; tensor names count layers as the model does (D1)."""
    official = importlib.import_module("safetensors")
    path = tmp_path / "cache.safetensors"
    path.write_bytes(dump(small_cache()))
    with official.safe_open(path, "numpy") as file:
        assert sorted(file.keys()) == [f"layer.{i}.{side}" for i in (2, 3, 4) for side in "kv"]
        assert list(file.metadata()) == [METADATA_KEY]
        assert json.loads(file.metadata()[METADATA_KEY])["layer_count"] == 3


@pytest.mark.requirement("D1")
def test_extensions_survive_the_file() -> None:
    """A vendor's bytes come back as they were (D1)."""
    cache = small_cache()
    extensions = {"x/y": Extension(critical=False, body=b"\0\xff")}
    descriptor = msgspec.structs.replace(cache.descriptor, extensions=extensions)
    assert load(dump(KVCache(descriptor, cache.k, cache.v))).descriptor.extensions["x/y"].body == b"\0\xff"


def packed(names: dict[str, np.ndarray] | None = None, metadata: dict[str, str] | None = None, **changes) -> bytes:
    """A file that says something else than it holds."""
    cache = small_cache()
    descriptor = msgspec.structs.replace(cache.descriptor, **changes)
    arrays = {
        f"layer.{2 + i}.{s}": a
        for i, kv in enumerate(zip(cache.k, cache.v, strict=True))
        for s, a in zip("kv", kv, strict=True)
    } | (names or {})
    kinds = {"float32": "f32", "float16": "f16", "uint8": "u8"}
    tensors = [(name, kinds[array.dtype.name], array) for name, array in arrays.items() if array.size]
    return bytes(pack(tensors, {METADATA_KEY: descriptor_to_json(descriptor)} if metadata is None else metadata))


HALF = np.zeros((8, 2, 32), np.float16)
WIDE = np.zeros((8, 2, 32), np.float32)
GOOD = descriptor_to_json(small_cache().descriptor)
LIES = {
    "no metadata": (lambda: packed(metadata={}), "zg/cache/bad-metadata", "__metadata__"),
    "second key": (lambda: packed(metadata={METADATA_KEY: GOOD, "x": ""}), "zg/cache/bad-metadata", "__metadata__"),
    "not JSON": (lambda: packed(metadata={METADATA_KEY: "{"}), "zg/cache/bad-metadata", "zeitgeist"),
    "blank in JSON": (lambda: packed(metadata={METADATA_KEY: GOOD + " "}), "zg/cache/bad-metadata", "zeitgeist"),
    "key twice": (
        lambda: packed(metadata={METADATA_KEY: GOOD.replace("{", '{"adapter":"",', 1)}),
        "zg/cache/bad-metadata",
        "zeitgeist",
    ),
    "unknown field": (
        lambda: packed(metadata={METADATA_KEY: GOOD.replace("{", '{"aaa":1,', 1)}),
        "zg/cache/bad-metadata",
        "zeitgeist",
    ),
    "too long": (
        lambda: packed(extensions={"x/y": Extension(critical=False, body=bytes(900_000))}),
        "zg/cache/bad-metadata",
        "zeitgeist",
    ),
    "negative count": (lambda: packed(position_count=-1), "zg/cache/bad-metadata", "position_count"),
    "no heads": (lambda: packed(kv_head_count=0), "zg/cache/bad-metadata", "kv_head_count"),
    "missing layer": (lambda: packed(layer_count=4), "zg/cache/missing-layer", "layer.5.k"),
    "absurd layer count": (lambda: packed(layer_count=1 << 50), "zg/cache/bad-metadata", "layer_count"),
    "missing V": (lambda: packed(names={"layer.3.v": np.zeros(0, np.float32)}), "zg/cache/missing-layer", "layer.3.v"),
    "layer too many": (lambda: packed(layer_count=2), "zg/cache/unknown-tensor", "layer.4.k"),
    "shifted layers": (lambda: packed(layer_first=1), "zg/cache/missing-layer", "layer.1.k"),
    "stranger": (lambda: packed(names={"x": HALF}), "zg/cache/unknown-tensor", "x"),
    "other dtype": (lambda: packed(names={"layer.3.k": HALF}), "zg/cache/dtype", "layer.3.k.dtype"),
    "missing head": (lambda: packed(names={"layer.4.v": WIDE[:, :1]}), "zg/cache/shape", "layer.4.v"),
    "heads claimed": (lambda: packed(kv_head_count=4), "zg/cache/shape", "layer.2.k"),
    "rows claimed": (lambda: packed(padded_count=9), "zg/cache/shape", "layer.2.k"),
    "truncated": (lambda: packed()[:-1], "zg/safetensors/truncated", "data"),
    "trailing byte": (lambda: packed() + b"\0", "zg/safetensors/trailing-bytes", "data"),
}


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("name", LIES)
def test_a_file_that_disagrees_with_itself_is_refused_by_name(name: str) -> None:
    """Each lie names its field and has its id (A5)."""
    make, error_id, field = LIES[name]
    with pytest.raises(ZeitgeistError) as caught:
        load(make())
    assert caught.value.id.startswith(error_id)
    assert caught.value.field == field


@pytest.mark.requirement("A5")
def test_text_that_is_no_unicode_is_refused_as_metadata() -> None:
    """JSON can spell a lone surrogate, which no encoder takes (A5)."""
    with pytest.raises(ZeitgeistError, match="zg/cache/bad-metadata"):
        descriptor_from_json("\ud800")


@pytest.mark.requirement("A5")
@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 4000), byte=st.integers(0, 255), cut=st.integers(0, 8))
def test_damage_is_refused_or_leaves_a_wellformed_cache(at: int, byte: int, cut: int) -> None:
    """No byte makes the loader fail with anything but a refusal (A5)."""
    data = dump(small_cache(layers=1))
    data[at % len(data)] = byte
    with contextlib.suppress(ZeitgeistError):
        load(memoryview(data)[: len(data) - cut])
