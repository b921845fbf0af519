"""Conversion paths: the cheapest chain is found, its price is said before, its loss is measured after (C4, C5, D3)."""

import importlib
from itertools import product

import numpy as np
import pytest
from cache_samples import IDS, expectation, form_of, small_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.convert.admit import admit
from zeitgeist.convert.kv import KVCache
from zeitgeist.convert.path import cast, convert_cache, find_path, to_float32
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm

ELEMENTS = ("f32", "f16", "bf16", "ggml_q8_0", "ggml_q4_0", "ggml_q4_1")
FORMS = [form_of(name, pairing=pairing) for name, pairing in product(ELEMENTS, ("half", "interleaved"))]
FORMS += [form_of(name, pairing="interleaved", hadamard=32) for name in ELEMENTS[3:]]


def verbs(source: CacheForm, target: CacheForm, head_dim: int = 64) -> list[str]:
    """The verbs of K's chain."""
    return [step.verb for step in find_path(source, target, head_dim).k]


@pytest.mark.requirement("D3")
@pytest.mark.parametrize(
    ("source", "target", "wanted", "price"),
    [
        (form_of("f32"), form_of("f32"), [], "exact"),
        (form_of("f16"), F32_HALF, ["cast"], "exact"),
        (form_of("f16", pairing="interleaved"), F32_HALF, ["re-pair", "cast"], "exact"),
        (F32_HALF, form_of("f16", pairing="interleaved"), ["cast", "re-pair"], "lossy"),
        (F32_HALF, form_of("bf16"), ["cast"], "safe"),
        (form_of("ggml_q8_0", pairing="interleaved"), F32_HALF, ["dequantise", "re-pair"], "exact"),
        (form_of("ggml_q4_0"), form_of("ggml_q8_0"), ["repack"], "exact"),
        (form_of("ggml_q4_0"), form_of("ggml_q4_1"), ["repack"], "exact"),
        (form_of("ggml_q8_0"), form_of("ggml_q4_0"), ["dequantise", "quantise"], "lossy"),
        (
            form_of("ggml_q8_0", pairing="interleaved", hadamard=64),
            F32_HALF,
            ["dequantise", "rotate", "re-pair"],
            "safe",
        ),
        (
            F32_HALF,
            form_of("ggml_q8_0", pairing="interleaved", hadamard=64),
            ["re-pair", "rotate", "quantise"],
            "lossy",
        ),
        (form_of("ggml_q4_0", hadamard=64), form_of("ggml_q8_0"), ["dequantise", "rotate", "quantise"], "lossy"),
        (form_of("f16"), form_of("bf16"), ["cast", "cast"], "safe"),
    ],
)
def test_the_chosen_chain_is_the_one_a_person_would_take(source, target, wanted, price) -> None:
    """A table of cases, among them repacking without loss and rotation undone before re-pairing (D3)."""
    assert verbs(source, target) == wanted
    path = find_path(source, target, 64)
    assert path.price == price
    assert len(path.explain()) == max(1, len(path.k) + len(path.v))


@pytest.mark.requirement("D3")
def test_a_path_explains_itself_with_price_and_bytes() -> None:
    """One line a step (D3)."""
    lines = find_path(form_of("ggml_q8_0", "f16", pairing="interleaved", hadamard=0), F32_HALF, 64).explain()
    assert lines == [
        "k: dequantise ggml_q8_0 → f32: exact, 324 bytes a head",
        "k: re-pair interleaved → half: exact, 512 bytes a head",
        "v: cast f16 → f32: exact, 384 bytes a head",
    ]


@pytest.mark.requirement("D3")
@pytest.mark.parametrize(
    ("target", "field"),
    [
        (CacheForm(k=F32_HALF.k, v=F32_HALF.v, pairing="half", keys_rotated=False), "keys_rotated"),
        (form_of("f32", pairing="none"), "pairing"),
        (form_of("f32", hadamard=32), "k.hadamard"),
        (form_of("ggml_q8_0", hadamard=48), "k.hadamard"),
        (form_of("f8"), "form.dtype"),
        (form_of("ggml_q2_k"), "form.quant"),
    ],
)
def test_what_no_chain_reaches_is_refused_by_name(target: CacheForm, field: str) -> None:
    """Non-transferable is said, not tried (D3)."""
    with pytest.raises(ZeitgeistError) as caught:
        find_path(F32_HALF, target, 64)
    assert caught.value.field == field


@pytest.mark.requirement("C5")
@pytest.mark.parametrize("source", FORMS, ids=repr)
def test_every_form_converts_to_every_other_and_is_admitted(source: CacheForm) -> None:
    """All ordered pairs: digests recomputed, padding dropped, the numbers within the reported loss (C5)."""
    cache = small_cache(source)
    for target in FORMS:
        converted, report = convert_cache(cache, target)
        admit(converted, expectation(converted, (target,)))
        if not report.steps:
            assert converted is cache
            continue
        assert converted.descriptor.padded_count == len(IDS)
        exact, _ = convert_cache(cache, F32_HALF)
        again, _ = convert_cache(converted, F32_HALF)
        distance = max(
            float(np.abs(a - b[: len(IDS)]).max())
            for a, b in zip((*again.k, *again.v), (*exact.k, *exact.v), strict=True)
        )
        # A rotation spreads one number's error over its block of 32: at most √32 of the largest.
        assert distance <= sum(step.max_abs for step in report.steps) * 32**0.5 + 1e-5
        if report.path.price == "exact":
            assert distance == report.max_abs == 0


@pytest.mark.requirement("C4")
def test_the_report_measures_what_was_lost() -> None:
    """f16 costs at most 2⁻¹¹ relative, each narrower element more; V is reported apart from K (C4)."""
    cache = small_cache(head_dim=64)
    losses = {}
    for name in ("f16", "bf16", "ggml_q8_0", "ggml_q4_1", "ggml_q4_0"):
        converted, report = convert_cache(cache, form_of(name))
        assert [(step.side, step.step.target.element) for step in report.steps] == [("k", name), ("v", name)]
        difference = [
            to_float32(b, name).astype(np.float64) - a[: len(IDS)] for a, b in zip(cache.k, converted.k, strict=True)
        ]
        assert report.steps[0].max_abs == max(float(np.abs(one).max()) for one in difference)
        losses[name] = report.relative_l2
    assert losses["f16"] < 2.0**-11
    assert losses["f16"] < losses["bf16"] < 2.0**-8
    assert losses["bf16"] < losses["ggml_q8_0"] < losses["ggml_q4_1"] < losses["ggml_q4_0"] < 0.2


@pytest.mark.requirement("C4")
def test_the_rotation_of_a_spiky_head_is_why_it_exists() -> None:
    """One outlier ruins its neighbours' codes in Q4_0; rotated first, they lose less than half of that energy (C4)."""
    cache = small_cache(head_dim=64)
    for array in cache.k:
        array[:, :, 7] *= 30
    errors = []
    for block in (0, 64):
        key = ElementForm(dtype="", quant="ggml_q4_0", hadamard=block)
        stored, _ = convert_cache(cache, CacheForm(k=key, v=F32_HALF.v, pairing="half"))
        back, _ = convert_cache(stored, F32_HALF)
        pairs = zip(cache.k, back.k, strict=True)
        errors.append(np.concatenate([(b - a[: len(IDS)])[..., 8:32].ravel() for a, b in pairs]))
    assert np.vdot(errors[1], errors[1]) < np.vdot(errors[0], errors[0]) / 2


@pytest.mark.requirement("C5")
def test_overflow_is_refused_with_the_layer_named() -> None:
    """1e5 does not fit float16 (C5)."""
    cache = small_cache()
    cache.v[1][2, 1, 3] = 1e5
    with pytest.raises(ZeitgeistError, match="zg/convert/overflow") as caught:
        convert_cache(cache, form_of("f16"))
    assert caught.value.field == "layer.3.v"


@pytest.mark.requirement("C5")
def test_the_source_is_never_changed() -> None:
    """Digests of the source before and after (C5)."""
    for form in FORMS:
        cache = small_cache(form)
        before = [array.tobytes() for array in (*cache.k, *cache.v)]
        readonly = KVCache(cache.descriptor, [a.view() for a in cache.k], [a.view() for a in cache.v])
        for array in (*readonly.k, *readonly.v):
            array.flags.writeable = False
        for target in FORMS:
            convert_cache(readonly, target)
        assert [array.tobytes() for array in (*cache.k, *cache.v)] == before


@pytest.mark.requirement("C5")
@settings(max_examples=200, deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_bf16_rounds_to_nearest_even_for_every_bit_pattern(bits: list[int]) -> None:
    """Against ml_dtypes; NaN stays NaN, and widening gives each value back (C5)."""
    ml_dtypes = importlib.import_module("ml_dtypes")
    values = np.array(bits, np.uint32).view(np.float32)
    wanted = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    overflow = np.isfinite(values) & ((wanted & 0x7F80) == 0x7F80)
    if overflow.any():
        with pytest.raises(ZeitgeistError, match="zg/convert/overflow"):
            cast(values, "f32", "bf16")
        return
    narrow = cast(values, "f32", "bf16")
    numbers = ~np.isnan(values)
    assert np.array_equal(narrow[numbers], wanted[numbers])
    assert np.isnan(cast(narrow, "bf16", "f32")[~numbers]).all()
    assert np.array_equal(cast(cast(narrow, "bf16", "f32"), "f32", "bf16")[numbers], narrow[numbers])
