"""Whether one engine's KV cache can continue on another, and what the conversions cost (B2).

Law: only what `formats/` defines is counted on: precision rules of element types and interleaved block schemas. Nothing
is executed here; `convert/path.py` does the work, and a test holds both to the same verdict and the same exactness.
"""

from collections.abc import Iterator

import msgspec

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.formats.dtype import DTYPES, precision_rule
from zeitgeist.core.formats.kv import CacheForm, ElementForm
from zeitgeist.core.formats.quant import SCHEMAS
from zeitgeist.core.negotiate.declared import reason
from zeitgeist.core.wire.messages import Conversion, Reason

__all__ = ["FormPrice", "price_of", "route"]

CACHE_DTYPES = ("f32", "f16", "bf16")
"""Element types in which a cache is held, unquantised."""
EXACT_REPACKS = (("ggml_q4_0", "ggml_q8_0"), ("ggml_q4_0", "ggml_q4_1"))
"""Block schemas whose every block is a block of the other with the same numbers."""


class FormPrice(msgspec.Struct, frozen=True, kw_only=True):
    """From one form to another: conversions in order (none when the forms are equal), and what blocks it."""

    conversions: tuple[Conversion, ...] = ()
    blocks: tuple[Reason, ...] = ()

    def rank(self) -> tuple[int, int, int]:
        """Less is better: possible, exact, cheap."""
        inexact = sum(not step.exact for step in self.conversions)
        return len(self.blocks), inexact, sum(step.cost for step in self.conversions)


def route(
    exporter: BackendDescriptor, importer: BackendDescriptor, head_dim: int, who: str
) -> tuple[FormPrice, tuple[Reason, ...]]:
    """(the cheapest price, what is missing) of moving a cache from exporter's form to any form that importer takes.
    who: `a to b`, put before each reason and conversion."""
    missing: list[Reason] = []
    for backend, word in ((exporter, "cache_export"), (importer, "cache_import")):
        if word not in backend.capabilities:
            missing.append(
                reason(id="zg/negotiate/no-cache-exchange", detail=f"{who}: {backend.name[:64]} has no {word}")
            )
        elif not backend.cache_forms:
            missing.append(
                reason(
                    id="zg/negotiate/undeclared",
                    detail=f"{who}: nothing is declared",
                    field=f"{backend.name}.cache_forms",
                )
            )
    if missing:
        return FormPrice(), tuple(missing)
    prices = [price_of(exporter.cache_forms[0], form, head_dim, who) for form in importer.cache_forms]
    best = min(prices, key=FormPrice.rank)
    return best, best.blocks


def price_of(source: CacheForm, target: CacheForm, head_dim: int, who: str = "") -> FormPrice:
    """What stands between two forms."""
    if source == target:
        return FormPrice()
    blocks = tuple(blocked(source, target, head_dim, who))
    if blocks:
        return FormPrice(blocks=blocks)
    before = f"{who}: " if who else ""
    repair = source.pairing != target.pairing
    steps = [
        *side_steps("k", source.k, target.k, (source.pairing, target.pairing) if repair else None, before),
        *side_steps("v", source.v, target.v, None, before),
    ]
    return FormPrice(conversions=tuple(steps))


def blocked(source: CacheForm, target: CacheForm, head_dim: int, who: str) -> Iterator[Reason]:
    """Every difference that no conversion bridges."""
    if source.keys_rotated != target.keys_rotated:
        yield no_path(who, "keys_rotated", source.keys_rotated, target.keys_rotated)
    if source.pairing != target.pairing and "none" in (source.pairing, target.pairing):
        yield no_path(who, "pairing", source.pairing, target.pairing)
    for field, element in (("k", source.k), ("v", source.v), ("k", target.k), ("v", target.v)):
        if not usable(element, head_dim):
            yield no_path(who, field, element_words(element), f"an element that heads of {head_dim} can be held in")


def no_path(who: str, field: str, got: object, wanted: object) -> Reason:
    """One difference."""
    return reason(id="zg/negotiate/no-conversion", detail=f"{who}: got {got}, wanted {wanted}"[:400], field=field)


def usable(element: ElementForm, head_dim: int) -> bool:
    """Is this an element whose arithmetic stands in `convert/`, with blocks and rotation that fit the head?"""
    if not element.quant:
        return element.dtype in CACHE_DTYPES and element.hadamard == 0
    schema = SCHEMAS.get(element.quant)
    if element.dtype or schema is None or schema.packing != "interleaved" or head_dim % schema.block_elements:
        return False
    size = element.hadamard
    return size == 0 or (size >= 2 and size & (size - 1) == 0 and head_dim % size == 0)


def side_steps(
    side: str, source: ElementForm, target: ElementForm, pairing: tuple[str, str] | None, before: str
) -> Iterator[Conversion]:
    """The steps of K or of V. Arithmetic on blocks happens in f32; a re-pairing moves numbers and changes none."""
    here, there = name_of(source), name_of(target)
    plain = source.hadamard == target.hadamard and pairing is None
    if here == there and plain:
        return
    if plain and (here, there) in EXACT_REPACKS:
        yield step(f"{before}cache {side} repack {here} to {there}", True, here, here, there)
        return
    first = here
    if source.quant:
        yield step(f"{before}cache {side} {here} to f32", True, first, here, "f32")
        here = "f32"
    if source.hadamard and not plain:  # a rotation mixes pairs: they are moved without it
        yield step(f"{before}cache {side} rotated by {source.hadamard} to plain", False, first, here, here)
    if pairing is not None:
        yield step(f"{before}cache {side} pairs {pairing[0]} to {pairing[1]}", True, first, here, here)
    if target.quant and here != "f32":
        yield step(f"{before}cache {side} {here} to f32", True, first, here, "f32")
        here = "f32"
    if target.hadamard and not plain:
        yield step(f"{before}cache {side} plain to rotated by {target.hadamard}", False, first, here, here)
    if here == there:
        return
    if target.quant or "f32" in (here, there):
        exact = not target.quant and precision_rule(here, there) in ("exact", "safe_promotion")
        yield step(f"{before}cache {side} {here} to {there}", exact, first, here, there)
        return
    yield step(f"{before}cache {side} {here} to f32", True, first, here, "f32")
    yield step(f"{before}cache {side} f32 to {there}", False, first, "f32", there)


def step(what: str, exact: bool, first: str, here: str, there: str) -> Conversion:
    """One conversion; its cost counts bytes read and written for each byte that left the exporter."""
    moved = bits_per_block(here) + bits_per_block(there)
    return Conversion(what=what[:200], exact=exact, cost=-(-moved // bits_per_block(first)))


def name_of(element: ElementForm) -> str:
    """`f16`, `ggml_q8_0` …"""
    return element.quant or element.dtype


def element_words(element: ElementForm) -> str:
    """For people: with the rotation."""
    return f"{name_of(element) or 'nothing'}{f' rotated by {element.hadamard}' if element.hadamard else ''}"[:80]


def bits_per_block(name: str) -> int:
    """Bits of 32 numbers."""
    if name in SCHEMAS:
        schema = SCHEMAS[name]
        return schema.block_bytes * 8 * 32 // schema.block_elements
    return DTYPES[name].bits * 32
