"""Small caches with a matching expectation, for the tests of this folder."""

import numpy as np

from zeitgeist.convert.admit import CacheExpectation
from zeitgeist.convert.kv import KVCache, make_cache
from zeitgeist.convert.quantise import quantise
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm, RopeState
from zeitgeist.core.ids import Real

__all__ = ["IDS", "MODEL", "ROPE", "TOKENIZER", "element", "expectation", "form_of", "small_cache"]

MODEL = content_digest(b"model")
TOKENIZER = content_digest(b"tokenizer")
ROPE = RopeState(theta=Real("10000.0"), scaling="none", factors=content_digest(b"ones"))
IDS = (3, 1, 4, 1, 5)


def element(name: str, hadamard: int = 0) -> ElementForm:
    """`f32`, `f16`, `bf16`, or a ggml schema."""
    return ElementForm(
        dtype="" if name.startswith("ggml") else name, quant=name if name.startswith("ggml") else "", hadamard=hadamard
    )


def form_of(k: str, v: str = "", pairing: str = "half", hadamard: int = 0) -> CacheForm:
    """A form by two element names."""
    return CacheForm(k=element(k, hadamard), v=element(v or k, hadamard), pairing=pairing)  # type: ignore[arg-type]


def stored(values: np.ndarray, form: ElementForm) -> np.ndarray:
    """float32 values as the form stores them (no rotation)."""
    if form.quant:
        return quantise(values, form.quant)
    if form.dtype == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"f32": np.float32, "f16": np.float16}[form.dtype])


def small_cache(
    form: CacheForm = F32_HALF, *, padded: int = 8, heads: int = 2, head_dim: int = 32, layers: int = 3, seed: int = 0
) -> KVCache:
    """Five tokens, three rows of padding that hold NaN where the form can."""
    rng = np.random.default_rng(seed)
    arrays = {"k": [], "v": []}
    for side, one in (("k", form.k), ("v", form.v)):
        for _ in range(layers):
            values = rng.standard_normal((padded, heads, head_dim)).astype(np.float32)
            array = stored(values, one)
            array[len(IDS) :] = 0xFF if array.dtype == np.uint8 else (0x7FC0 if array.dtype == np.uint16 else np.nan)
            arrays[side].append(array)
    return make_cache(
        arrays["k"],
        arrays["v"],
        IDS,
        head_dim=head_dim,
        form=form,
        model=MODEL,
        tokenizer=TOKENIZER,
        rope=ROPE,
        made_by="test 1.0",
        layer_first=2,
    )


def expectation(cache: KVCache, forms: tuple[CacheForm, ...] = ()) -> CacheExpectation:
    """What a receiver of exactly this cache expects."""
    descriptor = cache.descriptor
    return CacheExpectation(
        model=MODEL,
        tokenizer=TOKENIZER,
        ids=IDS,
        kv_head_count=descriptor.kv_head_count,
        head_dim=descriptor.head_dim,
        rope=ROPE,
        layer_first=2,
        layer_count=descriptor.layer_count,
        forms=forms,
    )
