"""Conversion of element types: one rounding to nearest even, whatever the pair, and an honest price (C3)."""

import importlib
from fractions import Fraction
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.convert import dtypes
from zeitgeist.convert.dtypes import ARRAY_DTYPES, convert, convert_measured, to_float64
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.dtype import DTYPES, precision_rule

pytestmark = pytest.mark.requirement("C3")

WITH_TORCH = dtypes.accelerate
REAL = {"bf16": ml_dtypes.bfloat16, "f8_e4m3": ml_dtypes.float8_e4m3fn, "f8_e5m2": ml_dtypes.float8_e5m2}
FLOATS = [name for name, kind in DTYPES.items() if kind.kind == "float"]
SUPPORTED = [pair for pair in product(DTYPES, DTYPES) if precision_rule(*pair) != "unsupported"]


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the NumPy way; another test module may have imported torch."""
    monkeypatch.setattr(dtypes, "accelerate", lambda *_: False)


def samples(name: str, count: int = 4096) -> np.ndarray:
    """Values of a type from random bits: every exponent, subnormals, infinities, NaN; and its ends."""
    rng = np.random.default_rng(7)
    carrier = ARRAY_DTYPES[name]
    if name == "bool":
        return rng.integers(0, 2, count).astype(bool)
    bits = rng.integers(0, 256, count * carrier.itemsize, dtype=np.uint8).view(carrier)
    if DTYPES[name].kind == "int":
        info = np.iinfo(carrier)
        near = [2**k + d for k in range(carrier.itemsize * 8) for d in (-1, 0, 1) if 2**k + d <= info.max]
        return np.concatenate([bits, np.array([info.min, info.max, *near], carrier)])
    return bits


def exact(values: np.ndarray, name: str) -> list[Fraction | float]:
    """Each number as a fraction; infinities and NaN as floats."""
    if DTYPES[name].kind != "float":
        return [Fraction(int(x)) for x in values]
    wide = to_float64(values, name)
    return [Fraction(float(x)) if np.isfinite(x) else float(x) for x in wide]


def nearest(value: Fraction, target: str) -> Fraction | float:
    """Rounding to nearest even by exact arithmetic, from the definition of the target alone."""
    kind = DTYPES[target]
    if kind.kind != "float":
        low, high = kind.integers
        return Fraction(min(max(int(value), low), high))
    if not value:
        return value
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, kind.exponent_min) - kind.precision + 1)
    rounded = round(value / unit) * unit
    if abs(rounded) <= kind.largest:
        return rounded
    return float("nan") if not kind.infinite else float("inf") if value > 0 else float("-inf")


@pytest.mark.parametrize(("source", "target"), SUPPORTED)
def test_every_supported_pair_rounds_once_to_nearest_even(source: str, target: str) -> None:
    """Against exact fractions, over random bit patterns; two roundings in a row would differ here."""
    values = samples(source, 600)
    for value, made in zip(exact(values, source), exact(convert(values, source, target), target), strict=True):
        if isinstance(value, Fraction):
            assert made == nearest(value, target) or (made != made and nearest(value, target) != nearest(value, target))
        else:
            lost = value != value or not DTYPES[target].infinite
            assert (made != made) if lost else made == value


@pytest.mark.parametrize(
    ("source", "target"), [(s, t) for s in ("f64", "i64", "u64") for t in ("f16", "bf16", "f8_e5m2")]
)
def test_a_hair_beside_a_tie_is_not_rounded_as_the_tie(source: str, target: str) -> None:
    """The trap of two roundings: halfway points of the target, and their neighbours in the source."""
    kind = DTYPES[target]
    if source == "f64":
        top = (1.0 + np.arange(64) / 64) * 2.0
        ties = np.concatenate([top + 2.0**-kind.precision, top * 256 + 2.0 ** (8 - kind.precision)])
        values = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, 9e9)])
    else:
        ties = [(1 << e) + (1 << e - kind.precision) for e in range(kind.precision, min(62, kind.exponent_max))]
        values = np.array([tie + d for tie in ties for d in (-1, 0, 1)], ARRAY_DTYPES[source])
    made = exact(convert(values, source, target), target)
    assert made == [nearest(value, target) for value in exact(values, source)]


@pytest.mark.parametrize("name", sorted(REAL))
def test_narrow_floats_are_those_of_ml_dtypes(name: str) -> None:
    """All patterns to float32; a million random float32 back, bit for bit but for the payload of NaN."""
    carrier = ARRAY_DTYPES[name]
    codes = np.arange(1 << 8 * carrier.itemsize, dtype=carrier)
    assert np.array_equal(convert(codes, name, "f32"), codes.view(REAL[name]).astype(np.float32), equal_nan=True)
    values = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        wanted = values.astype(REAL[name])
    made = convert(values, "f32", name)
    nan = np.isnan(wanted.astype(np.float32))
    assert np.array_equal(made[~nan], wanted.view(carrier)[~nan])
    assert np.isnan(to_float64(made, name))[nan].all()


@given(
    st.sampled_from([(a, b) for a, b in SUPPORTED if precision_rule(a, b) in ("exact", "safe_promotion")]), st.binary()
)
def test_a_promotion_comes_back_bit_for_bit(pair: tuple[str, str], raw: bytes) -> None:
    """There and back where the way back is declared; -0.0 keeps its sign."""
    source, target = pair
    width = ARRAY_DTYPES[source].itemsize
    values = np.frombuffer(raw[: len(raw) // width * width], ARRAY_DTYPES[source])
    values = values if source != "bool" else np.frombuffer(bytes(b & 1 for b in raw), bool)
    made, loss = convert_measured(values, source, target)
    assert (loss.max_abs, loss.max_ulp, loss.overflow_count, loss.vanished_count) == (0, 0, 0, 0)
    if precision_rule(target, source) != "unsupported":
        back = convert(made, target, source)
        same = back == values
        if DTYPES[source].kind == "float":
            same |= np.isnan(to_float64(values, source)) & np.isnan(to_float64(back, source))
        assert same.all()


def test_the_loss_is_what_was_lost() -> None:
    """By hand: a tie, an overflow, a number that vanishes, infinity and NaN that are no loss."""
    values = np.array([1 + 2.0**-11, 70000.0, -1e-9, np.inf, np.nan, 0.5], np.float32)
    made, loss = convert_measured(values, "f32", "f16")
    assert made.tolist()[:4] == [1.0, np.inf, -0.0, np.inf]
    assert (loss.rule, loss.max_abs, loss.max_ulp) == ("lossy", 2.0**-11, 0.5)
    assert (loss.overflow_count, loss.vanished_count) == (1, 1)
    assert convert_measured(np.array([300, -5, 7], np.int32), "i32", "u8")[1].overflow_count == 2
    assert convert_measured(values[:0], "f32", "f16")[1].max_abs == 0


@pytest.mark.parametrize(
    ("source", "target"), [p for p in product(FLOATS, FLOATS) if precision_rule(*p) == "safe_demotion"]
)
def test_a_safe_demotion_of_normal_numbers_costs_half_a_unit(source: str, target: str) -> None:
    """The meaning of the word, measured."""
    values = samples(source)
    wide = np.abs(to_float64(values, source))
    values = values[(wide > 2.0 ** DTYPES[source].exponent_min) & (wide <= DTYPES[target].largest)]
    loss = convert_measured(values, source, target)[1]
    assert 0 < loss.max_ulp <= 0.5 and (loss.overflow_count, loss.vanished_count) == (0, 0)


def test_unsupported_pairs_and_wrong_carriers_are_refused() -> None:
    """A float to an integer, the wrong array type, byte order, a target of another shape."""
    values = np.ones((2, 3), np.float32)
    with pytest.raises(LocalProtocolError, match="zg/format/unsupported-conversion"):
        convert(values, "f32", "i32")
    for array, source, out in (
        (values, "f16", None),
        (values.astype(">f4"), "f32", None),
        (values, "f32", np.empty((3, 2), np.float16)),
        (values, "f32", np.empty((2, 3), np.float32)),
        (values, "f32", np.empty((3, 2), np.float16).T),
    ):
        with pytest.raises(LocalProtocolError, match="zg/tensor/bad-layout"):
            convert(array, source, "f16", out)


def test_shape_is_kept_and_out_is_used() -> None:
    """Views with strides, blocks that do not divide the size, scalars and empty arrays."""
    values = np.arange(2 * 70001, dtype=np.float32).reshape(2, 70001)[:, ::-1]
    out = np.empty(values.shape, np.uint16)
    assert convert(values, "f32", "bf16", out) is out
    assert np.array_equal(to_float64(out, "bf16"), values.astype(ml_dtypes.bfloat16).astype(np.float64))
    assert convert(values, "f32", "f32") is values
    assert convert(np.array(1.5, np.float32), "f32", "f16").shape == () and convert(values[:0], "f32", "f16").shape == (
        0,
        70001,
    )


@pytest.mark.engine("torch")
@pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a in ("f32", "f16", "bf16") for b in ("f32", "f16", "bf16") if a != b]
)
def test_torch_gives_the_same_bits(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch in the process large arrays go through it, read-only ones too; only a NaN's payload may differ."""
    values = np.random.default_rng(3).integers(0, 1 << 32, 1 << 17, dtype=np.uint32).view(ARRAY_DTYPES[source])
    values.flags.writeable = False
    plain = convert(values, source, target)
    torch = importlib.import_module("torch")
    monkeypatch.setattr(dtypes, "accelerate", WITH_TORCH)
    used = []
    monkeypatch.setattr(torch, "from_numpy", lambda array, real=torch.from_numpy: used.append(1) or real(array))
    fast = convert(values, source, target)
    nan = np.isnan(to_float64(plain, target))
    carrier = f"u{fast.itemsize}"
    assert used and np.array_equal(fast.view(carrier)[~nan], plain.view(carrier)[~nan])
    assert np.isnan(to_float64(fast, target))[nan].all()
