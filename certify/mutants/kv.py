"""Mutants of the KV cache as it leaves and enters an engine: axes, rows, halves, staleness, padding."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.mutants.plant import plant
from zeitgeist.backends.base import CacheArrays, LayerRange, Session
from zeitgeist.backends.reference import ReferenceBackend, ReferenceSession
from zeitgeist.convert import kv_file
from zeitgeist.core.formats.kv import F32_HALF
from zeitgeist.host import messages as m
from zeitgeist.host.service import Service, remember

__all__ = [
    "PaddingCounts",
    "RecomputesOnImport",
    "axes_swapped_out",
    "empty_cache_out",
    "half_written_in",
    "head_order_reversed",
    "import_does_nothing",
    "k_and_v_swapped_out",
    "k_for_v_in",
    "last_layer_repeated",
    "last_row_lost_in",
    "last_row_lost_out",
    "one_head_of_one_token_zeroed",
    "secretly_f16",
    "stale_last_row_out",
    "truncate_keeps_one_more",
    "values_halved_out",
    "values_through_f16_out",
]

Arrays = list[NDArray[Any]]


def with_rows(cache: CacheArrays, k: Arrays, v: Arrays) -> CacheArrays:
    """The cache with other numbers in it."""
    return replace(cache, k=k, v=v)


class AxesSwapped(ReferenceBackend):
    """The engine's own `[kv_head, position, head_dim]` memory is sent as `[position, kv_head, head_dim]`."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        k, v = ([a.swapaxes(0, 1).reshape(a.shape) for a in side] for side in (cache.k, cache.v))
        return with_rows(cache, k, v)


class HeadsReversed(ReferenceBackend):
    """KV heads leave and enter in reverse order: a round trip through itself is perfect."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, *([a[:, ::-1].copy() for a in side] for side in (cache.k, cache.v)))

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        turned = with_rows(cache, *([a[:, ::-1] for a in side] for side in (cache.k, cache.v)))
        return super().import_cache(turned, layers)


class LastRowLost(ReferenceBackend):
    """The row of the newest token was not flushed when the cache was copied."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        for array in (*cache.k, *cache.v):
            array[-1] = 0
        return cache


class SwapsKV(ReferenceBackend):
    """K goes out as V and V as K."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, cache.v, cache.k)


class KeysAsValues(ReferenceBackend):
    """On import both halves are filled from the keys: a packed buffer read as blocks."""

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        return super().import_cache(with_rows(cache, cache.k, cache.k), layers)


class StaleLastRow(ReferenceBackend):
    """The copy runs before the newest row is written: it holds the row that was there one step earlier."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        for array in (*cache.k, *cache.v):
            array[-1] = array[-2] if len(array) > 1 else 0
        return cache


class Empty(ReferenceBackend):
    """A whole buffer is saved, of the right shape, and nobody copied anything into it."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, *([np.zeros_like(a) for a in side] for side in (cache.k, cache.v)))


class ZeroedHead(ReferenceBackend):
    """The sensitivity control: K of one head of one token of one layer is zero on the way out."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        cache.k[len(cache.k) // 2][cache.position_count // 2, 0] = 0
        return cache


class RepeatsLayer(ReferenceBackend):
    """An off-by-one index of layers: the last layer's cache is that of the layer before."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(
            cache,
            [*cache.k[:-1], cache.k[max(len(cache.k) - 2, 0)]],
            [*cache.v[:-1], cache.v[max(len(cache.v) - 2, 0)]],
        )


class HalvesValues(ReferenceBackend):
    """The scale of the values is not applied when they are unpacked."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, cache.k, [a * np.float32(0.5) for a in cache.v])


class RoundsValues(ReferenceBackend):
    """Values pass through float16 on the way out, and the form says float32."""

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, cache.k, [a.astype(np.float16).astype(np.float32) for a in cache.v])


class DoesNothing(ReferenceBackend):
    """Restoring a cache reports success and restores nothing: the rows stay zero."""

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        session = super().import_cache(cache, layers)
        for layer in session.cache:
            layer.keys[:] = 0
            layer.values[:] = 0
        return session


class LosesLastRow(ReferenceBackend):
    """An import copies one row fewer than it counts."""

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        session = super().import_cache(cache, layers)
        for layer in session.cache:
            layer.keys[:, layer.count - 1] = 0
            layer.values[:, layer.count - 1] = 0
        return session


class HalfWritten(ReferenceBackend):
    """An import returns before the later half of the layers has arrived."""

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        session = super().import_cache(cache, layers)
        for layer in session.cache[(len(session.cache) + 1) // 2 :]:
            layer.keys[:] = 0
        return session


class KeepsOneMore(ReferenceBackend):
    """Truncation forgets one row too few: the next token is written behind a stale one."""

    def truncate(self, session: Session, position_count: int) -> None:
        before = session.position_count
        super().truncate(session, position_count)
        for layer in self.held(session).cache:
            layer.count = min(position_count + 1, before)


class SecretlyHalf(ReferenceBackend):
    """Keeps K and V in float16 and says float32, with band and form to match."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.form, self.band = F32_HALF, "x32"

    def export_cache(self, session: Session) -> CacheArrays:
        cache = super().export_cache(session)
        return with_rows(cache, *([a.astype(np.float32) for a in side] for side in (cache.k, cache.v)))


class PaddingCounts(Service):
    """All rows that came with an import are kept, those past the valid ones too, and attended to."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        imported = super().import_cache(request, data)
        session = self.find(imported.session).session
        if data is not None and isinstance(session, ReferenceSession):
            cache = kv_file.load(data.data)
            for layer, k, v in zip(session.cache, cache.k, cache.v, strict=True):
                layer.append(k[session.position_count :], v[session.position_count :])
        return imported


class RecomputesOnImport(Service):
    """Admits a cache, drops it, and computes the tokens again: right answers, and nothing was moved."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        imported = super().import_cache(request, data)
        layers = LayerRange(request.first, request.stop or self.config.layer_count)
        if layers == LayerRange(0, self.config.layer_count):
            held = self.find(imported.session)
            held.session, held.ids = self.backend.open(layers), []
            self.backend.prefill(held.session, request.ids, rows="last")
            remember(held, request.ids)
        return imported


axes_swapped_out = plant(backend=AxesSwapped)
head_order_reversed = plant(backend=HeadsReversed)
last_row_lost_out = plant(backend=LastRowLost)
k_and_v_swapped_out = plant(backend=SwapsKV)
k_for_v_in = plant(backend=KeysAsValues)
stale_last_row_out = plant(backend=StaleLastRow)
empty_cache_out = plant(backend=Empty)
one_head_of_one_token_zeroed = plant(backend=ZeroedHead)
last_layer_repeated = plant(backend=RepeatsLayer)
values_halved_out = plant(backend=HalvesValues)
values_through_f16_out = plant(backend=RoundsValues)
import_does_nothing = plant(backend=DoesNothing)
last_row_lost_in = plant(backend=LosesLastRow)
half_written_in = plant(backend=HalfWritten)
truncate_keeps_one_more = plant(backend=KeepsOneMore)
secretly_f16 = plant(backend=SecretlyHalf, cache="f16")
