"""The precision rule of each ordered pair, against what the types really hold (C3)."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.dtype import DTYPES, dtype_named, precision_rule

pytestmark = pytest.mark.requirement("C3")

REAL = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8_e4m3": ml_dtypes.float8_e4m3fn,
    "f8_e5m2": ml_dtypes.float8_e5m2,
    **{f"i{bits}": np.dtype(f"i{bits // 8}").type for bits in (8, 16, 32, 64)},
    **{f"u{bits}": np.dtype(f"u{bits // 8}").type for bits in (8, 16, 32, 64)},
    "bool": np.bool_,
}
SMALL = ("f16", "bf16", "f8_e4m3", "f8_e5m2", "i8", "i16", "u8", "u16", "bool")
"""Types with at most 65,536 values: all of them can be tried."""


def values_of(name: str):
    """Every value of a small type that is a number."""
    width = np.dtype(REAL[name]).itemsize
    count = 2 if name == "bool" else 1 << 8 * width
    values = np.arange(count, dtype=f"u{width}").view(REAL[name])
    with np.errstate(invalid="ignore"):
        return values[~np.isnan(values.astype(np.float64))]


def test_a_float_is_described_as_the_library_that_has_it_describes_it() -> None:
    """Precision, exponents and the largest number against finfo of NumPy and ml_dtypes."""
    for name, kind in DTYPES.items():
        assert np.dtype(REAL[name]).itemsize == kind.width
        if kind.kind == "float":
            info = ml_dtypes.finfo(REAL[name])
            assert kind.precision == info.nmant + 1 and kind.largest == int(float(info.max))
            assert float(info.smallest_normal) == 2.0**kind.exponent_min
            assert kind.infinite == bool(np.isinf(np.array(np.inf).astype(REAL[name])))
        elif kind.kind == "int":
            assert kind.integers == (np.iinfo(REAL[name]).min, np.iinfo(REAL[name]).max)


@pytest.mark.parametrize(("source", "target"), [*product(SMALL, DTYPES)])
def test_a_rule_says_what_happens_to_every_value(source: str, target: str) -> None:
    """All values of the source through the target and back: promotions lose none, demotions only a rounding, and
    what is called lossy does lose a value by more than that."""
    rule = precision_rule(source, target)
    if rule == "unsupported":
        return
    values = values_of(source)
    with np.errstate(all="ignore"):
        was = values.astype(np.float64)
        back = was.astype(REAL[target]).astype(np.float64)
    if rule in ("exact", "safe_promotion"):
        assert np.array_equal(back, was)
        return
    assert not np.array_equal(back, was)
    kind = DTYPES[target]
    if kind.kind == "int":
        assert rule == "lossy"
        return
    above = float(kind.largest) + 2.0 ** (kind.exponent_max - kind.precision)
    lowest = max(2.0**kind.exponent_min, 2.0 ** DTYPES[source].exponent_min if DTYPES[source].kind == "float" else 0)
    inside = (np.abs(was) >= lowest) & (np.abs(was) < above)
    once = bool((np.abs(back[inside] - was[inside]) <= 2.0**-kind.precision * np.abs(was[inside])).all())
    far = 2.0 ** (kind.exponent_max + 1) if DTYPES[source].kind == "float" else above
    spans = not (np.isfinite(was) & (np.abs(was) >= far)).any()
    keeps = bool(np.isinf(back[np.isinf(was)]).all())
    covers = DTYPES[source].kind != "float" or DTYPES[source].exponent_min >= kind.exponent_min
    assert (rule == "safe_demotion") == (once and spans and keeps and covers)


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("f32", "f32", "exact"),
        ("f32", "f64", "safe_promotion"),
        ("f32", "bf16", "safe_demotion"),
        ("f32", "f16", "lossy"),
        ("f64", "f32", "lossy"),
        ("f16", "bf16", "safe_demotion"),
        ("bf16", "f16", "lossy"),
        ("i32", "f64", "safe_promotion"),
        ("i32", "f32", "safe_demotion"),
        ("u16", "f16", "lossy"),
        ("i64", "i32", "lossy"),
        ("u8", "i8", "lossy"),
        ("f32", "i32", "unsupported"),
        ("i8", "bool", "unsupported"),
        ("bool", "f8_e5m2", "safe_promotion"),
    ],
)
def test_well_known_pairs(source: str, target: str, rule: str) -> None:
    """A few that a person can check by hand, wide types included."""
    assert precision_rule(source, target) == rule


def test_a_pair_has_one_rule_and_an_unknown_type_none() -> None:
    """Exact is the diagonal; a promotion is never a promotion back."""
    for source, target in product(DTYPES, DTYPES):
        assert (precision_rule(source, target) == "exact") == (source == target)
        if precision_rule(source, target) == "safe_promotion":
            assert precision_rule(target, source) != "safe_promotion"
    with pytest.raises(RemoteProtocolError, match=r"^source: got f8, .*zg/format/unknown-dtype"):
        precision_rule("f8", "f32")


@pytest.mark.parametrize("name", [n for n in DTYPES if n[0] in "fb" and n != "bool"])
def test_integers_are_exact_up_to_the_stated_range_and_not_beyond(name: str) -> None:
    """The bound itself is held, its successor is not."""
    low, high = dtype_named(name).integers
    assert [int(REAL[name](x)) for x in (low, low + 1, high - 1, high)] == [low, low + 1, high - 1, high]
    assert int(REAL[name](high + 1)) != high + 1
