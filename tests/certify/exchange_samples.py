"""Small caches, and services in front of the reference backend that exchange wrongly."""

import numpy as np

from zeitgeist.backends.base import CacheArrays, LayerRange, Session
from zeitgeist.backends.reference import ReferenceBackend
from zeitgeist.convert.admit import CacheExpectation
from zeitgeist.convert.kv import KVCache, make_cache
from zeitgeist.convert.path import convert_cache
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm, RopeState
from zeitgeist.core.ids import Real
from zeitgeist.host import messages as m
from zeitgeist.host.service import Service

__all__ = [
    "IDS",
    "SAMPLE_FORMS",
    "Forgets",
    "Recomputes",
    "SwapsHeads",
    "form_of",
    "sample_cache",
    "sample_expectation",
]

IDS = [3, 1, 4, 1, 5, 9]
MODEL, TOKENIZER = content_digest(b"model"), content_digest(b"tokenizer")
ROPE = RopeState(theta=Real("10000.0"), scaling="none", factors=str(content_digest(b"ones")))


def form_of(k: str, v: str, pairing: str, hadamard: int = 0) -> CacheForm:
    """A form by element names."""
    sides = [
        ElementForm(
            dtype="" if name.startswith("ggml") else name,
            quant=name if name.startswith("ggml") else "",
            hadamard=hadamard,
        )
        for name in (k, v)
    ]
    return CacheForm(k=sides[0], v=sides[1], pairing=pairing)  # type: ignore[arg-type]


SAMPLE_FORMS = (
    F32_HALF,
    form_of("f16", "f16", "interleaved"),
    form_of("bf16", "bf16", "half"),
    form_of("ggml_q8_0", "ggml_q8_0", "interleaved"),
    form_of("ggml_q4_0", "ggml_q4_0", "half", 64),
    form_of("ggml_q4_1", "ggml_q4_1", "interleaved"),
)


def sample_cache(form: CacheForm = F32_HALF, seed: int = 0) -> KVCache:
    """Six tokens, three layers, two heads of 64, converted by the product."""
    source = np.random.default_rng(seed)
    k, v = ([source.standard_normal((len(IDS), 2, 64)).astype(np.float32) for _ in range(3)] for _ in range(2))
    cache = make_cache(
        k, v, IDS, head_dim=64, form=F32_HALF, model=MODEL, tokenizer=TOKENIZER, rope=ROPE, made_by="test"
    )
    return convert_cache(cache, form)[0]


def sample_expectation() -> CacheExpectation:
    """What a receiver of the sample expects."""
    return CacheExpectation(
        model=MODEL, tokenizer=TOKENIZER, ids=IDS, kv_head_count=2, head_dim=64, rope=ROPE, layer_first=0, layer_count=3
    )


class Recomputes(Service):
    """Takes a cache, looks at its ids only, and computes its own: right answers, no interoperability."""

    def import_cache(self, request: m.ImportCache, data: np.ndarray | None) -> m.Imported:
        imported = super().import_cache(request, data)
        session = self.open(0, None)
        self.prefill(m.Prefill(session=session, ids=request.ids, chunk=0, rows="last"), lambda: False)
        self.close(imported.session)
        return m.Imported(session=session, report=imported.report)


class SwapsHeads(Service):
    """Imports keys with their heads in reverse, as a wrong axis order does."""

    def import_cache(self, request: m.ImportCache, data: np.ndarray | None) -> m.Imported:
        backend = self.backend
        assert isinstance(backend, ReferenceBackend)
        inner = backend.import_cache

        def swapped(cache: CacheArrays, layers: LayerRange | None = None) -> Session:
            return inner(
                CacheArrays(cache.form, [k[:, ::-1].copy() for k in cache.k], cache.v, cache.position_count), layers
            )

        backend.import_cache = swapped  # type: ignore[method-assign]
        try:
            return super().import_cache(request, data)
        finally:
            backend.import_cache = inner  # type: ignore[method-assign]


class Forgets(Service):
    """Imports all tokens, then drops the value of the last one."""

    def import_cache(self, request: m.ImportCache, data: np.ndarray | None) -> m.Imported:
        imported = super().import_cache(request, data)
        arrays = self.backend.export_cache(self.held[imported.session].session)
        values = [v.copy() for v in arrays.v]
        for v in values:
            v[-1] = 0
        session = self.backend.import_cache(CacheArrays(arrays.form, arrays.k, values, arrays.position_count))
        self.held[imported.session].session = session
        return imported
