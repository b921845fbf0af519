"""The way from one cache form to another: steps with their prices, the cheapest chain, and its execution (C4, C5, D3).

A side (K or V) is in a state: element, Hadamard block, pairing. Each step changes one of the three. The chain with
the least expected loss wins, then the one that moves fewest bytes. Law: the price is stated before the first byte
moves, and the loss of each step that can lose is measured on the very numbers that were converted, never assumed.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import log2
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert import hadamard
from zeitgeist.convert.dtypes import convert, to_float64
from zeitgeist.convert.kv import ELEMENT_DTYPES, KVCache, all_finite, element_name, layer_digests, row_width
from zeitgeist.convert.quantise import BLOCKS, dequantise, quantise, repack
from zeitgeist.convert.rope import repair
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.dtype import precision_rule
from zeitgeist.core.formats.kv import CacheForm, ElementForm, Pairing

__all__ = [
    "ConversionReport",
    "Path",
    "SideState",
    "Step",
    "StepReport",
    "cast",
    "convert_cache",
    "find_path",
    "to_float32",
]

Price = Literal["exact", "safe", "lossy"]
"""exact: no number changes. safe: rounded where the source's range is kept. lossy: may also overflow or vanish."""

LOSS_UNITS = {"f16": 1 << 13, "bf16": 1 << 16, "ggml_q8_0": 1 << 17, "ggml_q4_1": 1 << 20, "ggml_q4_0": 1 << 21}
"""Expected relative rounding of storing in this element, in 2⁻²⁴: only the order among chains depends on it."""

EXACT_REPACKS = (("ggml_q4_0", "ggml_q8_0"), ("ggml_q4_0", "ggml_q4_1"))


@dataclass(frozen=True, order=True)
class SideState:
    """How one side is held between two steps. element: `f32`, `f16`, `bf16` or a ggml schema."""

    element: str
    hadamard: int
    pairing: Pairing


@dataclass(frozen=True)
class Step:
    """One change. verb: `dequantise`, `quantise`, `cast`, `repack`, `rotate`, `re-pair`; bytes_moved: read and written
    for one head of one position; loss_units: expected relative loss in 2⁻²⁴."""

    verb: str
    source: SideState
    target: SideState
    price: Price
    loss_units: int
    bytes_moved: int

    def explain(self) -> str:
        """One line for people: `quantise f32 → ggml_q8_0: safe, 162 bytes a head`."""
        before, after = self.source, self.target
        what = {"re-pair": (before.pairing, after.pairing), "rotate": (before.hadamard, after.hadamard)}
        change = " → ".join(map(str, what.get(self.verb, (before.element, after.element))))
        return f"{self.verb} {change}: {self.price}, {self.bytes_moved} bytes a head"


@dataclass(frozen=True)
class Path:
    """The chosen chains of both sides for heads of head_dim; empty chains when source equals target."""

    source: CacheForm
    target: CacheForm
    head_dim: int
    k: tuple[Step, ...]
    v: tuple[Step, ...]

    @property
    def price(self) -> Price:
        """The worst price of any step."""
        prices = {step.price for step in (*self.k, *self.v)}
        return "lossy" if "lossy" in prices else "safe" if "safe" in prices else "exact"

    def explain(self) -> list[str]:
        """One line a step, K before V; a single line when there is nothing to do."""
        lines = [f"{side}: {step.explain()}" for side, steps in (("k", self.k), ("v", self.v)) for step in steps]
        return lines or ["same form: nothing is converted"]


@dataclass(frozen=True)
class StepReport:
    """What one step did: measured over all layers against its input, in float32. Exact steps report 0 and prove it in
    tests. max_abs: largest difference of one number; relative_l2: norm of the difference over norm of the input."""

    side: Literal["k", "v"]
    step: Step
    max_abs: float
    relative_l2: float
    bytes_moved: int


@dataclass(frozen=True)
class ConversionReport:
    """The path and, step by step, its measured loss."""

    path: Path
    steps: tuple[StepReport, ...]

    @property
    def max_abs(self) -> float:
        """The largest difference that any single step made."""
        return max((step.max_abs for step in self.steps), default=0.0)

    @property
    def relative_l2(self) -> float:
        """The largest relative loss of any single step."""
        return max((step.relative_l2 for step in self.steps), default=0.0)


def find_path(source: CacheForm, target: CacheForm, head_dim: int) -> Path:
    """The cheapest path, or `zg/convert/no-path` naming what blocks it."""
    if source.keys_rotated != target.keys_rotated:
        raise refuse("zg/convert/no-path", "keys_rotated", source.keys_rotated, f"{target.keys_rotated}, the target's")
    if source.pairing != target.pairing and "none" in (source.pairing, target.pairing):
        raise refuse("zg/convert/no-path", "pairing", source.pairing, f"{target.pairing}, the target's")
    for side, element in (("k", source.k), ("v", source.v), ("k", target.k), ("v", target.v)):
        require_element(side, element, head_dim)
    k = cheapest(state_of(source.k, source.pairing), state_of(target.k, target.pairing), head_dim)
    v = cheapest(state_of(source.v, "none"), state_of(target.v, "none"), head_dim)
    return Path(source=source, target=target, head_dim=head_dim, k=k, v=v)


def require_element(side: str, element: ElementForm, head_dim: int) -> None:
    """An element that exists, blocks that fit, and a rotation only under blocks."""
    row_width(element, head_dim)
    block = element.hadamard
    if block and (not element.quant or block < 2 or block & (block - 1) or head_dim % block):
        raise refuse(
            "zg/convert/bad-form",
            f"{side}.hadamard",
            block,
            f"0, or under blocks a power of two that divides {head_dim}",
        )


def state_of(element: ElementForm, pairing: Pairing) -> SideState:
    """Where a side starts or ends. V has no rotary pairs: its pairing is `none`."""
    return SideState(element_name(element), element.hadamard, pairing)


def cheapest(source: SideState, target: SideState, head_dim: int) -> tuple[Step, ...]:
    """Dijkstra over (expected loss, bytes); states are few: elements × Hadamard on or off × pairing."""
    queue: list[tuple[tuple[int, int], SideState]] = [((0, 0), source)]
    reached: dict[SideState, tuple[tuple[int, int], Step | None]] = {source: ((0, 0), None)}
    while queue:
        cost, state = heapq.heappop(queue)
        if state == target:
            return trace(reached, target)
        if cost > reached[state][0]:
            continue
        for step in steps_from(state, target, head_dim):
            price = (cost[0] + step.loss_units, cost[1] + step.bytes_moved)
            if step.target not in reached or price < reached[step.target][0]:
                reached[step.target] = (price, step)
                heapq.heappush(queue, (price, step.target))
    raise refuse("zg/convert/no-path", "form", source, target)


def trace(reached: dict[SideState, tuple[tuple[int, int], Step | None]], target: SideState) -> tuple[Step, ...]:
    """The steps that led to target, first step first."""
    steps: list[Step] = []
    state = target
    while (step := reached[state][1]) is not None:
        steps.append(step)
        state = step.source
    return tuple(reversed(steps))


def steps_from(state: SideState, target: SideState, head_dim: int) -> Iterator[Step]:
    """Every step that makes sense on the way to target. Rotation and quantisation happen in float32 only."""

    def step(
        verb: str,
        price: Price,
        loss: int,
        element: str = state.element,
        block: int = state.hadamard,
        pairing: Pairing = state.pairing,
    ) -> Step:
        moved = head_bytes(state.element, head_dim) + head_bytes(element, head_dim)
        return Step(verb, state, SideState(element, block, pairing), price, loss, moved)

    if state.element in BLOCKS:
        yield step("dequantise", "exact", 0, element="f32")
        for source, wider in EXACT_REPACKS:
            if source == state.element:
                yield step("repack", "exact", 0, element=wider)
        return
    if state.hadamard == 0:
        for element in ELEMENT_DTYPES:
            if element != state.element and "f32" in (element, state.element):
                price = cast_price(state.element, element)
                yield step("cast", price, 0 if price == "exact" else LOSS_UNITS[element], element=element)
        if state.pairing != target.pairing:
            yield step("re-pair", "exact", 0, pairing=target.pairing)
    if state.element == "f32":
        if size := state.hadamard or target.hadamard:
            yield step("rotate", "safe", 1 + int(log2(size)), block=size - state.hadamard)
        for name in BLOCKS:
            yield step("quantise", "lossy", LOSS_UNITS[name], element=name)


def cast_price(source: str, target: str) -> Price:
    """The precision rule of `formats/dtype.py` in the three words of a price."""
    rule = precision_rule(source, target)
    return "exact" if rule in ("exact", "safe_promotion") else "safe" if rule == "safe_demotion" else "lossy"


def head_bytes(element: str, head_dim: int) -> int:
    """Bytes of one head of one position."""
    if element in BLOCKS:
        return head_dim // BLOCKS[element].elements * BLOCKS[element].bytes
    return ELEMENT_DTYPES[element].itemsize * head_dim


def convert_cache(cache: KVCache, target: CacheForm) -> tuple[KVCache, ConversionReport]:
    """The cache in target's form, without padding rows, layer digests recomputed; and what each step cost.

    The source is not changed; when the forms are equal it is returned itself. Overflow of the target's element is
    `zg/convert/overflow`; whether the numbers may be used at all is `convert.admit`, which comes before.
    """
    descriptor = cache.descriptor
    path = find_path(descriptor.form, target, descriptor.head_dim)
    if not path.k and not path.v:
        return cache, ConversionReport(path, ())
    k, k_reports = convert_side(cache, "k", path.k)
    v, v_reports = convert_side(cache, "v", path.v)
    count = descriptor.position_count
    converted = msgspec.structs.replace(descriptor, form=target, padded_count=count, layers=layer_digests(k, v, count))
    return KVCache(converted, k, v), ConversionReport(path, (*k_reports, *v_reports))


def convert_side(
    cache: KVCache,
    side: Literal["k", "v"],
    steps: tuple[Step, ...],
) -> tuple[list[NDArray[Any]], list[StepReport]]:
    """All layers of one side through all steps, layer by layer; differences are gathered over the layers."""
    arrays: list[NDArray[Any]] = []
    largest, lost, total = [0.0] * len(steps), [0.0] * len(steps), [0.0] * len(steps)
    moved = cache.descriptor.position_count * cache.descriptor.kv_head_count * cache.descriptor.layer_count
    for layer in range(cache.descriptor.layer_count):
        array = cache.valid(side, layer)
        for index, step in enumerate(steps):
            after = apply(step, array, f"layer.{cache.descriptor.layer_first + layer}.{side}")
            if step.price != "exact":
                difference, norm = loss_of(step, array, after)
                largest[index] = max(largest[index], float(np.abs(difference).max(initial=0)))
                lost[index] += float(np.vdot(difference, difference))
                total[index] += norm
            array = after
        arrays.append(array)
    reports = [
        StepReport(
            side, step, largest[i], float(np.sqrt(lost[i] / total[i])) if total[i] else 0.0, moved * step.bytes_moved
        )
        for i, step in enumerate(steps)
    ]
    return arrays, reports


def apply(step: Step, array: NDArray[Any], where: str) -> NDArray[Any]:
    """One step on one layer's array; where names it when the target cannot hold a number."""
    source, target = step.source, step.target
    actions = {
        "dequantise": partial(dequantise, name=source.element),
        "quantise": partial(quantise, name=target.element),
        "repack": partial(repack, source=source.element, target=target.element),
        "cast": partial(cast, source=source.element, target=target.element),
        "rotate": partial(hadamard.rotate, block=source.hadamard or target.hadamard),
        "re-pair": partial(repair, source=source.pairing, target=target.pairing),
    }
    try:
        return actions[step.verb](array)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.id, error.detail, where) from error


def loss_of(step: Step, before: NDArray[Any], after: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """(difference, squared norm of the input), float64. A rotation is compared after rotating back."""
    x = to_float32(before, step.source.element)
    y = to_float32(after, step.target.element)
    if step.verb == "rotate":
        y = hadamard.rotate(y, step.source.hadamard or step.target.hadamard)
    difference = y.astype(np.float64) - x
    return difference, float(np.vdot(x.astype(np.float64), x))


def to_float32(array: NDArray[Any], element: str) -> NDArray[np.float32]:
    """The numbers that an array of this element stands for, in the domain it is stored in."""
    return dequantise(array, element) if element in BLOCKS else cast(array, element, "f32")


def cast(array: NDArray[Any], source: str, target: str) -> NDArray[Any]:
    """`dtypes.convert` between f32, f16 and bf16; a finite number that overflows is `zg/convert/overflow`."""
    after = convert(array, source, target)
    if cast_price(source, target) != "exact" and not all_finite(after, target):
        before = to_float64(array, source)
        lost = np.isfinite(before) & ~np.isfinite(to_float64(after, target))
        if lost.any():
            raise refuse("zg/convert/overflow", "dtype", f"{before[lost][0]:.6g}", f"numbers that {target} holds")
    return after
