"""Element types and the precision rule of every ordered pair (C3).

Law: the rule is decided by what the two types can represent, once, in `precision_rule`; nobody keeps a second table.
A type is described by integers, so that nothing here depends on floating point.
"""

from typing import Final, Literal

import msgspec

from zeitgeist.core.errors import refuse

__all__ = [
    "DTYPES",
    "DType",
    "PrecisionRule",
    "dtype_named",
    "holds_every_value_of",
    "keeps_range_of",
    "precision_rule",
]

PrecisionRule = Literal["exact", "safe_promotion", "safe_demotion", "lossy", "unsupported"]


class DType(msgspec.Struct, frozen=True, kw_only=True):
    """One element type, little-endian when wider than a byte.

    bits: width. precision: significant binary digits, the hidden one included; of integers those of the magnitude.
    exponent_max, exponent_min: of normal numbers, floats only; subnormals reach `exponent_min - precision + 1`.
    top_steps: how many units in the last place the largest number lies under `2 ** (exponent_max + 1)`.
    signed: integers only. infinite: has infinities; f8_e4m3 (OCP 8-bit, "fn") has none, and one NaN.
    """

    name: str
    kind: Literal["float", "int", "bool"]
    bits: int
    precision: int
    exponent_max: int = 0
    exponent_min: int = 0
    top_steps: int = 1
    signed: bool = True
    infinite: bool = False

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def integers(self) -> tuple[int, int]:
        """(lowest, highest): the range in which every integer is represented exactly."""
        if self.kind == "float":
            return -(1 << self.precision), 1 << self.precision
        return (-(1 << self.precision) if self.signed else 0), (1 << self.precision) - 1

    @property
    def largest(self) -> int:
        """The largest finite value, as an integer (all of these are whole numbers)."""
        if self.kind != "float":
            return self.integers[1]
        return (1 << self.exponent_max + 1) - (self.top_steps << self.exponent_max + 1 - self.precision)


def floating(
    name: str,
    bits: int,
    precision: int,
    exponent_max: int,
    *,
    exponent_min: int,
    top_steps: int = 1,
    infinite: bool = True,
) -> DType:
    """A row of the table of floats."""
    return DType(
        name=name,
        kind="float",
        bits=bits,
        precision=precision,
        exponent_max=exponent_max,
        exponent_min=exponent_min,
        top_steps=top_steps,
        infinite=infinite,
    )


def whole(name: str, bits: int, *, signed: bool) -> DType:
    """A row of the table of integers."""
    return DType(name=name, kind="int", bits=bits, precision=bits - signed, signed=signed)


TABLE: Final = (
    floating("f64", 64, 53, 1023, exponent_min=-1022),
    floating("f32", 32, 24, 127, exponent_min=-126),
    floating("f16", 16, 11, 15, exponent_min=-14),
    floating("bf16", 16, 8, 127, exponent_min=-126),
    floating("f8_e4m3", 8, 4, 8, exponent_min=-6, top_steps=2, infinite=False),
    floating("f8_e5m2", 8, 3, 15, exponent_min=-14),
    *(whole(f"i{bits}", bits, signed=True) for bits in (8, 16, 32, 64)),
    *(whole(f"u{bits}", bits, signed=False) for bits in (8, 16, 32, 64)),
    DType(name="bool", kind="bool", bits=8, precision=1, signed=False),
)

DTYPES: Final = {row.name: row for row in TABLE}
"""Every element type by name, widest float first."""


def dtype_named(name: str, field: str = "dtype") -> DType:
    """The type of this name; any other is refused naming field (`zg/format/unknown-dtype`)."""
    if name not in DTYPES:
        raise refuse("zg/format/unknown-dtype", field, name, ", ".join(DTYPES))
    return DTYPES[name]


def precision_rule(source: str, target: str) -> PrecisionRule:
    """What converting source to target costs. The first line that fits decides:

    1. `exact`: one and the same type; no bit changes.
    2. `unsupported`: to bool, or a float to an integer; rounding and clamping there are a quantisation schema's words.
    3. `safe_promotion`: every value of the source is a value of the target.
    4. `safe_demotion`: to a float that spans the source's range; each normal value keeps its magnitude within one
       rounding to nearest even, at most half a unit in the last place of the target. (Floats past the target's largest
       number by half a unit become infinite, which is the same rounding.)
    5. `lossy`: values may overflow or vanish; flagged and measured.
    """
    a, b = dtype_named(source, "source"), dtype_named(target, "target")
    if a == b:
        return "exact"
    if b.kind == "bool" or (a.kind == "float" and b.kind == "int"):
        return "unsupported"
    if holds_every_value_of(b, a):
        return "safe_promotion"
    return "safe_demotion" if b.kind == "float" and keeps_range_of(b, a) else "lossy"


def holds_every_value_of(b: DType, a: DType) -> bool:
    """Is each value of a, infinities included, a value of b?"""
    if a.kind != "float":
        low, high = a.integers
        return b.integers[0] <= low and high <= b.integers[1] and high <= b.largest
    return (
        b.kind == "float"
        and b.precision >= a.precision
        and b.largest >= a.largest
        and b.infinite >= a.infinite
        and b.exponent_min - b.precision <= a.exponent_min - a.precision
    )


def keeps_range_of(b: DType, a: DType) -> bool:
    """Does the float b have a normal number near each normal number, or integer, of a?"""
    if a.kind != "float":
        return a.integers[1].bit_length() <= b.exponent_max
    return b.exponent_max >= a.exponent_max and b.exponent_min <= a.exponent_min and b.infinite >= a.infinite
