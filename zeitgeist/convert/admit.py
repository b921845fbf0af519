"""The one gate a foreign KV cache passes before an engine sees a byte of it (A5, D3, DESIGN §4).

Law: every field of `CacheDescriptor` is checked here against what the receiver expects, and every number of the payload
against NaN, infinity and the layer digests; a refusal names the field and has an id of its own. Engines accept nonsense
silently, so what passes here is what the receiver vouches for. What this gate cannot see is a peer that lies
consistently: trust levels and the probe are for that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.kv import KVCache, all_finite, layer_digests, require_shapes, row_width
from zeitgeist.convert.quantise import block_scales
from zeitgeist.core.descriptors.cache import CacheDescriptor
from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.digest import tokens_digest
from zeitgeist.core.formats.kv import CACHE_FORMAT_VERSION, CacheForm, ElementForm, RopeState
from zeitgeist.core.ids import Digest

__all__ = ["CacheExpectation", "admit", "admit_descriptor", "admit_payload", "require_layer_finite"]

MADE_BY_CHARACTERS_MAX = 200
"""Engine, version and build fit in 80; a log line stays readable at 200."""

BF16_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True)
class CacheExpectation:
    """What a receiver will continue from: its model and tokenizer, these very ids, its geometry, its stage of layers.

    ids: tokens held by the cache, one a valid row, the first at position_first. forms: what may come, any if empty:
    then every form that `convert.path` knows, keys after rotation, except pairing `none`. extensions: names understood.
    """

    model: Digest
    tokenizer: Digest
    ids: Sequence[int]
    kv_head_count: int
    head_dim: int
    rope: RopeState
    layer_first: int
    layer_count: int
    forms: tuple[CacheForm, ...] = ()
    adapter: str = ""
    position_first: int = 0
    window: int = 0
    sink: int = 0
    extensions: frozenset[str] = frozenset()


def admit(cache: KVCache, expect: CacheExpectation) -> None:
    """Return when an engine may have this cache; otherwise raise the refusal that names the field. Reads every byte."""
    admit_descriptor(cache.descriptor, expect)
    admit_payload(cache)


def admit_descriptor(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """The part of `admit` that needs no payload: what a stream is refused on before its first chunk."""
    admit_version(descriptor, expect)
    admit_identity(descriptor, expect)
    admit_positions(descriptor, expect)
    admit_geometry(descriptor, expect)
    admit_form(descriptor, expect)
    admit_rope(descriptor.rope, expect.rope)


def require(id: str, field: str, got: object, wanted: object) -> None:
    """Equal, or refused."""
    if got != wanted:
        raise refuse(id, field, got, wanted)


def admit_version(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """Exact versions, no unknown critical extension, a maker's name that people can read."""
    require("zg/cache/format-version", "cache_version", descriptor.cache_version, SCHEMA_VERSIONS["cache"])
    require("zg/cache/format-version", "format_version", descriptor.format_version, CACHE_FORMAT_VERSION)
    for name in sorted(descriptor.extensions):
        if descriptor.extensions[name].critical and name not in expect.extensions:
            raise refuse(
                "zg/cache/extension",
                f"extensions.{name}",
                "a critical extension",
                ", ".join(sorted(expect.extensions)) or "none",
            )
    if len(descriptor.made_by) > MADE_BY_CHARACTERS_MAX or not descriptor.made_by.isprintable():
        raise refuse(
            "zg/cache/made-by",
            "made_by",
            f"{len(descriptor.made_by)} characters",
            f"at most {MADE_BY_CHARACTERS_MAX}, printable",
        )


def admit_identity(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """Same weights, same tokenizer, same adapter."""
    require("zg/cache/model", "model", descriptor.model, expect.model)
    require("zg/cache/tokenizer", "tokenizer", descriptor.tokenizer, expect.tokenizer)
    require("zg/cache/adapter", "adapter", descriptor.adapter, expect.adapter)


def admit_positions(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """The very tokens that the receiver continues, no row of padding among them."""
    require("zg/cache/position", "position_first", descriptor.position_first, expect.position_first)
    require("zg/cache/position", "position_count", descriptor.position_count, len(expect.ids))
    require("zg/cache/tokens", "tokens", descriptor.tokens, tokens_digest(expect.ids))
    if descriptor.padded_count < descriptor.position_count:
        raise refuse(
            "zg/cache/padding", "padded_count", descriptor.padded_count, f"at least {descriptor.position_count}"
        )


def admit_geometry(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """Layers, heads, and the attention kinds that a plain K and V cannot express."""
    require("zg/cache/layer-range", "layer_first", descriptor.layer_first, expect.layer_first)
    require("zg/cache/layer-range", "layer_count", descriptor.layer_count, expect.layer_count)
    require("zg/cache/layer-digest", "layers", f"{len(descriptor.layers)} digests", f"{expect.layer_count} digests")
    require("zg/cache/kv-heads", "kv_head_count", descriptor.kv_head_count, expect.kv_head_count)
    require("zg/cache/head-dim", "head_dim", descriptor.head_dim, expect.head_dim)
    require("zg/cache/window", "window", descriptor.window, expect.window)
    require("zg/cache/window", "sink", descriptor.sink, expect.sink)
    require("zg/cache/latent", "latent", descriptor.latent, "")
    require("zg/cache/hybrid", "hybrid", descriptor.hybrid, "")


def admit_form(descriptor: CacheDescriptor, expect: CacheExpectation) -> None:
    """A form that exists for this head width, and one of those expected where the receiver lists them."""
    form = descriptor.form
    if expect.forms and form not in expect.forms:
        id, field, got, wanted = nearest_difference(form, expect.forms)
        raise refuse(id, field, got, wanted)
    for side, element in (("k", form.k), ("v", form.v)):
        row_width(element, descriptor.head_dim)
        require_hadamard(side, element, descriptor.head_dim)
    if not expect.forms:
        require("zg/cache/rotation-state", "form.keys_rotated", form.keys_rotated, True)
        if form.pairing == "none":
            raise refuse("zg/cache/pairing", "form.pairing", form.pairing, "half or interleaved")


def require_hadamard(side: str, element: ElementForm, head_dim: int) -> None:
    """0, or a power of two that divides the head, and only under a block quantisation: nothing else is ever made."""
    block = element.hadamard
    if block and (not element.quant or block < 2 or block & (block - 1) or head_dim % block):
        raise refuse(
            "zg/cache/hadamard",
            f"form.{side}.hadamard",
            block,
            f"0, or with a quantisation a power of two that divides {head_dim}",
        )


def form_leaves(form: CacheForm) -> Iterator[tuple[str, str, object]]:
    """(error id, field, value) of every leaf of a form."""
    for side, element in (("k", form.k), ("v", form.v)):
        yield "zg/cache/dtype", f"form.{side}.dtype", element.dtype
        yield "zg/cache/quant", f"form.{side}.quant", element.quant
        yield "zg/cache/hadamard", f"form.{side}.hadamard", element.hadamard
    yield "zg/cache/pairing", "form.pairing", form.pairing
    yield "zg/cache/rotation-state", "form.keys_rotated", form.keys_rotated


def nearest_difference(form: CacheForm, forms: Sequence[CacheForm]) -> tuple[str, str, object, object]:
    """The first leaf that differs from the expected form that differs least: what a person would call wrong."""
    nearest: list[tuple[str, str, object, object]] = []
    for other in forms:
        pairs = zip(form_leaves(form), form_leaves(other), strict=True)
        different = [(id, field, got, wanted) for (id, field, got), (_, _, wanted) in pairs if got != wanted]
        if not nearest or len(different) < len(nearest):
            nearest = different
    return nearest[0]


def admit_rope(rope: RopeState, expect: RopeState) -> None:
    """Same base, divisors and offset. A GGUF keeps only the divisors and says `factors`: then their digest decides."""
    require("zg/cache/rope", "rope.theta", rope.theta, expect.theta)
    if "factors" not in (rope.scaling, expect.scaling):
        require("zg/cache/rope", "rope.scaling", rope.scaling, expect.scaling)
    require("zg/cache/rope", "rope.factors", rope.factors, expect.factors)
    require("zg/cache/rope", "rope.offset", rope.offset, expect.offset)


def admit_payload(cache: KVCache) -> None:
    """Shapes, finite numbers, then the digest of each layer: flipped bits, swapped heads, K in the place of V."""
    require_shapes(cache)
    for index in range(cache.descriptor.layer_count):
        require_layer_finite(cache, index)
    found = layer_digests(cache.k, cache.v, cache.descriptor.position_count)
    for index, (got, wanted) in enumerate(zip(found, cache.descriptor.layers, strict=True)):
        require("zg/cache/layer-digest", f"layers.{cache.descriptor.layer_first + index}", got, wanted)


def require_layer_finite(cache: KVCache, index: int) -> None:
    """Both sides of one layer, counted from the first one held."""
    for side in ("k", "v"):
        require_finite(cache, index, side)


def require_finite(cache: KVCache, index: int, side: str) -> None:
    """Refuse NaN and infinity among the valid rows, naming layer, side, position and head; padding is not read."""
    element = cache.descriptor.form.k if side == "k" else cache.descriptor.form.v
    rows = cache.valid(side, index)
    if not element.quant and all_finite(rows, element.dtype):
        return
    finite = finite_numbers(rows, element)
    if bool(finite.all()):
        return
    position, head = (int(axis[0]) for axis in np.nonzero(~finite.all(axis=-1)))
    raise RemoteProtocolError(
        "zg/cache/not-finite",
        f"NaN or infinity at position {position}, head {head}",
        f"layer.{cache.descriptor.layer_first + index}.{side}",
    )


def finite_numbers(rows: NDArray[Any], element: ElementForm) -> NDArray[np.bool_]:
    """True where a number, or a scale of a block, is finite: `[position, kv_head, …]`."""
    if element.quant:
        return np.isfinite(block_scales(rows, element.quant))
    if element.dtype == "bf16":
        return (rows & BF16_EXPONENT) != BF16_EXPONENT
    return np.isfinite(rows)
