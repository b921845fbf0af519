"""Element types as arrays: conversion with rounding to nearest even, and what it cost (C3).

bf16 is carried as uint16, f8 as uint8: NumPy has neither. Law: every conversion rounds once. Where the way leads
through a narrower type, that step rounds to odd, which keeps enough of the value for the last rounding to be the right
one (Boldo and Melquiond 2008). Overflow gives infinity, in f8_e4m3 NaN; integers clamp. NaN stays NaN, its payload may
change. What `precision_rule` calls unsupported is refused.
"""

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.dtype import DTYPES, PrecisionRule, dtype_named, precision_rule

__all__ = ["ARRAY_DTYPES", "DtypeLoss", "accelerate", "convert", "convert_measured", "measure_loss", "to_float64"]

Array = NDArray[Any]

ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "f64": np.dtype("<f8"),
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "f8_e4m3": np.dtype("u1"),
    "f8_e5m2": np.dtype("u1"),
    **{f"{kind}{bits}": np.dtype(f"<{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)},
    "bool": np.dtype("?"),
}
"""The array type that carries each element type."""
assert set(ARRAY_DTYPES) == set(DTYPES)

NATIVE_FLOATS = ("f64", "f32", "f16")
BLOCK = 1 << 15
"""Elements at a time where temporaries are needed: 128 KiB of float32 stays in the second-level cache."""
TORCH_FROM = 1 << 14
"""Elements from which torch is faster than NumPy by more than its call overhead of about 5 microseconds."""


@dataclass(frozen=True)
class DtypeLoss:
    """What a conversion cost. rule: of the pair. max_abs: largest error among numbers that stayed finite; max_ulp: the
    same in units in the last place of the target at the source's value; overflow_count: finite numbers that became
    infinite or NaN, or were clamped; vanished_count: numbers that became zero."""

    rule: PrecisionRule
    max_abs: float
    max_ulp: float
    overflow_count: int
    vanished_count: int


def convert(values: Array, source: str, target: str, out: Array | None = None) -> Array:
    """values, which carry `source`, as `target`; same shape, C order. Into out when given (type and shape must fit).

    The same type without out gives values itself. With out no memory is taken but for small blocks.
    """
    if precision_rule(source, target) == "unsupported":
        raise LocalProtocolError(
            "zg/format/unsupported-conversion",
            f"got {source} to {target}, wanted a pair that docs/spec/precision.md declares",
            "target",
        )
    require_carrier(values, source, "values")
    if source == target and out is None:
        return values
    if out is None:
        out = np.empty(values.shape, ARRAY_DTYPES[target])
    require_carrier(out, target, "out")
    if out.shape != values.shape or not out.flags.c_contiguous:
        raise LocalProtocolError(
            "zg/tensor/bad-layout", f"got shape {out.shape}, wanted {values.shape} in C order", "out"
        )
    flat, into = np.ascontiguousarray(values).reshape(-1), out.reshape(-1)
    if not accelerate(flat, source, into, target):
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            into_blocks(flat, source, into, target)
    return out


def into_blocks(flat: Array, source: str, into: Array, target: str) -> None:
    """Convert block by block. NumPy rounds correctly between its own floats; its `astype` is faster than its casting
    assignment, which goes through a small buffer."""
    native = source == target or (source in NATIVE_FLOATS and target in NATIVE_FLOATS)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        into[start : start + BLOCK] = part.astype(into.dtype) if native else block(part, source, target)


def block(flat: Array, source: str, target: str) -> Array:
    """One block of any supported pair but those between native floats."""
    if dtype_named(target).kind == "int":
        return clamp(flat, target)
    integers = dtype_named(source).kind != "float"
    if integers and target in ("f64", "f32"):
        return flat.astype(ARRAY_DTYPES[target])
    wide = odd_float64(flat) if integers else widen(flat, source)
    if target in NATIVE_FLOATS and not integers:
        return wide.astype(ARRAY_DTYPES[target])
    single: Array = wide if wide.dtype == np.float32 else odd(wide, np.float32)
    if target == "f16":
        return single.astype(np.float16)
    return bf16_bits(single) if target == "bf16" else f8_table(target)[odd(single, np.float16).view(np.uint16)]


def widen(flat: Array, source: str) -> Array:
    """Floats as float32 or float64, exactly."""
    if source == "bf16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if source.startswith("f8"):
        return f8_values(source)[flat]
    return flat if source != "f16" else flat.astype(np.float32)


def odd_float64(flat: Array) -> NDArray[np.float64]:
    """Integers as float64; from 2**53 up the low 12 bits become one sticky bit, which is rounding to odd."""
    if flat.dtype.itemsize < 8:
        return flat.astype(np.float64)
    sticky = (((flat >> 12) | ((flat & 4095) != 0).astype(flat.dtype)).astype(np.float64)) * 4096.0
    nearest = flat.astype(np.float64)
    return np.where(np.abs(nearest) < 2.0**53, nearest, sticky)


def odd(wide: Array, narrow: type[np.floating[Any]]) -> Array:
    """wide rounded to odd in narrow: cut towards zero, and the last bit set when anything was cut off."""
    near = wide.astype(narrow)
    back = near.astype(wide.dtype)
    bits = near.view(np.uint32 if near.itemsize == 4 else np.uint16)
    cut = (back != wide) & ~np.isnan(wide)
    bits -= (cut & (np.abs(back) > np.abs(wide))).astype(bits.dtype)
    bits |= cut.astype(bits.dtype)
    return near


def bf16_bits(single: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 to bf16 patterns, to nearest even. NaN is kept quiet: rounding alone could carry it into infinity."""
    bits = single.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(single)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)
    return rounded


@cache
def f8_values(name: str) -> NDArray[np.float32]:
    """The float32 value of each of the 256 patterns (OCP 8-bit floating point, revision 1.0, tables 1 and 2)."""
    kind = dtype_named(name)
    codes = np.arange(256)
    fraction_bits = kind.precision - 1
    exponent, fraction = (codes & 127) >> fraction_bits, codes & ((1 << fraction_bits) - 1)
    significand = np.where(exponent > 0, fraction + (1 << fraction_bits), fraction)
    magnitude = np.ldexp(
        significand.astype(np.float64), np.maximum(exponent, 1) - 1 + kind.exponent_min - fraction_bits
    )
    over = magnitude > kind.largest
    magnitude[over] = np.nan
    magnitude[over & (fraction == 0) & kind.infinite] = np.inf
    table = np.where(codes > 127, -magnitude, magnitude).astype(np.float32)
    table.flags.writeable = False
    return table


@cache
def f8_table(name: str) -> NDArray[np.uint8]:
    """The f8 pattern of each float16 pattern, to nearest even: finite ones by search among the halfway points."""
    kind = dtype_named(name)
    halves = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float64)
    positive = f8_values(name)[:128].astype(np.float64)
    count = int(np.isfinite(positive).sum())
    step = positive[count - 1] - positive[count - 2]
    values = np.append(positive[:count], positive[count - 1] + step)
    middles = (values[:-1] + values[1:]) / 2
    codes = np.searchsorted(middles, halves, side="left")
    tie = np.isin(halves, middles)
    codes[tie] += codes[tie] & 1
    codes[np.isnan(halves)] = 127
    codes[(codes >= count) & ~np.isnan(halves)] = count
    assert kind.infinite == bool(np.isinf(positive[min(count, 127)])), (
        "the pattern after the largest is infinity, or NaN"
    )
    table = np.concatenate([codes, codes | 128]).astype(np.uint8)
    table.flags.writeable = False
    return table


def clamp(flat: Array, target: str) -> Array:
    """Integers or bools as integers, held to the target's range."""
    carried = ARRAY_DTYPES[target]
    if flat.dtype == np.bool_:
        return flat.astype(carried)
    low = max(int(np.iinfo(flat.dtype).min), int(np.iinfo(carried).min))
    high = min(int(np.iinfo(flat.dtype).max), int(np.iinfo(carried).max))
    return np.clip(flat, flat.dtype.type(low), flat.dtype.type(high)).astype(carried)


def accelerate(flat: Array, source: str, into: Array, target: str) -> bool:
    """Let torch convert f32, f16 and bf16 when somebody imported it; False when it is not here or not worth it.

    torch rounds to nearest even too, so that the numbers are the same with and without it. It is never imported here.
    """
    torch: Any = sys.modules.get("torch")
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    if flat.size < TORCH_FROM or source not in names or target not in names or not hasattr(torch, "from_numpy"):
        return False

    def tensor(array: Array, name: str) -> Any:
        return torch.from_numpy(array.view(np.int16 if name == "bf16" else array.dtype)).view(
            getattr(torch, names[name])
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # a read-only source is only read
        tensor(into, target).copy_(tensor(flat, source))
    return True


def convert_measured(values: Array, source: str, target: str) -> tuple[Array, DtypeLoss]:
    """`convert`, and what it cost."""
    result = convert(values, source, target)
    return result, measure_loss(values, source, result, target)


def measure_loss(values: Array, source: str, result: Array, target: str) -> DtypeLoss:
    """The price of result against values. Safe steps and integers up to 2**53 are measured exactly, in float64."""
    kind = dtype_named(target)
    flat, made = np.ascontiguousarray(values).reshape(-1), np.ascontiguousarray(result).reshape(-1)
    worst_abs, worst_ulp, overflow, vanished = 0.0, 0.0, 0, 0
    for start in range(0, flat.size, BLOCK):
        was, now = to_float64(flat[start : start + BLOCK], source), to_float64(made[start : start + BLOCK], target)
        kept = np.isfinite(was) & np.isfinite(now)
        with np.errstate(invalid="ignore"):
            error = np.where(kept, np.abs(now - was), 0.0)
        if kind.kind == "int":
            overflow += int((error > 0).sum())
        ulp = 1.0
        if kind.kind == "float":
            _, exponent = np.frexp(np.where(kept, was, 1.0))
            ulp = np.ldexp(1.0, np.maximum(exponent - 1, kind.exponent_min) - kind.precision + 1)
            overflow += int((np.isfinite(was) & ~np.isfinite(now)).sum())
        worst_abs, worst_ulp = max(worst_abs, float(error.max())), max(worst_ulp, float((error / ulp).max()))
        vanished += int(((was != 0) & (now == 0)).sum())
    return DtypeLoss(precision_rule(source, target), worst_abs, worst_ulp, overflow, vanished)


def to_float64(values: Array, source: str) -> NDArray[np.float64]:
    """The numbers that values stand for; integers past 2**53 are rounded."""
    require_carrier(values, source, "values")
    wide = values if dtype_named(source).kind != "float" else widen(values, source)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return wide.astype(np.float64)


def require_carrier(values: Array, name: str, field: str) -> None:
    """The array has the type that carries name; byte order included."""
    if values.dtype != ARRAY_DTYPES[dtype_named(name).name]:
        raise LocalProtocolError(
            "zg/tensor/bad-layout", f"got an array of {values.dtype}, wanted {ARRAY_DTYPES[name]}", field
        )
