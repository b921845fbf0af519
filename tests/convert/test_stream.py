"""A cache in chunks: any order, twice, damaged; no half-written cache ever comes out (C1, D1)."""

import random
from dataclasses import replace as expect_replace

import msgspec
import numpy as np
import pytest
from cache_samples import IDS, expectation, form_of, small_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.convert.admit import admit
from zeitgeist.convert.kv import KVCache, layer_digests
from zeitgeist.convert.stream import CacheReceiver, CacheSender
from zeitgeist.core.errors import ZeitgeistError

LIMIT = 1 << 20


def pair(form=None, chunk_bytes: int = 200) -> tuple[KVCache, CacheSender, CacheReceiver]:
    """A sender and a receiver that has all envelopes."""
    cache = small_cache(form or form_of("f32"))
    sender = CacheSender(cache, chunk_bytes)
    receiver = CacheReceiver(sender.descriptor, expectation(cache), LIMIT)
    for layer in range(3):
        for side in "kv":
            receiver.announce(sender.envelope(layer, side))
    return cache, sender, receiver


def all_chunks(sender: CacheSender) -> list:
    """Every chunk of every layer in the sender's order, as separate bytes."""
    return [(head, bytes(raw)) for layer in range(3) for side in "kv" for head, raw in sender.chunks(layer, side)]


@pytest.mark.requirement("D1")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), name=st.sampled_from(["f32", "f16", "bf16", "ggml_q8_0"]), size=st.integers(1, 3000))
def test_any_order_and_duplicates_give_the_valid_rows_bit_for_bit(seed: int, name: str, size: int) -> None:
    """Shuffled, some twice; what comes out is admitted and equals the valid rows (C1, D1)."""
    cache, sender, receiver = pair(form_of(name), max(size, 30))
    chunks = all_chunks(sender)
    chunks += chunks[::3]
    random.Random(seed).shuffle(chunks)
    for head, raw in chunks:
        receiver.accept(head, raw)
    assert receiver.missing() == {}
    out = receiver.finish()
    admit(out, expectation(cache))
    for ours, theirs in zip((*cache.k, *cache.v), (*out.k, *out.v), strict=True):
        assert ours[: len(IDS)].tobytes() == theirs.tobytes()


@pytest.mark.requirement("D1")
def test_a_layer_can_be_used_before_the_next_has_come() -> None:
    """Layer 0 after its last chunk; layer 1 is refused by name (D1)."""
    cache, sender, receiver = pair()
    for side in "kv":
        for head, raw in sender.chunks(0, side):
            receiver.accept(head, raw)
    k, v = receiver.layer(0)
    assert np.array_equal(k, cache.valid("k", 0))
    assert np.array_equal(v, cache.valid("v", 0))
    with pytest.raises(ZeitgeistError, match="zg/cache/incomplete") as caught:
        receiver.layer(1)
    assert caught.value.field == "layer.3"


@pytest.mark.requirement("C1")
def test_a_corrupt_chunk_is_named_and_sent_again() -> None:
    """One flipped bit: refused with tensor and index; its repetition completes the cache (C1)."""
    _, sender, receiver = pair()
    for number, (head, raw) in enumerate(all_chunks(sender)):
        if number == 9:
            with pytest.raises(ZeitgeistError, match="zg/tensor/corrupt-chunk") as caught:
                receiver.accept(head, raw[:-1] + bytes([raw[-1] ^ 1]))
            assert caught.value.field == f"{head.tensor} chunk {head.index}"
            damaged = head
        else:
            receiver.accept(head, raw)
    assert receiver.missing() == {damaged.tensor: (damaged.index,)}
    with pytest.raises(ZeitgeistError, match="zg/cache/incomplete"):
        receiver.finish()
    layer, side = receiver.places[damaged.tensor]
    for head, raw in sender.chunks(layer, side, receiver.missing()[damaged.tensor]):
        receiver.accept(head, raw)
    assert receiver.finish().descriptor == sender.descriptor


@pytest.mark.requirement("D1")
def test_a_half_written_cache_is_refused_at_every_length() -> None:
    """Stop after each number of chunks but the last: never a cache (D1)."""
    _, sender, receiver = pair(chunk_bytes=640)
    for head, raw in all_chunks(sender):
        with pytest.raises(ZeitgeistError, match="zg/cache/incomplete"):
            receiver.finish()
        receiver.accept(head, raw)
    receiver.finish()


@pytest.mark.requirement("D1")
def test_rows_that_are_not_the_descriptors_are_refused_as_a_layer_and_asked_for_again() -> None:
    """A sender whose second layer differs from its descriptor, each chunk sound in itself (D1)."""
    cache, sender, _ = pair()
    receiver = CacheReceiver(sender.descriptor, expectation(cache), LIMIT)
    liar = CacheSender(KVCache(cache.descriptor, [cache.k[0], cache.k[2], cache.k[2]], cache.v), 10_000)
    for side in "kv":
        receiver.announce(liar.envelope(1, side))
    receiver.accept(*next(liar.chunks(1, "k")))
    with pytest.raises(ZeitgeistError, match="zg/cache/layer-digest") as caught:
        receiver.accept(*next(liar.chunks(1, "v")))
    assert caught.value.field == "layers.3"
    assert receiver.missing()["layer.3.k"] is None
    honest = CacheSender(cache)
    for layer in range(3):
        for side in "kv":
            receiver.announce(honest.envelope(layer, side))
            for head, raw in honest.chunks(layer, side):
                receiver.accept(head, raw)
    receiver.finish()


@pytest.mark.requirement("D1")
def test_nan_does_not_pass_a_stream_either() -> None:
    """Digests agree, the number does not (D1)."""
    cache = small_cache()
    cache.v[2][1, 0, 0] = np.nan
    layers = layer_digests(cache.k, cache.v, len(IDS))
    sender = CacheSender(KVCache(msgspec.structs.replace(cache.descriptor, layers=layers), cache.k, cache.v))
    receiver = CacheReceiver(sender.descriptor, expectation(cache), LIMIT)
    for layer in range(3):
        for side in "kv":
            receiver.announce(sender.envelope(layer, side))
            for head, raw in sender.chunks(layer, side):
                receiver.accept(head, raw)
    with pytest.raises(ZeitgeistError, match=r"layer\.4\.v.*zg/cache/not-finite"):
        receiver.finish()


@pytest.mark.requirement("D1")
def test_what_does_not_belong_to_the_cache_is_refused_before_memory_is_taken() -> None:
    """Foreign tokens, padding, a memory limit, foreign envelopes, chunks without one (D1)."""
    cache, sender, receiver = pair()
    expect = expectation(cache)
    cases = [
        (lambda: CacheReceiver(sender.descriptor, expect_replace(expect, ids=(1, 2, 3, 4, 5)), LIMIT), "tokens"),
        (lambda: CacheReceiver(cache.descriptor, expect, LIMIT), "padding"),
        (lambda: CacheReceiver(sender.descriptor, expect, 100), "too-large"),
        (
            lambda: receiver.announce(msgspec.structs.replace(sender.envelope(0, "k"), tensor="layer.9.k")),
            "unknown-tensor",
        ),
        (lambda: receiver.announce(msgspec.structs.replace(sender.envelope(0, "k"), dtype="f16")), "shape"),
        (lambda: receiver.announce(msgspec.structs.replace(sender.envelope(0, "k"), shape=(5, 1, 64))), "shape"),
        (lambda: receiver.announce(msgspec.structs.replace(sender.envelope(0, "k"), length=1 << 40)), "shape"),
        (lambda: receiver.announce(msgspec.structs.replace(sender.envelope(0, "k"), chunk_bytes=100)), "bad-chunk"),
        (lambda: CacheReceiver(sender.descriptor, expect, LIMIT).accept(*next(sender.chunks(0, "k"))), "bad-chunk"),
    ]
    for call, error_id in cases:
        with pytest.raises(ZeitgeistError) as caught:
            call()
        assert caught.value.id == f"zg/cache/{error_id}"
