"""The gate: each field of a cache descriptor, each kind of damage to its numbers, is refused with its own name (A5)."""

from dataclasses import replace as expect_replace
from typing import Any

import msgspec
import numpy as np
import pytest
from cache_samples import IDS, expectation, form_of, small_cache

from zeitgeist.convert.admit import CacheExpectation, admit, admit_descriptor
from zeitgeist.convert.kv import KVCache, layer_digests
from zeitgeist.core.descriptors.cache import CacheDescriptor, Extension
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import content_digest, tokens_digest
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, RopeState

FOREIGN = content_digest(b"foreign")
FORMS = [
    F32_HALF,
    form_of("f16", pairing="interleaved"),
    form_of("bf16"),
    form_of("ggml_q8_0"),
    form_of("ggml_q4_0", "ggml_q4_1"),
]

VECTORS: dict[str, tuple[Any, str, str]] = {
    "cache_version": (2, "zg/cache/format-version", "cache_version"),
    "format_version": (2, "zg/cache/format-version", "format_version"),
    "made_by": ("x\n" * 300, "zg/cache/made-by", "made_by"),
    "model": (FOREIGN, "zg/cache/model", "model"),
    "tokenizer": (FOREIGN, "zg/cache/tokenizer", "tokenizer"),
    "adapter": (FOREIGN, "zg/cache/adapter", "adapter"),
    "tokens": (tokens_digest([3, 1, 4, 1, 6]), "zg/cache/tokens", "tokens"),
    "position_first": (1, "zg/cache/position", "position_first"),
    "position_count": (8, "zg/cache/position", "position_count"),
    "padded_count": (4, "zg/cache/padding", "padded_count"),
    "layer_first": (0, "zg/cache/layer-range", "layer_first"),
    "layer_count": (2, "zg/cache/layer-range", "layer_count"),
    "kv_head_count": (1, "zg/cache/kv-heads", "kv_head_count"),
    "head_dim": (64, "zg/cache/head-dim", "head_dim"),
    "form.k.dtype": ("f16", "zg/cache/dtype", "form.k.dtype"),
    "form.k.quant": ("ggml_q8_0", "zg/cache/quant", "form.k.quant"),
    "form.k.hadamard": (32, "zg/cache/hadamard", "form.k.hadamard"),
    "form.v.dtype": ("bf16", "zg/cache/dtype", "form.v.dtype"),
    "form.v.quant": ("ggml_q4_0", "zg/cache/quant", "form.v.quant"),
    "form.v.hadamard": (16, "zg/cache/hadamard", "form.v.hadamard"),
    "form.pairing": ("interleaved", "zg/cache/pairing", "form.pairing"),
    "form.keys_rotated": (False, "zg/cache/rotation-state", "form.keys_rotated"),
    "rope.theta": ("500000.0", "zg/cache/rope", "rope.theta"),
    "rope.scaling": ("llama3", "zg/cache/rope", "rope.scaling"),
    "rope.factors": (FOREIGN, "zg/cache/rope", "rope.factors"),
    "rope.offset": (1, "zg/cache/rope", "rope.offset"),
    "window": (4096, "zg/cache/window", "window"),
    "sink": (4, "zg/cache/window", "sink"),
    "latent": ("mla", "zg/cache/latent", "latent"),
    "hybrid": ("mamba2", "zg/cache/hybrid", "hybrid"),
    "layers": ((FOREIGN, FOREIGN, FOREIGN), "zg/cache/layer-digest", "layers.2"),
    "extensions": ({"x/y": Extension(critical=True, body=b"")}, "zg/cache/extension", "extensions.x/y"),
}
"""Leaf of `CacheDescriptor` → (a wrong value, error id, field named)."""


def leaves(kind: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Dotted names of all fields, records inside records opened."""
    found = []
    for field in msgspec.structs.fields(kind):
        inner = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        found += leaves(field.type, f"{prefix}{field.name}.") if inner else [prefix + field.name]
    return found


def changed(record: Any, path: str, value: Any) -> Any:
    """The record with one leaf replaced."""
    name, _, rest = path.partition(".")
    return msgspec.structs.replace(record, **{name: changed(getattr(record, name), rest, value) if rest else value})


def refusal(cache: KVCache, expect: CacheExpectation) -> tuple[str, str]:
    """(id, field) of the refusal; the test fails when there is none."""
    with pytest.raises(ZeitgeistError) as caught:
        admit(cache, expect)
    return caught.value.id, caught.value.field


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
def test_a_true_cache_is_admitted_whatever_lies_in_its_padding(form: CacheForm) -> None:
    """Padding rows of these samples hold NaN; the valid rows pass, with the form listed and with any form (A5)."""
    cache = small_cache(form)
    admit(cache, expectation(cache, (form,)))
    admit(cache, expectation(cache))


@pytest.mark.requirement("A5")
def test_every_field_of_the_descriptor_has_a_negative_vector() -> None:
    """A new field without a vector fails here (A5)."""
    assert set(leaves(CacheDescriptor)) == set(VECTORS)


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("path", VECTORS)
def test_a_wrong_field_is_refused_by_its_name(path: str) -> None:
    """One leaf changed, nothing else; the receiver lists the one form it takes (A5)."""
    value, error_id, field = VECTORS[path]
    cache = small_cache()
    wrong = KVCache(changed(cache.descriptor, path, value), cache.k, cache.v)
    assert refusal(wrong, expectation(cache, (F32_HALF,))) == (error_id, field)


@pytest.mark.requirement("A5")
@pytest.mark.parametrize(
    ("path", "value", "error_id"),
    [
        ("form.k.dtype", "f64", "zg/cache/dtype"),
        ("form.v.quant", "ggml_q2_k", "zg/cache/quant"),
        ("form.k.hadamard", 32, "zg/cache/hadamard"),
        ("form.pairing", "none", "zg/cache/pairing"),
        ("form.keys_rotated", False, "zg/cache/rotation-state"),
        ("form.k.dtype", "f16", "zg/cache/shape"),
    ],
)
def test_a_receiver_of_any_form_still_refuses_what_no_path_knows(path: str, value: Any, error_id: str) -> None:
    """Without a list of forms, unknown elements, rotated plain numbers, keys before rotation do not pass (A5)."""
    cache = small_cache()
    wrong = KVCache(changed(cache.descriptor, path, value), cache.k, cache.v)
    assert refusal(wrong, expectation(cache))[0] == error_id


@pytest.mark.requirement("A5")
def test_a_stream_is_refused_on_its_descriptor_alone() -> None:
    """Too few digests, or an element that no path knows, before the first byte of payload has come (A5)."""
    cache = small_cache()
    wrong = (("layers", (FOREIGN,), "zg/cache/layer-digest"), ("form.v.dtype", "f64", "zg/cache/dtype"))
    for path, value, error_id in wrong:
        with pytest.raises(ZeitgeistError) as caught:
            admit_descriptor(changed(cache.descriptor, path, value), expectation(cache))
        assert caught.value.id == error_id


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("block", [1, 3, 48, 64, -2])
def test_a_hadamard_block_must_be_a_power_of_two_in_the_head(block: int) -> None:
    """32 is fine in a head of 32 under Q8_0; 64 is wider than the head (A5)."""
    cache = small_cache(form_of("ggml_q8_0", hadamard=32))
    admit(cache, expectation(cache))
    wrong = KVCache(changed(cache.descriptor, "form.v.hadamard", block), cache.k, cache.v)
    assert refusal(wrong, expectation(cache)) == ("zg/cache/hadamard", "form.v.hadamard")


@pytest.mark.requirement("A5")
def test_the_divisors_decide_where_a_gguf_does_not_say_how_they_were_made() -> None:
    """`factors` against `llama3` with equal divisors passes both ways; with others it does not (A5)."""
    cache = small_cache()
    for ours, theirs in (("factors", "llama3"), ("llama3", "factors")):
        rope = msgspec.structs.replace(cache.descriptor.rope, scaling=ours)
        expect = expect_replace(expectation(cache), rope=rope)
        admit(KVCache(changed(cache.descriptor, "rope.scaling", theirs), cache.k, cache.v), expect)
        other = changed(changed(cache.descriptor, "rope.scaling", theirs), "rope.factors", FOREIGN)
        assert refusal(KVCache(other, cache.k, cache.v), expect) == ("zg/cache/rope", "rope.factors")
    assert isinstance(cache.descriptor.rope, RopeState)


@pytest.mark.requirement("A5")
def test_padding_that_calls_itself_valid_is_refused_even_with_digests_to_match() -> None:
    """The maker counts 8 rows and 8 tokens where 5 are continued: the count is named (A5)."""
    cache = small_cache()
    descriptor = msgspec.structs.replace(
        cache.descriptor,
        position_count=8,
        tokens=tokens_digest([*IDS, 0, 0, 0]),
        layers=layer_digests(cache.k, cache.v, 8),
    )
    assert refusal(KVCache(descriptor, cache.k, cache.v), expectation(cache)) == ("zg/cache/position", "position_count")


@pytest.mark.requirement("A5")
def test_known_and_harmless_extensions_pass() -> None:
    """Not critical: kept. Critical and known to the receiver: passed (A5)."""
    cache = small_cache()
    for critical, known in ((False, frozenset()), (True, frozenset({"x/y"}))):
        descriptor = changed(cache.descriptor, "extensions", {"x/y": Extension(critical=critical, body=b"1")})
        admit(KVCache(descriptor, cache.k, cache.v), expect_replace(expectation(cache), extensions=known))


DAMAGE = {
    "heads swapped": lambda cache: cache.k[1].__setitem__(slice(None), cache.k[1][:, ::-1].copy()),
    "one head zeroed": lambda cache: cache.k[1].__setitem__((2, 0), 0),
    "positions shifted": lambda cache: cache.k[1].__setitem__(slice(0, 5), np.roll(cache.k[1][:5], 1, axis=0)),
    "one bit": lambda cache: cache.k[1].view(np.uint8).__setitem__((4, 1, 0), cache.k[1].view(np.uint8)[4, 1, 0] ^ 1),
    "K and V exchanged": lambda cache: (cache.k.__setitem__(1, cache.v[1]), cache.v.__setitem__(1, small_cache().k[1])),
    "layers exchanged": lambda cache: cache.k.insert(1, cache.k.pop(2)),
}


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("name", DAMAGE)
def test_rows_that_are_not_the_rows_described_are_refused_by_layer(name: str) -> None:
    """Damage that top-1 and KL do not see is seen by the digest of its layer, index 3 in the model (A5)."""
    cache = small_cache()
    DAMAGE[name](cache)
    assert refusal(cache, expectation(cache)) == ("zg/cache/layer-digest", "layers.3")


@pytest.mark.requirement("A5")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named_with_layer_position_and_head(form: CacheForm, poison: float) -> None:
    """In every element form, with digests made to match, so that only the numbers are wrong (A5)."""
    cache = small_cache(form)
    for side, array, one in (("v", cache.v[2], form.v), ("k", cache.k[2], form.k)):
        fresh = array.copy()
        bits = np.float32([poison])
        if one.quant:
            array[3, 1, :2] = bits.astype(np.float16).view(np.uint8)
        elif one.dtype == "bf16":
            array[3, 1, 7] = bits.view(np.uint32)[0] >> 16
        else:
            array[3, 1, 7] = poison
        layers = layer_digests(cache.k, cache.v, len(IDS))
        wrong = KVCache(changed(cache.descriptor, "layers", layers), cache.k, cache.v)
        with pytest.raises(ZeitgeistError, match="position 3, head 1") as caught:
            admit(wrong, expectation(cache))
        assert (caught.value.id, caught.value.field) == ("zg/cache/not-finite", f"layer.4.{side}")
        array[:] = fresh


@pytest.mark.requirement("A5")
def test_arrays_in_memory_that_lack_a_head_or_a_row_are_refused() -> None:
    """The gate does not trust that the loader ran (A5)."""
    cache = small_cache()
    cache.v[0] = cache.v[0][:, :1]
    assert refusal(cache, expectation(cache)) == ("zg/cache/shape", "layer.2.v")
    cache = small_cache()
    cache.k[1] = cache.k[1][:-1]
    assert refusal(cache, expectation(cache)) == ("zg/cache/shape", "layer.3.k")
    cache = small_cache()
    cache.v.pop()
    assert refusal(cache, expectation(cache)) == ("zg/cache/shape", "v")
