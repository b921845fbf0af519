"""Hostile caches differ from the honest one in what they are named after, and the gate refuses each by name (A5)."""

import json
from typing import Any

import numpy as np
import pytest
from exchange_samples import IDS, SAMPLE_FORMS, sample_cache, sample_expectation

from certify import hostile
from certify.hostile import Vector
from zeitgeist.convert import kv_file
from zeitgeist.convert.admit import admit
from zeitgeist.convert.kv import KVCache
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.kv import CacheForm


def refusal(data: bytes) -> ZeitgeistError:
    """What load and admission say to a file; the test fails when they take it."""
    with pytest.raises(ZeitgeistError) as caught:
        admit(kv_file.load(data), sample_expectation())
    return caught.value


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value of every leaf of a JSON object."""
    if isinstance(value, dict) and prefix != "extensions.":
        return {name: leaf for key, inner in value.items() for name, leaf in leaves(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def descriptor_of(data: bytes) -> dict[str, Any]:
    """The descriptor as JSON."""
    return json.loads(hostile.split(data)[0]["__metadata__"]["zeitgeist"])


@pytest.mark.requirement("A5")
def test_every_field_of_the_descriptor_has_a_vector_and_each_vector_leaves_the_numbers_alone() -> None:
    """Leaves that some vector changes are all leaves there are (issue §3: every descriptor field)."""
    honest = bytes(kv_file.dump(sample_cache()))
    wanted, seen = leaves(descriptor_of(honest)), set()
    for vector in hostile.field_vectors(honest, IDS):
        changed = leaves(descriptor_of(vector.data))
        different = {name for name in wanted if changed.get(name) != wanted[name]}
        assert 1 <= len(different) <= 2 and hostile.split(vector.data)[1] == hostile.split(honest)[1], vector.name
        seen |= different
    assert seen == set(wanted)


def vectors(form: CacheForm) -> list[Vector]:
    """All vectors of one form."""
    cache = sample_cache(form)
    data = bytes(kv_file.dump(cache))
    return [*hostile.field_vectors(data, IDS), *hostile.number_vectors(cache), *hostile.file_vectors(data)]


@pytest.mark.requirement("A5", "D3")
@pytest.mark.parametrize("form", SAMPLE_FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
def test_the_gate_refuses_every_vector_by_its_id_and_names_a_field(form: CacheForm) -> None:
    """The same ids whatever the element type (A5)."""
    for vector in vectors(form):
        error = refusal(vector.data)
        assert error.id == vector.id, (vector.name, str(error))
        assert error.field and error.field.startswith(vector.field), (vector.name, str(error))


@pytest.mark.requirement("D1")
@pytest.mark.parametrize("form", SAMPLE_FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
def test_what_admission_cannot_know_is_admitted(form: CacheForm) -> None:
    """Poisoned, zeroed and padded twins have matching digests; so does the wrong pairing (D4 is there for them)."""
    cache = sample_cache(form)
    other = "half" if form.pairing == "interleaved" else "interleaved"
    honest = bytes(kv_file.dump(cache))
    for data in (
        hostile.poisoned(cache),
        hostile.with_zeroed_head(cache, 2),
        hostile.padded(cache, 3),
        hostile.edited(honest, {"form.pairing": other}),
        honest,
    ):
        admit(kv_file.load(data), sample_expectation())


def test_a_poisoned_twin_has_the_same_rows_of_v_in_another_order_and_the_same_keys() -> None:
    """Only V of head 0 moves, by half of the tokens (D4)."""
    cache = sample_cache()
    twin = kv_file.load(hostile.poisoned(cache))
    for layer, (k, v) in enumerate(zip(twin.k, twin.v, strict=True)):
        assert np.array_equal(k, cache.k[layer]) and np.array_equal(v[:, 1:], cache.v[layer][:, 1:])
        assert np.array_equal(v[:, 0], np.roll(cache.v[layer][:, 0], len(IDS) // 2, axis=0))
        assert not np.array_equal(v, cache.v[layer])


def test_a_padded_twin_has_the_digests_of_the_cache_and_rows_behind_that_are_not_numbers() -> None:
    """Padding is NaN, so that reading it cannot go unseen (D1)."""
    cache = sample_cache()
    twin: KVCache = kv_file.load(hostile.padded(cache, 3))
    assert twin.descriptor.layers == cache.descriptor.layers
    assert twin.descriptor.padded_count == len(IDS) + 3 and np.isnan(twin.k[0][len(IDS) :]).all()


def test_a_flip_changes_one_bit() -> None:
    """And the same flip takes it back."""
    data = bytes(range(64))
    changed = hostile.flipped(data, 77)
    assert sum((a ^ b).bit_count() for a, b in zip(data, changed, strict=True)) == 1
    assert hostile.flipped(changed, 77) == data


def test_a_field_that_does_not_exist_cannot_be_edited() -> None:
    """A vector that changes nothing would prove nothing."""
    with pytest.raises(ZeitgeistError, match="no field"):
        hostile.edited(bytes(kv_file.dump(sample_cache())), {"rope.teta": "1.0"})
