"""A KV cache in memory: the descriptor and one K and one V array for each layer (D1, DESIGN §4).

Arrays are `[position, kv_head, head_dim]` in the form's dtype (bf16 as uint16), or when block-quantised uint8
`[position, kv_head, row_bytes]`; of `padded_count` rows the first `position_count` are valid. Law: the layer digests
cover the valid rows only, so padding never changes what a cache is, and never is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.quantise import BLOCKS
from zeitgeist.core.descriptors.cache import CacheDescriptor, Extension
from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.digest import layer_digest, tokens_digest
from zeitgeist.core.formats.kv import CACHE_FORMAT_VERSION, CacheForm, ElementForm, RopeState
from zeitgeist.core.ids import Digest

__all__ = [
    "ELEMENT_DTYPES",
    "KVCache",
    "all_finite",
    "array_shape",
    "element_name",
    "layer_digests",
    "make_cache",
    "raw_bytes",
    "require_shapes",
    "row_width",
]

ELEMENT_DTYPES: Mapping[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
}
"""The element types a cache may hold; bf16 is carried as its bit pattern."""


@dataclass(frozen=True)
class KVCache:
    """descriptor: what the arrays are; k, v: one array a layer, owned by whoever made the cache, never written."""

    descriptor: CacheDescriptor
    k: list[NDArray[Any]]
    v: list[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, padding included."""
        return sum(array.nbytes for array in (*self.k, *self.v))

    def valid(self, side: str, layer: int) -> NDArray[Any]:
        """The valid rows of one layer; side `k` or `v`, layer counted from the first one held. A view."""
        arrays = self.k if side == "k" else self.v
        return arrays[layer][: self.descriptor.position_count]


def element_name(form: ElementForm) -> str:
    """`f16`, or the schema's name when quantised."""
    return form.quant or form.dtype


def row_width(form: ElementForm, head_dim: int) -> tuple[np.dtype[Any], int]:
    """(array dtype, length of the last axis) of one head of one position; unknown element types are refused."""
    if not form.quant:
        if form.dtype not in ELEMENT_DTYPES:
            raise refuse("zg/cache/dtype", "form.dtype", form.dtype, ", ".join(ELEMENT_DTYPES))
        return ELEMENT_DTYPES[form.dtype], head_dim
    schema = BLOCKS.get(form.quant)
    if schema is None or form.dtype:
        raise refuse(
            "zg/cache/quant", "form.quant", f"{form.quant} {form.dtype}", f"no dtype and one of {', '.join(BLOCKS)}"
        )
    if head_dim % schema.elements:
        raise refuse("zg/cache/quant", "head_dim", head_dim, f"a multiple of {schema.elements} for {form.quant}")
    return np.dtype("u1"), head_dim // schema.elements * schema.bytes


def array_shape(descriptor: CacheDescriptor, form: ElementForm) -> tuple[np.dtype[Any], tuple[int, int, int]]:
    """(dtype, shape) that each K or V array of this descriptor must have."""
    dtype, width = row_width(form, descriptor.head_dim)
    return dtype, (descriptor.padded_count, descriptor.kv_head_count, width)


def layer_digests(k: Sequence[NDArray[Any]], v: Sequence[NDArray[Any]], position_count: int) -> tuple[Digest, ...]:
    """One digest a layer, over the valid rows of K then V."""
    count = position_count
    pairs = zip(k, v, strict=True)
    return tuple(layer_digest(raw_bytes(keys[:count]), raw_bytes(values[:count])) for keys, values in pairs)


def raw_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order; a view where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def make_cache(
    k: Sequence[NDArray[Any]],
    v: Sequence[NDArray[Any]],
    ids: Sequence[int],
    *,
    head_dim: int,
    form: CacheForm,
    model: Digest,
    tokenizer: Digest,
    rope: RopeState,
    made_by: str,
    adapter: str = "",
    position_first: int = 0,
    layer_first: int = 0,
    window: int = 0,
    sink: int = 0,
    extensions: Mapping[str, Extension] | None = None,
) -> KVCache:
    """A cache of these arrays (not copied), which must agree with form, head_dim and ids; else `zg/cache/shape`.

    ids: the tokens held, one a valid row; rows past them are padding. position_first: position of ids[0];
    layer_first: index in the model of k[0]. model, tokenizer: digests of `ModelDescriptor`.
    """
    if not k or len(k) != len(v) or any(array.ndim != 3 for array in (*k, *v)):
        raise refuse(
            "zg/cache/shape", "k, v", f"{len(k)} and {len(v)} layers", "one K and one V of three axes for each layer"
        )
    descriptor = CacheDescriptor(
        cache_version=SCHEMA_VERSIONS["cache"],
        format_version=CACHE_FORMAT_VERSION,
        made_by=made_by,
        model=model,
        tokenizer=tokenizer,
        adapter=adapter,
        tokens=tokens_digest(ids),
        position_first=position_first,
        position_count=len(ids),
        padded_count=k[0].shape[0],
        layer_first=layer_first,
        layer_count=len(k),
        kv_head_count=k[0].shape[1],
        head_dim=head_dim,
        form=form,
        rope=rope,
        window=window,
        sink=sink,
        latent="",
        hybrid="",
        layers=layer_digests(k, v, len(ids)),
        extensions=dict(extensions or {}),
    )
    cache = KVCache(descriptor, list(k), list(v))
    require_shapes(cache)
    if descriptor.padded_count < len(ids):
        raise refuse("zg/cache/shape", "k[0]", f"{descriptor.padded_count} rows", f"at least {len(ids)}, one a token")
    return cache


def require_shapes(cache: KVCache) -> None:
    """Refuse arrays whose dtype or shape is not what the descriptor says, naming layer and side (`zg/cache/shape`)."""
    for side, form, arrays in (("k", cache.descriptor.form.k, cache.k), ("v", cache.descriptor.form.v, cache.v)):
        dtype, shape = array_shape(cache.descriptor, form)
        if len(arrays) != cache.descriptor.layer_count:
            raise refuse("zg/cache/shape", side, f"{len(arrays)} layers", f"{cache.descriptor.layer_count} layers")
        for index, array in enumerate(arrays, cache.descriptor.layer_first):
            if array.dtype != dtype or array.shape != shape:
                raise refuse(
                    "zg/cache/shape", f"layer.{index}.{side}", f"{array.dtype} {array.shape}", f"{dtype} {shape}"
                )


def all_finite(array: NDArray[Any], element: str) -> bool:
    """No NaN and no infinity among numbers of a plain element. Halves are compared as integers, for speed."""
    if array.size == 0 or element == "f32":
        return bool(np.isfinite(array).all())
    magnitude = array.view(np.uint16) & np.uint16(0x7FFF)
    return bool(magnitude.max() < (0x7C00 if element == "f16" else 0x7F80))
