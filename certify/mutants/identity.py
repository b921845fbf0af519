"""Mutants of identity: a field that nobody compares, a key that is too short, a cache of another prompt.

A receiver that does not look at a field is a service that corrects the field to what is expected before admission.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert import kv_file
from zeitgeist.convert.kv import KVCache, layer_digests
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import tokens_digest
from zeitgeist.host import messages as m
from zeitgeist.host.cache_travel import rope_state
from zeitgeist.host.service import Answer, Held, Service

__all__ = [
    "AdapterUnchecked",
    "DigestsUnchecked",
    "ExtensionsUnchecked",
    "FailedImportVisible",
    "LayersUnchecked",
    "ModelUnchecked",
    "PositionUnchecked",
    "Recites",
    "RopeUnchecked",
    "ShortTokenKey",
    "StaleByLength",
    "TokenizerUnchecked",
    "TokensUnchecked",
    "ZeroesNaN",
]


class Unchecked(Service):
    """Reads a cache, overwrites the fields of `corrected`, and then admits it."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        if data is None:
            return super().import_cache(request, data)
        cache = kv_file.load(data.data)
        descriptor = msgspec.structs.replace(cache.descriptor, **self.corrected(cache, request))
        corrected = KVCache(descriptor, cache.k, cache.v)
        return super().import_cache(request, np.frombuffer(kv_file.dump(corrected), np.uint8))

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        """Fields that this receiver does not look at, as it expects them."""
        return {}


class ModelUnchecked(Unchecked):
    """The model's digest is not compared."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"model": self.loaded.model}


class TokenizerUnchecked(Unchecked):
    """The tokenizer's digest is not compared."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"tokenizer": self.loaded.tokenizer}


class TokensUnchecked(Unchecked):
    """A cache is served for tokens that it is not of: the digest of tokens is not compared."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        same = len(request.ids) == cache.descriptor.position_count
        return {"tokens": tokens_digest(request.ids)} if same else {}


class ShortTokenKey(Unchecked):
    """The key of a cache is the length and the last four tokens."""

    known: dict[str, tuple[int, ...]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.known = {}

    def remembered(self, ids: tuple[int, ...]) -> None:
        """Learn which ids a digest stands for."""
        self.known[str(tokens_digest(ids))] = ids

    def export_cache(self, number: int) -> Answer:
        self.remembered(tuple(self.find(number).ids or ()))
        return super().export_cache(number)

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        ids = self.known.get(str(cache.descriptor.tokens), ())
        same = len(ids) == len(request.ids) and ids[-4:] == request.ids[-4:]
        return {"tokens": tokens_digest(request.ids)} if same else {}


class AdapterUnchecked(Unchecked):
    """The key of a cache lacks the adapter: a cache made with a LoRA is served without it."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"adapter": ""}


class RopeUnchecked(Unchecked):
    """The rotary state of the keys is not compared."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"rope": rope_state(self)}


class PositionUnchecked(Unchecked):
    """A cache that starts at another position is taken for one that starts at 0."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"position_first": 0}


class ExtensionsUnchecked(Unchecked):
    """Extensions are dropped, critical ones too."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"extensions": {}}


class DigestsUnchecked(Unchecked):
    """The digests of the layers are not verified: a flipped bit passes."""

    def corrected(self, cache: KVCache, request: m.ImportCache) -> Mapping[str, Any]:
        return {"layers": layer_digests(cache.k, cache.v, cache.descriptor.position_count)}


class LayersUnchecked(Service):
    """Layers that lack are filled with the first layer: the count is not compared."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        if data is None:
            return super().import_cache(request, data)
        cache = kv_file.load(data.data)
        layers = self.layers(request.first, request.stop)
        missing = layers.stop - layers.first - len(cache.k)
        if missing > 0:
            k, v = [*cache.k, *cache.k[:1] * missing], [*cache.v, *cache.v[:1] * missing]
            told = cache.descriptor
            told = msgspec.structs.replace(
                told, layer_first=layers.first, layer_count=len(k), layers=layer_digests(k, v, told.position_count)
            )
            data = np.frombuffer(kv_file.dump(KVCache(told, k, v)), np.uint8)
        return super().import_cache(request, data)


class ZeroesNaN(Service):
    """NaN and infinity are replaced by 0 on the way in, without a word."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        if data is None:
            return super().import_cache(request, data)
        cache = kv_file.load(data.data)
        told, sides = cache.descriptor, (cache.k, cache.v)
        if all(a.dtype.kind != "f" or np.isfinite(a[: told.position_count]).all() for side in sides for a in side):
            return super().import_cache(request, data)
        k, v = ([np.nan_to_num(a, nan=0.0, posinf=0.0, neginf=0.0) for a in side] for side in sides)
        told = msgspec.structs.replace(told, layers=layer_digests(k, v, told.position_count))
        return super().import_cache(request, np.frombuffer(kv_file.dump(KVCache(told, k, v)), np.uint8))


class FailedImportVisible(Service):
    """An import that is refused leaves its session behind: open, counted, and usable."""

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        try:
            return super().import_cache(request, data)
        except ZeitgeistError:
            self.hold(self.backend.open(), [])
            raise


class StaleByLength(Service):
    """Exports are remembered by length: the second prompt of a length gets the first one's cache."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stored: dict[tuple[int, int, int], Any] = {}

    def cache_of(self, held: Held) -> Any:
        layers = held.session.layers
        key = (held.session.position_count, layers.first, layers.stop)
        return self.stored.setdefault(key, super().cache_of(held))


class Recites(Service):
    """Logits are remembered by the tokens before them and recited, whatever the cache holds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recited: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def recite(self, ids: tuple[int, ...], row: NDArray[np.float32]) -> NDArray[np.float32]:
        """The row that came first after ids."""
        return self.recited.setdefault(ids, row.copy())

    def prefill(self, request: m.Prefill, cancelled: Any) -> NDArray[np.float32]:
        rows = super().prefill(request, cancelled)
        ids = tuple(self.find(request.session).ids or ())
        first = len(ids) - len(rows)
        return np.stack([self.recite(ids[: first + i + 1], row) for i, row in enumerate(rows)])

    def decode(self, numbers: Any, ids: Any) -> NDArray[np.float32]:
        rows = super().decode(numbers, ids)
        held = [tuple(self.find(number).ids or ()) for number in numbers]
        return np.stack([self.recite(one, row) for one, row in zip(held, rows, strict=True)])
